//! Servers that are named by their address: `google_grpc`.

use crate::common::tls::Authority;
use crate::common::{Home, Program, Value, eventually, json, with};
use crate::scene::{DELTA_ADS, SOTW_ADS, Stage, in_every_mode};
use crate::server::{ControlPlane, LISTENER, Mode};

in_every_mode!(a_server_is_named_by_its_address);

/// `grpc_services` with a server on this host at `port`, and whatever else is said.
fn channel(target: &str, more: Value) -> Value {
    let google = json!({ "target_uri": target, "stat_prefix": "plane" });
    json!({ "grpc_services": [{
        "google_grpc": with(google, more),
        "initial_metadata": [{ "key": "x-token", "value": "secret" }],
    }] })
}

async fn a_server_is_named_by_its_address(mode: Mode) {
    let stage = Stage::new(mode).await;
    let port = stage.plane.port();
    let target = format!("localhost:{port}");
    let bootstrap = mode.patched(port, &channel(&target, json!({})));
    let scene = stage.start_with(&bootstrap, &[]).await;
    scene.serves("x-mark", "first").await;
    let asked = scene.plane.asked_of(LISTENER);
    assert_eq!(asked[0].authority, target);
    assert_eq!(asked[0].metadata["x-token"], "secret");
    let admin = scene.proxy.admin();
    let streams = if mode.aggregated { 1 } else { 2 };
    assert_eq!(admin.stat("grpc.plane.streams_total").await, Some(streams));
    assert_eq!(admin.stat("grpc.plane.streams_closed_14").await, Some(0));
    // It is no cluster that anybody sees.
    let clusters = admin.text("/clusters").await;
    assert!(!clusters.contains(&target), "{clusters}");
}

#[tokio::test]
async fn a_server_that_comes_back_is_asked_again() {
    let stage = Stage::new(SOTW_ADS).await;
    let port = stage.plane.port();
    let target = format!("ipv4:127.0.0.1:{port}");
    let bootstrap = SOTW_ADS.patched(port, &channel(&target, json!({})));
    let mut scene = stage.start_with(&bootstrap, &[]).await;
    scene.serves("x-mark", "first").await;
    scene.plane.crash().await;
    let admin = scene.proxy.admin();
    admin
        .stat_until("control_plane.connected_state", |n| n == 0)
        .await;
    scene.plane.come_back().await;
    admin
        .stat_until("control_plane.connected_state", |n| n == 1)
        .await;
    admin
        .stat_until("grpc.plane.streams_total", |n| n >= 2)
        .await;
}

/// A bootstrap whose server, at `port`, has a certificate for `name` from `roots`.
fn over_tls(mode: Mode, port: u16, roots: &Authority, name: &str) -> Value {
    let tls = json!({
        "channel_credentials": { "ssl_credentials": {
            "root_certs": { "inline_string": roots.certificate() },
        } },
        "channel_args": { "args": {
            "grpc.ssl_target_name_override": { "string_value": name },
        } },
    });
    mode.patched(port, &channel(&format!("127.0.0.1:{port}"), tls))
}

#[tokio::test]
async fn a_server_shows_its_certificate() {
    let authority = Authority::new();
    let plane = ControlPlane::start_with_tls(&authority.issue(&["plane.example"])).await;
    let stage = Stage::with_plane(DELTA_ADS, plane).await;
    let bootstrap = over_tls(DELTA_ADS, stage.plane.port(), &authority, "plane.example");
    let scene = stage.start_with(&bootstrap, &[]).await;
    scene.serves("x-mark", "first").await;
}

#[tokio::test]
async fn a_server_with_another_certificate_is_not_asked() {
    let authority = Authority::new();
    let plane = ControlPlane::start_with_tls(&authority.issue(&["plane.example"])).await;
    let home = Home::new();
    for (roots, name) in [
        (&Authority::new(), "plane.example"),
        (&authority, "other.example"),
    ] {
        let bootstrap = over_tls(SOTW_ADS, plane.port(), roots, name);
        let mut proxy = Program::under_test().launch(&home, &bootstrap, &[]);
        let admin = proxy.admin_address().await;
        eventually("a stream to fail", || async {
            let all = admin.text("/stats?filter=streams_closed").await;
            all.lines().any(|line| !line.ends_with(": 0")).then_some(())
        })
        .await;
        assert_eq!(admin.stat("control_plane.connected_state").await, Some(0));
        assert_eq!(plane.opened(), 0);
    }
}
