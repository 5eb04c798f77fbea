//! Requests of which other clusters get a copy.

use crate::common::client::{Seen, body, header, request};
use crate::common::config::{any_host, cluster, http, http2_upstream, route};
use crate::common::{Origin, Site, Value, eventually, json, with};

/// A route whose requests are copied to one cluster.
fn copied(prefix: &str, policy: Value) -> Value {
    let route = route(prefix, "main");
    with(
        route,
        json!({ "route": { "request_mirror_policies": [policy] } }),
    )
}

/// The request that an origin gets after `before` others.
async fn next(origin: &Origin, before: usize) -> Seen {
    eventually("a copy", || async { origin.seen().get(before).cloned() }).await
}

async fn code(site: &Site, cluster: &str, code: u16) -> Option<u64> {
    let name = format!("cluster.{cluster}.internal.upstream_rq_{code}");
    site.admin().stat(&name).await
}

#[tokio::test]
async fn a_copy_has_all_that_the_request_has() {
    let (main, copy) = (Origin::http("main").await, Origin::http("copy").await);
    let shadow = json!({ "cluster": "copy" });
    let rewritten = with(
        copied("/rewritten", shadow.clone()),
        json!({
            "route": { "prefix_rewrite": "/new", "host_rewrite_literal": "new.example" },
            "request_headers_to_add": [{ "header": { "key": "x-rule", "value": "1" } }],
        }),
    );
    let same = with(
        shadow.clone(),
        json!({ "disable_shadow_host_suffix_append": true }),
    );
    let literal = with(
        shadow.clone(),
        json!({ "host_rewrite_literal": "other.example" }),
    );
    let routes = vec![
        rewritten,
        copied("/same", same),
        copied("/literal", literal),
        copied("/header", json!({ "cluster_header": "x-copy-to" })),
        copied("/", shadow),
    ];
    let clusters = vec![
        cluster("main", &[main.port()]),
        cluster("copy", &[copy.port()]),
    ];
    let site = Site::routes(routes, clusters).await;
    let cases = [
        (
            "/some?q=1",
            "/some?q=1",
            "a.example:81",
            "a.example-shadow:81",
        ),
        ("/rewritten/x", "/new/x", "a.example", "new.example-shadow"),
        ("/same", "/same", "a.example", "a.example"),
        ("/literal", "/literal", "a.example", "other.example"),
        ("/header", "/header", "a.example", "a.example-shadow"),
    ];
    for (index, (path, target, host, shadow)) in cases.into_iter().enumerate() {
        let asked = header(request("POST", host, path), "x-copy-to", "copy");
        let reply = site.send(body(asked, "the whole of it")).await;
        let first = reply.seen();
        let copy = next(&copy, index).await;
        assert_eq!((&*first.origin, &*copy.origin), ("main", "copy"));
        assert_eq!((&*copy.method, &*copy.target), ("POST", target));
        assert_eq!((copy.host(), &*copy.body), (shadow, "the whole of it"));
        assert_eq!(copy.header("x-envoy-internal"), "true", "{path}");
        assert_ne!(copy.header("x-forwarded-for"), "", "{path}");
        for (name, value) in &first.headers {
            if name != "host" {
                assert_eq!(copy.header(name), value, "{path}: {name}");
            }
        }
    }
    // No such header, no such cluster.
    site.get("/header").await;
    let nowhere = header(request("GET", "a", "/header"), "x-copy-to", "nowhere");
    assert_eq!(site.send(nowhere).await.status, 200);
    site.get("/last").await;
    assert_eq!(next(&copy, cases.len()).await.target, "/last");
    let counted = || async { code(&site, "copy", 200).await.filter(|n| *n == 6) };
    eventually("all copies are counted", counted).await;
}

#[tokio::test]
async fn who_gets_a_copy_may_be_slow_or_down_or_speak_http2() {
    let (main, copy) = (Origin::http("main").await, Origin::http2("copy").await);
    let down = crate::common::Port::free();
    let policies = |names: &[&str]| {
        let policies = names.iter().map(|name| json!({ "cluster": name }));
        json!({ "request_mirror_policies": policies.collect::<Vec<_>>() })
    };
    let all = with(
        route("/", "main"),
        json!({ "route": policies(&["down", "silent", "copy"]) }),
    );
    let all = with(all, json!({ "route": { "timeout": "3s" } }));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let clusters = vec![
        cluster("main", &[main.port()]),
        cluster("down", &[down.number()]),
        cluster("silent", &[port]),
        with(cluster("copy", &[copy.port()]), http2_upstream()),
    ];
    let site = Site::routes(vec![all], clusters).await;
    let post = body(request("POST", "a", "/"), "x".repeat(300_000));
    assert_eq!(site.send(post).await.status, 200);
    let seen = next(&copy, 0).await;
    assert_eq!((&*seen.version, seen.host()), ("HTTP/2.0", "a-shadow"));
    assert_eq!(seen.body.len(), 300_000);
    for (cluster, status) in [("down", 503), ("silent", 504), ("copy", 200)] {
        let counted = || async { code(&site, cluster, status).await.filter(|n| *n == 1) };
        eventually(cluster, counted).await;
    }
}

#[tokio::test]
async fn the_most_specific_level_that_says_anything_decides() {
    let (main, copy) = (Origin::http("main").await, Origin::http("copy").await);
    let never = json!({
        "cluster": "copy",
        "runtime_fraction": { "default_value": { "numerator": 0 } },
    });
    let host = with(
        any_host(vec![copied("/never", never), route("/", "main")]),
        json!({ "request_mirror_policies": [{ "cluster": "copy" }] }),
    );
    let clusters = vec![
        cluster("main", &[main.port()]),
        cluster("copy", &[copy.port()]),
    ];
    let site = Site::filter(http(vec![host]), clusters).await;
    for path in ["/never", "/by-host", "/never", "/by-host"] {
        assert_eq!(site.get(path).await.status, 200);
    }
    next(&copy, 1).await;
    let targets: Vec<_> = copy.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/by-host", "/by-host"]);
}
