//! What is asked for when a request needs it: virtual hosts by VHDS, and the
//! routes of a scope.

use nuncio::api::envoy::service::discovery::v3::Resource;

use crate::common::client::{Outgoing, body, header, once, request};
use crate::common::config::{answer, any_host, http_with, listener, typed};
use crate::common::{Proxy, Value, eventually, json, with};
use crate::scene::{DELTA, DELTA_ADS, Scene, Stage, in_every_mode, is_another, routes_of};
use crate::server::{Answer, HOSTS, LISTENER, Mode, ROUTES, SCOPES, resource};

macro_rules! in_delta {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test]
            async fn delta_ads() {
                super::$name(super::DELTA_ADS).await;
            }

            #[tokio::test]
            async fn delta() {
                super::$name(super::DELTA).await;
            }
        }
    )*};
}

in_delta!(
    a_virtual_host_is_asked_for_when_a_request_needs_it,
    virtual_hosts_that_nobody_asked_for_are_taken,
    virtual_hosts_stay_when_their_table_changes,
    a_virtual_host_that_is_wrong_is_refused,
    virtual_hosts_outlive_their_server,
    virtual_hosts_are_kept,
    a_server_that_does_not_answer_keeps_no_request_forever,
);
in_every_mode!(a_scope_on_demand_asks_for_its_routes_once_it_is_needed);

/// The filters of a connection manager, the first of which waits for routes.
fn filters() -> Value {
    let filter = |name: &str, message: &str| json!({ "name": name, "typed_config": typed(message, json!({})) });
    json!([
        filter(
            "envoy.filters.http.on_demand",
            "envoy.extensions.filters.http.on_demand.v3.OnDemand",
        ),
        filter(
            "envoy.filters.http.router",
            "envoy.extensions.filters.http.router.v3.Router",
        ),
    ])
}

/// A table whose own host is `own.com`; the others come by VHDS.
fn table(mode: Mode, text: &str) -> Value {
    json!({
        "name": "routes",
        "virtual_hosts": [{
            "name": "own",
            "domains": ["own.com"],
            "routes": [answer("/", 200, text)],
        }],
        // Envoy waits for a virtual host of this table, and there may be none.
        "vhds": { "config_source": with(mode.source(), json!({ "initial_fetch_timeout": "0.5s" })) },
    })
}

/// A virtual host as VHDS carries it, under `routes/HOST`.
fn host(host: &str, domains: &[&str], text: &str) -> Resource {
    let message = json!({
        "name": format!("host-{host}"),
        "domains": domains,
        "routes": [answer("/", 200, text)],
    });
    Resource {
        name: format!("routes/{host}"),
        ..resource(HOSTS, &message)
    }
}

/// A site whose table has these hosts by VHDS, once it is ready.
async fn start(mode: Mode, hosts: Vec<Resource>) -> Scene {
    stage(mode, hosts).await.start().await
}

/// The same, before its proxy.
async fn stage(mode: Mode, hosts: Vec<Resource>) -> Stage {
    let stage = Stage::new(mode).await;
    let (plane, port) = (&stage.plane, stage.port.number());
    plane.set_encoded(HOSTS, hosts);
    plane.set(ROUTES, vec![table(mode, "own")]);
    let manager = http_with(json!({
        "rds": { "route_config_name": "routes", "config_source": mode.source() },
        "http_filters": filters(),
    }));
    plane.set(LISTENER, vec![listener("web", port, manager)]);
    stage
}

/// What is answered: the text, or the status where there is none.
async fn said(port: u16, asking: Outgoing) -> String {
    let reply = once(port, asking).await.expect("an answer");
    match reply.status.as_u16() {
        200 => reply.text(),
        status => status.to_string(),
    }
}

async fn of_host(port: u16, host: &str) -> String {
    said(port, request("GET", host, "/")).await
}

async fn until(port: u16, host: &str, expected: &str) {
    eventually(&format!("{host} to say {expected}"), || async {
        (of_host(port, host).await == expected).then_some(())
    })
    .await;
}

/// Sends what nobody need have asked for, and waits for the verdict.
async fn push(scene: &Scene, resources: Vec<Resource>, removed: &[&str]) -> Option<String> {
    let answer = Answer {
        version: "pushed".to_owned(),
        type_url: HOSTS.to_owned(),
        resources: resources
            .into_iter()
            .map(|resource| Resource {
                version: "pushed".to_owned(),
                ..resource
            })
            .collect(),
        removed: removed.iter().map(|&name| name.to_owned()).collect(),
        ..Answer::default()
    };
    let nonce = scene.plane.send(HOSTS, answer);
    scene.plane.verdict(HOSTS, &nonce).await
}

async fn a_virtual_host_is_asked_for_when_a_request_needs_it(mode: Mode) {
    let hosts = vec![
        host("a.com", &["a.com"], "a"),
        host("b.com", &["b.com"], "b"),
        // How a server says that there is none.
        Resource {
            resource: None,
            aliases: vec!["routes/empty.com".to_owned()],
            ..host("empty.com", &[], "")
        },
    ];
    let scene = start(mode, hosts).await;
    let (plane, port) = (&scene.plane, scene.port.number());
    assert_eq!(of_host(port, "own.com").await, "own");
    let asked = || -> Vec<String> {
        let all = plane.asked_of(HOSTS).into_iter();
        all.flat_map(|asked| asked.names).collect()
    };
    // To begin with, for none by name.
    assert_eq!(asked(), [""; 0]);
    // Ten at once wait for the same.
    let ten = (0..10).map(|_| of_host(port, "A.com"));
    for text in futures_util::future::join_all(ten).await {
        assert_eq!(text, "a");
    }
    assert!(asked().contains(&"routes/a.com".to_owned()));
    assert!(!asked().contains(&"routes/b.com".to_owned()));
    for _ in 0..2 {
        assert_eq!(of_host(port, "empty.com").await, "404");
    }
    // Another way to say so, for which a request waits in Envoy.
    if !is_another() {
        assert_eq!(of_host(port, "none.com").await, "404");
    }
    let posted = body(request("POST", "b.com", "/"), "hello");
    assert_eq!(said(port, posted).await, "b");
    assert_eq!(of_host(port, "b.com").await, "b");
    assert_eq!(of_host(port, "own.com").await, "own");
    let admin = scene.proxy.admin();
    admin
        .stat_reaches("http.ingress.rds.vhds.routes.update_success", 2)
        .await;
}

async fn virtual_hosts_that_nobody_asked_for_are_taken(mode: Mode) {
    let scene = start(mode, vec![]).await;
    let port = scene.port.number();
    let c = |domains: &[&str], text: &str| vec![host("c.com", domains, text)];
    assert_eq!(push(&scene, c(&["c.com", "*.c.com"], "c"), &[]).await, None);
    assert_eq!(of_host(port, "c.com").await, "c");
    assert_eq!(of_host(port, "www.c.com").await, "c");
    assert_eq!(push(&scene, c(&["c.com"], "changed"), &[]).await, None);
    assert_eq!(of_host(port, "c.com").await, "changed");
    let tables = scene
        .proxy
        .admin()
        .json("/config_dump?resource=dynamic_route_configs")
        .await;
    let shown = tables.to_string();
    for text in ["own.com", "c.com", "changed"] {
        assert!(shown.contains(text), "{text} is not in {shown}");
    }
    // Another table's.
    let other = Resource {
        name: "others/d.com".to_owned(),
        ..host("d.com", &["d.com"], "d")
    };
    assert_eq!(push(&scene, vec![other], &["routes/c.com"]).await, None);
    if !is_another() {
        until(port, "c.com", "404").await;
        assert_eq!(of_host(port, "d.com").await, "404");
    }
}

async fn virtual_hosts_stay_when_their_table_changes(mode: Mode) {
    let scene = start(mode, vec![host("a.com", &["a.com"], "a")]).await;
    let port = scene.port.number();
    until(port, "a.com", "a").await;
    scene.plane.set(ROUTES, vec![table(mode, "changed")]);
    until(port, "own.com", "changed").await;
    assert_eq!(of_host(port, "a.com").await, "a");
}

async fn a_virtual_host_that_is_wrong_is_refused(mode: Mode) {
    let scene = start(mode, vec![]).await;
    let port = scene.port.number();
    let a = vec![host("a.com", &["a.com"], "a")];
    assert_eq!(push(&scene, a, &[]).await, None);
    let b = vec![host("b.com", &["a.com"], "b")];
    let why = push(&scene, b, &[]).await;
    assert!(why.is_some_and(|why| why.contains("a.com")));
    assert_eq!(of_host(port, "a.com").await, "a");
}

/// After a crash the server is asked by name again for what it was asked for, and
/// what was there serves meanwhile.
async fn virtual_hosts_outlive_their_server(mode: Mode) {
    let mut scene = start(mode, vec![host("a.com", &["a.com"], "a")]).await;
    let port = scene.port.number();
    assert_eq!(of_host(port, "a.com").await, "a");
    scene.plane.crash().await;
    assert_eq!(of_host(port, "a.com").await, "a");
    let before = scene.plane.asked_of(HOSTS).len();
    let hosts = vec![host("a.com", &["a.com"], "again")];
    scene.plane.set_encoded(HOSTS, hosts);
    scene.plane.come_back().await;
    until(port, "a.com", "again").await;
    let asked = scene.plane.asked_of(HOSTS);
    assert_eq!(asked[before].names, ["*", "routes/a.com"]);
}

/// With `--state-dir` they are there at the next start, as is their table.
async fn virtual_hosts_are_kept(mode: Mode) {
    if is_another() {
        return;
    }
    let (hosts, others) = (vec![host("a.com", &["a.com"], "a")], vec![]);
    let stage = stage(mode, hosts).await;
    let (bootstrap, state) = (stage.bootstrap(), stage.home.text("state"));
    let arguments = ["--state-dir", &*state];
    let mut scene = stage.start_with(&bootstrap, &arguments).await;
    let port = scene.port.number();
    assert_eq!(of_host(port, "a.com").await, "a");
    // A cluster, its endpoints, a listener, its routes, and a virtual host.
    let kept = "state_dir.kept_resources";
    scene.proxy.admin().stat_until(kept, |n| n == 5).await;
    scene.proxy.signal("TERM");
    scene.proxy.signal("TERM");
    scene.proxy.end().await;
    scene.plane.crash().await;
    scene.proxy = Proxy::start(&scene.home, &bootstrap, &arguments).await;
    assert_eq!(of_host(port, "a.com").await, "a");
    assert_eq!(of_host(port, "own.com").await, "own");
    // What is gone when the server is back goes.
    scene.plane.set_encoded(HOSTS, others);
    scene.plane.come_back().await;
    until(port, "a.com", "404").await;
}

/// A request waits for the answer, and no longer than it may.
async fn a_server_that_does_not_answer_keeps_no_request_forever(mode: Mode) {
    let stage = Stage::new(mode).await;
    let (plane, port) = (&stage.plane, stage.port.number());
    plane.set(ROUTES, vec![table(mode, "own")]);
    let manager = http_with(json!({
        "rds": { "route_config_name": "routes", "config_source": mode.source() },
        "http_filters": filters(),
        "stream_idle_timeout": "0.5s",
    }));
    plane.set(LISTENER, vec![listener("web", port, manager)]);
    let scene = stage.start().await;
    scene.plane.mute(HOSTS);
    assert_eq!(of_host(port, "a.com").await, "504");
    assert_eq!(of_host(port, "own.com").await, "own");
}

async fn a_scope_on_demand_asks_for_its_routes_once_it_is_needed(mode: Mode) {
    let stage = Stage::new(mode).await;
    let (plane, port) = (&stage.plane, stage.port.number());
    let scope = |name: &str, on_demand: bool| {
        json!({
            "name": name,
            "key": { "fragments": [{ "string_key": name }] },
            "route_configuration_name": name,
            "on_demand": on_demand,
        })
    };
    plane.set(SCOPES, vec![scope("eager", false), scope("lazy", true)]);
    plane.set(
        ROUTES,
        vec![
            with(routes_of("eager", "backend", "eager"), json!({})),
            json!({ "name": "lazy", "virtual_hosts": [any_host(vec![answer("/", 200, "lazy")])] }),
        ],
    );
    let manager = http_with(json!({
        "scoped_routes": {
            "name": "scopes",
            "scope_key_builder": { "fragments": [{
                "header_value_extractor": { "name": "x-scope", "index": 0 },
            }] },
            "rds_config_source": mode.source(),
            "scoped_rds": { "scoped_rds_config_source": mode.source() },
        },
        "http_filters": filters(),
    }));
    plane.set(LISTENER, vec![listener("web", port, manager)]);
    let scene = stage.start().await;
    let of_scope = async |scope: &str| {
        said(port, header(request("GET", "a.com", "/"), "x-scope", scope)).await
    };
    let asked = || -> Vec<String> {
        let all = scene.plane.asked_of(ROUTES).into_iter();
        all.flat_map(|asked| asked.names).collect()
    };
    assert!(!asked().contains(&"lazy".to_owned()));
    let admin = scene.proxy.admin();
    let prefix = "http.ingress.scoped_rds.scopes.";
    assert_eq!(admin.stat(&format!("{prefix}active_scopes")).await, Some(1));
    // No scope has it, so nothing is asked for.
    assert_eq!(of_scope("none").await, "404");
    let ten = (0..10).map(|_| of_scope("lazy"));
    for text in futures_util::future::join_all(ten).await {
        assert_eq!(text, "lazy");
    }
    assert!(asked().contains(&"lazy".to_owned()));
    for (name, value) in [
        ("all_scopes", 2),
        ("active_scopes", 2),
        ("on_demand_scopes", 1),
    ] {
        let name = format!("{prefix}{name}");
        assert_eq!(admin.stat(&name).await, Some(value), "{name}");
    }
}
