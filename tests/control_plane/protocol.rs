//! What goes over the wire: acknowledgements, refusals, versions, nonces, names.

use crate::common::config::{answer, any_host, assignment, cluster};
use crate::common::{Value, eventually, json, with};
use crate::scene::{Scene, Stage, in_every_mode, is_another, routes};
use crate::server::{Answer, Asked, CLUSTER, ENDPOINTS, LISTENER, Mode, ROUTES, Variant, resource};

in_every_mode!(
    a_whole_site_is_pushed,
    every_answer_is_acknowledged,
    what_is_wrong_is_refused_and_the_rest_applied,
    what_is_taken_away_is_gone,
    the_node_is_told,
    a_missing_dependency_cures_a_refusal,
    the_dump_shows_versions,
    stats_are_counted,
);

async fn a_whole_site_is_pushed(mode: Mode) {
    let scene = Scene::start(mode).await;
    scene.reaches("one").await;
    // A new version of the routes.
    scene.plane.set(ROUTES, vec![routes("backend", "second")]);
    scene.serves("x-mark", "second").await;
    let streams = if mode.aggregated { 1 } else { 4 };
    assert_eq!(scene.plane.opened(), streams, "streams");
}

async fn every_answer_is_acknowledged(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    for type_url in [CLUSTER, ENDPOINTS, LISTENER, ROUTES] {
        let asked = plane
            .asked_until("an ACK", type_url, |all| all.iter().any(Asked::is_ack))
            .await;
        let first = &asked[0];
        assert_eq!((&*first.nonce, &*first.version), ("", ""), "{type_url}");
        let names: &[&str] = match type_url {
            ENDPOINTS => &["backend"],
            ROUTES => &["routes"],
            _ => &[],
        };
        // Delta may say that it wants all.
        let said: Vec<_> = first.names.iter().filter(|name| *name != "*").collect();
        assert_eq!(said, names, "{type_url}");
        let ack = asked.iter().find(|asked| asked.is_ack()).expect("an ACK");
        match mode.variant {
            Variant::Sotw => {
                assert_eq!(ack.version, "v1", "{type_url}");
                assert_eq!(ack.names, first.names, "{type_url}");
            }
            Variant::Delta => assert!(ack.names.is_empty(), "{type_url}: {:?}", ack.names),
        }
        assert!(
            asked.iter().all(|asked| asked.error.is_none()),
            "{type_url}"
        );
        let expected = match (mode.aggregated, type_url, mode.variant) {
            (true, _, Variant::Sotw) => {
                "discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
            }
            (true, _, Variant::Delta) => {
                "discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
            }
            (false, CLUSTER, Variant::Sotw) => "cluster.v3.ClusterDiscoveryService/StreamClusters",
            (false, CLUSTER, Variant::Delta) => "cluster.v3.ClusterDiscoveryService/DeltaClusters",
            (false, ENDPOINTS, Variant::Sotw) => {
                "endpoint.v3.EndpointDiscoveryService/StreamEndpoints"
            }
            (false, ENDPOINTS, Variant::Delta) => {
                "endpoint.v3.EndpointDiscoveryService/DeltaEndpoints"
            }
            (false, LISTENER, Variant::Sotw) => {
                "listener.v3.ListenerDiscoveryService/StreamListeners"
            }
            (false, LISTENER, Variant::Delta) => {
                "listener.v3.ListenerDiscoveryService/DeltaListeners"
            }
            (false, _, Variant::Sotw) => "route.v3.RouteDiscoveryService/StreamRoutes",
            (false, _, Variant::Delta) => "route.v3.RouteDiscoveryService/DeltaRoutes",
        };
        assert_eq!(first.method, format!("/envoy.service.{expected}"));
    }
    if mode.aggregated {
        // Clusters before listeners, for listeners refer to them.
        let all = plane.asked();
        let first = |type_url| all.iter().position(|asked| asked.type_url == type_url);
        assert!(first(CLUSTER) < first(ENDPOINTS));
        assert!(first(ENDPOINTS) < first(LISTENER));
        assert!(first(LISTENER) < first(ROUTES));
    }
}

async fn what_is_wrong_is_refused_and_the_rest_applied(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    // Of type EDS, and no source of endpoints.
    let bad = json!({ "name": "broken", "type": "EDS" });
    let good = cluster("added", &[scene.origin.port()]);
    plane.set(CLUSTER, vec![mode.eds("backend"), bad, good]);
    let asked = plane
        .asked_until("a NACK", CLUSTER, |all| {
            all.iter().any(|a| a.error.is_some())
        })
        .await;
    let nack = asked
        .into_iter()
        .find(|a| a.error.is_some())
        .expect("a NACK");
    let details = nack.error.unwrap_or_default();
    assert!(details.contains("broken"), "{details}");
    assert!(!details.contains("added"), "{details}");
    if mode.variant == Variant::Sotw {
        assert_eq!(nack.version, "v1", "what was in force");
    }
    // The good one is in force.
    plane.set(ROUTES, vec![routes("added", "added")]);
    scene.serves("x-mark", "added").await;
    assert_eq!(
        counted(&scene, "cluster_manager.cds.update_rejected").await,
        1
    );
    if !is_another() {
        let dump = scene.proxy.admin().json("/config_dump").await;
        assert!(error_of(&dump, "broken").is_some(), "{dump:#}");
    }
    // And put right, all is well.
    plane.set(
        CLUSTER,
        vec![
            mode.eds("backend"),
            cluster("broken", &[1]),
            cluster("added", &[scene.origin.port()]),
        ],
    );
    let last = if mode.variant == Variant::Sotw {
        "v3"
    } else {
        ""
    };
    plane
        .asked_until("an ACK", CLUSTER, |all| {
            all.last().is_some_and(|a| a.is_ack() && a.version == last)
        })
        .await;
    let dump = scene.proxy.admin().json("/config_dump").await;
    assert_eq!(error_of(&dump, "broken"), None);
}

/// `error_state.details` of a cluster.
fn error_of(dump: &Value, name: &str) -> Option<String> {
    let configs = dump["configs"].as_array()?;
    let clusters = configs
        .iter()
        .filter_map(|config| config["dynamic_active_clusters"].as_array())
        .chain(
            configs
                .iter()
                .filter_map(|config| config["dynamic_warming_clusters"].as_array()),
        )
        .flatten();
    for cluster in clusters {
        let named = cluster["cluster"]["name"] == name
            || cluster["name"] == name
            || cluster["error_state"]["failed_configuration"]["name"] == name;
        if let (true, Some(details)) = (named, cluster["error_state"]["details"].as_str()) {
            return Some(details.to_owned());
        }
    }
    None
}

async fn counted(scene: &Scene, name: &str) -> u64 {
    scene.proxy.admin().stat(name).await.unwrap_or_default()
}

async fn what_is_taken_away_is_gone(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let others = vec![mode.eds("backend"), cluster("other", &[1])];
    plane.set(CLUSTER, others);
    let admin = scene.proxy.admin();
    let text = |wanted: bool| async move {
        eventually("the cluster to come and go", || async move {
            let text = admin.text("/clusters").await;
            (text.contains("other::") == wanted).then_some(())
        })
        .await;
    };
    text(true).await;
    plane.set(CLUSTER, vec![mode.eds("backend")]);
    text(false).await;
    // No endpoints in an answer mean nothing in the state of the world.
    plane.set(ENDPOINTS, vec![]);
    scene.reaches("one").await;
    plane.set(LISTENER, vec![]);
    admin
        .stat_until("listener_manager.total_listeners_active", |n| n == 0)
        .await;
    admin
        .stat_reaches("listener_manager.listener_removed", 1)
        .await;
}

async fn the_node_is_told(mode: Mode) {
    let scene = Scene::start(mode).await;
    let asked = scene.plane.asked();
    let node = asked[0]
        .node
        .clone()
        .expect("the node comes with the first request");
    assert_eq!((&*node.id, &*node.cluster), ("test-node", "test-cluster"));
    let locality = node.locality.expect("a locality");
    assert_eq!((&*locality.region, &*locality.zone), ("r", "z"));
    let metadata = node.metadata.expect("metadata").fields;
    assert!(metadata.contains_key("role"));
    assert!(!node.user_agent_name.is_empty());
    assert!(node.user_agent_version_type.is_some());
    let cors = node
        .extensions
        .iter()
        .find(|e| e.name == "envoy.filters.http.cors");
    let cors = cors.expect("an extension that there is");
    assert_eq!(
        (&*cors.category, cors.disabled),
        ("envoy.filters.http", false)
    );
    assert_eq!(
        cors.type_urls,
        [
            "envoy.extensions.filters.http.cors.v3.Cors",
            "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        ]
    );
    for stream in 1..=scene.plane.opened() {
        let of_stream: Vec<_> = asked.iter().filter(|a| a.stream == stream).collect();
        assert!(of_stream[0].node.is_some(), "stream {stream}");
        let later = of_stream[1..].iter().filter(|a| a.node.is_some()).count();
        // It goes with each, unless told otherwise.
        assert_eq!(later, of_stream.len() - 1, "stream {stream}");
    }
}

/// Envoy waits until it is pushed again; see the README.
async fn a_missing_dependency_cures_a_refusal(mode: Mode) {
    if is_another() {
        return;
    }
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let strict = with(routes("late", "late"), json!({ "validate_clusters": true }));
    plane.set(ROUTES, vec![strict]);
    let asked = plane
        .asked_until("a NACK", ROUTES, |all| {
            all.iter().any(|a| a.error.is_some())
        })
        .await;
    let error = asked
        .last()
        .and_then(|a| a.error.clone())
        .unwrap_or_default();
    assert!(error.contains("late"), "{error}");
    scene.serves("x-mark", "first").await;
    plane.set(
        CLUSTER,
        vec![mode.eds("backend"), cluster("late", &[scene.origin.port()])],
    );
    scene.serves("x-mark", "late").await;
}

async fn the_dump_shows_versions(mode: Mode) {
    let scene = Scene::start(mode).await;
    let dump = scene.proxy.admin().json("/config_dump?include_eds").await;
    let configs = dump["configs"].as_array().expect("configs");
    let find = |list: &str| {
        let lists = configs.iter().filter_map(|config| config[list].as_array());
        lists
            .flatten()
            .next()
            .unwrap_or_else(|| panic!("no {list}: {dump:#}"))
            .clone()
    };
    let version = if mode.variant == Variant::Sotw {
        "v1"
    } else {
        "1"
    };
    for list in ["dynamic_active_clusters", "dynamic_route_configs"] {
        let entry = find(list);
        assert_eq!(entry["version_info"], version, "{list}: {entry:#}");
        assert!(entry["last_updated"].is_string(), "{list}");
    }
    let listener = find("dynamic_listeners");
    assert_eq!(listener["active_state"]["version_info"], version);
    if mode.variant == Variant::Sotw || !is_another() {
        let of_clusters = configs
            .iter()
            .find(|c| c["dynamic_active_clusters"].is_array());
        assert_eq!(of_clusters.expect("clusters")["version_info"], "v1");
    }
}

async fn stats_are_counted(mode: Mode) {
    let stage = Stage::new(mode).await;
    stage.plane.identify("plane one");
    let scene = stage.start().await;
    scene.serves("x-mark", "first").await;
    let admin = scene.proxy.admin();
    for prefix in [
        "cluster_manager.cds",
        "listener_manager.lds",
        "http.ingress.rds.routes",
        "cluster.backend",
    ] {
        admin
            .stat_reaches(&format!("{prefix}.update_success"), 1)
            .await;
        for (name, value) in [
            ("update_rejected", 0),
            ("update_failure", 0),
            ("init_fetch_timeout", 0),
        ] {
            let name = format!("{prefix}.{name}");
            assert_eq!(admin.stat(&name).await, Some(value), "{name}");
        }
        assert!(
            admin.stat(&format!("{prefix}.version")).await > Some(0),
            "{prefix}"
        );
        assert!(
            admin.stat(&format!("{prefix}.update_time")).await > Some(0),
            "{prefix}"
        );
        let attempts = admin.stat(&format!("{prefix}.update_attempt")).await;
        assert!(attempts >= Some(1), "{prefix}: {attempts:?}");
    }
    let all = admin.text("/stats").await;
    assert!(
        all.contains("cluster_manager.cds.version_text: \"v1\""),
        "{all}"
    );
    // Histograms are shown once they have been gathered.
    eventually("how long updates took", || async {
        let shown = admin.text("/stats?filter=cds.update_duration").await;
        shown.contains("update_duration: P0(").then_some(())
    })
    .await;
    let prefix = if mode.aggregated {
        "control_plane"
    } else {
        "cluster_manager.cds.control_plane"
    };
    let mut texts = all
        .lines()
        .filter(|line| line.contains("control_plane.identifier"));
    let named = texts.any(|line| line.ends_with("\"plane one\""));
    assert!(named, "{prefix}:\n{all}");
    let connected = all
        .lines()
        .filter(|line| line.contains("control_plane.connected_state"));
    assert!(connected.clone().count() > 0, "{all}");
    assert!(connected.clone().all(|line| line.ends_with(": 1")), "{all}");
}

in_every_mode!(a_stale_nonce_is_not_sent, names_follow_what_is_needed);

async fn a_stale_nonce_is_not_sent(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    let clusters = [mode.eds("backend"), cluster("more", &[1])];
    let resources = clusters
        .iter()
        .map(|c| resource(CLUSTER, c))
        .collect::<Vec<_>>();
    let answer = Answer {
        version: "by-hand".to_owned(),
        type_url: CLUSTER.to_owned(),
        resources: resources
            .into_iter()
            .map(|mut r| {
                r.version = "by-hand".to_owned();
                r
            })
            .collect(),
        ..Answer::default()
    };
    let first = plane.send(CLUSTER, answer.clone());
    let second = plane.send(
        CLUSTER,
        Answer {
            version: "again".to_owned(),
            ..answer
        },
    );
    assert_eq!(plane.verdict(CLUSTER, &first).await, None);
    assert_eq!(plane.verdict(CLUSTER, &second).await, None);
    let asked = plane.asked_of(CLUSTER);
    let (one, two) = (&asked[asked.len() - 2], &asked[asked.len() - 1]);
    assert_eq!(
        (&one.nonce, &two.nonce),
        (&first, &second),
        "in the order of the answers"
    );
    if mode.variant == Variant::Sotw {
        assert_eq!((&*one.version, &*two.version), ("by-hand", "again"));
    }
}

async fn names_follow_what_is_needed(mode: Mode) {
    let scene = Scene::start(mode).await;
    let plane = &scene.plane;
    plane.set(
        ENDPOINTS,
        vec![
            assignment("backend", &[scene.origin.port()]),
            assignment("second", &[scene.origin.port()]),
        ],
    );
    plane.set(CLUSTER, vec![mode.eds("backend"), mode.eds("second")]);
    let subscribed = |all: &[Asked], wanted: &[&str]| {
        let last = all.iter().rev().find(|a| !a.names.is_empty());
        let names = last.map(|a| a.names.clone()).unwrap_or_default();
        match mode.variant {
            Variant::Sotw if mode.aggregated => {
                let mut names = names;
                names.sort();
                names == wanted
            }
            // A subscription of its own for each cluster.
            _ => all
                .iter()
                .any(|a| a.names.iter().any(|n| n == wanted[wanted.len() - 1])),
        }
    };
    plane
        .asked_until("the second's endpoints to be asked", ENDPOINTS, |all| {
            subscribed(all, &["backend", "second"])
        })
        .await;
    plane.set(ROUTES, vec![routes("second", "second")]);
    scene.serves("x-mark", "second").await;
    plane.set(
        ROUTES,
        vec![json!({
            "name": "routes",
            "virtual_hosts": [any_host(vec![answer("/", 200, "direct")])],
            "response_headers_to_add": [{ "header": { "key": "x-mark", "value": "direct" } }],
        })],
    );
    scene.serves("x-mark", "direct").await;
    plane.set(CLUSTER, vec![mode.eds("backend")]);
    if mode.aggregated {
        plane
            .asked_until("the second's endpoints to be given up", ENDPOINTS, |all| {
                let last = all.last().expect("some");
                match mode.variant {
                    Variant::Sotw => last.names == ["backend"],
                    Variant::Delta => all.iter().any(|a| a.unsubscribed == ["second"]),
                }
            })
            .await;
    }
}
