//! Random configurations and requests over a small vocabulary, so that the
//! requests meet the rules.

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::common::client::{self, Outgoing};
use crate::random::Random;

const HOSTS: &[&str] = &[
    "a.com",
    "b.a.com",
    "c.b.a.com",
    "www.a.com",
    "www.org",
    "x-a.com",
    "A.com",
    "a.com:80",
    "a.com:8080",
    "other.net",
    "b.a.com:443",
];
const DOMAINS: &[&str] = &[
    "a.com",
    "b.a.com",
    "*.a.com",
    "*.b.a.com",
    "*-a.com",
    "www.*",
    "www.a.*",
    "*",
    "a.com:80",
    "other.net",
    "a.*",
];
const PREFIXES: &[&str] = &["/", "/a", "/a/", "/a/b", "/b", "/B", "/c/1", "/ab"];
const PATHS: &[&str] = &[
    "/", "/a", "/a/", "/A", "/a/b", "/a/b/c", "/ab", "/b", "/b/12", "/B/x", "/c/1/2", "/c//1",
    "/a/../b", "/a/./b", "/a%2Fb", "/%61/b", "/z",
];
const REGEXES: &[&str] = &[
    "/a/.*",
    "/[a-c]/[0-9]+",
    "/(a|b).*",
    "/A",
    ".*b.*",
    "/c/\\d/\\d",
];
const QUERIES: &[&str] = &[
    "", "", "", "?", "?x=1", "?x=2&y", "?y=&x=1", "?X=1", "?x=a%20b",
];
const NAMES: &[&str] = &["x-a", "x-b", "x-c"];
const VALUES: &[&str] = &["1", "12", "one", "One", "two", "on", "-3", "tone", ""];
const CLUSTERS: &[&str] = &["one", "two", "three"];
const FORMATS: &[&str] = &[
    "plain",
    "a%%b",
    "%REQ(X-A)%",
    "[%REQ(X-B?X-A):2%]",
    "%PROTOCOL%",
    "%REQ(:METHOD)%",
    "%REQ(:PATH)%",
    "%REQ(:AUTHORITY)%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "%ROUTE_NAME%",
    "%UPSTREAM_CLUSTER%",
    "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "%REQUEST_HEADER(X-C)%",
];

/// Adds a field in so many of a hundred cases.
fn maybe(random: &mut Random, percent: usize, object: &mut Value, key: &str, value: Value) {
    if random.chance(percent) {
        object[key] = value;
    }
}

/// The fields of an HTTP connection manager with its routes.
pub fn manager(random: &mut Random) -> Value {
    let mut manager = json!({ "route_config": table(random) });
    let flags = [
        ("use_remote_address", 30),
        ("normalize_path", 30),
        ("merge_slashes", 20),
        ("skip_xff_append", 20),
        ("preserve_external_request_id", 20),
        ("always_set_request_id_in_response", 20),
        ("suppress_envoy_headers", 0),
        ("strip_any_host_port", 20),
    ];
    for (flag, percent) in flags {
        maybe(random, percent, &mut manager, flag, json!(true));
    }
    maybe(
        random,
        20,
        &mut manager,
        "generate_request_id",
        json!(false),
    );
    maybe(random, 20, &mut manager, "server_name", json!("served"));
    maybe(random, 20, &mut manager, "via", json!("nuncio-test"));
    maybe(random, 15, &mut manager, "xff_num_trusted_hops", json!(1));
    let server = random.one_of(&["OVERWRITE", "APPEND_IF_ABSENT", "PASS_THROUGH"]);
    maybe(
        random,
        30,
        &mut manager,
        "server_header_transformation",
        json!(server),
    );
    let slashes = random.one_of(&["KEEP_UNCHANGED", "REJECT_REQUEST", "UNESCAPE_AND_REDIRECT"]);
    maybe(
        random,
        15,
        &mut manager,
        "path_with_escaped_slashes_action",
        json!(slashes),
    );
    manager
}

fn table(random: &mut Random) -> Value {
    let mut free: Vec<&str> = DOMAINS.to_vec();
    let mut hosts = Vec::new();
    for number in 0..2 + random.below(4) {
        let mut domains = Vec::new();
        for _ in 0..1 + random.below(2) {
            if !free.is_empty() {
                domains.push(free.swap_remove(random.below(free.len())));
            }
        }
        if domains.is_empty() {
            break;
        }
        let routes: Vec<Value> = (0..2 + random.below(6))
            .map(|route| self::route(random, route))
            .collect();
        let mut host = json!({
            "name": format!("host-{number}"), "domains": domains, "routes": routes,
        });
        header_rules(random, 40, &mut host);
        maybe(random, 5, &mut host, "require_tls", json!("ALL"));
        hosts.push(host);
    }
    let mut table = json!({ "name": "table", "virtual_hosts": hosts });
    header_rules(random, 40, &mut table);
    maybe(
        random,
        30,
        &mut table,
        "most_specific_header_mutations_wins",
        json!(true),
    );
    maybe(
        random,
        15,
        &mut table,
        "ignore_port_in_host_matching",
        json!(true),
    );
    table
}

fn route(random: &mut Random, number: usize) -> Value {
    let mut route = json!({ "name": format!("route-{number}"), "match": matcher(random) });
    header_rules(random, 30, &mut route);
    let (kind, action) = match random.below(10) {
        0 | 1 => ("redirect", redirect(random)),
        2 => ("direct_response", direct_response(random)),
        _ => {
            let regex = route["match"].get("safe_regex").is_some();
            ("route", forward(random, regex))
        }
    };
    route[kind] = action;
    route
}

fn matcher(random: &mut Random) -> Value {
    let mut matcher = match random.below(10) {
        0..=4 => json!({ "prefix": random.one_of(PREFIXES) }),
        5 | 6 => json!({ "path": random.one_of(&["/a", "/a/b", "/B/x", "/b/12", "/ab"]) }),
        7 => json!({ "path_separated_prefix": random.one_of(&["/a", "/a/b", "/b", "/c"]) }),
        _ => json!({ "safe_regex": { "regex": random.one_of(REGEXES) } }),
    };
    if matcher.get("safe_regex").is_none() {
        maybe(random, 15, &mut matcher, "case_sensitive", json!(false));
    }
    if random.chance(30) {
        let matchers: Vec<Value> = (0..1 + random.below(2))
            .map(|_| header_matcher(random))
            .collect();
        matcher["headers"] = json!(matchers);
    }
    if random.chance(20) {
        let query = match random.below(3) {
            0 => json!({ "name": "x", "string_match": string_matcher(random) }),
            1 => json!({ "name": "y", "present_match": true }),
            _ => json!({ "name": "x", "string_match": { "exact": "1" } }),
        };
        matcher["query_parameters"] = json!([query]);
    }
    matcher
}

fn string_matcher(random: &mut Random) -> Value {
    let value = random.one_of(&["1", "on", "One", "two", "o"]);
    let mut matcher = match random.below(5) {
        0 => json!({ "exact": value }),
        1 => json!({ "prefix": value }),
        2 => json!({ "suffix": value }),
        3 => json!({ "contains": value }),
        _ => return json!({ "safe_regex": { "regex": random.one_of(&["[0-9]+", "o.*", ".*e"]) } }),
    };
    maybe(random, 30, &mut matcher, "ignore_case", json!(true));
    matcher
}

fn header_matcher(random: &mut Random) -> Value {
    let name = random.one_of(NAMES);
    let mut matcher = match random.below(6) {
        0 => json!({ "name": name, "present_match": random.chance(70) }),
        1 => json!({ "name": name, "range_match": { "start": -5, "end": 10 } }),
        2 => {
            let method = random.one_of(&["GET", "POST"]);
            json!({ "name": ":method", "string_match": { "exact": method } })
        }
        _ => json!({ "name": name, "string_match": string_matcher(random) }),
    };
    maybe(random, 25, &mut matcher, "invert_match", json!(true));
    maybe(
        random,
        15,
        &mut matcher,
        "treat_missing_header_as_empty",
        json!(true),
    );
    matcher
}

fn forward(random: &mut Random, regex: bool) -> Value {
    let mut action = json!({ "cluster": random.one_of(CLUSTERS) });
    if random.chance(10) {
        action = json!({ "cluster_header": "x-cluster" });
    }
    match random.below(8) {
        0 | 1 if !regex => action["prefix_rewrite"] = json!(random.one_of(&["/", "/new", "/new/"])),
        2 => {
            action["regex_rewrite"] = json!({
                "pattern": { "regex": random.one_of(&["^/a", "/([a-z])/", "[0-9]+", "b"]) },
                "substitution": random.one_of(&["/re", "/\\0", "-", ""]),
            });
            // A group that the pattern has.
            if action["regex_rewrite"]["pattern"]["regex"] == "/([a-z])/" {
                action["regex_rewrite"]["substitution"] = json!("/\\1\\1/");
            }
        }
        _ => {}
    }
    match random.below(8) {
        0 => action["host_rewrite_literal"] = json!("rewritten.net"),
        1 => action["host_rewrite_header"] = json!("x-a"),
        2 => {
            action["host_rewrite_path_regex"] = json!({
                "pattern": { "regex": "^/([a-z]+).*$" }, "substitution": "\\1.net",
            });
        }
        _ => {}
    }
    maybe(
        random,
        15,
        &mut action,
        "append_x_forwarded_host",
        json!(true),
    );
    maybe(random, 15, &mut action, "timeout", json!("7s"));
    action
}

fn redirect(random: &mut Random) -> Value {
    let mut action = json!({});
    match random.below(3) {
        0 => action["path_redirect"] = json!(random.one_of(&["/to", "/to?fixed=1"])),
        1 => action["prefix_rewrite"] = json!(random.one_of(&["/", "/to"])),
        _ => {}
    }
    match random.below(3) {
        0 => action["https_redirect"] = json!(true),
        1 => action["scheme_redirect"] = json!("ftp"),
        _ => {}
    }
    maybe(random, 50, &mut action, "host_redirect", json!("to.net"));
    maybe(random, 25, &mut action, "port_redirect", json!(8443));
    maybe(random, 30, &mut action, "strip_query", json!(true));
    let code = random.one_of(&[
        "FOUND",
        "SEE_OTHER",
        "TEMPORARY_REDIRECT",
        "PERMANENT_REDIRECT",
    ]);
    maybe(random, 40, &mut action, "response_code", json!(code));
    action
}

fn direct_response(random: &mut Random) -> Value {
    let status = [200, 204, 404, 503][random.below(4)];
    let mut action = json!({ "status": status });
    if status != 204 {
        let text = random.one_of(&["", "text", "{\"json\": 1}"]);
        maybe(
            random,
            70,
            &mut action,
            "body",
            json!({ "inline_string": text }),
        );
    }
    action
}

/// Request and response header rules, each list in so many of a hundred cases.
fn header_rules(random: &mut Random, percent: usize, object: &mut Value) {
    for list in ["request_headers_to_add", "response_headers_to_add"] {
        if random.chance(percent) {
            let rules: Vec<Value> = (0..1 + random.below(3)).map(|_| rule(random)).collect();
            object[list] = json!(rules);
        }
    }
    for list in ["request_headers_to_remove", "response_headers_to_remove"] {
        if random.chance(percent / 3) {
            let name = random.one_of(&["x-a", "x-b", "x-origin-extra", "x-rule", "user-agent"]);
            object[list] = json!([name]);
        }
    }
}

fn rule(random: &mut Random) -> Value {
    let name = random.one_of(&["x-a", "x-b", "x-rule", "x-rule-2", "x-origin-extra"]);
    let mut rule = json!({ "header": { "key": name, "value": random.one_of(FORMATS) } });
    let action = random.one_of(&[
        "APPEND_IF_EXISTS_OR_ADD",
        "ADD_IF_ABSENT",
        "OVERWRITE_IF_EXISTS_OR_ADD",
        "OVERWRITE_IF_EXISTS",
    ]);
    maybe(random, 60, &mut rule, "append_action", json!(action));
    maybe(random, 15, &mut rule, "keep_empty_value", json!(true));
    rule
}

/// A request that may meet any of the rules.
pub fn request(random: &mut Random) -> Outgoing {
    let method = random.one_of(&[
        "GET", "GET", "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS",
    ]);
    let path = format!("{}{}", random.one_of(PATHS), random.one_of(QUERIES));
    let mut request = client::request(method, random.one_of(HOSTS), &path);
    for name in NAMES {
        for _ in 0..2 {
            if random.chance(30) {
                request = client::header(request, name, random.one_of(VALUES));
            }
        }
    }
    let others: &[(&str, &[&str], usize)] = &[
        ("x-cluster", &["one", "two", "none"], 40),
        (
            "x-forwarded-for",
            &["10.0.0.1", "1.2.3.4, 10.0.0.1", "junk"],
            20,
        ),
        ("x-forwarded-proto", &["https", "http"], 20),
        ("x-forwarded-host", &["before.net"], 5),
        (
            "x-request-id",
            &["a121e9e1-feae-4136-9e0e-6fac343d56c9", "own"],
            15,
        ),
        ("x-envoy-original-path", &["/forged"], 5),
        ("x-envoy-upstream-rq-timeout-ms", &["5000"], 5),
        ("x-envoy-internal", &["true"], 5),
        ("x-envoy-external-address", &["9.9.9.9"], 5),
        ("user-agent", &["tester", ""], 30),
        ("accept-encoding", &["gzip"], 10),
        ("via", &["1.1 before"], 10),
        ("cookie", &["a=b; c=d"], 10),
        ("te", &["trailers"], 5),
        ("x_under", &["score"], 10),
        (
            "x-origin-header",
            &["x-origin-extra=yes", "server=theirs", "via=1.1 origin"],
            25,
        ),
        ("x-origin-status", &["201", "404", "500", "503"], 20),
    ];
    for (name, values, percent) in others {
        if random.chance(*percent) {
            request = client::header(request, name, random.one_of(values));
        }
    }
    if matches!(method, "POST" | "PUT") {
        let length = [0, 5, 3000][random.below(3)];
        request = request.map(|_| Full::new(Bytes::from(vec![b'b'; length])));
    }
    request
}
