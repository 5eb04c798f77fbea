//! Expectations were observed at Envoy 1.40.

use std::{rc::Rc, sync::Arc};

use http::{HeaderName, HeaderValue, Request, StatusCode};

use super::{
    Action, ClusterChoice, Outcome, RouteHandle, RouteTable, https_location, table_tests::table,
};
use crate::{
    codec::{Headers, RequestHead},
    formatter::{
        FormatContext, RequestView,
        testing::{context, stream_info},
    },
};

fn request(path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut request = Request::get(path).header("host", "h.com");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0.into()
}

fn handle(table: RouteTable, parts: &RequestHead) -> RouteHandle {
    let Outcome::Found(index) = table.find(&RequestView::of(parts, "http"), 0) else {
        panic!("no route for {}", parts.uri);
    };
    RouteHandle::new(Rc::new(Arc::new(table)), index)
}

/// The path and the headers that the upstream sees, sorted by name.
fn upstream(yaml: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut parts = request(path, headers);
    let handle = handle(table(yaml), &parts);
    let view = parts.clone();
    let info = stream_info();
    let cx = FormatContext {
        request: RequestView::of(&view, "http"),
        ..context(&info)
    };
    let Action::Forward(forward) = &handle.route().action else {
        panic!("not a forward");
    };
    let entry = match &forward.cluster {
        ClusterChoice::Weighted(_) => forward.cluster.choose(&cx.request, 0, || None).entry,
        _ => None,
    };
    handle.rewrite_request(&mut parts, entry, &cx, true);
    let mut lines: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    lines.sort_by(|a, b| a.split('=').next().cmp(&b.split('=').next()));
    format!("{} {}", parts.uri, lines.join(" "))
}

fn forward(matched: &str, route: &str, more: &str) -> String {
    format!(
        "virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {matched}, route: {{cluster: c, {route}}}{more}}}]}}]"
    )
}

#[test]
fn paths_are_rewritten_and_the_old_one_kept() {
    let of =
        |matched: &str, route: &str, path: &str| upstream(&forward(matched, route, ""), path, &[]);
    assert_eq!(
        of("{prefix: /p/}", "prefix_rewrite: /new/", "/p/a?q=1"),
        "/new/a?q=1 host=h.com x-envoy-original-path=/p/a?q=1"
    );
    assert_eq!(
        of("{prefix: /root}", "prefix_rewrite: /", "/root?x"),
        "/?x host=h.com x-envoy-original-path=/root?x"
    );
    assert_eq!(
        of("{path: /exact}", "prefix_rewrite: /e2", "/exact?q"),
        "/e2?q host=h.com x-envoy-original-path=/exact?q"
    );
    assert_eq!(
        of(
            "{safe_regex: {regex: '/rx/.*'}}",
            "prefix_rewrite: /whole",
            "/rx/a/b?q"
        ),
        "/whole?q host=h.com x-envoy-original-path=/rx/a/b?q"
    );
    assert_eq!(
        of(
            "{prefix: /CASE, case_sensitive: false}",
            "prefix_rewrite: /lower",
            "/case/A"
        ),
        "/lower/A host=h.com x-envoy-original-path=/case/A"
    );
    let regex = "regex_rewrite: {pattern: {regex: '^/regex/([^/]+)/?'}, substitution: '/\\1/x-'}";
    assert_eq!(
        of("{prefix: /regex}", regex, "/regex/foo/bar?z=/regex/q"),
        "/foo/x-bar?z=/regex/q host=h.com x-envoy-original-path=/regex/foo/bar?z=/regex/q"
    );
    assert_eq!(
        of("{prefix: /same}", "prefix_rewrite: /same", "/same?x"),
        "/same?x host=h.com x-envoy-original-path=/same?x"
    );
}

#[test]
fn hosts_are_rewritten_and_the_old_one_kept() {
    let of = |route: &str, path: &str, headers: &[(&str, &str)]| {
        upstream(&forward("{prefix: /}", route, ""), path, headers)
    };
    let literal = "host_rewrite_literal: lit.com, append_x_forwarded_host: true";
    assert_eq!(
        of(literal, "/", &[]),
        "/ host=lit.com x-envoy-original-host=h.com x-forwarded-host=h.com"
    );
    assert_eq!(
        of(literal, "/", &[("x-forwarded-host", "a, b")]),
        "/ host=lit.com x-envoy-original-host=h.com x-forwarded-host=a, b,h.com"
    );
    assert_eq!(
        of(literal, "/", &[("x-forwarded-host", "a,h.com")]),
        "/ host=lit.com x-envoy-original-host=h.com x-forwarded-host=a,h.com"
    );
    assert_eq!(
        of("host_rewrite_header: x-h", "/", &[("x-h", "hh.com")]),
        "/ host=hh.com x-envoy-original-host=h.com x-h=hh.com"
    );
    assert_eq!(of("host_rewrite_header: x-h", "/", &[]), "/ host=h.com");
    let regex = "host_rewrite_path_regex: {pattern: {regex: '^/hp/(.+)$'}, substitution: '\\1'}";
    assert_eq!(
        of(regex, "/hp/new.com?q", &[]),
        "/hp/new.com?q host=new.com x-envoy-original-host=h.com"
    );
}

#[test]
fn header_rules_are_followed_in_envoys_order() {
    let rules = |place: &str| {
        format!(
            "request_headers_to_add: [{{header: {{key: x-o, value: {place}}}}}, {{header: {{key: x-s, value: {place}}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]"
        )
    };
    let yaml = |specific: bool| {
        format!(
            "{}\nmost_specific_header_mutations_wins: {specific}\nvirtual_hosts: [{{name: v, domains: ['*'], {}, routes: [{{match: {{prefix: /}}, {}, route: {{host_rewrite_literal: route.com, weighted_clusters: {{clusters: [{{name: c, weight: 1, host_rewrite_literal: w.com, {}}}]}}}}}}]}}]",
            rules("table"),
            rules("vhost"),
            rules("route"),
            rules("cluster"),
        )
    };
    let headers = [("x-s", "orig"), ("x-o", "orig")];
    assert_eq!(
        upstream(&yaml(false), "/", &headers),
        "/ host=route.com x-envoy-original-host=w.com x-o=orig x-o=cluster x-o=route x-o=vhost x-o=table x-s=table"
    );
    assert_eq!(
        upstream(&yaml(true), "/", &headers),
        "/ host=route.com x-envoy-original-host=w.com x-o=orig x-o=cluster x-o=table x-o=vhost x-o=route x-s=route"
    );
}

#[test]
fn header_rules_add_overwrite_and_format() {
    let rules = "
      request_headers_to_remove: [x-rt]
      request_headers_to_add:
      - header: {key: x-f, value: '%REQ(:path)% %REQ(:authority)% %UPSTREAM_HOST%|%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%%|%START_TIME(%Y)%'}
      - header: {key: x-e, value: ''}
      - {header: {key: x-k, value: ''}, keep_empty_value: true}
      - header: {key: x-n, value: '%REQ(x-none)%'}
      - {header: {key: x-a, value: absent}, append_action: ADD_IF_ABSENT}
      - {header: {key: x-b, value: absent}, append_action: ADD_IF_ABSENT}
      - {header: {key: x-b, value: absent2}, append_action: ADD_IF_ABSENT}
      - {header: {key: x-c, value: over}, append_action: OVERWRITE_IF_EXISTS}
      - {header: {key: x-a, value: over}, append_action: OVERWRITE_IF_EXISTS}
      - header: {key: x-app, value: '1'}
      - {header: {key: x-app, value: '2'}, append: true}
";
    let yaml = format!(
        "virtual_hosts:
- name: v
  domains: ['*']
  routes:
  - match: {{prefix: /f}}
    route: {{cluster: c, prefix_rewrite: /g}}
{}",
        rules.replace("\n      ", "\n    ")
    );
    assert_eq!(
        upstream(
            &yaml,
            "/f?q",
            &[("x-a", "1"), ("x-app", "0"), ("x-rt", "gone")]
        ),
        "/g?q host=h.com x-a=over x-app=0 x-app=1 x-app=2 x-b=absent x-b=absent2 x-envoy-original-path=/f?q x-f=/f?q h.com |10.1.2.3|%|1970 x-k="
    );
}

#[test]
fn responses_follow_their_own_rules() {
    let yaml = "virtual_hosts: [{name: v, domains: ['*'], response_headers_to_add: [{header: {key: x-r, value: '%RESP(x-up)% %REQ(:path)%'}}], response_headers_to_remove: [x-gone], routes: [{name: r, match: {prefix: /}, route: {cluster: c}}]}]";
    let parts = request("/x", &[]);
    let handle = handle(table(yaml), &parts);
    let info = stream_info();
    let cx = FormatContext {
        request: RequestView::of(&parts, "http"),
        ..context(&info)
    };
    let mut headers: Headers = [("x-up", "1"), ("x-gone", "2")]
        .into_iter()
        .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
        .collect();
    assert!(handle.rewrites_responses(None));
    handle.rewrite_response(StatusCode::OK, &mut headers, None, &cx);
    assert_eq!(headers["x-r"], "1 /x");
    assert!(!headers.contains_key("x-gone"));
}

/// `status location` of a redirect by these fields.
fn location(redirect: &str, host: &str, path: &str) -> String {
    let table = table(&format!(
        "virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /p/}}, redirect: {{{redirect}}}}}]}}]"
    ));
    let request = RequestView {
        scheme: "http",
        authority: host,
        path,
        ..RequestView::default()
    };
    let Outcome::Found(index) = table.find(&request, 0) else {
        panic!("no route");
    };
    let route = table.route(index);
    let Action::Redirect(redirect) = &route.action else {
        panic!("not a redirect");
    };
    let location = route.location(redirect, &request);
    format!("{} {location}", redirect.status.as_u16())
}

#[test]
fn redirects_lead_where_envoys_lead() {
    let of = |redirect: &str, host: &str| location(redirect, host, "/p/x?q=1");
    let https = "https_redirect: true";
    assert_eq!(of(https, "h.com"), "301 https://h.com/p/x?q=1");
    assert_eq!(of(https, "h.com:80"), "301 https://h.com/p/x?q=1");
    assert_eq!(of(https, "h.com:8080"), "301 https://h.com:8080/p/x?q=1");
    assert_eq!(of(https, "[::1]:80"), "301 https://[::1]/p/x?q=1");
    assert_eq!(
        of("scheme_redirect: FtP", "h.com:80"),
        "301 FtP://h.com/p/x?q=1"
    );
    assert_eq!(
        of("scheme_redirect: http", "h.com:80"),
        "301 http://h.com:80/p/x?q=1"
    );
    assert_eq!(
        of("host_redirect: 'n.com:81'", "h.com:80"),
        "301 http://n.com:81/p/x?q=1"
    );
    assert_eq!(
        of("port_redirect: 8443", "[::1]:80"),
        "301 http://[::1]:8443/p/x?q=1"
    );
    assert_eq!(
        of("path_redirect: /new", "h.com"),
        "301 http://h.com/new?q=1"
    );
    assert_eq!(
        of("path_redirect: '/new?a=1'", "h.com"),
        "301 http://h.com/new?a=1"
    );
    assert_eq!(
        of("path_redirect: /new, strip_query: true", "h.com"),
        "301 http://h.com/new"
    );
    assert_eq!(
        of("path_redirect: '/new?a=1', strip_query: true", "h.com"),
        "301 http://h.com/new?a=1"
    );
    assert_eq!(of("strip_query: true", "h.com"), "301 http://h.com/p/x");
    assert_eq!(
        of("prefix_rewrite: /np/", "h.com"),
        "301 http://h.com/np/x?q=1"
    );
    let regex = "regex_rewrite: {pattern: {regex: '^/p/(.*)$'}, substitution: '/r2/\\1?own=1'}, strip_query: true";
    assert_eq!(of(regex, "h.com"), "301 http://h.com/r2/x");
    assert_eq!(
        of(
            "host_redirect: n.com, response_code: PERMANENT_REDIRECT",
            "h.com"
        ),
        "308 http://n.com/p/x?q=1"
    );
    // require_tls keeps the port.
    let request = RequestView {
        authority: "h.com:80",
        path: "/a?b",
        ..RequestView::default()
    };
    assert_eq!(https_location(&request), "https://h.com:80/a?b");
}
