//! Requests that are tried again, and what those who are trusted may ask about it.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{self, TcpStream},
};

use crate::common::client::{Outgoing, Seen, body, header, request};
use crate::common::config::{address, any_host, cluster, route, typed};
use crate::common::{Origin, Reply, Site, Value, json, with};

/// How long nothing comes before a test goes on.
const SOON: &str = "0.2s";

/// An origin that fails every request.
async fn failing() -> Origin {
    Origin::canned(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await
}

/// A route whose requests are tried again once.
fn retried(prefix: &str, cluster: &str, policy: Value) -> Value {
    let usual = json!({ "retry_on": "5xx", "host_selection_retry_max_attempts": 10 });
    let route = route(prefix, cluster);
    with(
        route,
        json!({ "route": { "retry_policy": with(usual, policy) } }),
    )
}

fn predicate(kind: &str, body: Value) -> Value {
    let typed = typed(&format!("envoy.extensions.retry.host.{kind}"), body);
    json!({ "retry_host_predicate": [{ "name": kind, "typed_config": typed }] })
}

#[tokio::test]
async fn a_body_is_sent_again_to_another_host() {
    let (good, bad) = (Origin::http("good").await, failing().await);
    let previous = predicate("previous_hosts.v3.PreviousHostsPredicate", json!({}));
    let clusters = vec![cluster("both", &[bad.port(), good.port()])];
    let site = Site::routes(vec![retried("/", "both", previous)], clusters).await;
    for _ in 0..4 {
        let post = body(request("POST", "a", "/"), "the whole of it");
        let reply = site.send(post).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.seen().body, "the whole of it");
    }
    assert!(bad.connections() > 0);
}

#[tokio::test]
async fn a_retry_stays_away_from_hosts_by_what_is_said_of_them() {
    let (good, bad) = (Origin::http("good").await, failing().await);
    let labelled = |port: u16, labels: Value| {
        json!({
            "endpoint": { "address": address(port) },
            "metadata": { "filter_metadata": { "envoy.lb": labels } },
        })
    };
    let hosts = |labels: Value| {
        let endpoints = vec![
            labelled(bad.port(), labels),
            labelled(good.port(), json!({ "canary": false, "kind": "b" })),
        ];
        json!({ "load_assignment": { "endpoints": [{ "lb_endpoints": endpoints }] } })
    };
    let canary = with(cluster("canary", &[]), hosts(json!({ "canary": true })));
    let marked = with(
        cluster("marked", &[]),
        hosts(json!({ "kind": "a", "more": 1 })),
    );
    let metadata = json!({ "metadata_match": {
        "filter_metadata": { "envoy.lb": { "kind": "a" } },
    } });
    let routes = vec![
        retried(
            "/canary",
            "canary",
            predicate("omit_canary_hosts.v3.OmitCanaryHostsPredicate", json!({})),
        ),
        retried(
            "/marked",
            "marked",
            predicate("omit_host_metadata.v3.OmitHostMetadataConfig", metadata),
        ),
    ];
    let site = Site::routes(routes, vec![canary, marked]).await;
    for path in ["/canary", "/marked"] {
        for _ in 0..6 {
            assert_eq!(site.get(path).await.status, 200, "{path}");
        }
    }
    // The first try goes there all the same.
    assert!(bad.connections() >= 2);
}

/// A port on which connections are made and nothing is said.
fn silent() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

#[tokio::test]
async fn each_try_has_its_own_time_without_a_byte() {
    let (good, silent) = (Origin::http("good").await, silent());
    let port = silent.local_addr().expect("bound").port();
    let policy = with(
        predicate("previous_hosts.v3.PreviousHostsPredicate", json!({})),
        json!({ "per_try_idle_timeout": SOON }),
    );
    let clusters = vec![cluster("both", &[port, good.port()])];
    let site = Site::routes(vec![retried("/", "both", policy)], clusters).await;
    for _ in 0..3 {
        assert_eq!(site.get("/").await.status, 200);
    }
    let name = "cluster.both.upstream_rq_per_try_idle_timeout";
    assert!(site.admin().stat(name).await > Some(0));
}

/// A site that trusts the loopback address.
async fn trusting(routes: Vec<Value>, clusters: Vec<Value>) -> Site {
    let trusted = json!({
        "use_remote_address": true,
        "internal_address_config": { "cidr_ranges": [
            { "address_prefix": "127.0.0.0", "prefix_len": 8 },
        ] },
    });
    Site::manager(trusted, routes, clusters).await
}

async fn ask(site: &Site, path: &str, headers: &[(&str, &str)]) -> Reply {
    let request = request("GET", "a", path);
    let add = |request: Outgoing, (name, value): &(&str, &str)| header(request, name, value);
    site.send(headers.iter().fold(request, add)).await
}

#[tokio::test]
async fn who_is_trusted_may_ask_for_retries() {
    let origin = Origin::http("web").await;
    let wants =
        json!({ "retriable_request_headers": [{ "name": "x-may", "present_match": true }] });
    let routes = vec![retried("/some", "web", wants), route("/", "web")];
    let site = trusting(routes, vec![cluster("web", &[origin.port()])]).await;
    let again = ("x-origin-header", "x-again=yes");
    let asked = [
        again,
        ("x-envoy-retry-on", "retriable-headers"),
        ("x-envoy-retriable-header-names", "x-other, X-Again"),
        ("x-envoy-max-retries", "2"),
    ];
    let seen = ask(&site, "/", &asked).await.seen();
    assert_eq!(origin.requests(), 3);
    for (name, _) in &asked[1..] {
        assert_eq!(seen.header(name), "", "{name}");
    }
    // What a route wants of a request holds for what the request asks, too.
    let failed = ("x-origin-status", "503");
    ask(&site, "/some", &[failed, ("x-envoy-retry-on", "5xx")]).await;
    assert_eq!(origin.requests(), 4);
    ask(&site, "/some", &[failed, ("x-may", "1")]).await;
    assert_eq!(origin.requests(), 6);
}

#[tokio::test]
async fn the_time_for_an_upstream_is_limited_by_it_and_by_who_is_trusted() {
    let silent = silent();
    let port = silent.local_addr().expect("bound").port();
    let options = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        json!({
            "explicit_http_config": { "http_protocol_options": {} },
            "common_http_protocol_options": { "max_stream_duration": SOON },
        }),
    );
    let limited = with(
        cluster("limited", &[port]),
        json!({ "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options,
    } }),
    );
    let routes = vec![route("/limited", "limited"), route("/", "silent")];
    let site = trusting(routes, vec![limited, cluster("silent", &[port])]).await;
    let told = "upstream max stream duration reached";
    for (path, headers) in [
        ("/limited", &[][..]),
        ("/", &[("x-envoy-upstream-stream-duration-ms", "200")]),
    ] {
        let reply = ask(&site, path, headers).await;
        assert_eq!(
            (reply.status.as_u16(), &*reply.text()),
            (504, told),
            "{path}"
        );
    }
    for cluster in ["limited", "silent"] {
        let name = format!("cluster.{cluster}.upstream_rq_max_duration_reached");
        assert_eq!(site.admin().stat(&name).await, Some(1), "{cluster}");
    }
    let timeout = ("x-envoy-upstream-rq-timeout-ms", "200");
    let reply = ask(&site, "/", &[timeout]).await;
    assert_eq!(reply.status, 504);
    let other = ("x-envoy-upstream-rq-timeout-alt-response", "1");
    let reply = ask(&site, "/", &[timeout, other]).await;
    assert_eq!((reply.status.as_u16(), &*reply.text()), (204, ""));
}

#[tokio::test]
async fn others_may_not_ask_for_anything() {
    let origin = Origin::http("web").await;
    let edge = json!({ "use_remote_address": true });
    let clusters = vec![cluster("web", &[origin.port()])];
    let site = Site::manager(edge, vec![route("/", "web")], clusters).await;
    let names = [
        "x-envoy-upstream-stream-duration-ms",
        "x-envoy-upstream-rq-timeout-alt-response",
        "x-envoy-retriable-header-names",
        "x-envoy-hedge-on-per-try-timeout",
        "x-envoy-upstream-alt-stat-name",
        "x-envoy-original-host",
    ];
    let asked = names.map(|name| (name, "1"));
    let reply = ask(&site, "/", &asked).await;
    let seen = reply.seen();
    for name in names {
        assert_eq!(seen.header(name), "", "{name}");
    }
}

#[tokio::test]
async fn a_host_may_say_how_long_to_wait() {
    let origin = Origin::http("web").await;
    let policy = json!({
        "retry_on": "retriable-status-codes",
        "retriable_status_codes": [429],
        "rate_limited_retry_back_off": { "reset_headers": [{ "name": "retry-after" }] },
    });
    let clusters = vec![cluster("web", &[origin.port()])];
    let site = Site::routes(vec![retried("/", "web", policy)], clusters).await;
    let busy = ("x-origin-status", "429");
    let told = ("x-origin-header", "retry-after=1");
    let started = Instant::now();
    assert_eq!(ask(&site, "/", &[busy, told]).await.status, 429);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(origin.requests(), 2);
    assert_eq!(ask(&site, "/", &[busy]).await.status, 429);
    for kind in ["ratelimited", "exponential"] {
        let name = format!("cluster.web.upstream_rq_retry_backoff_{kind}");
        assert_eq!(site.admin().stat(&name).await, Some(1), "{kind}");
    }
}

#[tokio::test]
async fn a_host_is_told_why_it_is_asked_again() {
    let (good, silent) = (Origin::http("good").await, silent());
    let port = silent.local_addr().expect("bound").port();
    let previous = predicate("previous_hosts.v3.PreviousHostsPredicate", json!({}));
    let limited = with(previous, json!({ "per_try_timeout": "1s" }));
    let routes = vec![
        retried("/late", "both", limited),
        retried("/", "web", json!({})),
    ];
    let host = with(
        any_host(routes),
        json!({ "include_is_timeout_retry_header": true }),
    );
    let clusters = vec![
        cluster("both", &[port, good.port()]),
        cluster("web", &[good.port()]),
    ];
    let site = Site::hosts(vec![host], clusters).await;
    let told = |seen: &Seen| seen.header("x-envoy-is-timeout-retry").to_owned();
    let mut late = Vec::new();
    while late.len() < 2 || !late.contains(&"true".to_owned()) {
        late.push(told(&site.get("/late").await.seen()));
        assert!(late.len() < 10, "{late:?}");
    }
    // Whoever is asked first is told nothing.
    assert!(late.iter().all(|told| told == "true" || told.is_empty()));
    let before = good.seen().len();
    ask(&site, "/", &[("x-origin-status", "503")]).await;
    let tries: Vec<_> = good.seen()[before..].iter().map(told).collect();
    assert_eq!(tries, ["", "false"]);
}

/// Accepts a connection, reads the head of a request and, if told to, refuses it.
async fn asked(origin: &net::TcpListener, refuse: bool) -> TcpStream {
    let (mut host, _) = origin.accept().await.expect("accepted");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(host.read_u8().await.expect("read"));
    }
    if refuse {
        let refusal = b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        host.write_all(refusal).await.expect("written");
    }
    host
}

#[tokio::test]
async fn a_retry_counts_until_it_is_answered() {
    let origin = net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = origin.local_addr().expect("bound").port();
    let one = json!({ "circuit_breakers": { "thresholds": [{ "max_retries": 1 }] } });
    let routes = vec![retried("/", "web", json!({}))];
    let site = Site::routes(routes, vec![with(cluster("web", &[port]), one)]).await;
    let patient = async {
        let reply = site.get("/patient").await;
        assert_eq!(reply.status, 200);
    };
    let other = async {
        asked(&origin, true).await;
        let mut retry = asked(&origin, false).await;
        let (reply, _) = tokio::join!(site.get("/other"), asked(&origin, true));
        assert_eq!(reply.status, 503);
        let overflow = "cluster.web.upstream_rq_retry_overflow";
        assert_eq!(site.admin().stat(overflow).await, Some(1));
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        retry.write_all(answer).await.expect("written");
    };
    tokio::join!(patient, other);
}
