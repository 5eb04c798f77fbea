//! Where resources come from, and what is said to who sends them.

use std::time::Duration;

use nuncio::api::envoy::service::discovery::v3::Resource;

use crate::common::config::{assignment, cluster, discovery, file_source};
use crate::common::{Origin, Value, eventually, json, with};
use crate::scene::{Scene, Stage, in_every_mode, is_another};
use crate::server::{Answer, CLUSTER, ENDPOINTS, LISTENER, Mode, Variant};

in_every_mode!(
    metadata_goes_along,
    the_node_may_go_once,
    clusters_by_file_and_endpoints_by_push,
    a_resource_lives_as_long_as_it_says,
    requests_are_limited,
);

/// A site whose bootstrap is patched as [`Mode::patched`] says.
async fn start(mode: Mode, patch: Value) -> Scene {
    let stage = Stage::new(mode).await;
    let bootstrap = mode.patched(stage.plane.port(), &patch);
    let scene = stage.start_with(&bootstrap, &[]).await;
    scene.serves("x-mark", "first").await;
    scene
}

async fn metadata_goes_along(mode: Mode) {
    let services = json!([{
        "envoy_grpc": { "cluster_name": "xds", "authority": "plane.example" },
        "initial_metadata": [
            { "key": "x-token", "value": "secret" },
            { "key": "x-more", "value": "1" },
        ],
        "timeout": "0s",
    }]);
    let scene = start(mode, json!({ "grpc_services": services })).await;
    let asked = scene.plane.asked();
    let last = asked
        .iter()
        .rev()
        .find(|a| a.type_url == LISTENER)
        .expect("a request");
    assert_eq!(
        last.metadata.get("x-token").map(|v| v.as_bytes()),
        Some(&b"secret"[..])
    );
    assert_eq!(
        last.metadata.get("x-more").map(|v| v.as_bytes()),
        Some(&b"1"[..])
    );
    assert_eq!(
        last.metadata.get("te").map(|v| v.as_bytes()),
        Some(&b"trailers"[..])
    );
    let kind = last.metadata.get("content-type").map(|v| v.as_bytes());
    assert_eq!(kind, Some(&b"application/grpc"[..]));
    assert_eq!(last.authority, "plane.example");
}

async fn the_node_may_go_once(mode: Mode) {
    let scene = start(mode, json!({ "set_node_on_first_message_only": true })).await;
    let all = scene.plane.asked();
    let newest = all.iter().map(|a| a.stream).max().expect("streams");
    let first = if mode.aggregated { newest } else { newest - 1 };
    for stream in first..=newest {
        let of_stream: Vec<_> = all
            .iter()
            .filter(|a| {
                a.stream == stream
                    && (a.type_url == LISTENER || a.type_url == CLUSTER || mode.aggregated)
            })
            .collect();
        if let Some((first, later)) = of_stream.split_first() {
            assert!(first.node.is_some());
            assert!(later.iter().all(|a| a.node.is_none()), "{later:?}");
        }
    }
}

async fn clusters_by_file_and_endpoints_by_push(mode: Mode) {
    let stage = Stage::new(mode).await;
    stage
        .home
        .mv_value("cds.json", &discovery(CLUSTER, vec![mode.eds("backend")]));
    let mut bootstrap = stage.bootstrap();
    let path = stage.home.text("cds.json");
    bootstrap["dynamic_resources"]["cds_config"] = file_source(&path);
    let scene = stage.start_with(&bootstrap, &[]).await;
    scene.serves("x-mark", "first").await;
    let two = Origin::http("two").await;
    scene
        .plane
        .set(ENDPOINTS, vec![assignment("backend", &[two.port()])]);
    scene.reaches("two").await;
}

/// In the state of the world, Envoy takes a heartbeat that names one cluster for
/// the whole set, and removes all of them.
async fn a_resource_lives_as_long_as_it_says(mode: Mode) {
    if is_another() && mode.variant == Variant::Sotw {
        return;
    }
    let scene = Scene::start(mode).await;
    let mut brief = crate::server::resource(CLUSTER, &cluster("brief", &[1]));
    brief.ttl = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let admin = scene.proxy.admin();
    let backend = crate::server::resource(CLUSTER, &mode.eds("backend"));
    scene
        .plane
        .set_encoded(CLUSTER, vec![backend, brief.clone()]);
    admin
        .stat_reaches("cluster_manager.active_clusters", 3)
        .await;
    // A heartbeat: the name and a new time, without the resource.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let version = match mode.variant {
            Variant::Sotw => "v2",
            Variant::Delta => "2",
        };
        let heartbeat = Resource {
            resource: None,
            version: version.to_owned(),
            ..brief.clone()
        };
        let answer = Answer {
            version: "v2".to_owned(),
            type_url: CLUSTER.to_owned(),
            resources: vec![heartbeat],
            ..Answer::default()
        };
        scene.plane.send(CLUSTER, answer);
        assert_eq!(admin.stat("cluster_manager.active_clusters").await, Some(3));
    }
    // And then none any more.
    admin
        .stat_until("cluster_manager.active_clusters", |n| n == 2)
        .await;
    scene.reaches("one").await;
}

async fn requests_are_limited(mode: Mode) {
    let limits = json!({ "rate_limit_settings": { "max_tokens": 6, "fill_rate": 2.0 } });
    let scene = start(mode, limits).await;
    let before = scene.plane.asked_of(CLUSTER).len();
    for turn in 0..20 {
        let other = json!({ "connect_timeout": format!("{}s", turn + 1) });
        scene
            .plane
            .set(CLUSTER, vec![with(mode.eds("backend"), other)]);
    }
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let asked = scene.plane.asked_of(CLUSTER).len() - before;
    assert!(asked <= 12, "{asked} requests in a second");
    let admin = scene.proxy.admin();
    eventually("the stat to say so", || async {
        let all = admin.text("/stats?filter=rate_limit_enforced").await;
        all.lines().any(|line| !line.ends_with(": 0")).then_some(())
    })
    .await;
}
