//! What the connection manager and the router do to messages.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::common::client::{body, dial, header, raw, request, websocket, websocket_echo};
use crate::common::config::{answer, any_host, cluster, http_with, http2_upstream, route};
use crate::common::{Origin, Port, Site, Value, json, with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Silence after which a raw connection has said all it had to say.
const SILENCE: Duration = Duration::from_millis(300);

async fn echo_site(fields: Value) -> (Site, Origin) {
    let origin = Origin::http("origin").await;
    let clusters = vec![cluster("origin", &[origin.port()])];
    let site = Site::manager(fields, vec![route("/", "origin")], clusters).await;
    (site, origin)
}

fn add(name: &str, value: &str) -> Value {
    json!({ "header": { "key": name, "value": value } })
}

fn add_as(name: &str, value: &str, action: &str) -> Value {
    with(add(name, value), json!({ "append_action": action }))
}

#[tokio::test]
async fn the_proxys_own_headers() {
    let (site, _origin) = echo_site(json!({})).await;
    let reply = site.get("/path?query").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("server"), "envoy");
    assert!(httpdate::parse_http_date(reply.header("date")).is_ok());
    let service_time = reply.header("x-envoy-upstream-service-time");
    assert!(service_time.parse::<u64>().is_ok(), "{service_time:?}");

    let seen = reply.seen();
    assert_eq!(seen.target, "/path?query");
    assert_eq!(seen.host(), "example.com");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-envoy-expected-rq-timeout-ms"), "15000");
    let id = seen.header("x-request-id");
    assert_eq!((id.len(), id.matches('-').count()), (36, 4), "a UUID: {id}");
    assert_eq!(id.as_bytes()[14], b'4', "version 4: {id}");
    assert_eq!(seen.header("x-forwarded-for"), "");
}

#[tokio::test]
async fn the_remote_address_is_appended_when_asked() {
    let (site, _origin) = echo_site(json!({ "use_remote_address": true })).await;
    // For a loopback client, it is the address of the machine.
    let own = site
        .get("/")
        .await
        .seen()
        .header("x-forwarded-for")
        .to_owned();
    assert!(own.parse::<IpAddr>().is_ok(), "{own:?}");
    let forwarded = header(request("GET", "a", "/"), "x-forwarded-for", "10.1.2.3");
    let seen = site.send(forwarded).await.seen();
    assert_eq!(seen.header("x-forwarded-for"), format!("10.1.2.3,{own}"));
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let (site, _origin) = echo_site(json!({})).await;
    let mut asked = request("GET", "a", "/");
    for (name, value) in [
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("x-kept", "yes"),
    ] {
        asked = header(asked, name, value);
    }
    let seen = site.send(asked).await.seen();
    assert_eq!(seen.header("x-kept"), "yes");
    for name in ["keep-alive", "proxy-connection", "connection"] {
        assert_eq!(seen.header(name), "", "{name}");
    }
}

#[tokio::test]
async fn server_header_transformations() {
    for (mode, expected) in [
        ("OVERWRITE", "name"),
        ("APPEND_IF_ABSENT", "theirs"),
        ("PASS_THROUGH", "theirs"),
    ] {
        let fields = json!({ "server_name": "name", "server_header_transformation": mode });
        let (site, _origin) = echo_site(fields).await;
        let asked = header(request("GET", "a", "/"), "x-origin-header", "server=theirs");
        assert_eq!(site.send(asked).await.header("server"), expected, "{mode}");
    }
}

#[tokio::test]
async fn header_rules_go_from_route_to_table() {
    let origin = Origin::http("origin").await;
    let rules = |level: &str| {
        json!({
            "request_headers_to_add": [
                add("x-order", level),
                add_as("x-last", level, "OVERWRITE_IF_EXISTS_OR_ADD"),
                add_as("x-first", level, "ADD_IF_ABSENT"),
                add_as("x-only-if", level, "OVERWRITE_IF_EXISTS"),
            ],
            "request_headers_to_remove": [format!("x-remove-{level}")],
            "response_headers_to_add": [add("x-order", level)],
            "response_headers_to_remove": [format!("x-remove-{level}")],
        })
    };
    let host = with(
        any_host(vec![with(route("/", "origin"), rules("route"))]),
        rules("host"),
    );
    let table = with(
        rules("table"),
        json!({ "name": "table", "virtual_hosts": [host] }),
    );
    let filter = http_with(json!({ "route_config": table }));
    let site = Site::filter(filter, vec![cluster("origin", &[origin.port()])]).await;

    let mut asked = request("GET", "a", "/");
    for level in ["route", "host", "table"] {
        asked = header(asked, &format!("x-remove-{level}"), "here");
        let answered = format!("x-remove-{level}=here");
        asked = header(asked, "x-origin-header", &answered);
    }
    let reply = site.send(asked).await;
    let orders: Vec<_> = reply.headers.get_all("x-order").iter().collect();
    assert_eq!(orders, ["route", "host", "table"]);
    let seen = reply.seen();
    assert_eq!(seen.all("x-order"), ["route", "host", "table"]);
    assert_eq!(seen.all("x-last"), ["table"]);
    assert_eq!(seen.all("x-first"), ["route"]);
    assert_eq!(seen.header("x-only-if"), "");
    for level in ["route", "host", "table"] {
        let name = format!("x-remove-{level}");
        assert_eq!(
            (seen.header(&name), reply.header(&name)),
            ("", ""),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_most_specific_rule_can_win() {
    let rule = |level: &str| {
        json!({ "request_headers_to_add": [
            add_as("x-rule", level, "OVERWRITE_IF_EXISTS_OR_ADD"),
        ] })
    };
    let origin = Origin::http("origin").await;
    let host = with(
        any_host(vec![with(route("/", "origin"), rule("route"))]),
        rule("host"),
    );
    let table = with(
        rule("table"),
        json!({ "virtual_hosts": [host], "most_specific_header_mutations_wins": true }),
    );
    let filter = http_with(json!({ "route_config": table }));
    let site = Site::filter(filter, vec![cluster("origin", &[origin.port()])]).await;
    assert_eq!(site.get("/").await.seen().all("x-rule"), ["route"]);
}

#[tokio::test]
async fn header_values_are_formatted() {
    let origin = Origin::http("origin").await;
    let formatted = with(
        route("/", "origin"),
        json!({
            "request_headers_to_add": [
                add("x-method", "%REQ(:METHOD)%"),
                add("x-path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
                add("x-protocol", "%PROTOCOL%"),
                add("x-percent", "100%%"),
                add("x-address", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
                add("x-short", "%REQ(X-LONG):3%"),
                add("x-absent", "%REQ(X-ABSENT)%"),
            ],
            "response_headers_to_add": [
                add("x-cluster", "%UPSTREAM_CLUSTER%"),
                add("x-host", "%UPSTREAM_HOST%"),
                add("x-code", "%RESPONSE_CODE%"),
            ],
        }),
    );
    let site = Site::routes(vec![formatted], vec![cluster("origin", &[origin.port()])]).await;
    let asked = header(request("PUT", "a", "/p?q"), "x-long", "abcdef");
    let reply = site.send(asked).await;
    let seen = reply.seen();
    for (name, value) in [
        ("x-method", "PUT"),
        ("x-path", "/p?q"),
        ("x-protocol", "HTTP/1.1"),
        ("x-percent", "100%"),
        ("x-address", "127.0.0.1"),
        ("x-short", "abc"),
        ("x-absent", ""),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    assert_eq!(reply.header("x-cluster"), "origin");
    assert_eq!(
        reply.header("x-host"),
        format!("127.0.0.1:{}", origin.port())
    );
    assert_eq!(reply.header("x-code"), "200");
}

#[tokio::test]
async fn bodies_pass_unchanged() {
    let (site, _origin) = echo_site(json!({})).await;
    let text = "0123456789".repeat(20_000);
    let posted = body(request("POST", "a", "/"), text.clone());
    assert_eq!(site.send(posted).await.seen().body, text);
    let big = header(request("GET", "a", "/"), "x-origin-size", "3000000");
    let reply = site.send(big).await;
    assert_eq!(reply.body.len(), 3_000_000);
    assert!(reply.body.iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn chunked_bodies_and_expectations() {
    let (site, _origin) = echo_site(json!({})).await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\
        expect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.expect("100 Continue");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
        .write_all(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        .await
        .expect("written");
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("hello world") {
        let read = stream.read_buf(&mut answer).await.expect("read");
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn head_has_no_body() {
    let (site, _origin) = echo_site(json!({})).await;
    let mut connection = site.http1().await;
    for _ in 0..2 {
        let reply = connection
            .send(request("HEAD", "a", "/"))
            .await
            .expect("a response");
        assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
        assert_ne!(reply.header("content-length"), "");
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let (site, origin) = echo_site(json!({})).await;
    let mut connection = site.http1().await;
    for number in 0..50 {
        let path = format!("/{number}");
        let reply = connection
            .send(request("GET", "a", &path))
            .await
            .expect("a response");
        assert_eq!(reply.seen().target, path);
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(origin.requests(), 50);
}

#[tokio::test]
async fn http2_downstream() {
    let (site, _origin) = echo_site(json!({})).await;
    let connection = site.http2().await;
    let requests = (0..20).map(|number| {
        let connection = connection.clone();
        async move {
            let path = format!("/{number}");
            let posted = body(request("POST", "two.org", &path), "x".repeat(100_000));
            let reply = connection.send(posted).await.expect("a response");
            assert_eq!(reply.version, http::Version::HTTP_2);
            let seen = reply.seen();
            assert_eq!((&*seen.target, seen.body.len()), (&*path, 100_000));
            assert_eq!((seen.host(), &*seen.version), ("two.org", "HTTP/1.1"));
        }
    });
    futures_util::future::join_all(requests).await;
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn http2_upstream_is_shared() {
    let origin = Origin::http2("two").await;
    let two = with(cluster("two", &[origin.port()]), http2_upstream());
    let filter = http_with(json!({
        "route_config": { "virtual_hosts": [any_host(vec![route("/", "two")])] },
    }));
    let site = Site::with_args(filter, vec![two], &["--concurrency", "1"]).await;
    let requests = (0..20).map(|_| site.get("/"));
    for reply in futures_util::future::join_all(requests).await {
        let seen = reply.seen();
        assert_eq!((&*seen.version, seen.host()), ("HTTP/2.0", "example.com"));
    }
    assert!(
        origin.connections() <= 2,
        "{} connections",
        origin.connections()
    );
}

#[tokio::test]
async fn malformed_requests_are_400() {
    let (site, origin) = echo_site(json!({})).await;
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let answer = raw(site.port.number(), bad.as_bytes(), SILENCE)
            .await
            .expect("an answer");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 400 "), "{bad:?}: {text:?}");
    }
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn too_large_heads_are_431() {
    let (site, origin) = echo_site(json!({ "max_request_headers_kb": 8 })).await;
    let large = header(request("GET", "a", "/"), "x-large", &"x".repeat(10_000));
    assert_eq!(site.send(large).await.status, 431);
    let small = header(request("GET", "a", "/"), "x-large", &"x".repeat(6_000));
    assert_eq!(site.send(small).await.status, 200);
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn the_route_timeout_is_504() {
    let origin = Origin::http("slow").await;
    let timed = with(
        route("/", "slow"),
        json!({ "route": { "timeout": "0.2s" } }),
    );
    let site = Site::routes(vec![timed], vec![cluster("slow", &[origin.port()])]).await;
    let slow = header(request("GET", "a", "/"), "x-origin-delay-ms", "5000");
    let started = Instant::now();
    let reply = site.send(slow).await;
    assert_eq!(
        (reply.status.as_u16(), &*reply.text()),
        (504, "upstream request timeout")
    );
    let elapsed = started.elapsed();
    assert!(
        (150..2000).contains(&elapsed.as_millis()),
        "after {elapsed:?}"
    );
    assert_eq!(
        site.get("/")
            .await
            .seen()
            .header("x-envoy-expected-rq-timeout-ms"),
        "200"
    );
    site.admin()
        .stat_reaches("cluster.slow.upstream_rq_timeout", 1)
        .await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let fields = json!({ "common_http_protocol_options": { "idle_timeout": "0.3s" } });
    let (site, _origin) = echo_site(fields).await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    let started = Instant::now();
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .await
        .expect("closed in order");
    assert!(answer.is_empty());
    let elapsed = started.elapsed();
    assert!(
        (200..3000).contains(&elapsed.as_millis()),
        "after {elapsed:?}"
    );
}

#[tokio::test]
async fn idle_streams_end() {
    let (site, _origin) = echo_site(json!({ "stream_idle_timeout": "0.3s" })).await;
    let slow = header(request("GET", "a", "/"), "x-origin-delay-ms", "5000");
    let reply = site.send(slow).await;
    assert_eq!(
        (reply.status.as_u16(), &*reply.text()),
        (504, "stream timeout")
    );
}

#[tokio::test]
async fn requests_must_arrive_in_time() {
    let (site, _origin) = echo_site(json!({ "request_timeout": "0.3s" })).await;
    let half = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf";
    let answer = raw(site.port.number(), half, Duration::from_secs(3))
        .await
        .expect("an answer");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 408 "), "{text:?}");
    assert!(text.ends_with("request timeout"), "{text:?}");
}

#[tokio::test]
async fn websockets_pass_where_upgrades_are_allowed() {
    let (origin, plain) = (Origin::websocket_echo().await, Origin::http("plain").await);
    let routes = vec![
        with(
            route("/never", "origin"),
            json!({ "route": { "upgrade_configs": [
                { "upgrade_type": "websocket", "enabled": false },
            ] } }),
        ),
        route("/plain", "plain"),
        route("/", "origin"),
    ];
    let fields = json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] });
    let clusters = vec![
        cluster("origin", &[origin.port()]),
        cluster("plain", &[plain.port()]),
    ];
    let site = Site::manager(fields, routes, clusters).await;
    let mut socket = websocket(site.port.number(), "/").await.expect("upgraded");
    for text in ["one", "two", &"long".repeat(50_000)] {
        websocket_echo(&mut socket, text).await.expect("an echo");
    }
    assert!(websocket(site.port.number(), "/never").await.is_err());
    // The origin may refuse.
    assert!(websocket(site.port.number(), "/plain").await.is_err());
    socket.close(None).await.expect("closed");
    drop(socket);
    site.admin()
        .stat_until("http.ingress.downstream_cx_upgrades_active", |value| {
            value == 0
        })
        .await;
}

#[tokio::test]
async fn upgrades_need_permission() {
    let (site, _origin) = echo_site(json!({})).await;
    let mut upgrade = request("GET", "a", "/");
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        upgrade = header(upgrade, name, value);
    }
    assert_eq!(site.send(upgrade).await.status, 403);
}

#[tokio::test]
async fn responses_are_counted() {
    let (site, _origin) = echo_site(json!({})).await;
    let mut connection = site.http1().await;
    for status in ["200", "204", "404", "503", "200"] {
        let asked = header(request("GET", "a", "/"), "x-origin-status", status);
        connection.send(asked).await.expect("a response");
    }
    let admin = site.admin();
    for (name, count) in [
        ("http.ingress.downstream_rq_total", 5),
        ("http.ingress.downstream_rq_2xx", 3),
        ("http.ingress.downstream_rq_4xx", 1),
        ("http.ingress.downstream_rq_5xx", 1),
        ("cluster.origin.upstream_rq_total", 5),
        ("cluster.origin.upstream_rq_200", 2),
        ("cluster.origin.upstream_rq_5xx", 1),
        ("http.ingress.downstream_cx_total", 1),
        ("cluster.origin.upstream_cx_total", 1),
    ] {
        admin.stat_until(name, |value| value == count).await;
    }
    admin
        .stat_until("http.ingress.downstream_rq_active", |value| value == 0)
        .await;
}

#[tokio::test]
async fn access_logs_in_every_format() {
    let typed = |fields: Value| {
        json!({
            "name": "envoy.access_loggers.file",
            "typed_config": with(
                json!({
                    "@type": "type.googleapis.com/\
                        envoy.extensions.access_loggers.file.v3.FileAccessLog",
                }),
                fields,
            ),
        })
    };
    let home = crate::common::Home::new();
    let logs = json!([
        typed(json!({ "path": home.text("default.log") })),
        typed(json!({
            "path": home.text("text.log"),
            "log_format": { "text_format_source": {
                "inline_string": "%REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% %REQ(X-A)%\n",
            } },
        })),
        typed(json!({
            "path": home.text("json.log"),
            "log_format": { "json_format": {
                "code": "%RESPONSE_CODE%", "path": "%REQ(:PATH)%", "missing": "%REQ(X-NONE)%",
            } },
        })),
        with(
            typed(json!({ "path": home.text("errors.log") })),
            json!({ "filter": { "status_code_filter": { "comparison": {
                "op": "GE", "value": { "default_value": 500, "runtime_key": "none" },
            } } } }),
        ),
    ]);
    let port = crate::common::Port::free();
    let routes = vec![answer("/fails", 500, "no"), answer("/", 200, "yes")];
    let filter = http_with(json!({
        "route_config": { "virtual_hosts": [any_host(routes)] },
        "access_log": logs,
    }));
    let listeners = vec![crate::common::config::listener(
        "main",
        port.number(),
        filter,
    )];
    let bootstrap = crate::common::config::bootstrap(listeners, vec![]);
    let arguments = ["--file-flush-interval-msec", "20"];
    let _proxy = crate::common::Proxy::start(&home, &bootstrap, &arguments).await;
    let asked = header(request("GET", "log.org", "/a?b"), "x-a", "value");
    crate::common::client::once(port.number(), asked)
        .await
        .expect("a response");
    crate::common::get(port.number(), "/fails").await;

    let lines = async |name: &str, count: usize| -> Vec<String> {
        crate::common::eventually(name, || async {
            let lines: Vec<String> = home.read(name).lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    };
    let default = lines("default.log", 2).await;
    assert!(
        default[0].contains(r#"] "GET /a?b HTTP/1.1" 200 - 0 3 "#),
        "{}",
        default[0]
    );
    assert!(default[0].contains(r#" "log.org" "-""#), "{}", default[0]);
    assert_eq!(
        lines("text.log", 2).await,
        ["GET 200 - value", "GET 500 - -"]
    );
    let first: Value = serde_json::from_str(&lines("json.log", 2).await[0]).expect("JSON");
    assert_eq!(
        first,
        json!({ "code": 200, "path": "/a?b", "missing": null })
    );
    let errors = lines("errors.log", 1).await;
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains(" 500 "), "{}", errors[0]);
}

/// A status that is tried again is no answer: it counts where retries do.
#[tokio::test]
async fn what_is_tried_again_is_counted_apart() {
    let origin = Origin::http("origin").await;
    let retried = with(
        route("/", "origin"),
        json!({ "route": { "retry_policy": { "retry_on": "5xx", "num_retries": 2 } } }),
    );
    let clusters = vec![cluster("origin", &[origin.port()])];
    let site = Site::routes(vec![retried], clusters).await;
    let failing = header(request("GET", "a", "/"), "x-origin-status", "503");
    assert_eq!(site.send(failing).await.status, 503);
    assert_eq!(origin.requests(), 3);
    let admin = site.admin();
    for (name, expected) in [
        ("upstream_rq_total", Some(3)),
        ("upstream_rq_completed", Some(1)),
        ("upstream_rq_503", Some(1)),
        ("external.upstream_rq_503", Some(1)),
        ("retry.upstream_rq_503", Some(2)),
        ("retry.upstream_rq_5xx", Some(2)),
        ("retry.upstream_rq_completed", Some(2)),
        ("upstream_rq_retry", Some(2)),
        ("upstream_rq_retry_limit_exceeded", Some(1)),
        ("upstream_rq_retry_success", Some(0)),
    ] {
        let name = format!("cluster.origin.{name}");
        assert_eq!(admin.stat(&name).await, expected, "{name}");
    }
    let clusters = admin.text("/clusters").await;
    assert!(clusters.contains("::rq_error::3\n"), "{clusters}");
}

/// A retry that ends well is a success, whatever it is answered.
#[tokio::test]
async fn a_retry_that_is_answered_is_a_success() {
    let (good, bad) = (Origin::http("good").await, Port::free());
    let retried = with(
        route("/", "both"),
        json!({ "route": { "retry_policy": { "retry_on": "connect-failure", "num_retries": 1 } } }),
    );
    let clusters = vec![cluster("both", &[bad.number(), good.port()])];
    let site = Site::routes(vec![retried], clusters).await;
    for _ in 0..8 {
        assert_eq!(site.get("/").await.status, 200);
    }
    let admin = site.admin();
    for (name, expected) in [
        ("upstream_rq_200", Some(8)),
        ("upstream_rq_completed", Some(8)),
        ("upstream_rq_503", None),
    ] {
        let name = format!("cluster.both.{name}");
        assert_eq!(admin.stat(&name).await, expected, "{name}");
    }
    // How often the dead host came first depends on which worker served.
    let retries = admin.stat("cluster.both.upstream_rq_retry").await;
    assert!(retries > Some(0), "{retries:?}");
    let successes = admin.stat("cluster.both.upstream_rq_retry_success").await;
    assert_eq!(successes, retries);
}
