//! What is counted besides the requests of a cluster: shares of a virtual host, and
//! zones.

use crate::common::client::{header, request};
use crate::common::config::{any_host, bootstrap, cluster, http_with, listener, route};
use crate::common::{
    Admin, Home, Origin, Port, Proxy, Site, Value, client, eventually, json, with,
};

/// Routes with retries, of which one is counted by itself.
fn routes() -> Vec<Value> {
    let retried = |prefix: &str| {
        let policy = json!({ "retry_on": "5xx", "num_retries": 1 });
        with(
            route(prefix, "web"),
            json!({ "route": { "retry_policy": policy } }),
        )
    };
    vec![
        with(retried("/own"), json!({ "stat_prefix": "own" })),
        retried("/"),
    ]
}

/// Waits until a histogram is listed, which is at the next flush.
async fn listed(admin: &Admin, name: &str) {
    eventually(name, || async {
        admin
            .text("/stats?filter=_time")
            .await
            .contains(name)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn virtual_clusters_and_routes_are_counted_by_themselves() {
    let origin = Origin::http("web").await;
    let host = with(
        any_host(routes()),
        json!({ "name": "all", "virtual_clusters": [
            { "name": "posts", "headers": [
                { "name": ":method", "string_match": { "exact": "POST" } },
                { "name": ":path", "string_match": { "prefix": "/p" } },
            ] },
            { "name": "pages", "headers": [
                { "name": ":path", "string_match": { "prefix": "/p" } },
            ] },
        ] }),
    );
    let site = Site::hosts(vec![host], vec![cluster("web", &[origin.port()])]).await;
    site.send(request("POST", "a", "/p/1")).await;
    site.get("/p/2").await;
    site.get("/q").await;
    // Tried twice.
    site.send(header(
        request("GET", "a", "/own"),
        "x-origin-status",
        "503",
    ))
    .await;
    let expected = [
        ("vcluster.posts.upstream_rq_total", 1),
        ("vcluster.posts.upstream_rq_200", 1),
        ("vcluster.posts.upstream_rq_completed", 1),
        ("vcluster.posts.upstream_rq_retry", 0),
        ("vcluster.pages.upstream_rq_total", 1),
        ("vcluster.other.upstream_rq_total", 3),
        ("vcluster.other.upstream_rq_completed", 2),
        ("vcluster.other.upstream_rq_503", 1),
        ("vcluster.other.upstream_rq_retry", 1),
        ("vcluster.other.upstream_rq_retry_limit_exceeded", 1),
        ("vcluster.other.upstream_rq_retry_success", 0),
        ("vcluster.other.upstream_rq_timeout", 0),
        ("route.own.upstream_rq_total", 2),
        ("route.own.upstream_rq_5xx", 1),
        ("route.own.upstream_rq_retry", 1),
    ];
    for (name, value) in expected {
        let name = format!("vhost.all.{name}");
        assert_eq!(site.admin().stat(&name).await, Some(value), "{name}");
    }
    let text = site.admin().text("/stats?filter=vhost").await;
    assert!(
        !text.contains("vhost.all.route.own.upstream_rq_200"),
        "{text}"
    );
    listed(site.admin(), "vhost.all.route.own.upstream_rq_time").await;
    let labels = r#"envoy_vhost_vcluster_upstream_rq_total{envoy_virtual_cluster="pages",envoy_virtual_host="all"} 1"#;
    let text = site.admin().text("/stats/prometheus").await;
    assert!(text.contains(labels), "{text}");
}

#[tokio::test]
async fn requests_from_one_zone_to_another_are_counted() {
    let (near, far) = (Origin::http("near").await, Origin::http("far").await);
    let home = Home::new();
    let port = Port::free();
    let zoned = |name: &str, port: u16, zone: &str| {
        let base = cluster(name, &[port]);
        let mut endpoints = base["load_assignment"]["endpoints"].clone();
        endpoints[0]["locality"] = json!({ "region": "r", "zone": zone });
        with(
            base,
            json!({ "load_assignment": { "endpoints": endpoints } }),
        )
    };
    let clusters = vec![
        zoned("near", near.port(), "z1"),
        zoned("far", far.port(), "z2"),
        cluster("nowhere", &[near.port()]),
    ];
    let routes = ["near", "far", "nowhere"].map(|name| route(&format!("/{name}"), name));
    let manager = http_with(json!({ "route_config": {
        "virtual_hosts": [any_host(routes.to_vec())],
    } }));
    let configuration = bootstrap(vec![listener("main", port.number(), manager)], clusters);
    let args = ["--service-zone", "z1"];
    let proxy = Proxy::start(&home, &configuration, &args).await;
    for path in ["/near", "/far", "/far", "/nowhere"] {
        assert_eq!(client::get(port.number(), path).await.status, 200);
    }
    let admin = proxy.admin();
    assert_eq!(
        admin.stat("cluster.near.zone.z1.z1.upstream_rq_200").await,
        Some(1)
    );
    assert_eq!(
        admin.stat("cluster.far.zone.z1.z2.upstream_rq_2xx").await,
        Some(2)
    );
    assert_eq!(
        admin
            .stat("cluster.far.zone.z1.z2.upstream_rq_completed")
            .await,
        Some(2)
    );
    let text = admin.text("/stats?filter=zone").await;
    assert!(!text.contains("nowhere.zone"), "{text}");
    listed(admin, "cluster.far.zone.z1.z2.upstream_rq_time").await;
}
