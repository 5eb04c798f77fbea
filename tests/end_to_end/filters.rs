//! HTTP filters before the router.

use crate::common::config::{
    answer, any_host, bootstrap, cluster, discovery, file_source, http_with, listener, route, typed,
};
use crate::common::{H1, Home, Origin, Port, Program, Proxy, Site, Value, client, json, with};

const POLICY: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";

/// A site whose chain is the CORS filter and the router.
async fn site(routes: Vec<Value>, clusters: Vec<Value>) -> Site {
    let filter = |name: &str, message: &str| json!({ "name": name, "typed_config": typed(message, json!({})) });
    let manager = http_with(json!({
        "route_config": { "virtual_hosts": [any_host(routes)] },
        "http_filters": [
            filter("cors", "envoy.extensions.filters.http.cors.v3.Cors"),
            filter("router", "envoy.extensions.filters.http.router.v3.Router"),
        ],
    }));
    Site::filter(manager, clusters).await
}

fn saying(route: Value, config: Value) -> Value {
    with(
        route,
        json!({ "typed_per_filter_config": { "cors": config } }),
    )
}

#[tokio::test]
async fn cors_answers_preflights_and_marks_responses() {
    let origin = Origin::http("one").await;
    let policy = typed(
        POLICY,
        json!({
            "allow_origin_string_match": [{ "suffix": ".example" }],
            "allow_methods": "GET",
            "expose_headers": "x-exposed",
            "allow_credentials": true,
        }),
    );
    let off = typed(
        "envoy.config.route.v3.FilterConfig",
        json!({ "disabled": true }),
    );
    let site = site(
        vec![
            saying(answer("/off", 200, "off"), off),
            saying(route("/", "web"), policy),
        ],
        vec![cluster("web", &[origin.port()])],
    )
    .await;
    let send = |method: &'static str, path: &'static str, from: &'static str| {
        let mut request = client::request(method, "site", path);
        let headers = request.headers_mut();
        headers.insert("origin", from.parse().unwrap());
        headers.insert("access-control-request-method", "GET".parse().unwrap());
        site.send(request)
    };
    let preflight = send("OPTIONS", "/", "http://a.example").await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.headers["access-control-allow-methods"], "GET");
    assert_eq!(
        preflight.headers["access-control-allow-origin"],
        "http://a.example"
    );
    assert_eq!(origin.requests(), 0, "it is answered here");
    let allowed = send("GET", "/", "http://a.example").await;
    let headers = &allowed.headers;
    assert_eq!(headers["access-control-allow-origin"], "http://a.example");
    assert_eq!(headers["access-control-allow-credentials"], "true");
    assert_eq!(headers["access-control-expose-headers"], "x-exposed");
    let refused = send("GET", "/", "http://b.test").await;
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
    let off = send("OPTIONS", "/off", "http://a.example").await;
    assert_eq!(off.text(), "off");
    let admin = site.admin();
    assert_eq!(admin.stat("http.ingress.cors.origin_valid").await, Some(2));
    assert_eq!(
        admin.stat("http.ingress.cors.origin_invalid").await,
        Some(1)
    );
}

const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// A bootstrap whose first filter, `ext`, comes from a file; `more` says more of it.
fn discovering(home: &Home, port: &Port, origin: &Origin, more: Value) -> Value {
    let policy = typed(
        POLICY,
        json!({ "allow_origin_string_match": [{ "exact": "http://a.example" }] }),
    );
    let said = json!({ "typed_per_filter_config": { "ext": policy } });
    let source = with(
        json!({
            "config_source": file_source(&home.text("ecds.json")),
            "type_urls": [format!("type.googleapis.com/{CORS}")],
        }),
        more,
    );
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let manager = http_with(json!({
        "route_config": { "virtual_hosts": [any_host(vec![with(route("/", "web"), said)])] },
        "http_filters": [
            { "name": "ext", "config_discovery": source },
            { "name": "router", "typed_config": router },
        ],
    }));
    with(
        bootstrap(
            vec![listener("main", port.number(), manager)],
            vec![cluster("web", &[origin.port()])],
        ),
        json!({ "node": { "id": "test-node", "cluster": "test-cluster" } }),
    )
}

/// Whether responses are marked by the filter; `None` without one.
async fn marked(connection: &mut H1) -> Option<bool> {
    let mut request = client::request("GET", "site", "/");
    let origin = "http://a.example".parse().unwrap();
    request.headers_mut().insert("origin", origin);
    let reply = connection.send(request).await.expect("a response");
    match reply.status.as_u16() {
        500 => None,
        200 => Some(reply.headers.contains_key("access-control-allow-origin")),
        other => panic!("{other}"),
    }
}

fn found(name: &str, config: Value) -> Value {
    discovery(
        EXTENSION,
        vec![json!({ "name": name, "typed_config": config })],
    )
}

#[tokio::test]
async fn a_filter_by_ecds_comes_and_stays() {
    let (home, port, origin) = (Home::new(), Port::free(), Origin::http("one").await);
    home.mv_value("ecds.json", &discovery(EXTENSION, vec![]));
    let bootstrap = discovering(&home, &port, &origin, json!({}));
    let proxy = Proxy::start(&home, &bootstrap, &[]).await;
    let admin = proxy.admin();
    let mut connection = H1::connect(port.number()).await.unwrap();
    assert_eq!(marked(&mut connection).await, None, "there is no filter");
    let stat = |name: &str| format!("extension_config_discovery.http_filter.ext.{name}");
    assert_eq!(admin.stat(&stat("config_fail")).await, Some(1));

    home.mv_value("ecds.json", &found("ext", typed(CORS, json!({}))));
    admin.stat_reaches(&stat("config_reload"), 1).await;
    assert_eq!(marked(&mut connection).await, Some(true));
    let dump = admin.json("/config_dump?resource=ecds_filters").await;
    let shown = &dump["configs"][0]["ecds_filter"];
    assert_eq!(shown["name"], "ext", "{dump}");
    assert_eq!(
        shown["typed_config"]["@type"],
        format!("type.googleapis.com/{CORS}")
    );

    // What is refused leaves the last good one.
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    for (count, wrong) in [
        found("ext", router),
        found("other", typed(CORS, json!({}))),
        discovery(EXTENSION, vec![]),
    ]
    .iter()
    .enumerate()
    {
        home.mv_value("ecds.json", wrong);
        let count = count as u64 + 2;
        admin.stat_reaches(&stat("update_rejected"), count).await;
        assert_eq!(admin.stat(&stat("config_fail")).await, Some(count));
        assert_eq!(marked(&mut connection).await, Some(true));
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_default_stands_in_for_a_filter_by_ecds() {
    for at_once in [false, true] {
        let (home, port, origin) = (Home::new(), Port::free(), Origin::http("one").await);
        home.mv_value("ecds.json", &discovery(EXTENSION, vec![]));
        let more = json!({
            "default_config": typed(CORS, json!({})),
            "apply_default_config_without_warming": at_once,
        });
        let bootstrap = discovering(&home, &port, &origin, more);
        let _proxy = Proxy::start(&home, &bootstrap, &[]).await;
        let mut connection = H1::connect(port.number()).await.unwrap();
        assert_eq!(marked(&mut connection).await, Some(true));
    }
}

#[test]
fn what_a_filter_by_ecds_lacks_is_said() {
    let validate = |more: Value| {
        let (home, port) = (Home::new(), Port::free());
        home.mv_value("ecds.json", &found("ext", typed(CORS, json!({}))));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let origin = runtime.block_on(Origin::http("one"));
        let bootstrap = discovering(&home, &port, &origin, more);
        home.mv_value("bootstrap.json", &bootstrap);
        let path = home.text("bootstrap.json");
        let run = Program::under_test().run(&["--mode", "validate", "-c", &path]);
        String::from_utf8_lossy(&run.stderr).into_owned()
    };
    let said = validate(json!({ "apply_default_config_without_warming": true }));
    assert!(
        said.contains("filter config ext applied without warming but has no default config"),
        "{said}"
    );
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let said = validate(json!({ "default_config": router }));
    assert!(said.contains(&format!("but expect {CORS}.")), "{said}");
}
