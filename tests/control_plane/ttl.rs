//! Resources that live for as long as their server says, and what becomes of each
//! type when that time is over.

use std::time::Duration;

use nuncio::api::envoy::service::discovery::v3::Resource;

use crate::common::config::{answer, any_host, assignment, cluster, http_with, listener, typed};
use crate::common::tls::Authority;
use crate::common::{Port, Value, eventually, json, with};
use crate::scene::{SOTW_ADS, Scene, Stage, in_every_mode, is_another, names_presented, routes};
use crate::server::{
    Answer, CLUSTER, ENDPOINTS, FILTER, LISTENER, Mode, ROUTES, RUNTIME, SECRET, Variant, resource,
};

in_every_mode!(
    clusters_and_listeners_end,
    routes_endpoints_and_secrets_stay,
    a_layer_of_the_runtime_ends,
    a_filter_ends,
);

/// It lives for a second.
fn brief(type_url: &str, value: &Value) -> Resource {
    Resource {
        ttl: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..resource(type_url, value)
    }
}

/// Says for two seconds that it lives on, for which Envoy has no ear in the state of
/// the world.
async fn heartbeats(scene: &Scene, mode: Mode, brief: &Resource, type_url: &str) {
    if is_another() && mode.variant == Variant::Sotw {
        return;
    }
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let version = match mode.variant {
            Variant::Sotw => "v1",
            Variant::Delta => "1",
        };
        let heartbeat = Resource {
            resource: None,
            version: version.to_owned(),
            ..brief.clone()
        };
        let answer = Answer {
            version: "v1".to_owned(),
            type_url: type_url.to_owned(),
            resources: vec![heartbeat],
            ..Answer::default()
        };
        scene.plane.send(type_url, answer);
    }
}

async fn status(port: u16) -> u16 {
    let request = crate::common::client::request("GET", "example.com", "/");
    let reply = crate::common::client::once(port, request).await;
    reply.map_or(0, |reply| reply.status.as_u16())
}

async fn clusters_and_listeners_end(mode: Mode) {
    let (stage, second) = (Stage::new(mode).await, Port::free());
    let (plane, port) = (&stage.plane, stage.port.number());
    let backend = resource(CLUSTER, &mode.eds("backend"));
    plane.set_encoded(
        CLUSTER,
        vec![backend, brief(CLUSTER, &cluster("brief", &[1]))],
    );
    let web = resource(LISTENER, &mode.web("web", port));
    let extra = brief(LISTENER, &mode.web("extra", second.number()));
    plane.set_encoded(LISTENER, vec![web, extra]);
    let scene = stage.start().await;
    scene.serves("x-mark", "first").await;
    let admin = scene.proxy.admin();
    admin
        .stat_until("cluster_manager.active_clusters", |n| n == 2)
        .await;
    admin
        .stat_until("listener_manager.total_listeners_active", |n| n == 1)
        .await;
    scene.reaches("one").await;
}

/// Envoy 1.40 ends itself over this in the state of the world by ADS.
async fn routes_endpoints_and_secrets_stay(mode: Mode) {
    if is_another() && mode == SOTW_ADS {
        return;
    }
    let authority = Authority::new();
    let identity = authority.issue(&["one.test"]);
    let secret = json!({ "name": "cert", "tls_certificate": {
        "certificate_chain": { "inline_string": identity.certificate },
        "private_key": { "inline_string": identity.key },
    } });
    let (stage, secure) = (Stage::new(mode).await, Port::free());
    let (plane, port) = (&stage.plane, stage.port.number());
    let mut over_tls = mode.web("secure", secure.number());
    over_tls["filter_chains"][0]["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            json!({ "common_tls_context": { "tls_certificate_sds_secret_configs": [
                { "name": "cert", "sds_config": mode.source() },
            ] } }),
        ),
    });
    plane.set(LISTENER, vec![mode.web("web", port), over_tls]);
    let endpoints = assignment("backend", &[stage.origin.port()]);
    plane.set_encoded(ENDPOINTS, vec![brief(ENDPOINTS, &endpoints)]);
    plane.set_encoded(ROUTES, vec![brief(ROUTES, &routes("backend", "first"))]);
    plane.set_encoded(SECRET, vec![brief(SECRET, &secret)]);
    // What shows that the time is over.
    let backend = resource(CLUSTER, &mode.eds("backend"));
    plane.set_encoded(
        CLUSTER,
        vec![backend, brief(CLUSTER, &cluster("brief", &[1]))],
    );
    let scene = stage.start().await;
    scene.serves("x-mark", "first").await;
    let admin = scene.proxy.admin();
    admin
        .stat_until("cluster_manager.active_clusters", |n| n == 2)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(status(port).await, 200);
    let mut open = names_presented(secure.number(), &authority, "one.test")
        .await
        .expect("the certificate");
    open.echo().await;
}

async fn a_layer_of_the_runtime_ends(mode: Mode) {
    let stage = Stage::new(mode).await;
    let layer = brief(
        RUNTIME,
        &json!({ "name": "layer", "layer": { "some.key": 7 } }),
    );
    stage.plane.set_encoded(RUNTIME, vec![layer.clone()]);
    let rtds = json!({ "name": "layer", "rtds_config": mode.source() });
    let patch = json!({ "layered_runtime": { "layers": [
        { "name": "layer", "rtds_layer": rtds },
    ] } });
    let bootstrap = with(stage.bootstrap(), patch);
    let scene = stage.start_with(&bootstrap, &[]).await;
    let admin = scene.proxy.admin();
    let is_there = async || {
        let runtime = admin.json("/runtime").await;
        runtime["entries"]["some.key"]["final_value"] == "7"
    };
    assert!(is_there().await);
    heartbeats(&scene, mode, &layer, RUNTIME).await;
    assert!(is_there().await);
    eventually("the layer to end", async || {
        (!is_there().await).then_some(())
    })
    .await;
}

async fn a_filter_ends(mode: Mode) {
    let stage = Stage::new(mode).await;
    let cors = "envoy.extensions.filters.http.cors.v3.Cors";
    let filter = brief(
        FILTER,
        &json!({ "name": "added", "typed_config": typed(cors, json!({})) }),
    );
    stage.plane.set_encoded(FILTER, vec![filter.clone()]);
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let manager = http_with(json!({
        "route_config": { "virtual_hosts": [any_host(vec![answer("/", 200, "hi")])] },
        "http_filters": [
            { "name": "added", "config_discovery": {
                "config_source": mode.source(),
                "type_urls": [format!("type.googleapis.com/{cors}")],
            } },
            { "name": "envoy.filters.http.router", "typed_config": router },
        ],
    }));
    let port = stage.port.number();
    stage
        .plane
        .set(LISTENER, vec![listener("web", port, manager)]);
    let scene = stage.start().await;
    assert_eq!(status(port).await, 200);
    heartbeats(&scene, mode, &filter, FILTER).await;
    assert_eq!(status(port).await, 200);
    eventually("the filter to end", async || {
        (status(port).await == 500).then_some(())
    })
    .await;
}
