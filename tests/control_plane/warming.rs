//! Order and warming: make before break, under load.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::common::client::{get, get_until};
use crate::common::config::{answer, any_host, assignment, http, listener};
use crate::common::{Origin, Port, Program, eventually, json, with};
use crate::scene::{Scene, Stage, in_every_mode, is_another, routes, routes_of};
use crate::server::{Asked, CLUSTER, ENDPOINTS, LISTENER, Mode, ROUTES};
use crate::traffic::Traffic;

in_every_mode!(
    twenty_replacements_of_cluster_and_route_lose_nothing,
    fifty_changes_of_endpoints_lose_nothing,
    a_cluster_waits_for_its_endpoints,
    what_warms_is_acknowledged_when_it_has,
    a_listener_waits_for_its_routes,
    an_answer_that_never_comes_is_given_up,
);

/// A cluster, its endpoints and the route to it, all new; then the old ones are
/// taken away. As a control plane does: clusters first, removals last.
async fn twenty_replacements_of_cluster_and_route_lose_nothing(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let mut origins = Vec::new();
    for turn in 0..20 {
        origins.push(Origin::http(&turn.to_string()).await);
    }
    let traffic = Traffic::start(scene.port.number()).await;
    let mut old = ("backend".to_owned(), scene.origin.port());
    for (turn, origin) in origins.iter().enumerate() {
        let new = (format!("cluster-{turn}"), origin.port());
        plane.set(CLUSTER, vec![mode.eds(&old.0), mode.eds(&new.0)]);
        plane.set(
            ENDPOINTS,
            vec![assignment(&old.0, &[old.1]), assignment(&new.0, &[new.1])],
        );
        if is_another() {
            // Envoy follows a route to a cluster that has no endpoints yet.
            let admin = scene.proxy.admin();
            admin
                .stat_reaches(&format!("cluster.{}.membership_total", new.0), 1)
                .await;
        }
        plane.set(ROUTES, vec![routes(&new.0, &new.0)]);
        scene.serves("x-mark", &new.0).await;
        scene.reaches(&turn.to_string()).await;
        // In flight on the old route when it goes.
        traffic.more(5).await;
        plane.set(CLUSTER, vec![mode.eds(&new.0)]);
        plane.set(ENDPOINTS, vec![assignment(&new.0, &[new.1])]);
        old = new;
    }
    traffic.more(20).await;
    traffic.lost_nothing().await;
}

in_every_mode!(twenty_replacements_in_one_go_lose_nothing);

/// As a snapshot cache does: the old cluster is gone from the very answer that
/// brings the new one, and the routes come after it.
async fn twenty_replacements_in_one_go_lose_nothing(mode: Mode) {
    if is_another() {
        return;
    }
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let other = Origin::http("two").await;
    let traffic = Traffic::start(scene.port.number()).await;
    for turn in 0..20 {
        let (name, port) = (
            format!("cluster-{turn}"),
            [scene.origin.port(), other.port()][turn % 2],
        );
        plane.set(CLUSTER, vec![mode.eds(&name)]);
        plane.set(ENDPOINTS, vec![assignment(&name, &[port])]);
        traffic.more(3).await;
        plane.set(ROUTES, vec![routes(&name, &name)]);
        scene.serves("x-mark", &name).await;
    }
    let admin = scene.proxy.admin();
    // What nobody is led to any more is gone.
    eventually("the old cluster to go", || async {
        let clusters = admin.text("/clusters").await;
        (!clusters.contains("cluster-18::")).then_some(())
    })
    .await;
    traffic.lost_nothing().await;
}

in_every_mode!(what_is_taken_away_serves_for_a_while_only);

/// A cluster that is taken away although routes lead to it.
async fn what_is_taken_away_serves_for_a_while_only(mode: Mode) {
    let scene = Scene::start(mode).await;
    scene.plane.set(CLUSTER, vec![]);
    crate::common::client::get_until(scene.port.number(), "/", |reply| reply.status == 503).await;
}

in_every_mode!(routes_wait_for_a_cluster_that_warms);

/// Routes to a cluster whose endpoints do not come are held back, for as long as
/// the cluster itself is awaited; what was there before serves.
async fn routes_wait_for_a_cluster_that_warms(mode: Mode) {
    if is_another() {
        return;
    }
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let traffic = Traffic::start(scene.port.number()).await;
    plane.mute(ENDPOINTS);
    plane.set(CLUSTER, vec![mode.eds("backend"), mode.eds("slow")]);
    let admin = scene.proxy.admin();
    admin
        .stat_until("cluster_manager.warming_clusters", |n| n == 1)
        .await;
    plane.set(ROUTES, vec![routes("slow", "slow")]);
    admin
        .stat_reaches("http.ingress.rds.routes.update_success", 2)
        .await;
    traffic.more(20).await;
    scene.serves("x-mark", "first").await;
    plane.unmute(ENDPOINTS);
    plane.set(
        ENDPOINTS,
        vec![
            assignment("backend", &[scene.origin.port()]),
            assignment("slow", &[scene.origin.port()]),
        ],
    );
    scene.serves("x-mark", "slow").await;
    traffic.lost_nothing().await;
}

async fn fifty_changes_of_endpoints_lose_nothing(mode: Mode) {
    let scene = Scene::start(mode).await;
    let (kept, one, two) = (
        Origin::http("kept").await,
        Origin::http("1").await,
        Origin::http("2").await,
    );
    let traffic = Traffic::start(scene.port.number()).await;
    for turn in 0..50 {
        let other = [&one, &two][turn % 2];
        let endpoints = assignment("backend", &[kept.port(), other.port()]);
        scene.plane.set(ENDPOINTS, vec![endpoints]);
        traffic.more(4).await;
    }
    scene
        .proxy
        .admin()
        .stat_reaches("cluster.backend.update_success", 25)
        .await;
    scene.reaches("2").await;
    let requests = traffic.requests();
    traffic.lost_nothing().await;
    // The host that stayed kept its connections: one for each request that was
    // in flight at once and worker, not new ones for each change.
    assert!(
        kept.connections() <= 2 * 8,
        "{} connections for {requests} requests",
        kept.connections()
    );
}

async fn a_cluster_waits_for_its_endpoints(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    plane.mute(ENDPOINTS);
    plane.set(CLUSTER, vec![mode.eds("backend"), mode.eds("slow")]);
    let admin = scene.proxy.admin();
    admin
        .stat_until("cluster_manager.warming_clusters", |n| n == 1)
        .await;
    if !is_another() {
        // Envoy tells this of listeners only.
        let waits = admin.text("/init_dump").await;
        assert!(waits.contains("slow"), "{waits}");
    }
    // The others go on.
    scene.reaches("one").await;
    plane.unmute(ENDPOINTS);
    plane.set(
        ENDPOINTS,
        vec![
            assignment("backend", &[scene.origin.port()]),
            assignment("slow", &[scene.origin.port()]),
        ],
    );
    admin
        .stat_until("cluster_manager.warming_clusters", |n| n == 0)
        .await;
    plane.set(ROUTES, vec![routes("slow", "slow")]);
    scene.serves("x-mark", "slow").await;
}

/// So that a server which waits for it sends only then what leads there.
async fn what_warms_is_acknowledged_when_it_has(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let acks = |all: &[Asked]| all.iter().filter(|asked| asked.is_ack()).count();
    plane.mute(ENDPOINTS);
    plane.set(CLUSTER, vec![mode.eds("backend"), mode.eds("slow")]);
    scene
        .proxy
        .admin()
        .stat_until("cluster_manager.warming_clusters", |n| n == 1)
        .await;
    if mode.aggregated {
        plane
            .asked_until("an ACK", LISTENER, |all| acks(all) == 1)
            .await;
        let web = mode.web("web", scene.port.number());
        plane.set(LISTENER, vec![with(web, json!({ "stat_prefix": "other" }))]);
        plane
            .asked_until("the listener's ACK", LISTENER, |all| acks(all) == 2)
            .await;
        assert_eq!(acks(&plane.asked_of(CLUSTER)), 1, "what warms");
    } else {
        // Nothing that leads to it would come by the same stream.
        plane
            .asked_until("an ACK at once", CLUSTER, |all| acks(all) == 2)
            .await;
    }
    plane.unmute(ENDPOINTS);
    plane.set(
        ENDPOINTS,
        vec![
            assignment("backend", &[scene.origin.port()]),
            assignment("slow", &[scene.origin.port()]),
        ],
    );
    plane
        .asked_until("an ACK of what has warmed", CLUSTER, |all| acks(all) == 2)
        .await;
}

async fn a_listener_waits_for_its_routes(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let traffic = Traffic::start(scene.port.number()).await;
    let port = scene.port.number();
    plane.mute(ROUTES);
    plane.set(LISTENER, vec![mode.web_of("web", port, "others")]);
    let admin = scene.proxy.admin();
    admin
        .stat_until("listener_manager.total_listeners_warming", |n| n == 1)
        .await;
    traffic.more(10).await;
    scene.serves("x-mark", "first").await;
    plane.unmute(ROUTES);
    plane.set(
        ROUTES,
        vec![
            routes("backend", "first"),
            routes_of("others", "backend", "others"),
        ],
    );
    scene.serves("x-mark", "others").await;
    admin
        .stat_until("listener_manager.total_listeners_warming", |n| n == 0)
        .await;
    if !is_another() {
        // Envoy drains the connections of a replaced listener.
        traffic.lost_nothing().await;
    }
}

in_every_mode!(a_listener_that_warms_refuses_connections);

/// Its address is taken, but nobody listens there yet.
async fn a_listener_that_warms_refuses_connections(mode: Mode) {
    let scene = Scene::start(mode).await;
    let (plane, admin) = (&scene.plane, scene.proxy.admin());
    let late = Port::free();
    plane.mute(ROUTES);
    let web = mode.web("web", scene.port.number());
    let listener = mode.web_of("late", late.number(), "others");
    plane.set(LISTENER, vec![web, listener]);
    admin
        .stat_until("listener_manager.total_listeners_warming", |n| n == 1)
        .await;
    assert!(is_refused(late.number()).await);
    plane.unmute(ROUTES);
    plane.set(
        ROUTES,
        vec![
            routes("backend", "first"),
            routes_of("others", "backend", "others"),
        ],
    );
    get_until(late.number(), "/", |reply| {
        reply.header("x-mark") == "others"
    })
    .await;
}

in_every_mode!(no_listener_takes_connections_before_the_start_is_over);

/// Not even one that has all it needs.
async fn no_listener_takes_connections_before_the_start_is_over(mode: Mode) {
    let stage = Stage::new(mode).await;
    let (plane, port, early) = (&stage.plane, stage.port.number(), Port::free());
    plane.mute(ROUTES);
    let has_all = listener(
        "early",
        early.number(),
        http(vec![any_host(vec![answer("/", 200, "early")])]),
    );
    plane.set(LISTENER, vec![mode.web("web", port), has_all]);
    let mut proxy = Program::under_test().launch(&stage.home, &stage.bootstrap(), &[]);
    let admin = proxy.admin_address().await;
    admin
        .stat_reaches("listener_manager.listener_added", 2)
        .await;
    assert!(is_refused(early.number()).await);
    assert!(is_refused(port).await);
    plane.unmute(ROUTES);
    proxy.ready().await;
    assert_eq!(get(early.number(), "/").await.text(), "early");
    assert_eq!(get(port, "/").await.header("x-mark"), "first");
}

async fn is_refused(port: u16) -> bool {
    let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

async fn an_answer_that_never_comes_is_given_up(mode: Mode) {
    let stage = Stage::new(mode).await;
    stage.plane.mute(ENDPOINTS);
    stage.plane.mute(ROUTES);
    let soon = json!({ "initial_fetch_timeout": "0.3s" });
    let cluster = with(
        mode.eds("backend"),
        json!({ "eds_cluster_config": { "eds_config": soon } }),
    );
    stage.plane.set(CLUSTER, vec![cluster]);
    let mut web = mode.web("web", stage.port.number());
    let filter = &mut web["filter_chains"][0]["filters"][0]["typed_config"];
    filter["rds"]["config_source"]["initial_fetch_timeout"] = json!("0.3s");
    stage.plane.set(LISTENER, vec![web]);
    let scene = stage.start().await;
    let admin = scene.proxy.admin();
    admin
        .stat_reaches("cluster.backend.init_fetch_timeout", 1)
        .await;
    admin
        .stat_reaches("http.ingress.rds.routes.init_fetch_timeout", 1)
        .await;
    let port = scene.port.number();
    let reply = eventually("the listener", || async {
        let request = crate::common::client::request("GET", "example.com", "/");
        crate::common::client::once(port, request).await.ok()
    })
    .await;
    assert_eq!(reply.status, 404, "no routes");
    scene.plane.unmute(ENDPOINTS);
    scene.plane.unmute(ROUTES);
    scene.plane.set(
        ENDPOINTS,
        vec![assignment("backend", &[scene.origin.port()])],
    );
    scene.plane.set(ROUTES, vec![routes("backend", "first")]);
    scene.serves("x-mark", "first").await;
}

in_every_mode!(everything_at_once_takes_effect);

/// A listener on routes to a cluster, all of them new, in the wrong order.
async fn everything_at_once_takes_effect(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let (origin, port) = (Origin::http("two").await, crate::common::Port::free());
    plane.set(
        LISTENER,
        vec![
            mode.web("web", scene.port.number()),
            mode.web_of("second", port.number(), "others"),
        ],
    );
    plane.set(
        ROUTES,
        vec![
            routes("backend", "first"),
            routes_of("others", "second", "others"),
        ],
    );
    plane.set(
        ENDPOINTS,
        vec![
            assignment("backend", &[scene.origin.port()]),
            assignment("second", &[origin.port()]),
        ],
    );
    plane.set(CLUSTER, vec![mode.eds("backend"), mode.eds("second")]);
    crate::common::client::get_until(port.number(), "/", |reply| {
        reply.status == 200 && reply.seen().origin == "two"
    })
    .await;
    scene.reaches("one").await;
}

in_every_mode!(a_slow_and_contradictory_control_plane_loses_nothing);

/// Every answer is late, and each second one says something impossible.
async fn a_slow_and_contradictory_control_plane_loses_nothing(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let traffic = Traffic::start(scene.port.number()).await;
    let port = scene.port.number();
    for turn in 0..10 {
        let bad_cluster = json!({ "name": "backend", "type": "EDS" });
        // No source of endpoints, no filter chain, no domain.
        plane.set(
            CLUSTER,
            vec![with(bad_cluster, json!({ "connect_timeout": "-1s" }))],
        );
        plane.set(
            LISTENER,
            vec![with(
                mode.web("web", port),
                json!({ "filter_chains": [{ "filters": [{ "name": "nothing" }] }] }),
            )],
        );
        plane.set(ROUTES, vec![json!({ "name": "routes", "virtual_hosts": [{ "name": "v", "domains": ["*", "*"] }] })]);
        plane.set(
            ENDPOINTS,
            vec![json!({ "cluster_name": "backend", "endpoints": [{ "priority": 200 }] })],
        );
        traffic.more(5).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        plane.set(CLUSTER, vec![mode.eds("backend")]);
        plane.set(LISTENER, vec![mode.web("web", port)]);
        plane.set(ROUTES, vec![routes("backend", &format!("turn-{turn}"))]);
        plane.set(
            ENDPOINTS,
            vec![assignment("backend", &[scene.origin.port()])],
        );
        scene.serves("x-mark", &format!("turn-{turn}")).await;
    }
    for type_url in [CLUSTER, LISTENER, ROUTES, ENDPOINTS] {
        let nacks = plane.asked_of(type_url);
        let nacks = nacks.iter().filter(|asked| asked.error.is_some()).count();
        assert!(nacks > 0, "{type_url} was never refused");
    }
    traffic.lost_nothing().await;
}

/// A cluster that changes keeps its hosts and their connections.
#[tokio::test]
async fn a_changed_cluster_keeps_its_connections() {
    if is_another() {
        return;
    }
    let mode = crate::scene::SOTW_ADS;
    let scene = Scene::start(mode).await;
    let traffic = Traffic::start(scene.port.number()).await;
    traffic.more(20).await;
    for turn in 0..10 {
        let changed = json!({ "connect_timeout": format!("{}s", 3 + turn) });
        scene
            .plane
            .set(CLUSTER, vec![with(mode.eds("backend"), changed)]);
        traffic.more(10).await;
    }
    traffic.lost_nothing().await;
    assert!(
        scene.origin.connections() <= 2 * 8,
        "{}",
        scene.origin.connections()
    );
}
