//! A control plane that goes away and comes back.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::common::config::assignment;
use crate::common::{Port, eventually, json, with};
use crate::scene::{Scene, Stage, http2_cluster, in_every_mode, is_another, routes};
use crate::server::{
    Asked, CLUSTER, ControlPlane, ENDPOINTS, LISTENER, Mode, ROUTES, SECRET, Variant,
};
use crate::traffic::Traffic;

in_every_mode!(
    a_crash_is_not_noticed,
    everything_is_asked_again,
    a_stream_that_ends_is_opened_again,
);

async fn a_crash_is_not_noticed(mode: Mode) {
    let mut scene = Scene::start(mode).await;
    let traffic = Traffic::start(scene.port.number()).await;
    traffic.more(20).await;
    scene.plane.crash().await;
    let admin = scene.proxy.admin().clone();
    eventually("the stats to say so", || async {
        let all = admin
            .text("/stats?filter=control_plane.connected_state")
            .await;
        all.lines().all(|line| line.ends_with(": 0")).then_some(())
    })
    .await;
    traffic.more(50).await;
    scene.serves("x-mark", "first").await;
    // While it was away something has changed.
    scene.plane.set(ROUTES, vec![routes("backend", "second")]);
    scene.plane.come_back().await;
    scene.serves("x-mark", "second").await;
    traffic.more(10).await;
    traffic.lost_nothing().await;
    eventually("the stats to say so", || async {
        let all = admin
            .text("/stats?filter=control_plane.connected_state")
            .await;
        all.lines().all(|line| line.ends_with(": 1")).then_some(())
    })
    .await;
}

async fn everything_is_asked_again(mode: Mode) {
    let mut scene = Scene::start(mode).await;
    for type_url in [CLUSTER, ENDPOINTS, LISTENER, ROUTES] {
        scene
            .plane
            .asked_until("an ACK", type_url, |all| all.iter().any(Asked::is_ack))
            .await;
    }
    scene.plane.crash().await;
    let before = scene.plane.opened();
    scene.plane.come_back().await;
    for (type_url, name) in [
        (CLUSTER, "backend"),
        (ENDPOINTS, "backend"),
        (LISTENER, "web"),
        (ROUTES, "routes"),
    ] {
        let asked = scene
            .plane
            .asked_until("to be asked again", type_url, |all| {
                all.iter().any(|asked| asked.stream > before)
            })
            .await;
        let first = asked
            .iter()
            .find(|asked| asked.stream > before)
            .expect("one");
        assert_eq!(first.nonce, "", "{type_url}: nonces belong to a stream");
        assert_eq!(first.error, None, "{type_url}");
        let is_named = type_url == ENDPOINTS || type_url == ROUTES;
        if is_named {
            assert_eq!(first.names, [name], "{type_url}");
        }
        match mode.variant {
            Variant::Sotw => assert_eq!(first.version, "v1", "{type_url}"),
            Variant::Delta => {
                let versions: Vec<_> = first.initial_versions.iter().collect();
                assert_eq!(
                    versions,
                    [(&name.to_owned(), &"1".to_owned())],
                    "{type_url}"
                );
            }
        }
    }
    // On each stream, the node is first told again.
    let asked = scene.plane.asked();
    for stream in before + 1..=scene.plane.opened() {
        if let Some(first) = asked.iter().find(|asked| asked.stream == stream) {
            assert!(first.node.is_some(), "stream {stream}");
        }
    }
}

async fn a_stream_that_ends_is_opened_again(mode: Mode) {
    let scene = Scene::start(mode).await;
    let traffic = Traffic::start(scene.port.number()).await;
    for turn in 0..3 {
        let before = scene.plane.opened();
        scene
            .plane
            .end_streams(tonic::Status::unavailable("for a test"));
        eventually("new streams", || async {
            (scene.plane.opened() > before).then_some(())
        })
        .await;
        let mark = format!("turn-{turn}");
        scene.plane.set(ROUTES, vec![routes("backend", &mark)]);
        scene.serves("x-mark", &mark).await;
    }
    traffic.lost_nothing().await;
}

/// The waits between attempts grow, so that a control plane that comes back is
/// not trampled.
#[tokio::test]
async fn attempts_are_spaced() {
    let scene = Scene::start(crate::scene::SOTW_ADS).await;
    let started = std::time::Instant::now();
    let before = scene.plane.opened();
    while started.elapsed() < Duration::from_secs(3) {
        scene
            .plane
            .end_streams(tonic::Status::unavailable("for a test"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let attempts = scene.plane.opened() - before;
    assert!(
        (1..=30).contains(&attempts),
        "{attempts} attempts in three seconds"
    );
}

/// A server that falls silent, its connections open, is left when it answers no
/// PING: over HTTP/2 through a cluster, and as `google_grpc` says it.
#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let mode = crate::scene::SOTW_ADS;
    // Envoy's gRPC library sends its PINGs every ten seconds at most.
    let all: &[bool] = if is_another() {
        &[true]
    } else {
        &[true, false]
    };
    for &by_cluster in all {
        let stage = Stage::new(mode).await;
        let relay = Relay::start(stage.plane.port()).await;
        let mut xds = http2_cluster("xds", relay.port.number());
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let options = &mut xds["typed_extension_protocol_options"][options];
        options["explicit_http_config"]["http2_protocol_options"] = json!({
            "connection_keepalive": { "interval": "0.3s", "timeout": "0.3s" },
        });
        let mut bootstrap = stage.bootstrap();
        bootstrap["static_resources"]["clusters"] = json!([xds]);
        if !by_cluster {
            let address = format!("ipv4:127.0.0.1:{}", relay.port.number());
            bootstrap["dynamic_resources"]["ads_config"]["grpc_services"] = json!([{
                "google_grpc": {
                    "target_uri": address,
                    "stat_prefix": "plane",
                    "channel_args": { "args": {
                        "grpc.keepalive_time_ms": { "int_value": 300 },
                        "grpc.keepalive_timeout_ms": { "int_value": 300 },
                    } },
                },
            }]);
        }
        let scene = stage.start_with(&bootstrap, &[]).await;
        scene.serves("x-mark", "first").await;
        let before = scene.plane.opened();
        relay.freeze();
        eventually("another stream", || async {
            (scene.plane.opened() > before).then_some(())
        })
        .await;
        scene.plane.set(ROUTES, vec![routes("backend", "second")]);
        scene.serves("x-mark", "second").await;
    }
}

/// Passes connections on to a port until they freeze: they stay open, and nothing
/// goes through them any more.
struct Relay {
    port: Port,
    frozen: Arc<watch::Sender<u32>>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn start(to: u16) -> Self {
        let (port, frozen) = (Port::free(), Arc::new(watch::Sender::new(0)));
        let address = (Ipv4Addr::LOCALHOST, port.number());
        let listener = TcpListener::bind(address).await.expect("the port");
        let freezing = Arc::clone(&frozen);
        let task = tokio::spawn(async move {
            loop {
                let (mut one, _) = listener.accept().await.expect("accept");
                let mut freeze = freezing.subscribe();
                tokio::spawn(async move {
                    let address = (Ipv4Addr::LOCALHOST, to);
                    let mut other = TcpStream::connect(address).await.expect("the plane");
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut one, &mut other) => {}
                        _ = freeze.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, frozen, task }
    }

    /// Freezes all connections there are.
    fn freeze(&self) {
        self.frozen.send_modify(|times| *times += 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Envoy takes the first of `grpc_services` only, unless a runtime flag is set.
#[tokio::test]
async fn another_server_is_tried() {
    if is_another() {
        return;
    }
    for mode in [crate::scene::SOTW_ADS, crate::scene::DELTA_ADS] {
        let stage = Stage::new(mode).await;
        let second = ControlPlane::start().await;
        let origin = stage.origin.port();
        second.set(CLUSTER, vec![mode.eds("backend")]);
        second.set(ENDPOINTS, vec![assignment("backend", &[origin])]);
        second.set(LISTENER, vec![mode.web("web", stage.port.number())]);
        // Another version, or a client that has this one is told nothing.
        second.set(ROUTES, vec![]);
        second.set(ROUTES, vec![routes("backend", "from the second")]);
        let patch = json!({
            "dynamic_resources": { "ads_config": { "grpc_services": [
                { "envoy_grpc": { "cluster_name": "xds" } },
                { "envoy_grpc": { "cluster_name": "xds-2" } },
            ] } },
            "static_resources": { "clusters": [
                http2_cluster("xds", stage.plane.port()),
                http2_cluster("xds-2", second.port()),
            ] },
        });
        let bootstrap = with(stage.bootstrap(), patch);
        let mut scene = stage.start_with(&bootstrap, &[]).await;
        scene.serves("x-mark", "first").await;
        let traffic = Traffic::start(scene.port.number()).await;
        scene.plane.crash().await;
        scene.serves("x-mark", "from the second").await;
        traffic.lost_nothing().await;
    }
}

/// A certificate that rotates touches no connection.
#[tokio::test]
async fn a_secret_rotates() {
    use crate::common::tls::Authority;
    for mode in [
        crate::scene::SOTW_ADS,
        crate::scene::DELTA_ADS,
        crate::scene::SOTW,
        crate::scene::DELTA,
    ] {
        let authority = Authority::new();
        let secret = |name: &str| {
            let identity = authority.issue(&[name]);
            json!({ "name": "cert", "tls_certificate": {
                "certificate_chain": { "inline_string": identity.certificate },
                "private_key": { "inline_string": identity.key },
            } })
        };
        let stage = Stage::new(mode).await;
        let mut web = mode.web("web", stage.port.number());
        web["filter_chains"][0]["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": { "tls_certificate_sds_secret_configs": [
                    { "name": "cert", "sds_config": mode.source() },
                ] },
            },
        });
        stage.plane.set(LISTENER, vec![web]);
        stage.plane.set(SECRET, vec![secret("one.test")]);
        let scene = stage.start().await;
        let admin = scene.proxy.admin();
        let presented = |wanted: &'static str| {
            let port = scene.port.number();
            let authority = &authority;
            eventually("the certificate", move || async move {
                crate::scene::names_presented(port, authority, wanted).await
            })
        };
        let mut open = presented("one.test").await;
        open.echo().await;
        scene.plane.set(SECRET, vec![secret("two.test")]);
        let mut second = presented("two.test").await;
        second.echo().await;
        open.echo().await;
        admin.stat_reaches("sds.cert.update_success", 2).await;
        // One that cannot be used changes nothing.
        scene.plane.set(
            SECRET,
            vec![json!({ "name": "cert", "tls_certificate": {
            "certificate_chain": { "inline_string": "none" },
            "private_key": { "inline_string": "none" },
        } })],
        );
        scene
            .plane
            .asked_until("a NACK", SECRET, |all| {
                all.iter().any(|a| a.error.is_some())
            })
            .await;
        // Nor does one of another kind.
        scene.plane.set(
            SECRET,
            vec![json!({ "name": "cert", "validation_context": {} })],
        );
        let asked = scene
            .plane
            .asked_until("another NACK", SECRET, |all| {
                all.iter().filter(|a| a.error.is_some()).count() == 2
            })
            .await;
        if !crate::scene::is_another() {
            let errors: Vec<_> = asked.iter().filter_map(|a| a.error.as_deref()).collect();
            assert!(
                errors[1].contains("a tls_certificate is needed"),
                "{errors:?}"
            );
        }
        presented("two.test").await.echo().await;
        open.echo().await;
    }
}
