//! What a control plane must never do: each is refused or bounded, said
//! clearly, and nothing is lost.

use nuncio::api::envoy::service::discovery::v3::Resource;
use prost_types::Any;

use crate::common::config::{assignment, cluster};
use crate::common::{Value, eventually, json, with};
use crate::scene::{Scene, Stage, in_every_mode, is_another, routes};
use crate::server::{Answer, CLUSTER, ENDPOINTS, LISTENER, Mode, ROUTES, Variant, resource};
use crate::traffic::Traffic;

in_every_mode!(
    a_resource_of_another_type_is_refused,
    an_any_that_does_not_decode_is_refused,
    a_name_twice_is_refused,
    added_and_removed_at_once_is_refused,
    sixty_four_mebibytes_are_survived,
    a_flood_is_survived,
    a_type_nobody_asked_for_is_ignored,
);

/// Answers of a server that does not wait for anything: more than fit into a stream's
/// window of flow control.
const FLOOD: usize = 500;

fn by_hand(type_url: &str, resources: Vec<Resource>) -> Answer {
    let mut resources = resources;
    for resource in &mut resources {
        resource.version = "by-hand".to_owned();
    }
    Answer {
        version: "by-hand".to_owned(),
        type_url: type_url.to_owned(),
        resources,
        ..Answer::default()
    }
}

/// Sends it under load; it must be refused with all these words, and after a
/// good answer all is well.
async fn refused(mode: Mode, answer: Answer, words: &[&str]) {
    let scene = Scene::start(mode).await;
    let traffic = Traffic::start(scene.port.number()).await;
    let type_url = answer.type_url.clone();
    let nonce = scene.plane.send(&type_url, answer);
    let error = scene.plane.verdict(&type_url, &nonce).await;
    let error = error.expect("a refusal");
    for word in words {
        assert!(error.contains(word), "{word}: {error}");
    }
    traffic.more(10).await;
    scene.plane.set(ROUTES, vec![routes("backend", "after")]);
    scene.serves("x-mark", "after").await;
    traffic.lost_nothing().await;
}

async fn a_resource_of_another_type_is_refused(mode: Mode) {
    let other = resource(ENDPOINTS, &assignment("backend", &[1]));
    refused(
        mode,
        by_hand(CLUSTER, vec![other]),
        &["ClusterLoadAssignment"],
    )
    .await;
}

async fn an_any_that_does_not_decode_is_refused(mode: Mode) {
    let bad = Resource {
        name: "backend".to_owned(),
        resource: Some(Any {
            type_url: CLUSTER.to_owned(),
            // A field that says it is longer than the message.
            value: vec![0x0a, 0x7f, b'x'],
        }),
        ..Resource::default()
    };
    refused(mode, by_hand(CLUSTER, vec![bad]), &[]).await;
}

async fn a_name_twice_is_refused(mode: Mode) {
    let one = resource(CLUSTER, &cluster("twice", &[1]));
    let two = resource(CLUSTER, &cluster("twice", &[2]));
    let backend = resource(CLUSTER, &mode.eds("backend"));
    refused(mode, by_hand(CLUSTER, vec![backend, one, two]), &["twice"]).await;
}

async fn added_and_removed_at_once_is_refused(mode: Mode) {
    if mode.variant == Variant::Sotw {
        return;
    }
    let answer = Answer {
        removed: vec!["both".to_owned()],
        ..by_hand(CLUSTER, vec![resource(CLUSTER, &cluster("both", &[1]))])
    };
    refused(mode, answer, &["both"]).await;
}

async fn sixty_four_mebibytes_are_survived(mode: Mode) {
    let scene = Scene::start(mode).await;
    let traffic = Traffic::start(scene.port.number()).await;
    let mut fat = routes("backend", "fat");
    fat["virtual_hosts"][0]["routes"][0]["metadata"] = json!({
        "filter_metadata": { "fat": { "text": "x".repeat(64 << 20) } },
    });
    scene.plane.set(ROUTES, vec![fat]);
    // Taken or refused; but the process lives and goes on with what comes next.
    traffic.more(20).await;
    if !is_another() {
        eventually("the log to say why", || async {
            let log = scene.proxy.log();
            log.contains("the limit is: 67108864 bytes").then_some(())
        })
        .await;
    }
    scene.plane.set(ROUTES, vec![routes("backend", "slim")]);
    scene.serves("x-mark", "slim").await;
    traffic.lost_nothing().await;
}

async fn a_flood_is_survived(mode: Mode) {
    let scene = Scene::start(mode).await;
    let traffic = Traffic::start(scene.port.number()).await;
    let before = scene.plane.asked_of(ROUTES).len();
    for turn in 0..FLOOD {
        scene
            .plane
            .set(ROUTES, vec![routes("backend", &format!("turn-{turn}"))]);
        if turn % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let last = format!("turn-{}", FLOOD - 1);
    scene.serves("x-mark", &last).await;
    traffic.lost_nothing().await;
    let answered = scene.plane.asked_of(ROUTES).len() - before;
    assert!(answered <= FLOOD + 1, "{answered} answers to {FLOOD}");
}

async fn a_type_nobody_asked_for_is_ignored(mode: Mode) {
    let scene = Scene::start(mode).await;
    let unasked = Answer {
        version: "by-hand".to_owned(),
        type_url: "type.googleapis.com/envoy.config.nothing.v3.Nothing".to_owned(),
        ..Answer::default()
    };
    scene.plane.send(CLUSTER, unasked);
    scene.plane.set(ROUTES, vec![routes("backend", "after")]);
    scene.serves("x-mark", "after").await;
}

in_every_mode!(a_stream_that_never_answers_does_not_hold_up_the_start);

async fn a_stream_that_never_answers_does_not_hold_up_the_start(mode: Mode) {
    let stage = Stage::new(mode).await;
    stage.plane.mute(LISTENER);
    stage.plane.mute(CLUSTER);
    let soon = json!({ "initial_fetch_timeout": "0.2s" });
    let patch = json!({ "dynamic_resources": { "lds_config": soon, "cds_config": soon } });
    let bootstrap = with(stage.bootstrap(), patch);
    let scene = stage.start_with(&bootstrap, &[]).await;
    let admin = scene.proxy.admin();
    admin
        .stat_reaches("cluster_manager.cds.init_fetch_timeout", 1)
        .await;
    admin
        .stat_reaches("listener_manager.lds.init_fetch_timeout", 1)
        .await;
    let state: Value = admin.json("/server_info").await;
    assert_eq!(state["state"], "LIVE");
    // When it answers after all, that is taken.
    scene.plane.unmute(CLUSTER);
    scene.plane.unmute(LISTENER);
    eventually("the late answer", || async {
        let request = crate::common::client::request("GET", "example.com", "/");
        let reply = crate::common::client::once(scene.port.number(), request)
            .await
            .ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
}
