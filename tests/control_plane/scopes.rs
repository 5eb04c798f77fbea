//! Scoped routes by SRDS, with routes by RDS and inline.

use crate::common::client::{header, once, request};
use crate::common::config::{answer, any_host, http_with, listener};
use crate::common::{Value, eventually, json, with};
use crate::scene::{Stage, in_every_mode, is_another, routes, routes_of};
use crate::server::{Answer, LISTENER, Mode, ROUTES, SCOPES, resource};
use crate::traffic::Traffic;

in_every_mode!(
    a_header_picks_the_scope,
    a_listener_waits_for_the_routes_of_its_scopes,
    a_scope_that_takes_anothers_key_is_refused,
    a_scope_keeps_its_routes_until_the_next_have_come,
    scopes_that_change_places_lose_nothing,
    a_listener_that_changes_keeps_its_scopes,
);

/// A scope of the requests whose `x-scope` is `key`, with routes by RDS.
fn scope(name: &str, key: &str, routes: &str) -> Value {
    json!({
        "name": name,
        "key": { "fragments": [{ "string_key": key }] },
        "route_configuration_name": routes,
    })
}

/// The same, with an answer inline.
fn inline(name: &str, key: &str, text: &str) -> Value {
    json!({
        "name": name,
        "key": { "fragments": [{ "string_key": key }] },
        "route_configuration": {
            "name": name,
            "virtual_hosts": [any_host(vec![answer("/", 200, text)])],
        },
    })
}

/// A listener whose scopes come by SRDS under the name `scopes`.
fn scoped(mode: Mode, port: u16, more: Value) -> Value {
    let fields = json!({
        "scoped_routes": {
            "name": "scopes",
            "scope_key_builder": { "fragments": [{
                "header_value_extractor": { "name": "x-scope", "index": 0 },
            }] },
            "rds_config_source": mode.source(),
            "scoped_rds": { "scoped_rds_config_source": mode.source() },
        },
    });
    listener("web", port, http_with(with(fields, more)))
}

/// A site whose listener has these scopes.
async fn stage(mode: Mode, scopes: Vec<Value>) -> Stage {
    let stage = Stage::new(mode).await;
    let port = stage.port.number();
    stage.plane.set(SCOPES, scopes);
    stage
        .plane
        .set(LISTENER, vec![scoped(mode, port, json!({}))]);
    stage
}

/// The status and the mark or text of the answer to a request with this scope.
async fn ask(port: u16, key: &str) -> (u16, String) {
    let reply = once(port, header(request("GET", "a.com", "/"), "x-scope", key)).await;
    let reply = reply.expect("an answer");
    let mark = reply.header("x-mark").to_owned();
    match mark.is_empty() {
        true => (reply.status.as_u16(), reply.text()),
        false => (reply.status.as_u16(), mark),
    }
}

async fn says(port: u16, key: &str, expected: (u16, &str)) {
    eventually(&format!("{key} to say {expected:?}"), || async {
        let (status, said) = ask(port, key).await;
        (status == expected.0 && (said == expected.1 || expected.1.is_empty())).then_some(())
    })
    .await;
}

async fn a_header_picks_the_scope(mode: Mode) {
    let stage = stage(
        mode,
        vec![scope("one", "a", "routes"), inline("two", "b", "inline")],
    )
    .await;
    let scene = stage.start().await;
    let port = scene.port.number();
    says(port, "a", (200, "first")).await;
    says(port, "b", (200, "inline")).await;
    // No scope has it, as when there is no key at all.
    says(port, "c", (404, "")).await;
    let none = once(port, request("GET", "a.com", "/")).await.unwrap();
    assert_eq!(none.status, 404);

    let admin = scene.proxy.admin();
    for (name, value) in [
        ("all_scopes", 2),
        ("active_scopes", 1),
        ("on_demand_scopes", 0),
        ("update_rejected", 0),
        ("config_reload", 1),
    ] {
        let name = format!("http.ingress.scoped_rds.scopes.{name}");
        assert_eq!(admin.stat(&name).await, Some(value), "{name}");
    }
    admin
        .stat_reaches("http.ingress.rds.routes.update_success", 1)
        .await;
    let dump = admin
        .json("/config_dump?resource=dynamic_scoped_route_configs")
        .await;
    let set = &dump["configs"][0];
    assert_eq!(set["name"], "scopes");
    let names = |set: &Value| -> Vec<String> {
        let all = set["scoped_route_configs"].as_array().expect("scopes");
        all.iter()
            .map(|s| s["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(set), ["one", "two"]);

    // One is taken away, another one comes.
    scene.plane.set(
        SCOPES,
        vec![inline("two", "b", "inline"), inline("three", "c", "third")],
    );
    says(port, "a", (404, "")).await;
    says(port, "c", (200, "third")).await;
}

async fn a_listener_waits_for_the_routes_of_its_scopes(mode: Mode) {
    let stage = stage(mode, vec![scope("one", "a", "late")]).await;
    // In delta it would say that there are none.
    stage.plane.mute(ROUTES);
    let bootstrap = stage.bootstrap();
    let mut proxy = crate::common::Program::under_test().launch(&stage.home, &bootstrap, &[]);
    let admin = proxy.admin_address().await;
    stage
        .plane
        .asked_until("the routes to be asked for", ROUTES, |all| {
            all.iter()
                .any(|asked| asked.names.contains(&"late".to_owned()))
        })
        .await;
    assert_eq!(admin.get("/ready").await.unwrap().status, 503);
    stage.plane.set(
        ROUTES,
        vec![
            routes("backend", "first"),
            routes_of("late", "backend", "late"),
        ],
    );
    stage.plane.unmute(ROUTES);
    proxy.ready().await;
    // The first request finds them.
    assert_eq!(
        ask(stage.port.number(), "a").await,
        (200, "late".to_owned())
    );
}

async fn a_scope_that_takes_anothers_key_is_refused(mode: Mode) {
    let scene = stage(mode, vec![inline("one", "a", "1")])
        .await
        .start()
        .await;
    let (plane, port) = (&scene.plane, scene.port.number());
    says(port, "a", (200, "1")).await;
    let pushed = [
        inline("one", "a", "1"),
        inline("thief", "a", "2"),
        inline("third", "c", "3"),
    ];
    let nonce = plane.send(
        SCOPES,
        Answer {
            version: "conflict".to_owned(),
            type_url: SCOPES.to_owned(),
            resources: pushed.iter().map(|scope| resource(SCOPES, scope)).collect(),
            ..Answer::default()
        },
    );
    let said = plane.verdict(SCOPES, &nonce).await.expect("a refusal");
    assert!(
        said.contains("scope key conflict found, first scope is 'one', second scope is 'thief'"),
        "{said}"
    );
    says(port, "a", (200, "1")).await;
    let admin = scene.proxy.admin();
    assert_eq!(
        admin
            .stat("http.ingress.scoped_rds.scopes.update_rejected")
            .await,
        Some(1)
    );
    if is_another() {
        // Envoy takes nothing of such an answer.
        return;
    }
    says(port, "c", (200, "3")).await;
    let dump = admin
        .json("/config_dump?resource=dynamic_scoped_route_configs")
        .await;
    let details = dump["configs"][0]["error_state"]["details"].as_str();
    assert!(details.unwrap_or_default().contains("conflict"), "{dump:#}");
}

async fn a_scope_keeps_its_routes_until_the_next_have_come(mode: Mode) {
    let scene = stage(mode, vec![scope("one", "a", "routes")])
        .await
        .start()
        .await;
    let (plane, port) = (&scene.plane, scene.port.number());
    says(port, "a", (200, "first")).await;
    plane.set(SCOPES, vec![scope("one", "a", "next")]);
    plane
        .asked_until("the next routes to be asked for", ROUTES, |all| {
            all.iter()
                .any(|asked| asked.names.contains(&"next".to_owned()))
        })
        .await;
    if !is_another() {
        // Envoy answers 404 meanwhile.
        assert_eq!(ask(port, "a").await, (200, "first".to_owned()));
    }
    plane.set(
        ROUTES,
        vec![
            routes("backend", "first"),
            routes_of("next", "backend", "next"),
        ],
    );
    says(port, "a", (200, "next")).await;
}

/// Under load, each answer gives each of two scopes the other's key.
async fn scopes_that_change_places_lose_nothing(mode: Mode) {
    if is_another() {
        // Envoy loses the key that the second scope gives up.
        return;
    }
    let both = |turn: usize| {
        let keys = [["a", "b"], ["b", "a"]][turn % 2];
        vec![
            scope("one", keys[0], "routes"),
            scope("two", keys[1], "routes"),
        ]
    };
    let scene = stage(mode, both(0)).await.start().await;
    let port = scene.port.number();
    says(port, "a", (200, "first")).await;
    let traffic = Traffic::start(port).await;
    for turn in 1..=20 {
        scene.plane.set(SCOPES, both(turn));
        traffic.more(5).await;
    }
    traffic.lost_nothing().await;
}

/// A listener is replaced; what its scopes have received is not sent again.
async fn a_listener_that_changes_keeps_its_scopes(mode: Mode) {
    let scene = stage(mode, vec![scope("one", "a", "routes")])
        .await
        .start()
        .await;
    let (plane, port) = (&scene.plane, scene.port.number());
    says(port, "a", (200, "first")).await;
    let renamed = json!({ "scoped_routes": { "name": "others" }, "via": "changed" });
    plane.set(LISTENER, vec![scoped(mode, port, renamed)]);
    eventually("the listener to change", || async {
        let asked = header(request("GET", "a.com", "/"), "x-scope", "a");
        let reply = once(port, asked).await.ok()?;
        assert_eq!(reply.status, 200, "{}", reply.text());
        (reply.header("via") == "changed").then_some(())
    })
    .await;
}
