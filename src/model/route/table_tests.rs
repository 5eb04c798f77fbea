use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::{Outcome, RouteIndex, RouteTable};
use crate::{
    codec::Headers,
    config::Report,
    formatter::{HeaderView, RequestView},
    model::testing::{World, read},
};

pub(super) fn try_table(yaml: &str) -> Result<RouteTable, String> {
    let world = World::new();
    let report = Report::new();
    RouteTable::compile(read(yaml), &world.cx(), &report.root()).map_err(|_| report.to_string())
}

pub(super) fn table(yaml: &str) -> RouteTable {
    try_table(yaml).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The name of the route that is found, or why none is.
fn find(table: &RouteTable, host: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let map: Headers = headers
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect();
    let request = RequestView {
        method: "GET",
        scheme: "http",
        authority: host,
        path,
        headers: HeaderView::Map(&map),
    };
    match table.find(&request, 0) {
        Outcome::NoVirtualHost => "no host".to_owned(),
        Outcome::NoRoute(_) => "no route".to_owned(),
        Outcome::TlsRequired(_) => "tls".to_owned(),
        Outcome::Found(index) => table.route(index).name().to_owned(),
    }
}

fn one_host(matches: &[&str]) -> RouteTable {
    let routes: String = matches
        .iter()
        .enumerate()
        .map(|(i, m)| format!("  - {{name: r{i}, match: {m}, direct_response: {{status: 200}}}}\n"))
        .collect();
    table(&format!(
        "virtual_hosts:\n- name: v\n  domains: ['*']\n  routes:\n{routes}"
    ))
}

#[test]
fn the_first_route_that_matches_is_taken() {
    let table = one_host(&[
        "{path: /a}",
        "{prefix: /a, headers: [{name: x, string_match: {exact: '1'}}]}",
        "{safe_regex: {regex: '/a/[0-9]+'}}",
        "{path_separated_prefix: /a/b}",
        "{prefix: /a/b}",
        "{prefix: /UP, case_sensitive: false}",
        "{prefix: /a, query_parameters: [{name: q, string_match: {prefix: z}}]}",
        "{prefix: /a, query_parameters: [{name: p}]}",
        "{prefix: /a, cookies: [{name: c, string_match: {exact: 'yes'}}]}",
        "{prefix: /a, grpc: {}}",
    ]);
    let of = |path: &str| find(&table, "h", path, &[]);
    assert_eq!(of("/a"), "r0");
    assert_eq!(of("/a?x"), "r0");
    assert_eq!(find(&table, "h", "/a/7", &[("x", "1")]), "r1");
    assert_eq!(of("/a/7?q=z"), "r2");
    assert_eq!(of("/a/7x"), "no route");
    assert_eq!(of("/a/b"), "r3");
    assert_eq!(of("/a/b/c"), "r3");
    assert_eq!(of("/a/bc"), "r4");
    assert_eq!(of("/uP/x"), "r5");
    assert_eq!(of("/a/x?a=1&q=zoo#f"), "r6");
    assert_eq!(of("/a/x?q=o&p"), "r7");
    assert_eq!(
        find(&table, "h", "/ab", &[("cookie", "d=no; c=\"yes\"")]),
        "r8"
    );
    let grpc = [("content-type", "application/grpc+proto")];
    assert_eq!(find(&table, "h", "/ab", &grpc), "r9");
    assert_eq!(of("/A"), "no route");
}

#[test]
fn hosts_are_found_with_and_without_their_port() {
    let yaml = |more: &str| {
        format!(
            "{more}virtual_hosts:
- {{name: a, domains: [a.com], routes: [{{name: a, match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}
- {{name: b, domains: ['b.com:8080'], require_tls: ALL, routes: [{{name: b, match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}
"
        )
    };
    let strict = table(&yaml(""));
    assert_eq!(find(&strict, "A.com", "/", &[]), "a");
    assert_eq!(find(&strict, "a.com:80", "/", &[]), "no host");
    assert_eq!(find(&strict, "b.com:8080", "/", &[]), "tls");
    let lenient = table(&yaml("ignore_port_in_host_matching: true\n"));
    assert_eq!(find(&lenient, "a.com:80", "/", &[]), "a");
}

#[test]
fn parameters_of_segments_can_be_ignored() {
    let table = table(
        "ignore_path_parameters_in_path_matching: true
virtual_hosts: [{name: v, domains: ['*'], routes: [{name: r, match: {safe_regex: {regex: '/a/.*'}}, direct_response: {status: 200}}]}]",
    );
    assert_eq!(find(&table, "h", "/a;p=1/b;q/", &[]), "r");
    assert_eq!(find(&table, "h", "/a;p=1", &[]), "no route");
}

#[test]
fn every_error_is_told_with_its_path() {
    let errors = try_table(
        "name: r
virtual_hosts:
- name: v
  domains: [a.com, A.com]
  rate_limits: [{actions: [{remote_address: {}}]}]
  routes:
  - match: {safe_regex: {regex: 'a('}}
    direct_response: {status: 200}
  - match: {prefix: /}
    route: {weighted_clusters: {clusters: [{name: c}]}}
    request_headers_to_add: [{header: {key: Host, value: x}}]
  - match: {prefix: /}
    route: {cluster: c, retry_policy: {retry_on: '5xx,conect-failure'}}
",
    )
    .unwrap_err();
    let expected = [
        "virtual_hosts[0].rate_limits: is not supported yet",
        "virtual_hosts[0].routes[0].match.safe_regex.regex: \"a(\": unclosed group",
        "virtual_hosts[0].routes[1].route.weighted_clusters.clusters[0].weight: is required",
        "virtual_hosts[0].routes[1].request_headers_to_add[0].header.key: Host: headers that begin with a colon and host may not be modified",
        "virtual_hosts[0].routes[2].route.retry_policy.retry_on: \"conect-failure\" is not a known condition, did you mean connect-failure?",
        "virtual_hosts[0].domains[1]: the domain \"a.com\" stands twice in the route table \"r\"",
    ];
    assert_eq!(errors.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_virtual_host_that_says_the_same_is_compiled_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let world = World::new();
    let compile = |cluster: &str| {
        let yaml = format!(
            "virtual_hosts:
- {{name: same, domains: [a], routes: [{{match: {{prefix: /}}, route: {{cluster: c}}}}]}}
- {{name: other, domains: [b], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}
- name: reads a file
  domains: [c]
  routes:
  - match: {{prefix: /}}
    direct_response: {{status: 200, body: {{filename: {path}}}}}
- name: tells a filter
  domains: [d]
  typed_per_filter_config:
    cors:
      '@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy
",
            path = file.path().display()
        );
        let report = Report::new();
        let table = RouteTable::compile(read(&yaml), &world.cx(), &report.root());
        table.unwrap_or_else(|_| panic!("{report}"))
    };
    let (first, second) = (compile("one"), compile("two"));
    let same = |index| std::ptr::eq(first.virtual_host(index), second.virtual_host(index));
    assert_eq!([0, 1, 2, 3].map(same), [true, false, false, false]);
    // Another limit is another virtual host.
    let limited = "max_direct_response_body_size_bytes: 5\nvirtual_hosts:
- {name: same, domains: [a], routes: [{match: {prefix: /}, route: {cluster: c}}]}";
    let limited = RouteTable::compile(read(limited), &world.cx(), &Report::new().root()).unwrap();
    assert!(!std::ptr::eq(
        limited.virtual_host(0),
        first.virtual_host(0)
    ));
}

/// What a scan from the top finds.
fn scan(conditions: &[(u8, String, bool)], path: &str) -> Option<u32> {
    let found = conditions.iter().position(|(kind, text, sensitive)| {
        let (text, path) = match *sensitive || *kind == 3 {
            true => (text.clone(), path.to_owned()),
            false => (text.to_lowercase(), path.to_lowercase()),
        };
        match kind {
            0 => path == text,
            1 => path.starts_with(&text),
            2 => path == text || path.starts_with(&format!("{text}/")),
            _ => path.len() > text.len() && path.starts_with(&text) && path.ends_with('b'),
        }
    });
    found.and_then(|at| u32::try_from(at).ok())
}

proptest! {
    #[test]
    fn finds_the_route_that_a_scan_finds(
        conditions in proptest::collection::vec((0u8..4, "/[abB]{1,3}(/[aA]{1,2})?", any::<bool>()), 1..24),
        path in "/[abB]{1,3}(/[aAb]{1,3})?",
    ) {
        let matches: Vec<_> = conditions
            .iter()
            .map(|(kind, text, sensitive)| {
                let path = match kind {
                    0 => format!("path: {text}"),
                    1 => format!("prefix: {text}"),
                    2 => format!("path_separated_prefix: {text}"),
                    _ => format!("safe_regex: {{regex: '{text}.*b'}}"),
                };
                format!("{{{path}, case_sensitive: {sensitive}}}")
            })
            .collect();
        let table = one_host(&matches.iter().map(String::as_str).collect::<Vec<_>>());
        let request = RequestView { authority: "h", path: &path, ..RequestView::default() };
        let found = match table.find(&request, 0) {
            Outcome::Found(RouteIndex { route, .. }) => Some(route),
            _ => None,
        };
        prop_assert_eq!(found, scan(&conditions, &path), "{} in {:?}", path, matches);
    }
}

/// Prints how long the first and the last of many take. Run it in release:
/// `cargo test --release route_lookup_figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn route_lookup_figures() {
    let time = |table: &RouteTable, host: &str, path: &str| {
        let request = RequestView {
            authority: host,
            path,
            ..RequestView::default()
        };
        assert!(
            matches!(table.find(&request, 0), Outcome::Found(_)),
            "{host}{path}"
        );
        const ROUNDS: u32 = 200_000;
        let start = std::time::Instant::now();
        for _ in 0..ROUNDS {
            std::hint::black_box(table.find(std::hint::black_box(&request), 0));
        }
        start.elapsed() / ROUNDS
    };
    let hosts: String = (0..10_000)
        .map(|i| format!("- {{name: v{i}, domains: [host{i}.example.com], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}\n"))
        .collect();
    let hosts = table(&format!("virtual_hosts:\n{hosts}"));
    for host in ["host0.example.com", "host9999.example.com"] {
        println!(
            "10,000 virtual hosts, {host}: {:?}",
            time(&hosts, host, "/")
        );
    }
    for (kind, condition) in [
        ("prefix", "{prefix: /api/v1/serviceN/}"),
        ("path", "{path: /api/v1/serviceN/x}"),
        ("regex", "{safe_regex: {regex: '/api/v1/serviceN/.*'}}"),
    ] {
        let matches: Vec<_> = (0..1_000)
            .map(|i| condition.replace('N', &i.to_string()))
            .collect();
        let routes = one_host(&matches.iter().map(String::as_str).collect::<Vec<_>>());
        for i in [0, 999] {
            let path = format!("/api/v1/service{i}/x");
            println!(
                "1,000 {kind} routes, {path}: {:?}",
                time(&routes, "h", &path)
            );
        }
    }
}

#[test]
fn a_connect_takes_the_routes_that_are_for_it() {
    let table = one_host(&[
        "{prefix: /}",
        "{connect_matcher: {}, headers: [{name: x, present_match: true}]}",
        "{connect_matcher: {}}",
    ]);
    let found = |method: &'static str, headers: &[(&'static str, &'static str)]| {
        let map: Headers = headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect();
        let request = RequestView {
            method,
            scheme: "http",
            authority: "a.com:1",
            path: if method == "CONNECT" { "" } else { "/" },
            headers: HeaderView::Map(&map),
        };
        match table.find(&request, 0) {
            Outcome::Found(index) => table.route(index).name().to_owned(),
            _ => "none".to_owned(),
        }
    };
    assert_eq!(found("GET", &[]), "r0");
    assert_eq!(found("CONNECT", &[]), "r2");
    assert_eq!(found("CONNECT", &[("x", "1")]), "r1");
    // An upgrade that RFC 9298 makes of a CONNECT has a path, too.
    assert_eq!(found("GET", &[("upgrade", "connect-udp")]), "r0");
    let table = one_host(&["{connect_matcher: {}}", "{prefix: /}"]);
    assert_eq!(find(&table, "a", "/", &[("upgrade", "connect-udp")]), "r0");
    assert_eq!(find(&table, "a", "/", &[("upgrade", "websocket")]), "r1");
}

#[test]
fn only_a_connect_can_end_here() {
    let route = |upgrade: &str| {
        try_table(&format!(
            "virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, \
             route: {{cluster: c, upgrade_configs: [{upgrade}]}}}}]}}]"
        ))
    };
    let connect = "{upgrade_type: CONNECT, connect_config: {allow_post: true, \
                   proxy_protocol_config: {version: V2}}}";
    assert!(route(connect).is_ok());
    let errors = route("{upgrade_type: websocket, connect_config: {}}").unwrap_err();
    assert!(
        errors.contains("connect_config: has no meaning for an upgrade to \"websocket\""),
        "{errors}"
    );
}
