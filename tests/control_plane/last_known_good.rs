//! `--state-dir`: a start without a control plane, or without a file.
//!
//! Envoy has nothing of the kind.

use crate::common::config::{
    any_host, assignment, cluster, discovery, file_source, file_watched, http, listener, route,
};
use crate::common::{Home, Origin, Port, Proxy, client, eventually, json, with};
use crate::scene::{Scene, Stage, in_every_mode, is_another, routes};
use crate::server::{CLUSTER, ControlPlane, ENDPOINTS, LISTENER, Mode, ROUTES};
use crate::traffic::Traffic;

in_every_mode!(
    it_starts_without_a_control_plane,
    it_starts_with_a_silent_control_plane,
    live_data_is_not_kept_waiting,
);

/// A proxy that has served a whole site, with the arguments to start it again.
struct Served {
    scene: Scene,
    mode: Mode,
    state: String,
}

impl Served {
    async fn new(mode: Mode) -> Self {
        let stage = Stage::new(mode).await;
        let state = stage.home.text("state");
        let bootstrap = stage.bootstrap();
        let scene = stage.start_with(&bootstrap, &["--state-dir", &state]).await;
        scene.serves("x-mark", "first").await;
        let served = Self { scene, mode, state };
        served.kept(4).await;
        served
    }

    /// Waits until so many resources are kept.
    async fn kept(&self, count: u64) {
        let admin = self.scene.proxy.admin();
        admin
            .stat_until("state_dir.kept_resources", |n| n == count)
            .await;
    }

    async fn stop(&mut self) {
        self.scene.proxy.signal("TERM");
        self.scene.proxy.signal("TERM");
        self.scene.proxy.end().await;
    }

    /// Starts it again, until it is ready.
    async fn again(&mut self) {
        let bootstrap = self.mode.bootstrap(self.scene.plane.port());
        self.scene.proxy =
            Proxy::start(&self.scene.home, &bootstrap, &["--state-dir", &self.state]).await;
    }

    async fn stale(&self) -> u64 {
        let stale = self
            .scene
            .proxy
            .admin()
            .stat("state_dir.stale_resources")
            .await;
        stale.expect("a gauge")
    }
}

async fn it_starts_without_a_control_plane(mode: Mode) {
    if is_another() {
        return;
    }
    let mut served = Served::new(mode).await;
    served.stop().await;
    served.scene.plane.crash().await;
    let started = std::time::Instant::now();
    served.again().await;
    served.scene.serves("x-mark", "first").await;
    let took = started.elapsed();
    assert!(took.as_secs() < 5, "{took:?}");
    // A cluster, its endpoints, a listener, its routes.
    assert_eq!(served.stale().await, 4);
    let dump = served
        .scene
        .proxy
        .admin()
        .text("/config_dump?include_eds")
        .await;
    assert_eq!(
        dump.matches("stale, as an earlier run left in").count(),
        4,
        "{dump}"
    );
    let log = served.scene.proxy.log();
    assert!(log.contains("stale, as an earlier run left in"), "{log}");
    let home = served.scene.proxy.admin().text("/").await;
    assert!(home.contains("stale"), "{home}");
    // It comes back with something new, and takes something away.
    let traffic = Traffic::start(served.scene.port.number()).await;
    let plane = &mut served.scene.plane;
    plane.set(ROUTES, vec![routes("backend", "live")]);
    plane.come_back().await;
    served.scene.serves("x-mark", "live").await;
    let admin = served.scene.proxy.admin();
    admin
        .stat_until("state_dir.stale_resources", |n| n == 0)
        .await;
    eventually("the marks to go", || async {
        let dump = admin.text("/config_dump?include_eds").await;
        (!dump.contains("stale, as")).then_some(())
    })
    .await;
    traffic.lost_nothing().await;
}

async fn it_starts_with_a_silent_control_plane(mode: Mode) {
    if is_another() {
        return;
    }
    let mut served = Served::new(mode).await;
    served.stop().await;
    for type_url in [CLUSTER, ENDPOINTS, LISTENER, ROUTES] {
        served.scene.plane.mute(type_url);
    }
    served.again().await;
    served.scene.serves("x-mark", "first").await;
    assert_eq!(served.stale().await, 4);
    for type_url in [CLUSTER, ENDPOINTS, LISTENER, ROUTES] {
        served.scene.plane.unmute(type_url);
    }
    let admin = served.scene.proxy.admin();
    admin
        .stat_until("state_dir.stale_resources", |n| n == 0)
        .await;
    served.scene.serves("x-mark", "first").await;
}

/// With a control plane that answers, what is old is never served.
async fn live_data_is_not_kept_waiting(mode: Mode) {
    if is_another() {
        return;
    }
    let mut served = Served::new(mode).await;
    served.stop().await;
    served
        .scene
        .plane
        .set(ROUTES, vec![routes("backend", "second")]);
    served.again().await;
    let reply = client::get(served.scene.port.number(), "/").await;
    assert_eq!(reply.header("x-mark"), "second");
    assert_eq!(served.stale().await, 0);
    assert!(!served.scene.proxy.log().contains("stale, as"));
}

in_every_mode!(a_removal_is_remembered, what_is_gone_meanwhile_goes);

async fn a_removal_is_remembered(mode: Mode) {
    if is_another() {
        return;
    }
    let mut served = Served::new(mode).await;
    let second = Port::free();
    let plane = &served.scene.plane;
    plane.set(
        LISTENER,
        vec![
            mode.web("web", served.scene.port.number()),
            mode.web("second", second.number()),
        ],
    );
    served.kept(5).await;
    let plane = &served.scene.plane;
    plane.set(LISTENER, vec![mode.web("web", served.scene.port.number())]);
    served.kept(4).await;
    served.stop().await;
    served.scene.plane.crash().await;
    served.again().await;
    served.scene.serves("x-mark", "first").await;
    assert!(client::dial(second.number()).await.is_err(), "it is gone");
}

/// What the control plane took away while the proxy was down goes when it says
/// what there is.
async fn what_is_gone_meanwhile_goes(mode: Mode) {
    if is_another() {
        return;
    }
    let mut served = Served::new(mode).await;
    let second = Port::free();
    served.scene.plane.set(
        LISTENER,
        vec![
            mode.web("web", served.scene.port.number()),
            mode.web("second", second.number()),
        ],
    );
    served.kept(5).await;
    served.stop().await;
    served.scene.plane.crash().await;
    served.again().await;
    served.scene.serves("x-mark", "first").await;
    client::get_until(second.number(), "/", |reply| reply.status == 200).await;
    let plane = &mut served.scene.plane;
    plane.set(LISTENER, vec![mode.web("web", served.scene.port.number())]);
    plane.come_back().await;
    eventually("the second listener to go", || async {
        client::dial(second.number()).await.is_err().then_some(())
    })
    .await;
    served.kept(4).await;
    served.scene.serves("x-mark", "first").await;
}

/// What cannot be used any more does not come instead of what was good.
#[tokio::test]
async fn a_refused_resource_leaves_the_earlier_one() {
    if is_another() {
        return;
    }
    for mode in [crate::scene::SOTW_ADS, crate::scene::DELTA_ADS] {
        let mut served = Served::new(mode).await;
        served.stop().await;
        let plane = &served.scene.plane;
        plane.set(CLUSTER, vec![json!({ "name": "backend", "type": "EDS" })]);
        plane.set(
            ROUTES,
            vec![json!({
                "name": "routes",
                "virtual_hosts": [{ "name": "v", "domains": ["*", "*"] }],
            })],
        );
        served.again().await;
        served.scene.serves("x-mark", "first").await;
        let dump = served.scene.proxy.admin().text("/config_dump").await;
        assert!(dump.contains("error_state"), "{dump}");
        let plane = &served.scene.plane;
        plane.set(CLUSTER, vec![mode.eds("backend")]);
        plane.set(ROUTES, vec![routes("backend", "good again")]);
        served.scene.serves("x-mark", "good again").await;
        let admin = served.scene.proxy.admin();
        admin
            .stat_until("state_dir.stale_resources", |n| n == 0)
            .await;
    }
}

#[tokio::test]
async fn a_damaged_store_is_reported_and_ignored() {
    if is_another() {
        return;
    }
    let mode = crate::scene::SOTW_ADS;
    let mut served = Served::new(mode).await;
    served.stop().await;
    let path = served.scene.home.path("state/resources");
    let mut bytes = std::fs::read(&path).expect("the log");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&path, bytes).expect("write");
    served.again().await;
    served.scene.serves("x-mark", "first").await;
    let log = served.scene.proxy.log();
    assert!(log.contains("is damaged, and ignored"), "{log}");
    let admin = served.scene.proxy.admin();
    assert_eq!(admin.stat("state_dir.damaged").await, Some(1));
    // And begun anew.
    served.kept(4).await;
    served.stop().await;
    served.scene.plane.crash().await;
    served.again().await;
    served.scene.serves("x-mark", "first").await;
}

/// Killed at any moment, it has what was in force a moment before.
#[tokio::test]
async fn it_survives_a_kill() {
    if is_another() {
        return;
    }
    let mode = crate::scene::DELTA_ADS;
    let mut served = Served::new(mode).await;
    for turn in 0..3 {
        for change in 0..20 {
            let mark = format!("turn-{turn}-{change}");
            served
                .scene
                .plane
                .set(ROUTES, vec![routes("backend", &mark)]);
            tokio::task::yield_now().await;
        }
        served
            .scene
            .serves("x-mark", &format!("turn-{turn}-19"))
            .await;
        served.scene.proxy.signal("KILL");
        served.scene.proxy.end().await;
        served.scene.plane.crash().await;
        served.again().await;
        client::get_until(served.scene.port.number(), "/", |reply| {
            reply.status == 200 && reply.seen().origin == "one"
        })
        .await;
        served.scene.plane.come_back().await;
        served
            .scene
            .serves("x-mark", &format!("turn-{turn}-19"))
            .await;
    }
}

/// Files that are missing at the start, or cannot be read.
#[tokio::test]
async fn it_starts_without_its_files() {
    if is_another() {
        return;
    }
    for broken in [false, true] {
        let (home, port, origin) = (Home::new(), Port::free(), Origin::http("one").await);
        let eds = with(
            json!({ "name": "backend", "type": "EDS", "connect_timeout": "2s" }),
            json!({ "eds_cluster_config": { "eds_config": file_source(&home.text("eds.json")) } }),
        );
        let web = http(vec![any_host(vec![route("/", "backend")])]);
        let put = |clusters: Vec<serde_json::Value>| {
            home.mv_value("cds.json", &discovery(CLUSTER, clusters));
            home.mv_value(
                "lds.json",
                &discovery(LISTENER, vec![listener("web", port.number(), web.clone())]),
            );
            home.mv_value(
                "eds.json",
                &discovery(ENDPOINTS, vec![assignment("backend", &[origin.port()])]),
            );
        };
        put(vec![eds.clone(), cluster("other", &[1])]);
        let bootstrap = file_watched(&home.text("lds.json"), &home.text("cds.json"));
        let state = home.text("state");
        let args = ["--state-dir", state.as_str()];
        let mut proxy = Proxy::start(&home, &bootstrap, &args).await;
        client::get_until(port.number(), "/", |r| r.status == 200).await;
        proxy
            .admin()
            .stat_until("state_dir.kept_resources", |n| n == 4)
            .await;
        proxy.signal("TERM");
        proxy.signal("TERM");
        proxy.end().await;
        for name in ["cds.json", "lds.json", "eds.json"] {
            match broken {
                true => home.mv(name, "resources: ["),
                false => std::fs::remove_file(home.path(name)).expect("remove"),
            }
        }
        let mut proxy = Proxy::start(&home, &bootstrap, &args).await;
        client::get_until(port.number(), "/", |r| r.status == 200).await;
        let admin = proxy.admin();
        assert_eq!(admin.stat("state_dir.stale_resources").await, Some(4));
        // They come back, and one cluster is no more.
        put(vec![eds.clone()]);
        admin
            .stat_until("state_dir.stale_resources", |n| n == 0)
            .await;
        admin
            .stat_until("state_dir.kept_resources", |n| n == 3)
            .await;
        client::get_until(port.number(), "/", |r| r.status == 200).await;
        assert!(proxy.ended().is_none());
    }
}

/// Nothing kept, no control plane: as it is without the flag.
#[tokio::test]
async fn an_empty_directory_changes_nothing() {
    if is_another() {
        return;
    }
    let (home, plane) = (Home::new(), ControlPlane::start().await);
    let mode = crate::scene::SOTW_ADS;
    let state = home.text("state");
    let soon = json!({ "initial_fetch_timeout": "0.2s" });
    let patch = json!({ "dynamic_resources": { "lds_config": soon, "cds_config": soon } });
    let bootstrap = with(mode.bootstrap(plane.port()), patch);
    let proxy = Proxy::start(&home, &bootstrap, &["--state-dir", &state]).await;
    let admin = proxy.admin();
    assert_eq!(admin.stat("state_dir.stale_resources").await, Some(0));
    assert_eq!(
        admin.stat("cluster_manager.cds.init_fetch_timeout").await,
        Some(1)
    );
}
