//! HTTP filters before the router.

use crate::common::config::{answer, any_host, http_with, route, typed};
use crate::common::{Origin, Site, Value, client, json, with};

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
        vec![crate::common::config::cluster("web", &[origin.port()])],
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
