//! How clusters find, choose, connect to and protect their hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::client::{header, raw, request};
use crate::common::config::{
    any_host, assignment, cluster, http_with, http2_upstream, route, typed,
};
use crate::common::tls::Authority;
use crate::common::{H1, Origin, Port, Site, Value, json, with};

/// A cluster found by DNS at a name that every machine knows.
fn dns(kind: &str, port: u16) -> Value {
    with(
        cluster("origin", &[]),
        json!({
            "type": kind,
            "dns_lookup_family": "V4_ONLY",
            "load_assignment": {
                "cluster_name": "origin",
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
                    "socket_address": { "address": "localhost", "port_value": port },
                } } }] }],
            },
        }),
    )
}

async fn site(cluster: Value) -> Site {
    Site::routes(vec![route("/", "origin")], vec![cluster]).await
}

/// One worker, so that its balancer sees every request.
async fn single(cluster: Value) -> Site {
    let filter = http_with(json!({
        "route_config": { "virtual_hosts": [any_host(vec![route("/", "origin")])] },
    }));
    Site::with_args(filter, vec![cluster], &["--concurrency", "1"]).await
}

async fn spread(site: &Site, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut connection = site.http1().await;
    for _ in 0..requests {
        let reply = connection
            .send(request("GET", "a", "/"))
            .await
            .expect("a response");
        *counts.entry(reply.seen().origin).or_insert(0) += 1;
    }
    counts
}

#[tokio::test]
async fn round_robin_goes_round() {
    let origins = [
        Origin::http("a").await,
        Origin::http("b").await,
        Origin::http("c").await,
    ];
    let ports: Vec<u16> = origins.iter().map(Origin::port).collect();
    let site = single(cluster("origin", &ports)).await;
    let counts = spread(&site, 30).await;
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

#[tokio::test]
async fn weights_are_kept() {
    let (light, heavy) = (Origin::http("light").await, Origin::http("heavy").await);
    let mut endpoints = assignment("origin", &[light.port(), heavy.port()]);
    endpoints["endpoints"][0]["lb_endpoints"][1]["load_balancing_weight"] = json!(3);
    let site = single(with(
        cluster("origin", &[]),
        json!({ "load_assignment": endpoints }),
    ))
    .await;
    let counts = spread(&site, 40).await;
    assert_eq!((counts["light"], counts["heavy"]), (10, 30));
}

#[tokio::test]
async fn random_and_least_request_use_all_hosts() {
    for policy in ["RANDOM", "LEAST_REQUEST"] {
        let (a, b) = (Origin::http("a").await, Origin::http("b").await);
        let chosen = with(
            cluster("origin", &[a.port(), b.port()]),
            json!({ "lb_policy": policy }),
        );
        let counts = spread(&single(chosen).await, 60).await;
        assert!(counts["a"] > 10 && counts["b"] > 10, "{policy}: {counts:?}");
    }
}

#[tokio::test]
async fn least_request_avoids_the_busy() {
    let (a, b) = (Origin::http("a").await, Origin::http("b").await);
    let least = with(
        cluster("origin", &[a.port(), b.port()]),
        json!({ "lb_policy": "LEAST_REQUEST" }),
    );
    let site = single(least).await;
    // One of the two is given a request that it does not finish.
    let port = site.port.number();
    let slow = tokio::spawn(async move {
        let mut connection = H1::connect(port).await.expect("a connection");
        let slow = header(request("GET", "a", "/"), "x-origin-delay-ms", "3000");
        connection
            .send(slow)
            .await
            .expect("a response")
            .seen()
            .origin
    });
    crate::common::eventually("the slow request", || async {
        (a.requests() + b.requests() == 1).then_some(())
    })
    .await;
    let busy = if a.requests() == 1 { "a" } else { "b" };
    let counts = spread(&site, 40).await;
    let met = counts.get(busy).copied().unwrap_or(0);
    // It is met only when both of the two choices fall on it.
    assert!(met < 20, "the busy host got {met} of 40");
    assert_eq!(slow.await.expect("no panic"), busy);
}

#[tokio::test]
async fn strict_dns_finds_localhost() {
    let origin = Origin::http("dns").await;
    let site = site(dns("STRICT_DNS", origin.port())).await;
    assert_eq!(site.get("/").await.seen().origin, "dns");
}

#[tokio::test]
async fn logical_dns_finds_localhost() {
    let origin = Origin::http("dns").await;
    let site = site(dns("LOGICAL_DNS", origin.port())).await;
    let seen = site.get("/").await.seen();
    assert_eq!((&*seen.origin, seen.host()), ("dns", "example.com"));
}

#[tokio::test]
async fn the_host_can_be_rewritten_to_the_dns_name() {
    let origin = Origin::http("dns").await;
    let auto = with(
        route("/", "origin"),
        json!({ "route": { "auto_host_rewrite": true } }),
    );
    let site = Site::routes(vec![auto], vec![dns("STRICT_DNS", origin.port())]).await;
    assert_eq!(site.get("/").await.seen().host(), "localhost");
}

#[tokio::test]
async fn an_unknown_name_leaves_no_host() {
    let unknown = with(
        dns("STRICT_DNS", 1),
        json!({ "load_assignment": { "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
            "socket_address": { "address": "does-not-exist.invalid", "port_value": 1 },
        } } }] }] } }),
    );
    let site = site(unknown).await;
    let reply = site.get("/").await;
    assert_eq!(
        (reply.status.as_u16(), &*reply.text()),
        (503, "no healthy upstream")
    );
}

#[tokio::test]
async fn a_cluster_without_hosts_is_503() {
    let site = site(cluster("origin", &[])).await;
    let reply = site.get("/").await;
    assert_eq!(
        (reply.status.as_u16(), &*reply.text()),
        (503, "no healthy upstream")
    );
    site.admin()
        .stat_reaches("cluster.origin.upstream_cx_none_healthy", 1)
        .await;
}

#[tokio::test]
async fn a_refused_connection_is_503() {
    let nobody = Port::free();
    let site = site(cluster("origin", &[nobody.number()])).await;
    let reply = site.get("/").await;
    assert_eq!(reply.status, 503);
    assert!(
        reply
            .text()
            .starts_with("upstream connect error or disconnect/reset before headers"),
        "{}",
        reply.text()
    );
    site.admin()
        .stat_reaches("cluster.origin.upstream_cx_connect_fail", 1)
        .await;
}

#[tokio::test]
async fn an_origin_that_hangs_up_is_503() {
    let origin = Origin::canned(b"").await;
    let site = site(cluster("origin", &[origin.port()])).await;
    let reply = site.get("/").await;
    assert_eq!(reply.status, 503);
    assert!(
        reply.text().contains("connection termination"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn an_origin_that_talks_nonsense_is_502() {
    let origin = Origin::canned(b"nonsense\r\n\r\n").await;
    let site = site(cluster("origin", &[origin.port()])).await;
    let reply = site.get("/").await;
    assert_eq!(reply.status, 502);
    assert!(reply.text().contains("protocol error"), "{}", reply.text());
}

#[tokio::test]
async fn the_request_breaker_opens() {
    let origin = Origin::http("origin").await;
    let limited = with(
        cluster("origin", &[origin.port()]),
        json!({ "circuit_breakers": { "thresholds": [
            { "max_connections": 1, "max_pending_requests": 1, "max_requests": 100 },
        ] } }),
    );
    let site = single(limited).await;
    let slow = || header(request("GET", "a", "/"), "x-origin-delay-ms", "400");
    // One on the only connection, one waits for it, the others are refused.
    let late = async || {
        crate::common::eventually("the first request", || async {
            (origin.requests() > 0).then_some(())
        })
        .await;
        site.send(slow()).await
    };
    let (a, b, c, d) = tokio::join!(site.send(slow()), late(), late(), late());
    let mut statuses: Vec<u16> = [&a, &b, &c, &d]
        .iter()
        .map(|reply| reply.status.as_u16())
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
    let refused = [&a, &b, &c, &d]
        .into_iter()
        .find(|reply| reply.status == 503)
        .expect("two of them");
    assert_eq!(refused.header("x-envoy-overloaded"), "true");
    assert!(
        refused.text().ends_with("reset reason: overflow"),
        "{}",
        refused.text()
    );
    assert_eq!(origin.connections(), 1);
    site.admin()
        .stat_reaches("cluster.origin.upstream_rq_pending_overflow", 2)
        .await;
}

#[tokio::test]
async fn max_requests_holds_over_all_workers() {
    let origin = Origin::http2("origin").await;
    let limited = with(
        with(cluster("origin", &[origin.port()]), http2_upstream()),
        json!({ "circuit_breakers": { "thresholds": [{ "max_requests": 3 }] } }),
    );
    let filter = http_with(json!({
        "route_config": { "virtual_hosts": [any_host(vec![route("/", "origin")])] },
    }));
    let site = Site::with_args(filter, vec![limited], &["--concurrency", "4"]).await;
    let slow = || header(request("GET", "a", "/"), "x-origin-delay-ms", "800");
    let replies = futures_util::future::join_all((0..12).map(|_| site.send(slow()))).await;
    let passed = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(passed, 3);
}

#[tokio::test]
async fn upstream_tls_with_sni_and_verification() {
    let authority = Authority::new();
    let origin = Origin::https("secure", &authority.issue(&["inner.example.org"])).await;
    let tls = |fields: Value| {
        with(
            cluster("origin", &[origin.port()]),
            json!({ "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": typed(
                    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    with(json!({ "sni": "inner.example.org" }), fields),
                ),
            } }),
        )
    };
    let trusted = |ca: &str, names: Value| {
        json!({ "common_tls_context": { "validation_context": {
            "trusted_ca": { "inline_string": ca },
            "match_typed_subject_alt_names": names,
        } } })
    };
    let right = json!([{ "san_type": "DNS", "matcher": { "exact": "inner.example.org" } }]);
    let wrong = json!([{ "san_type": "DNS", "matcher": { "exact": "outer.example.org" } }]);
    let other = Authority::new();
    for (name, fields, passes) in [
        ("no validation", json!({}), true),
        (
            "trusted",
            trusted(&authority.certificate(), json!([])),
            true,
        ),
        ("right name", trusted(&authority.certificate(), right), true),
        (
            "wrong name",
            trusted(&authority.certificate(), wrong),
            false,
        ),
        (
            "other authority",
            trusted(&other.certificate(), json!([])),
            false,
        ),
    ] {
        let site = site(tls(fields)).await;
        let reply = site.get("/").await;
        if passes {
            let seen = reply.seen();
            assert_eq!(
                seen.server_name.as_deref(),
                Some("inner.example.org"),
                "{name}"
            );
            assert_eq!(seen.header("x-forwarded-proto"), "http", "{name}");
        } else {
            assert_eq!(reply.status, 503, "{name}: {}", reply.text());
            assert!(
                reply
                    .text()
                    .ends_with("reset reason: remote connection failure"),
                "{name}: {}",
                reply.text()
            );
            site.admin()
                .stat_reaches("cluster.origin.upstream_cx_connect_fail", 1)
                .await;
        }
    }
}

#[tokio::test]
async fn http2_over_tls_by_alpn() {
    let authority = Authority::new();
    let origin = Origin::https2("secure", &authority.issue(&["inner.example.org"])).await;
    let secure = with(
        with(cluster("origin", &[origin.port()]), http2_upstream()),
        json!({ "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                json!({ "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "validation_context": {
                        "trusted_ca": { "inline_string": authority.certificate() },
                    },
                } }),
            ),
        } }),
    );
    let site = site(secure).await;
    assert_eq!(site.get("/").await.seen().version, "HTTP/2.0");
}

#[tokio::test]
async fn connections_are_used_for_so_many_requests() {
    let origin = Origin::http("origin").await;
    let limited = with(
        cluster("origin", &[origin.port()]),
        json!({ "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                json!({
                    "explicit_http_config": { "http_protocol_options": {} },
                    "common_http_protocol_options": { "max_requests_per_connection": 5 },
                }),
            ),
        } }),
    );
    let site = single(limited).await;
    spread(&site, 20).await;
    assert_eq!(origin.connections(), 4);
}

#[tokio::test]
async fn a_host_that_http2_cannot_name_is_the_clients_fault() {
    let origin = Origin::http2("origin").await;
    let site = single(shared(origin.port(), json!({}))).await;
    for host in ["", "a:b:c"] {
        let bytes = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let silence = Duration::from_millis(300);
        let answer = raw(site.port.number(), bytes.as_bytes(), silence).await;
        let answer = String::from_utf8(answer.expect("an answer")).expect("text");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{host}: {answer}");
    }
    assert_eq!(origin.requests(), 0);
}

/// A cluster of one host that speaks HTTP/2, with these common options.
fn shared(port: u16, common: Value) -> Value {
    with(
        cluster("origin", &[port]),
        json!({ "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                json!({
                    "explicit_http_config": { "http2_protocol_options": {} },
                    "common_http_protocol_options": common,
                }),
            ),
        } }),
    )
}

#[tokio::test]
async fn a_shared_connection_that_has_had_enough_is_closed() {
    let origin = Origin::http2("origin").await;
    let limited = shared(origin.port(), json!({ "max_requests_per_connection": 5 }));
    let site = single(limited).await;
    spread(&site, 20).await;
    assert_eq!(origin.connections(), 4);
    let admin = site.admin();
    admin
        .stat_reaches("cluster.origin.upstream_cx_destroy_local", 4)
        .await;
    assert_eq!(
        admin.stat("cluster.origin.upstream_cx_max_requests").await,
        Some(4)
    );
}

#[tokio::test]
async fn a_shared_connection_without_requests_is_closed() {
    let origin = Origin::http2("origin").await;
    let site = single(shared(origin.port(), json!({ "idle_timeout": "0.2s" }))).await;
    spread(&site, 1).await;
    let admin = site.admin();
    admin
        .stat_reaches("cluster.origin.upstream_cx_idle_timeout", 1)
        .await;
    admin
        .stat_until("cluster.origin.upstream_cx_active", |value| value == 0)
        .await;
}

#[tokio::test]
async fn requests_survive_an_origin_that_closes_idle_connections() {
    let origin = Origin::http("first").await;
    let port = origin.port();
    let site = single(cluster("origin", &[port])).await;
    assert_eq!(site.get("/").await.seen().origin, "first");
    drop(origin);
    let reply = site.get("/").await;
    assert_eq!(reply.status, 503, "nobody listens: {}", reply.text());
}
