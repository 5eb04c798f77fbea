//! Configuration in files that are moved into place.

use crate::common::client::{get_until, request};
use crate::common::config::{
    CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, answer, any_host, assignment, bootstrap, cluster,
    discovery, file_source, file_watched, http, http_with, listener, route, tcp, typed,
};
use crate::common::tls::Authority;
use crate::common::{
    DEADLINE, H1, Home, Origin, Port, Proxy, Value, client, eventually, get, json, with,
};
use std::time::{Duration, Instant};

/// A listener that answers everything with `text`.
fn speaking(name: &str, port: &Port, text: &str) -> Value {
    listener(
        name,
        port.number(),
        http(vec![any_host(vec![answer("/", 200, text)])]),
    )
}

/// A proxy that reads `lds.yaml` and `cds.yaml` of `home`.
async fn start(home: &Home, listeners: Vec<Value>, clusters: Vec<Value>) -> Proxy {
    home.mv_value("lds.yaml", &discovery(LISTENER, listeners));
    home.mv_value("cds.yaml", &discovery(CLUSTER, clusters));
    let bootstrap = file_watched(&home.text("lds.yaml"), &home.text("cds.yaml"));
    Proxy::start(home, &bootstrap, &["--drain-time-s", "1"]).await
}

/// Repeats a GET until the answer is `text`.
async fn says(port: &Port, text: &str) {
    get_until(port.number(), "/", |reply| reply.text() == text).await;
}

#[tokio::test]
async fn a_moved_listener_file_takes_effect() {
    let (home, port) = (Home::new(), Port::free());
    let proxy = start(&home, vec![speaking("main", &port, "one")], vec![]).await;
    assert_eq!(get(port.number(), "/").await.text(), "one");
    home.mv_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("main", &port, "two")]),
    );
    says(&port, "two").await;
    let admin = proxy.admin();
    admin
        .stat_reaches("listener_manager.lds.update_success", 2)
        .await;
    assert_eq!(
        admin.stat("listener_manager.lds.update_rejected").await,
        Some(0)
    );
    assert_eq!(
        admin.stat("listener_manager.listener_modified").await,
        Some(1)
    );
}

#[tokio::test]
async fn a_move_takes_effect_within_a_tenth_of_a_second() {
    let (home, port) = (Home::new(), Port::free());
    let _proxy = start(&home, vec![speaking("main", &port, "0")], vec![]).await;
    let mut times = Vec::new();
    for turn in 1..=9 {
        let text = turn.to_string();
        home.mv_value(
            "lds.yaml",
            &discovery(LISTENER, vec![speaking("main", &port, &text)]),
        );
        let moved = Instant::now();
        says(&port, &text).await;
        times.push(moved.elapsed());
    }
    times.sort();
    assert!(
        times[4] < Duration::from_millis(100),
        "the median of {times:?}"
    );
}

#[tokio::test]
async fn listeners_come_and_go() {
    let (home, first, second) = (Home::new(), Port::free(), Port::free());
    let proxy = start(&home, vec![speaking("first", &first, "first")], vec![]).await;
    let both = vec![
        speaking("first", &first, "first"),
        speaking("second", &second, "second"),
    ];
    home.mv_value("lds.yaml", &discovery(LISTENER, both));
    says(&second, "second").await;
    says(&first, "first").await;
    home.mv_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("second", &second, "second")]),
    );
    eventually("the port to close", || async {
        client::dial(first.number()).await.is_err().then_some(())
    })
    .await;
    says(&second, "second").await;
    let admin = proxy.admin();
    assert_eq!(admin.stat("listener_manager.listener_added").await, Some(2));
    assert_eq!(
        admin.stat("listener_manager.listener_removed").await,
        Some(1)
    );
    admin
        .stat_until("listener_manager.total_listeners_active", |value| {
            value == 1
        })
        .await;
    home.mv_value("lds.yaml", &discovery(LISTENER, vec![]));
    eventually("the other port to close", || async {
        client::dial(second.number()).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_listener_may_move_to_another_port() {
    let (home, first, second) = (Home::new(), Port::free(), Port::free());
    let _proxy = start(&home, vec![speaking("main", &first, "first")], vec![]).await;
    says(&first, "first").await;
    home.mv_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("main", &second, "second")]),
    );
    says(&second, "second").await;
    eventually("the old port to close", || async {
        client::dial(first.number()).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn clusters_come_and_go() {
    let (home, port) = (Home::new(), Port::free());
    let (a, b) = (Origin::http("a").await, Origin::http("b").await);
    let routed = listener(
        "main",
        port.number(),
        http(vec![any_host(vec![
            json!({ "match": { "prefix": "/" }, "route": { "cluster_header": "x-cluster" } }),
        ])]),
    );
    let proxy = start(&home, vec![routed], vec![cluster("a", &[a.port()])]).await;
    let ask = async |name: &str| {
        let request = client::header(request("GET", "x", "/"), "x-cluster", name);
        client::once(port.number(), request)
            .await
            .expect("a response")
    };
    assert_eq!(ask("a").await.seen().origin, "a");
    assert_eq!(ask("b").await.status, 503);

    let both = vec![cluster("a", &[a.port()]), cluster("b", &[b.port()])];
    home.mv_value("cds.yaml", &discovery(CLUSTER, both));
    eventually("cluster b", || async {
        (ask("b").await.status == 200).then_some(())
    })
    .await;
    home.mv_value(
        "cds.yaml",
        &discovery(CLUSTER, vec![cluster("b", &[b.port()])]),
    );
    eventually("cluster a to go", || async {
        (ask("a").await.status == 503).then_some(())
    })
    .await;
    // The other origin under the same name.
    home.mv_value(
        "cds.yaml",
        &discovery(CLUSTER, vec![cluster("b", &[a.port()])]),
    );
    eventually("cluster b to change", || async {
        (ask("b").await.seen().origin == "a").then_some(())
    })
    .await;
    let admin = proxy.admin();
    for (name, value) in [
        ("cluster_manager.cluster_added", 2),
        ("cluster_manager.cluster_removed", 1),
        ("cluster_manager.cluster_modified", 1),
        ("cluster_manager.active_clusters", 1),
    ] {
        admin.stat_until(name, |found| found == value).await;
    }
}

#[tokio::test]
async fn only_a_move_counts() {
    let (home, port) = (Home::new(), Port::free());
    let _proxy = start(&home, vec![speaking("main", &port, "one")], vec![]).await;
    home.write_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("main", &port, "edited")]),
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(get(port.number(), "/").await.text(), "one");
    home.mv_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("main", &port, "moved")]),
    );
    says(&port, "moved").await;
}

#[tokio::test]
async fn an_equal_file_changes_nothing() {
    let (home, port) = (Home::new(), Port::free());
    let proxy = start(&home, vec![speaking("main", &port, "one")], vec![]).await;
    let mut connection = H1::connect(port.number()).await.expect("a connection");
    connection
        .send(request("GET", "a", "/"))
        .await
        .expect("a response");
    home.mv_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("main", &port, "one")]),
    );
    let admin = proxy.admin();
    admin
        .stat_reaches("listener_manager.lds.update_attempt", 2)
        .await;
    admin
        .stat_reaches("listener_manager.lds.update_success", 2)
        .await;
    assert_eq!(
        admin.stat("listener_manager.listener_modified").await,
        Some(0)
    );
    let reply = connection
        .send(request("GET", "a", "/"))
        .await
        .expect("a response");
    assert_eq!((&*reply.text(), reply.header("connection")), ("one", ""));
}

#[tokio::test]
async fn files_may_be_json_yaml_or_text_protobuf() {
    for (name, text) in [
        (
            "cds.json",
            r#"{"resources": [TYPED]}"#.replace("TYPED", JSON_CLUSTER),
        ),
        ("cds.yml", YAML_CLUSTERS.to_owned()),
        ("cds.pb_text", TEXT_CLUSTERS.to_owned()),
    ] {
        let (home, port, origin) = (Home::new(), Port::free(), Origin::http("origin").await);
        let text = text.replace("PORT", &origin.port().to_string());
        home.mv(name, text);
        let routed = listener(
            "main",
            port.number(),
            http(vec![any_host(vec![route("/", "origin")])]),
        );
        home.mv_value("lds.json", &discovery(LISTENER, vec![routed]));
        let bootstrap = file_watched(&home.text("lds.json"), &home.text(name));
        let _proxy = Proxy::start(&home, &bootstrap, &[]).await;
        assert_eq!(
            get(port.number(), "/").await.seen().origin,
            "origin",
            "{name}"
        );
    }
}

const JSON_CLUSTER: &str = r#"{
    "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "name": "origin",
    "connectTimeout": "1s",
    "loadAssignment": {"clusterName": "origin", "endpoints": [{"lbEndpoints": [{"endpoint": {
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": PORT}}}}]}]}
}"#;

const YAML_CLUSTERS: &str = "\
version_info: '1'
resources:
- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: origin
  type: STATIC
  load_assignment:
    cluster_name: origin
    endpoints:
    - lb_endpoints:
      - endpoint:
          address:
            socket_address: { address: 127.0.0.1, port_value: PORT }
";

const TEXT_CLUSTERS: &str = r#"
resources {
  [type.googleapis.com/envoy.config.cluster.v3.Cluster] {
    name: "origin"
    load_assignment {
      cluster_name: "origin"
      endpoints { lb_endpoints { endpoint { address {
        socket_address { address: "127.0.0.1" port_value: PORT }
      } } } }
    }
  }
}
"#;

#[tokio::test]
async fn routes_from_a_file() {
    let (home, port) = (Home::new(), Port::free());
    let table = |text: &str| {
        let table = json!({
            "name": "routes",
            "virtual_hosts": [any_host(vec![answer("/", 200, text)])],
        });
        discovery(ROUTES, vec![table])
    };
    home.mv_value("rds.yaml", &table("one"));
    let filter = http_with(json!({ "rds": {
        "route_config_name": "routes",
        "config_source": file_source(&home.text("rds.yaml")),
    } }));
    let proxy = start(&home, vec![listener("main", port.number(), filter)], vec![]).await;
    let mut connection = H1::connect(port.number()).await.expect("a connection");
    let reply = connection
        .send(request("GET", "a", "/"))
        .await
        .expect("a response");
    assert_eq!(reply.text(), "one");
    home.mv_value("rds.yaml", &table("two"));
    // On the connection that was open before.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let reply = connection
            .send(request("GET", "a", "/"))
            .await
            .expect("a response");
        if reply.text() == "two" {
            break;
        }
        assert!(Instant::now() < deadline, "still {}", reply.text());
    }
    proxy
        .admin()
        .stat_reaches("http.ingress.rds.routes.update_success", 2)
        .await;
}

#[tokio::test]
async fn endpoints_from_a_file() {
    let (home, port) = (Home::new(), Port::free());
    let (a, b) = (Origin::http("a").await, Origin::http("b").await);
    let endpoints =
        |origin: &Origin| discovery(ENDPOINTS, vec![assignment("service", &[origin.port()])]);
    home.mv_value("eds.json", &endpoints(&a));
    let eds = json!({
        "name": "origin",
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": "service",
            "eds_config": file_source(&home.text("eds.json")),
        },
    });
    let routed = listener(
        "main",
        port.number(),
        http(vec![any_host(vec![route("/", "origin")])]),
    );
    let proxy = start(&home, vec![routed], vec![eds]).await;
    assert_eq!(get(port.number(), "/").await.seen().origin, "a");
    home.mv_value("eds.json", &endpoints(&b));
    get_until(port.number(), "/", |reply| reply.seen().origin == "b").await;
    proxy
        .admin()
        .stat_reaches("cluster.origin.update_success", 2)
        .await;
}

/// An upstream TLS context that trusts what a secret from `sds.yaml` says.
fn trusting(home: &Home, origin: &Origin) -> Value {
    with(
        cluster("origin", &[origin.port()]),
        json!({ "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                json!({ "common_tls_context": { "validation_context_sds_secret_config": {
                    "name": "trust",
                    "sds_config": file_source(&home.text("sds.yaml")),
                } } }),
            ),
        } }),
    )
}

#[tokio::test]
async fn secrets_from_a_file() {
    let (home, port) = (Home::new(), Port::free());
    let (right, wrong) = (Authority::new(), Authority::new());
    let origin = Origin::https("secure", &right.issue(&["example.org"])).await;
    let trust = |authority: &Authority| {
        let secret = json!({ "name": "trust", "validation_context": {
            "trusted_ca": { "inline_string": authority.certificate() },
        } });
        discovery(SECRET, vec![secret])
    };
    home.mv_value("sds.yaml", &trust(&wrong));
    let routed = listener(
        "main",
        port.number(),
        http(vec![any_host(vec![route("/", "origin")])]),
    );
    let _proxy = start(&home, vec![routed], vec![trusting(&home, &origin)]).await;
    assert_eq!(get(port.number(), "/").await.status, 503);
    home.mv_value("sds.yaml", &trust(&right));
    get_until(port.number(), "/", |reply| reply.status == 200).await;
}

#[tokio::test]
async fn a_watched_directory() {
    let (home, port) = (Home::new(), Port::free());
    std::fs::create_dir(home.path("v1")).expect("a directory");
    std::fs::create_dir(home.path("v2")).expect("a directory");
    let file = |text: &str| discovery(LISTENER, vec![speaking("main", &port, text)]);
    home.write_value("v1/lds.yaml", &file("one"));
    home.write_value("v2/lds.yaml", &file("two"));
    std::os::unix::fs::symlink("v1", home.path("current")).expect("a link");
    let bootstrap = json!({
        "node": { "id": "test-node", "cluster": "test-cluster" },
        "dynamic_resources": { "lds_config": { "path_config_source": {
            "path": home.text("current/lds.yaml"),
            "watched_directory": { "path": home.path("").to_str().expect("UTF-8") },
        } } },
    });
    let _proxy = Proxy::start(&home, &bootstrap, &[]).await;
    says(&port, "one").await;
    std::os::unix::fs::symlink("v2", home.path("next")).expect("a link");
    std::fs::rename(home.path("next"), home.path("current")).expect("moved");
    says(&port, "two").await;
}

#[tokio::test]
async fn the_deprecated_path_works() {
    let (home, port) = (Home::new(), Port::free());
    home.mv_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("main", &port, "one")]),
    );
    let bootstrap = json!({
        "node": { "id": "test-node", "cluster": "test-cluster" },
        "dynamic_resources": { "lds_config": { "path": home.text("lds.yaml") } },
    });
    let _proxy = Proxy::start(&home, &bootstrap, &[]).await;
    says(&port, "one").await;
    home.mv_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("main", &port, "two")]),
    );
    says(&port, "two").await;
}

#[tokio::test]
async fn static_and_dynamic_resources_serve_together() {
    let (home, fixed, moved) = (Home::new(), Port::free(), Port::free());
    home.mv_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("moved", &moved, "moved")]),
    );
    let bootstrap = with(
        bootstrap(vec![speaking("fixed", &fixed, "fixed")], vec![]),
        json!({
            "node": { "id": "test-node", "cluster": "test-cluster" },
            "dynamic_resources": { "lds_config": file_source(&home.text("lds.yaml")) },
        }),
    );
    let _proxy = Proxy::start(&home, &bootstrap, &[]).await;
    says(&fixed, "fixed").await;
    says(&moved, "moved").await;
    // A dynamic resource does not replace a static one.
    home.mv_value(
        "lds.yaml",
        &discovery(LISTENER, vec![speaking("fixed", &moved, "other")]),
    );
    eventually("the dynamic listener to go", || async {
        client::dial(moved.number()).await.is_err().then_some(())
    })
    .await;
    says(&fixed, "fixed").await;
}

#[tokio::test]
async fn a_tcp_listener_moves_to_another_cluster() {
    let (home, port) = (Home::new(), Port::free());
    let (a, b) = (Origin::tcp_echo().await, Origin::tcp_echo().await);
    let clusters = vec![cluster("a", &[a.port()]), cluster("b", &[b.port()])];
    let _proxy = start(
        &home,
        vec![listener("main", port.number(), tcp("t", "a"))],
        clusters,
    )
    .await;
    let mut stream = client::dial(port.number()).await.expect("a connection");
    client::tcp_echo(&mut stream, b"to a")
        .await
        .expect("an echo");
    let to_b = vec![listener("main", port.number(), tcp("t", "b"))];
    home.mv_value("lds.yaml", &discovery(LISTENER, to_b));
    eventually("a connection to b", || async {
        let mut stream = client::dial(port.number()).await.ok()?;
        client::tcp_echo(&mut stream, b"to b").await.ok()?;
        (b.connections() > 0).then_some(())
    })
    .await;
}

/// A line that is written is an event of the directory; if each event were a
/// line, there would be no end.
#[tokio::test]
async fn a_log_in_a_watched_directory_is_not_written_for_ever() {
    let (home, port) = (Home::new(), Port::free());
    let speaking = |text: &str| {
        let log = typed(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            json!({ "path": home.text("access.log") }),
        );
        let manager = http_with(json!({
            "route_config": { "virtual_hosts": [any_host(vec![answer("/", 200, text)])] },
            "access_log": [{ "name": "file", "typed_config": log }],
        }));
        discovery(LISTENER, vec![listener("main", port.number(), manager)])
    };
    home.mv_value("lds.yaml", &speaking("one"));
    let bootstrap = json!({
        "node": { "id": "test-node", "cluster": "test-cluster" },
        "dynamic_resources": { "lds_config": { "path_config_source": {
            "path": home.text("lds.yaml"),
            "watched_directory": { "path": home.text(".") },
        } } },
    });
    let log = home.text("log.txt");
    let args = [
        "-l",
        "trace",
        "--log-path",
        &log,
        "--file-flush-interval-msec",
        "10",
    ];
    let proxy = Proxy::start(&home, &bootstrap, &args).await;
    says(&port, "one").await;
    home.mv_value("lds.yaml", &speaking("two"));
    says(&port, "two").await;
    eventually("access logs are written", async || {
        home.read("access.log").contains("GET /").then_some(())
    })
    .await;
    let attempts = proxy.admin().stat("listener_manager.lds.update_attempt");
    assert_eq!(attempts.await, Some(2));
    eventually("the log comes to rest", async || {
        let before = home.read("log.txt").len();
        tokio::time::sleep(Duration::from_millis(200)).await;
        (home.read("log.txt").len() == before).then_some(())
    })
    .await;
    assert!(!home.read("log.txt").is_empty());
}
