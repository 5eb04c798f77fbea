//! Options of the connection manager: who the client is, what is changed before
//! anything is looked at, and when requests are logged.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::client::{dial, header, raw, request, websocket, websocket_echo};
use crate::common::config::{access_log, answer, any_host, cluster, http_with, route, typed};
use crate::common::{Home, Origin, Seen, Site, Value, eventually, json, with};

const DETECTION: &str = "envoy.extensions.http.original_ip_detection";

fn extension(message: &str, body: Value) -> Value {
    json!({ "name": "extension", "typed_config": typed(message, body) })
}

fn xff(body: Value) -> Value {
    extension(&format!("{DETECTION}.xff.v3.XffConfig"), body)
}

fn custom_header(body: Value) -> Value {
    let body = with(json!({ "header_name": "X-Real" }), body);
    extension(
        &format!("{DETECTION}.custom_header.v3.CustomHeaderConfig"),
        body,
    )
}

/// A site before an origin that tells what came to it.
async fn site(fields: Value) -> (Site, Origin) {
    let origin = Origin::http("origin").await;
    let clusters = vec![cluster("origin", &[origin.port()])];
    (logged(fields, clusters).await, origin)
}

/// A site that leads everything but `/here` to an origin, whose logs are written at once.
async fn logged(fields: Value, clusters: Vec<Value>) -> Site {
    let routes = vec![answer("/here", 200, "here"), route("/", "origin")];
    let usual = json!({ "route_config": { "virtual_hosts": [any_host(routes)] } });
    let args = ["--file-flush-interval-msec", "20"];
    Site::with_args(http_with(with(usual, fields)), clusters, &args).await
}

async fn seen(site: &Site, path: &str, headers: &[(&str, &str)]) -> Seen {
    let add = |request, (name, value): &(&str, &str)| header(request, name, value);
    let request = headers.iter().fold(request("GET", "a", path), add);
    site.send(request).await.seen()
}

#[tokio::test]
async fn the_clients_address_comes_from_where_it_is_said_to() {
    let home = Home::new();
    let internal = json!({ "cidr_ranges": [{ "address_prefix": "10.0.0.0", "prefix_len": 8 }] });
    let fields = json!({
        "internal_address_config": internal,
        "original_ip_detection_extensions": [
            custom_header(json!({ "allow_extension_to_set_address_as_trusted": true })),
            xff(json!({ "xff_num_trusted_hops": 1, "skip_xff_append": false })),
        ],
        "access_log": [access_log(
            &home.text("log"),
            "%REQ(:path)% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        )],
    });
    let (site, _origin) = site(fields).await;
    let forwarded = ("x-forwarded-for", "5.5.5.5, 6.6.6.6");
    let log = |line: &'static str| {
        let home = &home;
        eventually(line, move || async move {
            home.read("log").lines().any(|l| l == line).then_some(())
        })
    };
    let told = seen(&site, "/header", &[("x-real", "10.1.1.1"), forwarded]).await;
    assert_eq!(told.header("x-envoy-internal"), "true");
    assert_eq!(told.header("x-forwarded-for"), "5.5.5.5, 6.6.6.6");
    log("/header 10.1.1.1").await;
    let told = seen(&site, "/xff", &[("x-real", "junk"), forwarded]).await;
    assert_eq!(told.header("x-envoy-internal"), "");
    let appended = told
        .header("x-forwarded-for")
        .strip_prefix("5.5.5.5, 6.6.6.6,");
    assert!(appended.is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok()));
    log("/xff 5.5.5.5").await;
    let told = seen(&site, "/neither", &[]).await;
    assert_eq!(told.header("x-envoy-internal"), "");
    log("/neither 127.0.0.1").await;
}

#[tokio::test]
async fn a_request_without_an_address_may_be_refused() {
    let fields = json!({ "original_ip_detection_extensions": [
        custom_header(json!({ "reject_with_status": { "code": "Unauthorized" } })),
    ] });
    let (site, origin) = site(fields).await;
    assert_eq!(site.get("/").await.status, 401);
    assert_eq!(origin.requests(), 0);
    seen(&site, "/", &[("x-real", "1.1.1.1")]).await;
    let rejected = "http.ingress.downstream_rq_rejected_via_ip_detection";
    assert_eq!(site.admin().stat(rejected).await, Some(1));
}

#[tokio::test]
async fn headers_are_changed_before_they_are_trusted() {
    let append = |name: &str, value: &str, action: &str| {
        let header = json!({ "key": name, "value": value });
        json!({ "append": { "header": header, "append_action": action } })
    };
    let (or_add, more) = ("OVERWRITE_IF_EXISTS_OR_ADD", "APPEND_IF_EXISTS_OR_ADD");
    let mutations = json!({ "mutations": [
        { "remove": "x-removed" },
        append("x-one", "two", or_add),
        append("x-seen", "%REQ(x-one)% %REQ(:path)% [%REQ(x-removed)%]", or_add),
        { "remove": "x-one" },
        { "remove_on_match": { "key_matcher": { "prefix": "x-secret-" } } },
        append("x-forwarded-for", "8.8.8.8", or_add),
        append("x-envoy-max-retries", "7", more),
    ] });
    let early = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";
    let home = Home::new();
    let format = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%";
    let fields = json!({
        "early_header_mutation_extensions": [extension(early, mutations)],
        "normalize_path": true,
        "access_log": [access_log(&home.text("log"), format)],
    });
    let (site, _origin) = site(fields).await;
    let sent = [
        ("x-removed", "1"),
        ("x-secret-a", "1"),
        ("x-one", "1"),
        ("x-forwarded-for", "9.9.9.9"),
    ];
    let told = seen(&site, "/a/../b", &sent).await;
    assert_eq!(told.header("x-seen"), "two /b []");
    assert_eq!(told.header("x-forwarded-for"), "8.8.8.8");
    for gone in ["x-removed", "x-one", "x-secret-a", "x-envoy-max-retries"] {
        assert_eq!(told.header(gone), "", "{gone}");
    }
    eventually("the log", || async {
        (home.read("log") == "8.8.8.8\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn hosts_are_told_which_proxy_this_is() {
    let origin = Origin::http("origin").await;
    let clusters = vec![cluster("origin", &[origin.port()])];
    let manager = http_with(json!({
        "add_user_agent": true,
        "route_config": { "virtual_hosts": [any_host(vec![route("/", "origin")])] },
    }));
    let args = ["--service-cluster", "edge", "--service-node", "edge-1"];
    let site = Site::with_args(manager, clusters, &args).await;
    let names = [
        "x-envoy-downstream-service-cluster",
        "x-envoy-downstream-service-node",
    ];
    let told = seen(&site, "/", &[(names[0], "forged")]).await;
    assert_eq!(names.map(|name| told.header(name)), ["edge", "edge-1"]);
    assert_eq!(told.header("user-agent"), "edge");
    let told = seen(&site, "/", &[("user-agent", "mine")]).await;
    assert_eq!(told.header("user-agent"), "mine");
}

#[tokio::test]
async fn requests_are_logged_when_they_begin_and_tunnels_while_they_live() {
    let (home, origin) = (Home::new(), Origin::websocket_echo().await);
    let fields = json!({
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "access_log": [access_log(
            &home.text("log"),
            "%REQ(:path)% %ACCESS_LOG_TYPE% %RESPONSE_CODE% %BYTES_RECEIVED%",
        )],
        "access_log_options": {
            "access_log_flush_interval": "0.05s",
            "flush_access_log_on_new_request": true,
            "flush_log_on_tunnel_successfully_established": true,
        },
    });
    let clusters = vec![cluster("origin", &[origin.port()])];
    let site = logged(fields, clusters).await;
    let lines = |path: &str| {
        let log = home.read("log");
        let of = log.lines().filter(|line| line.starts_with(path));
        of.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(site.get("/here").await.text(), "here");
    let expected = ["/here DownstreamStart 0 0", "/here DownstreamEnd 200 0"];
    eventually("the log", || async {
        (lines("/here") == expected).then_some(())
    })
    .await;

    let mut socket = websocket(site.port.number(), "/ws")
        .await
        .expect("a tunnel");
    websocket_echo(&mut socket, "hello").await.expect("an echo");
    // Told by a client with its mask: what else has come is the head of a frame.
    let periodic = "/ws DownstreamPeriodic 101 11";
    eventually("a line while it lives", || async {
        (lines("/ws").iter().filter(|line| *line == periodic).count() >= 2).then_some(())
    })
    .await;
    let begun = lines("/ws");
    assert_eq!(begun[0], "/ws DownstreamStart 0 0");
    assert!(
        begun
            .iter()
            .any(|l| l == "/ws DownstreamTunnelSuccessfullyEstablished 101 0")
    );
    socket.close(None).await.expect("closed");
    let ended = || async {
        lines("/ws")
            .last()?
            .contains("DownstreamEnd 101")
            .then_some(())
    };
    eventually("the end", ended).await;
}

#[tokio::test]
async fn an_upgrade_has_filters_of_its_own() {
    let (origin, plain) = (Origin::websocket_echo().await, Origin::http("plain").await);
    let filter =
        |message: &str| json!({ "name": message, "typed_config": typed(message, json!({})) });
    let router = "envoy.extensions.filters.http.router.v3.Router";
    let cors = filter("envoy.extensions.filters.http.cors.v3.Cors");
    let fields = json!({
        "http_filters": [cors, filter(router)],
        "upgrade_configs": [{ "upgrade_type": "websocket", "filters": [filter(router)] }],
    });
    let policy = typed(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        json!({ "allow_origin_string_match": [{ "exact": "http://a.example" }] }),
    );
    let config = json!({ "typed_per_filter_config": { "envoy.extensions.filters.http.cors.v3.Cors": policy } });
    let routes = vec![
        with(route("/plain", "plain"), config.clone()),
        with(route("/", "origin"), config),
    ];
    let clusters = vec![
        cluster("origin", &[origin.port()]),
        cluster("plain", &[plain.port()]),
    ];
    let site = Site::manager(fields, routes, clusters).await;
    let plain = header(request("GET", "a", "/plain"), "origin", "http://a.example");
    let reply = site.send(plain).await;
    assert_eq!(
        reply.header("access-control-allow-origin"),
        "http://a.example"
    );
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\norigin: http://a.example\r\nupgrade: websocket\r\n\
        connection: upgrade\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut client = dial(site.port.number()).await.expect("a connection");
    client.write_all(upgrade.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("more of the head"));
    }
    let head = String::from_utf8_lossy(&head);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(!head.contains("access-control"), "{head}");
    let valid = "http.ingress.cors.origin_valid";
    assert_eq!(
        site.admin().stat(valid).await,
        Some(1),
        "it passed the other chain"
    );
}

/// A client that is told to go while its request is not all there, and stays.
#[tokio::test]
async fn a_client_that_stays_is_waited_for_as_long_as_it_is_said() {
    for (timeout, counted) in [("0.05s", 1), ("0s", 0)] {
        let (site, _origin) = site(json!({ "delayed_close_timeout": timeout })).await;
        let mut client = dial(site.port.number()).await.expect("a connection");
        let part = b"POST /here HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc";
        client.write_all(part).await.expect("sent");
        let mut answer = Vec::new();
        client
            .read_to_end(&mut answer)
            .await
            .expect("an answer and the end");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{timeout}");
        let admin = site.admin();
        admin
            .stat_until("http.ingress.downstream_cx_active", |active| active == 0)
            .await;
        let name = "http.ingress.downstream_cx_delayed_close_timeout";
        assert_eq!(admin.stat(name).await, Some(counted), "{timeout}");
    }
}

#[tokio::test]
async fn looking_for_routes_is_measured_where_that_is_asked_for() {
    let (site, _origin) = site(json!({ "record_route_resolution_stats": true })).await;
    site.get("/here").await;
    let silence = Duration::from_millis(300);
    let bad = raw(
        site.port.number(),
        b"GET / HTTP/1.1\r\na : b\r\n\r\n",
        silence,
    )
    .await;
    assert!(bad.expect("an answer").starts_with(b"HTTP/1.1 400"));
    let count = |name: &str| {
        format!("envoy_http_{name}_count{{envoy_http_conn_manager_prefix=\"ingress\"}} 2")
    };
    for name in [
        "downstream_rq_route_resolutions",
        "downstream_rq_route_resolution_time_us",
    ] {
        let line = count(name);
        eventually(name, || async {
            let stats = site.admin().text("/stats/prometheus").await;
            stats.contains(&line).then_some(())
        })
        .await;
    }
}
