//! Subsets of hosts by their metadata. Who is chosen is compared with Envoy in
//! `tests/differential/subsets.rs`.

use std::collections::BTreeMap;

use tokio::io::AsyncReadExt;

use crate::common::client::{dial, get, get_until, request};
use crate::common::config::{
    ENDPOINTS, address, any_host, bootstrap, cluster, discovery, file_source, http, http_with,
    listener, tcp,
};
use crate::common::{Home, Origin, Port, Proxy, Site, Value, json, with};

fn metadata(labels: Value) -> Value {
    json!({ "filter_metadata": { "envoy.lb": labels } })
}

fn host(port: u16, stage: &str) -> Value {
    json!({
        "endpoint": { "address": address(port) },
        "metadata": metadata(json!({ "stage": stage })),
    })
}

fn by_stage() -> Value {
    json!({ "lb_subset_config": { "subset_selectors": [{ "keys": ["stage"] }] } })
}

/// A route of this path to the hosts of this stage.
fn route(path: &str, stage: &str) -> Value {
    json!({ "match": { "path": path }, "route": {
        "cluster": "origin", "metadata_match": metadata(json!({ "stage": stage })),
    } })
}

#[tokio::test]
async fn they_follow_the_hosts() {
    let (one, two) = (Origin::http("one").await, Origin::http("two").await);
    let (home, port) = (Home::new(), Port::free());
    let hosts = |hosts: Value| {
        let assignment =
            json!({ "cluster_name": "origin", "endpoints": [{ "lb_endpoints": hosts }] });
        home.mv_value("eds.json", &discovery(ENDPOINTS, vec![assignment]));
    };
    hosts(json!([host(one.port(), "a"), host(two.port(), "b")]));
    let cluster = with(
        cluster("origin", &[]),
        json!({ "type": "EDS", "load_assignment": null, "eds_cluster_config": {
            "eds_config": file_source(&home.text("eds.json")),
        } }),
    );
    let cluster = with(cluster, by_stage());
    let routes = ["a", "b", "c"].map(|stage| route(&format!("/{stage}"), stage));
    let listener = listener("main", port.number(), http(vec![any_host(routes.into())]));
    let whole = with(
        bootstrap(vec![listener], vec![cluster]),
        json!({ "node": { "id": "id", "cluster": "cluster" } }),
    );
    let proxy = Proxy::start(&home, &whole, &["--concurrency", "1"]).await;
    let who = async |path: &str| {
        let reply = get(port.number(), path).await;
        match reply.status.is_success() {
            true => reply.seen().origin,
            false => reply.status.as_str().to_owned(),
        }
    };
    assert_eq!(
        (who("/a").await, who("/b").await),
        ("one".into(), "two".into())
    );
    assert_eq!(who("/c").await, "503");
    let stat = async |name: &str| {
        let name = format!("cluster.origin.lb_subsets_{name}");
        proxy.admin().stat(&name).await
    };
    // Each counts for the worker and for the main thread, as in Envoy.
    assert_eq!(stat("active").await, Some(4));

    hosts(json!([host(one.port(), "b"), host(two.port(), "c")]));
    get_until(port.number(), "/a", |reply| reply.status == 503).await;
    assert_eq!(
        (who("/b").await, who("/c").await),
        ("one".into(), "two".into())
    );
    assert_eq!(stat("active").await, Some(4));
    assert_eq!(stat("created").await, Some(6));
    assert_eq!(stat("removed").await, Some(2));
}

/// As Envoy spreads them.
#[tokio::test]
async fn localities_count_by_their_weight_where_that_is_said() {
    let mut origins = Vec::new();
    for name in ["a", "b", "c", "d"] {
        origins.push(Origin::http(name).await);
    }
    let locality = |zone: &str, weight: u32, hosts: Vec<Value>| json!({ "locality": { "zone": zone }, "load_balancing_weight": weight, "lb_endpoints": hosts });
    let port = |index: usize| origins[index].port();
    let endpoints = [
        locality("one", 1, vec![host(port(0), "x"), host(port(1), "y")]),
        locality(
            "two",
            3,
            vec![host(port(2), "x"), host(port(3), "x"), host(1, "y")],
        ),
    ];
    for (settings, expected) in [
        (json!({}), [8, 8, 8]),
        (json!({ "locality_weight_aware": true }), [6, 9, 9]),
        (
            json!({ "locality_weight_aware": true, "scale_locality_weight": true }),
            [8, 8, 8],
        ),
    ] {
        let weighted = with(
            cluster("origin", &[]),
            json!({
                "load_assignment": { "endpoints": endpoints },
                "common_lb_config": { "locality_weighted_lb_config": {} },
                "lb_subset_config": settings,
            }),
        );
        let routes = vec![route("/", "x")];
        let filter = http_with(json!({ "route_config": { "virtual_hosts": [any_host(routes)] } }));
        let site = Site::with_args(
            filter,
            vec![with(weighted, by_stage())],
            &["--concurrency", "1"],
        )
        .await;
        let mut counts = BTreeMap::<String, u32>::new();
        let mut connection = site.http1().await;
        for _ in 0..24 {
            let reply = connection.send(request("GET", "a", "/")).await;
            *counts
                .entry(reply.expect("an answer").seen().origin)
                .or_default() += 1;
        }
        let counts: Vec<_> = counts.into_values().collect();
        assert_eq!(counts, expected, "{settings}");
    }
}

#[tokio::test]
async fn connections_are_led_to_them_too() {
    let (one, two) = (Origin::says("one").await, Origin::says("two").await);
    let hosts = json!([host(one.port(), "a"), host(two.port(), "b")]);
    let divided = with(
        cluster("origin", &[]),
        json!({ "load_assignment": { "endpoints": [{ "lb_endpoints": hosts }] } }),
    );
    let divided = with(divided, by_stage());
    let asks = |stage: &str| metadata(json!({ "stage": stage }));
    let weighted = |own: Value| {
        let cluster = with(json!({ "name": "origin", "weight": 1 }), own);
        json!({ "cluster": null, "weighted_clusters": { "clusters": [cluster] } })
    };
    for (fields, expected) in [
        (json!({ "metadata_match": asks("a") }), "one"),
        (json!({ "metadata_match": asks("b") }), "two"),
        (json!({ "metadata_match": asks("c") }), ""),
        (json!({}), ""),
        (weighted(json!({ "metadata_match": asks("b") })), "two"),
        (
            with(weighted(json!({})), json!({ "metadata_match": asks("b") })),
            "two",
        ),
        (
            with(
                weighted(json!({ "metadata_match": asks("a") })),
                json!({ "metadata_match": asks("b") }),
            ),
            "one",
        ),
    ] {
        let filter = with(tcp("tcp", "origin"), json!({ "typed_config": fields }));
        let site = Site::filter(filter, vec![divided.clone()]).await;
        let mut stream = dial(site.port.number()).await.expect("a connection");
        let mut said = vec![0; expected.len()];
        let read = match expected.is_empty() {
            // It is closed.
            true => stream.read_to_end(&mut said).await.map(drop),
            false => stream.read_exact(&mut said).await.map(drop),
        };
        read.expect("what the host says");
        assert_eq!(String::from_utf8_lossy(&said), expected, "{fields}");
    }
}
