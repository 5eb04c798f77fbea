//! Scoped routes inline, and by SRDS from a file.

use crate::common::client::{Outgoing, header, once, request};
use crate::common::config::{
    ROUTES, answer, any_host, bootstrap, discovery, file_source, http_with, listener,
};
use crate::common::{Home, Port, Program, Proxy, Value, eventually, json, with};

const SCOPES: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";

/// A route table that answers everything with `text`.
fn table(name: &str, text: &str) -> Value {
    json!({ "name": name, "virtual_hosts": [any_host(vec![answer("/", 200, text)])] })
}

/// A scope with its routes inline.
fn inline(name: &str, key: &[&str], text: &str) -> Value {
    with(
        scope(name, key),
        json!({ "route_configuration": table(name, text) }),
    )
}

fn scope(name: &str, key: &[&str]) -> Value {
    let fragments = key.iter().map(|text| json!({ "string_key": text }));
    json!({ "name": name, "key": { "fragments": fragments.collect::<Vec<_>>() } })
}

/// A fragment that is an element of `x-scope`.
fn element() -> Value {
    json!({ "header_value_extractor": {
        "name": "x-scope",
        "element_separator": ";",
        "element": { "key": "vip", "separator": "=" },
    } })
}

/// A listener with these scopes.
fn scoped(port: &Port, fragments: Vec<Value>, scopes: Value) -> Value {
    let routes = json!({ "name": "scopes", "scope_key_builder": { "fragments": fragments } });
    let fields = json!({ "scoped_routes": with(routes, scopes) });
    listener("web", port.number(), http_with(fields))
}

fn list(scopes: Vec<Value>) -> Value {
    json!({ "scoped_route_configurations_list": { "scoped_route_configurations": scopes } })
}

fn asking(host: &str, value: &str) -> Outgoing {
    header(request("GET", host, "/"), "x-scope", value)
}

/// What is answered: the text, or the status where there is none.
async fn said(port: &Port, asking: Outgoing) -> String {
    let reply = once(port.number(), asking).await.expect("an answer");
    match reply.status.as_u16() {
        200 => reply.text(),
        status => status.to_string(),
    }
}

#[tokio::test]
async fn scopes_that_stand_in_the_listener_are_found_by_all_fragments() {
    let (home, port) = (Home::new(), Port::free());
    let host = json!({ "header_value_extractor": { "name": ":authority", "index": 0 } });
    let scopes = vec![
        inline("one", &["a", "x.com"], "one"),
        inline("two", &["a", "y.com"], "two"),
        inline("three", &["", "x.com"], "three"),
    ];
    let listener = scoped(&port, vec![element(), host], list(scopes));
    let proxy = Proxy::start(&home, &bootstrap(vec![listener], vec![]), &[]).await;
    for (host, value, expected) in [
        ("x.com", "vip=a", "one"),
        ("y.com", "q;vip=a;vip=b", "two"),
        ("x.com", "vip", "three"),
        ("x.com", "vip=", "three"),
        ("x.com", "vip=b", "404"),
        ("z.com", "vip=a", "404"),
        ("x.com", "", "404"),
    ] {
        assert_eq!(
            said(&port, asking(host, value)).await,
            expected,
            "{host} {value:?}"
        );
    }
    // The first header of that name counts.
    let twice = header(asking("x.com", "vip=a"), "x-scope", "vip=b");
    assert_eq!(said(&port, twice).await, "one");
    let dump = proxy
        .admin()
        .json("/config_dump?resource=inline_scoped_route_configs")
        .await;
    let set = &dump["configs"][0];
    assert_eq!(set["name"], "scopes");
    assert_eq!(set["scoped_route_configs"][1]["name"], "two");
}

#[tokio::test]
async fn scopes_come_from_a_file_that_is_moved() {
    let (home, port) = (Home::new(), Port::free());
    let by_name = |key: &str| {
        with(
            scope("named", &[key]),
            json!({ "route_configuration_name": "table" }),
        )
    };
    let push = |scopes| home.mv_value("srds.yaml", &discovery(SCOPES, scopes));
    home.mv_value(
        "rds.yaml",
        &discovery(ROUTES, vec![table("table", "by name")]),
    );
    push(vec![by_name("a"), inline("inline", &["b"], "inline")]);
    let sources = json!({
        "rds_config_source": file_source(&home.text("rds.yaml")),
        "scoped_rds": { "scoped_rds_config_source": file_source(&home.text("srds.yaml")) },
    });
    let listener = scoped(&port, vec![element()], sources);
    let node = json!({ "node": { "id": "test-node", "cluster": "test-cluster" } });
    let bootstrap = with(bootstrap(vec![listener], vec![]), node);
    let proxy = Proxy::start(&home, &bootstrap, &[]).await;
    let until = async |value: &str, expected: &str| {
        eventually(
            &format!("{value} to be answered with {expected}"),
            async || (said(&port, asking("x.com", value)).await == expected).then_some(()),
        )
        .await;
    };
    assert_eq!(said(&port, asking("x.com", "vip=a")).await, "by name");
    assert_eq!(said(&port, asking("x.com", "vip=b")).await, "inline");
    // Both move on.
    push(vec![by_name("b")]);
    until("vip=b", "by name").await;
    until("vip=a", "404").await;
    home.mv_value(
        "rds.yaml",
        &discovery(ROUTES, vec![table("table", "changed")]),
    );
    until("vip=b", "changed").await;
    let admin = proxy.admin();
    let prefix = "http.ingress.scoped_rds.scopes.";
    for (name, value) in [
        ("update_success", 2),
        ("all_scopes", 1),
        ("active_scopes", 1),
    ] {
        admin
            .stat_until(&format!("{prefix}{name}"), |n| n == value)
            .await;
    }
    // Nobody asks for it, so nobody is answered from it.
    push(vec![with(by_name("c"), json!({ "on_demand": true }))]);
    until("vip=b", "404").await;
    assert_eq!(said(&port, asking("x.com", "vip=c")).await, "404");
    assert_eq!(
        admin.stat(&format!("{prefix}on_demand_scopes")).await,
        Some(1)
    );
}

#[tokio::test]
async fn validation_goes_through_scopes() {
    let (home, port) = (Home::new(), Port::free());
    let two = vec![inline("one", &["a"], "1"), inline("two", &["a"], "2")];
    home.mv_value("srds.yaml", &discovery(SCOPES, two));
    let sources = json!({
        "scoped_rds": { "scoped_rds_config_source": file_source(&home.text("srds.yaml")) },
    });
    let by_name = with(
        scope("three", &["c"]),
        json!({ "route_configuration_name": "r" }),
    );
    let nothing = json!({ "header_value_extractor": { "name": "x" } });
    let other = Port::free();
    let listeners = vec![
        scoped(&port, vec![element()], sources),
        with(
            scoped(&other, vec![nothing], list(vec![by_name])),
            json!({ "name": "other" }),
        ),
    ];
    let node = json!({ "node": { "id": "test-node", "cluster": "test-cluster" } });
    home.mv_value("bootstrap.json", &with(bootstrap(listeners, vec![]), node));
    let run =
        Program::under_test().run(&["--mode", "validate", "-c", &home.text("bootstrap.json")]);
    let said =
        String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
    assert!(!run.status.success());
    for expected in [
        "key: scope key conflict found, first scope is 'one', second scope is 'two'",
        "HeaderValueExtractor extract_type not set.",
        "is not supported with inline scoped routes.",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
