//! Which route a request takes.

use crate::common::client::{header, request};
use crate::common::config::{answer, any_host, cluster, route};
use crate::common::{Origin, Site, Value, json, with};

fn says(matcher: Value, text: &str) -> Value {
    json!({
        "match": matcher,
        "direct_response": { "status": 200, "body": { "inline_string": text } },
    })
}

fn host(name: &str, domains: &[&str]) -> Value {
    json!({ "name": name, "domains": domains, "routes": [answer("/", 200, name)] })
}

#[tokio::test]
async fn the_most_specific_host_wins() {
    let site = Site::hosts(
        vec![
            host("any", &["*"]),
            host("suffix", &["*.example.com"]),
            host("long-suffix", &["*.b.example.com"]),
            host("dash-suffix", &["*-x.example.com"]),
            host("prefix", &["www.*"]),
            host("long-prefix", &["www.long.*"]),
            host("exact", &["a.example.com", "plain.org"]),
        ],
        vec![],
    )
    .await;
    for (asked, expected) in [
        ("a.example.com", "exact"),
        ("A.Example.COM", "exact"),
        ("plain.org", "exact"),
        ("plain.org:8080", "any"),
        ("c.example.com", "suffix"),
        ("c.b.example.com", "long-suffix"),
        ("b.example.com", "suffix"),
        ("y-x.example.com", "dash-suffix"),
        (".example.com", "any"),
        ("example.com", "any"),
        ("www.org", "prefix"),
        ("www.long.org", "long-prefix"),
        ("www.example.com", "suffix"),
        ("other.org", "any"),
    ] {
        let reply = site.get_from(asked, "/").await;
        assert_eq!(reply.text(), expected, "for {asked}");
    }
}

#[tokio::test]
async fn no_host_and_no_route_are_404() {
    let only = json!({ "name": "a", "domains": ["a.com"], "routes": [answer("/here", 200, "a")] });
    let site = Site::hosts(vec![only], vec![]).await;
    assert_eq!(site.get_from("a.com", "/here").await.status, 200);
    assert_eq!(site.get_from("a.com", "/elsewhere").await.status, 404);
    assert_eq!(site.get_from("b.com", "/here").await.status, 404);
}

#[tokio::test]
async fn paths_match_in_the_order_they_are_written() {
    let site = Site::routes(
        vec![
            says(json!({ "path": "/exact" }), "path"),
            says(
                json!({ "path": "/Folded", "case_sensitive": false }),
                "folded",
            ),
            says(json!({ "path_separated_prefix": "/dir" }), "separated"),
            says(json!({ "safe_regex": { "regex": "/r/[0-9]+" } }), "regex"),
            says(json!({ "prefix": "/a/b" }), "long prefix"),
            says(json!({ "prefix": "/a" }), "short prefix"),
            says(json!({ "prefix": "/a/b/c" }), "never"),
        ],
        vec![],
    )
    .await;
    for (path, expected) in [
        ("/exact", "path"),
        ("/exact?query=1", "path"),
        ("/exact/", ""),
        ("/EXACT", ""),
        ("/fOLDED", "folded"),
        ("/dir", "separated"),
        ("/dir/x", "separated"),
        ("/dir?x", "separated"),
        ("/directory", ""),
        ("/r/12", "regex"),
        ("/r/12?x=y", "regex"),
        ("/r/12x", ""),
        ("/r/", ""),
        ("/a/b/c", "long prefix"),
        ("/a/x", "short prefix"),
        ("/ab", "short prefix"),
    ] {
        let reply = site.get(path).await;
        let status = if expected.is_empty() { 404 } else { 200 };
        assert_eq!(
            (reply.status.as_u16(), &*reply.text()),
            (status, expected),
            "{path}"
        );
    }
}

#[tokio::test]
async fn headers_choose_a_route() {
    let by = |matcher: Value, text: &str| {
        says(
            json!({ "prefix": "/", "headers": [with(json!({ "name": "x-h" }), matcher)] }),
            text,
        )
    };
    let site = Site::routes(
        vec![
            by(json!({ "string_match": { "exact": "exact" } }), "exact"),
            by(json!({ "string_match": { "prefix": "pre" } }), "prefix"),
            by(json!({ "string_match": { "suffix": "suf" } }), "suffix"),
            by(json!({ "string_match": { "contains": "mid" } }), "contains"),
            by(
                json!({ "string_match": { "exact": "FOLD", "ignore_case": true } }),
                "ignore case",
            ),
            by(
                json!({ "string_match": { "safe_regex": { "regex": "v[0-9]+" } } }),
                "regex",
            ),
            by(
                json!({ "range_match": { "start": 10, "end": 20 } }),
                "range",
            ),
            by(json!({ "present_match": true }), "present"),
            says(
                json!({ "prefix": "/", "headers": [{
                    "name": "x-other", "string_match": { "exact": "stop" }, "invert_match": true,
                }] }),
                "inverted",
            ),
        ],
        vec![],
    )
    .await;
    for (value, expected) in [
        ("exact", "exact"),
        ("prefix", "prefix"),
        ("a-suf", "suffix"),
        ("a-mid-b", "contains"),
        ("fold", "ignore case"),
        ("v12", "regex"),
        ("v12x", "present"),
        ("10", "range"),
        ("19", "range"),
        ("20", "present"),
        ("", "present"),
    ] {
        let reply = site
            .send(header(request("GET", "a", "/"), "x-h", value))
            .await;
        assert_eq!(reply.text(), expected, "for {value:?}");
    }
    // Inverted, it still needs the header to be there.
    let other = |value: &str| header(request("GET", "a", "/"), "x-other", value);
    assert_eq!(site.send(other("go")).await.text(), "inverted");
    assert_eq!(site.send(other("stop")).await.status, 404);
    assert_eq!(site.get("/").await.status, 404);
}

#[tokio::test]
async fn method_and_query_choose_a_route() {
    let query = |matcher: Value, text: &str| {
        says(
            json!({ "prefix": "/q", "query_parameters": [matcher] }),
            text,
        )
    };
    let site = Site::routes(
        vec![
            says(
                json!({ "prefix": "/", "headers": [
                    { "name": ":method", "string_match": { "exact": "DELETE" } },
                ] }),
                "delete",
            ),
            query(
                json!({ "name": "v", "string_match": { "exact": "1" } }),
                "exact",
            ),
            query(
                json!({ "name": "v", "string_match": { "safe_regex": { "regex": "[a-f]+" } } }),
                "regex",
            ),
            query(json!({ "name": "flag", "present_match": true }), "present"),
        ],
        vec![],
    )
    .await;
    assert_eq!(
        site.send(request("DELETE", "a", "/q")).await.text(),
        "delete"
    );
    for (path, expected) in [
        ("/q?v=1", "exact"),
        ("/q?a=b&v=1&c", "exact"),
        ("/q?v=abc", "regex"),
        ("/q?flag", "present"),
        ("/q?flag=x", "present"),
        ("/q?v=2", ""),
        ("/q", ""),
    ] {
        assert_eq!(site.get(path).await.text(), expected, "{path}");
    }
}

#[tokio::test]
async fn redirects() {
    let redirect =
        |path: &str, action: Value| json!({ "match": { "prefix": path }, "redirect": action });
    let site = Site::routes(
        vec![
            redirect("/host", json!({ "host_redirect": "new.org" })),
            redirect("/port", json!({ "port_redirect": 8443 })),
            redirect("/https", json!({ "https_redirect": true })),
            redirect("/path", json!({ "path_redirect": "/elsewhere" })),
            redirect("/query", json!({ "path_redirect": "/elsewhere?fixed=1" })),
            redirect("/prefix", json!({ "prefix_rewrite": "/new" })),
            redirect(
                "/strip",
                json!({ "host_redirect": "new.org", "strip_query": true }),
            ),
            redirect(
                "/regex",
                json!({ "regex_rewrite": {
                    "pattern": { "regex": "^/regex/([a-z]+)/(.*)$" },
                    "substitution": "/\\2/\\1",
                } }),
            ),
            redirect(
                "/found",
                json!({ "host_redirect": "new.org", "response_code": "TEMPORARY_REDIRECT" }),
            ),
        ],
        vec![],
    )
    .await;
    for (path, status, location) in [
        ("/host/a?b=c", 301, "http://new.org/host/a?b=c"),
        ("/port", 301, "http://old.org:8443/port"),
        ("/https?x", 301, "https://old.org/https?x"),
        ("/path/a?b=c", 301, "http://old.org/elsewhere?b=c"),
        ("/query?b=c", 301, "http://old.org/elsewhere?fixed=1"),
        ("/prefix/a?b=c", 301, "http://old.org/new/a?b=c"),
        ("/strip/a?b=c", 301, "http://new.org/strip/a"),
        ("/regex/one/two", 301, "http://old.org/two/one"),
        ("/found", 307, "http://new.org/found"),
    ] {
        let reply = site.get_from("old.org", path).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("location")),
            (status, location)
        );
    }
}

#[tokio::test]
async fn tls_requirement_redirects() {
    let secure = with(
        any_host(vec![answer("/", 200, "plain")]),
        json!({ "require_tls": "ALL" }),
    );
    let site = Site::hosts(vec![secure], vec![]).await;
    let reply = site.get_from("a.org", "/x?y").await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("location")),
        (301, "https://a.org/x?y")
    );
}

#[tokio::test]
async fn direct_responses() {
    let site = Site::routes(
        vec![
            answer("/teapot", 418, "short and stout"),
            json!({ "match": { "prefix": "/empty" }, "direct_response": { "status": 204 } }),
        ],
        vec![],
    )
    .await;
    let reply = site.get("/teapot").await;
    assert_eq!(
        (reply.status.as_u16(), &*reply.text()),
        (418, "short and stout")
    );
    assert_eq!(reply.header("content-type"), "text/plain");
    assert_eq!(reply.header("content-length"), "15");
    assert_eq!(site.get("/empty").await.status, 204);
}

#[tokio::test]
async fn weighted_clusters_share_by_weight() {
    let (light, heavy) = (Origin::http("light").await, Origin::http("heavy").await);
    let weighted = json!({
        "match": { "prefix": "/" },
        "route": { "weighted_clusters": { "clusters": [
            { "name": "light", "weight": 20 },
            { "name": "heavy", "weight": 80, "request_headers_to_add": [
                { "header": { "key": "x-chosen", "value": "heavy" } },
            ] },
            { "name": "none", "weight": 0 },
        ] } },
    });
    let site = Site::routes(
        vec![weighted],
        vec![
            cluster("light", &[light.port()]),
            cluster("heavy", &[heavy.port()]),
            cluster("none", &[1]),
        ],
    )
    .await;
    let mut connection = site.http1().await;
    for _ in 0..300 {
        let reply = connection
            .send(request("GET", "a", "/"))
            .await
            .expect("a response");
        let seen = reply.seen();
        let expected = if seen.origin == "heavy" { "heavy" } else { "" };
        assert_eq!(seen.header("x-chosen"), expected);
    }
    // Five standard deviations of a binomial with 300 trials at 0.2.
    let share = light.requests();
    assert!(
        (25..=95).contains(&share),
        "{share} of 300 at a weight of 20 %"
    );
}

#[tokio::test]
async fn a_header_names_the_cluster() {
    let origin = Origin::http("named").await;
    let by_header = json!({
        "match": { "prefix": "/" },
        "route": { "cluster_header": "x-cluster" },
    });
    let site = Site::routes(vec![by_header], vec![cluster("named", &[origin.port()])]).await;
    let named = header(request("GET", "a", "/"), "x-cluster", "named");
    assert_eq!(site.send(named).await.seen().origin, "named");
    let unknown = header(request("GET", "a", "/"), "x-cluster", "unknown");
    assert_eq!(site.send(unknown).await.status, 503);
    assert_eq!(site.get("/").await.status, 503);
}

#[tokio::test]
async fn a_missing_cluster_is_503_or_as_configured() {
    let missing = |prefix: &str, code: &str| {
        json!({
            "match": { "prefix": prefix },
            "route": { "cluster_header": "x-cluster", "cluster_not_found_response_code": code },
        })
    };
    let site = Site::routes(
        vec![
            missing("/404", "NOT_FOUND"),
            missing("/500", "INTERNAL_SERVER_ERROR"),
        ],
        vec![],
    )
    .await;
    for (path, status) in [("/404", 404), ("/500", 500)] {
        let unknown = header(request("GET", "a", path), "x-cluster", "unknown");
        assert_eq!(site.send(unknown).await.status, status);
    }
}

#[tokio::test]
async fn rewrites_of_host_and_path() {
    let origin = Origin::http("origin").await;
    let rewrite =
        |prefix: &str, action: Value| with(route(prefix, "origin"), json!({ "route": action }));
    let site = Site::routes(
        vec![
            rewrite("/literal", json!({ "host_rewrite_literal": "inner.org" })),
            rewrite("/by-header", json!({ "host_rewrite_header": "x-host" })),
            rewrite(
                "/by-path",
                json!({ "host_rewrite_path_regex": {
                    "pattern": { "regex": "^/by-path/([^/]+)/.*$" },
                    "substitution": "\\1.org",
                } }),
            ),
            rewrite("/prefix", json!({ "prefix_rewrite": "/new" })),
            rewrite("/slash/", json!({ "prefix_rewrite": "/" })),
            rewrite(
                "/regex",
                json!({ "regex_rewrite": {
                    "pattern": { "regex": "/([0-9]+)" },
                    "substitution": "/n\\1",
                } }),
            ),
            route("/", "origin"),
        ],
        vec![cluster("origin", &[origin.port()])],
    )
    .await;
    for (path, host, target) in [
        ("/literal/a?b", "inner.org", "/literal/a?b"),
        ("/by-path/name/x", "name.org", "/by-path/name/x"),
        ("/prefix/a?b=c", "example.com", "/new/a?b=c"),
        ("/prefixed", "example.com", "/newed"),
        ("/slash/a/b", "example.com", "/a/b"),
        ("/regex/12/34?q=/56", "example.com", "/regex/n12/n34?q=/56"),
        ("/plain", "example.com", "/plain"),
    ] {
        let seen = site.get(path).await.seen();
        assert_eq!((seen.host(), &*seen.target), (host, target), "{path}");
    }
    let named = header(request("GET", "a.com", "/by-header"), "x-host", "b.com");
    assert_eq!(site.send(named).await.seen().host(), "b.com");
    assert_eq!(site.get("/by-header").await.seen().host(), "example.com");
}

#[tokio::test]
async fn rewrites_keep_the_original_path_and_host_in_headers() {
    let origin = Origin::http("origin").await;
    let rewritten = with(
        route("/old", "origin"),
        json!({ "route": {
            "prefix_rewrite": "/new",
            "host_rewrite_literal": "inner.org",
            "append_x_forwarded_host": true,
        } }),
    );
    let site = Site::routes(vec![rewritten], vec![cluster("origin", &[origin.port()])]).await;
    let seen = site.get("/old/x").await.seen();
    assert_eq!(seen.header("x-envoy-original-path"), "/old/x");
    assert_eq!(seen.header("x-forwarded-host"), "example.com");
}
