//! The pages of the admin server.

use crate::common::config::{
    CLUSTER, ENDPOINTS, LISTENER, answer, any_host, assignment, bootstrap, cluster, discovery,
    file_source, http, listener, route,
};
use crate::common::{Home, Origin, Port, Proxy, Site, Value, eventually, get, json};

async fn site() -> (Site, Origin) {
    let origin = Origin::http("origin").await;
    let routes = vec![answer("/direct", 200, "direct"), route("/", "origin")];
    let site = Site::routes(routes, vec![cluster("origin", &[origin.port()])]).await;
    (site, origin)
}

#[tokio::test]
async fn every_page_answers() {
    let (site, _origin) = site().await;
    for (path, content) in [
        ("/", "<html"),
        ("/help", "/config_dump"),
        ("/ready", "LIVE"),
        ("/server_info", "\"state\""),
        ("/config_dump", "configs"),
        ("/clusters", "origin::"),
        ("/clusters?format=json", "cluster_statuses"),
        ("/listeners", "main::127.0.0.1:"),
        ("/listeners?format=json", "listener_statuses"),
        ("/stats", "server.live: 1"),
        ("/stats?format=json", "\"stats\""),
        ("/stats/prometheus", "# TYPE envoy_server_live gauge"),
        ("/certs", "certificates"),
        ("/memory", "allocated"),
        ("/runtime", "entries"),
        ("/init_dump", "{"),
        ("/hot_restart_version", ""),
    ] {
        let text = site.admin().text(path).await;
        assert!(text.contains(content), "{path}: {text}");
    }
    let reply = site.admin().get("/contention").await.expect("an answer");
    assert!(
        reply.status == 200 || reply.text().contains("not enabled"),
        "{}",
        reply.text()
    );
    let reply = site.admin().get("/nothing").await.expect("an answer");
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn reading_and_changing_are_kept_apart() {
    let (site, _origin) = site().await;
    for path in [
        "/healthcheck/fail",
        "/logging",
        "/reset_counters",
        "/quitquitquit",
    ] {
        let reply = site.admin().get(path).await.expect("an answer");
        assert_eq!(reply.status, 405, "GET {path}");
    }
}

#[tokio::test]
async fn health_can_be_failed_and_restored() {
    let (site, _origin) = site().await;
    let admin = site.admin();
    assert_eq!(
        admin
            .post("/healthcheck/fail")
            .await
            .expect("an answer")
            .text(),
        "OK\n"
    );
    let reply = admin.get("/ready").await.expect("an answer");
    assert_eq!(
        (reply.status.as_u16(), reply.text().trim()),
        (503, "DRAINING")
    );
    admin.post("/healthcheck/ok").await.expect("an answer");
    assert_eq!(admin.get("/ready").await.expect("an answer").status, 200);
}

#[tokio::test]
async fn server_info_says_how_it_was_started() {
    let (site, _origin) = site().await;
    let info = site.admin().json("/server_info").await;
    assert_eq!(info["state"], "LIVE");
    assert_eq!(info["command_line_options"]["concurrency"], 2);
    assert_eq!(
        info["command_line_options"]["config_path"],
        site.home.text("bootstrap.yaml")
    );
    assert!(
        info["version"]
            .as_str()
            .is_some_and(|text| text.matches('/').count() >= 4)
    );
}

#[tokio::test]
async fn the_config_dump_in_parts() {
    let (site, _origin) = site().await;
    let admin = site.admin();
    let dump = admin.json("/config_dump").await;
    let kinds: Vec<&str> = dump["configs"]
        .as_array()
        .expect("an array")
        .iter()
        .filter_map(|config| config["@type"].as_str()?.rsplit('.').next())
        .collect();
    for kind in [
        "BootstrapConfigDump",
        "ClustersConfigDump",
        "ListenersConfigDump",
        "RoutesConfigDump",
        "SecretsConfigDump",
    ] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }

    let clusters = admin.json("/config_dump?resource=static_clusters").await;
    assert_eq!(clusters["configs"][0]["cluster"]["name"], "origin");
    let masked = admin
        .json("/config_dump?resource=static_clusters&mask=cluster.name")
        .await;
    assert_eq!(
        masked["configs"][0]["cluster"],
        json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": "origin",
        })
    );
    let named = admin
        .json("/config_dump?resource=static_clusters&name_regex=nothing.*")
        .await;
    assert_eq!(named["configs"].as_array().map_or(0, Vec::len), 0);
    let endpoints = admin
        .json("/config_dump?include_eds&resource=static_endpoint_configs")
        .await;
    assert_eq!(
        endpoints["configs"][0]["endpoint_config"]["cluster_name"],
        "origin"
    );
}

#[tokio::test]
async fn what_was_added_is_told_from_what_is_static() {
    let home = Home::new();
    let (first, second) = (Port::free(), Port::free());
    let mut found = discovery(ENDPOINTS, vec![assignment("found", &[9])]);
    found["version_info"] = json!("e1");
    home.mv_value("eds.yaml", &found);
    let found = json!({
        "name": "found", "type": "EDS",
        "eds_cluster_config": { "eds_config": file_source(&home.text("eds.yaml")) },
    });
    let clusters = vec![cluster("added", &[1]), found];
    home.mv_value("cds.yaml", &discovery(CLUSTER, clusters));
    let early = listener("early", first.number(), http(vec![any_host(vec![])]));
    home.mv_value("lds.yaml", &discovery(LISTENER, vec![early]));
    let mut config = bootstrap(
        vec![listener(
            "late",
            second.number(),
            http(vec![any_host(vec![])]),
        )],
        vec![cluster("fixed", &[1])],
    );
    config["node"] = json!({ "id": "n", "cluster": "c" });
    config["dynamic_resources"] = json!({
        "lds_config": file_source(&home.text("lds.yaml")),
        "cds_config": file_source(&home.text("cds.yaml")),
    });
    let proxy = Proxy::start(&home, &config, &[]).await;
    let admin = proxy.admin();
    let listeners = admin.text("/listeners").await;
    let names: Vec<_> = listeners
        .lines()
        .filter_map(|line| line.split("::").next())
        .collect();
    assert_eq!(names, ["late", "early"]);
    let of = async |list: &str| {
        let dump = admin
            .json(&format!("/config_dump?include_eds&resource={list}"))
            .await;
        dump["configs"].as_array().cloned().unwrap_or_default()
    };
    let fixed = of("static_endpoint_configs").await;
    assert_eq!(fixed.len(), 1, "{fixed:#?}");
    let added = of("dynamic_endpoint_configs").await;
    let names: Vec<_> = added
        .iter()
        .map(|entry| &entry["endpoint_config"]["cluster_name"])
        .collect();
    assert_eq!(names, ["added", "found"]);
    let endpoint = &added[1]["endpoint_config"]["endpoints"][0]["lb_endpoints"][0];
    assert_eq!(endpoint["health_status"], "HEALTHY", "{added:#?}");
    assert_eq!(endpoint["load_balancing_weight"], 1);
    assert_eq!(added[1]["version_info"], "e1", "{added:#?}");
}

#[tokio::test]
async fn names_appear_as_envoys_do() {
    let (site, _origin) = site().await;
    let names = async || {
        let stats = site
            .admin()
            .text("/stats?filter=upstream_rq_(time|completed)")
            .await;
        let names = stats.lines().filter_map(|line| line.split(": ").next());
        names
            .filter(|name| !name.ends_with("_timeout"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["cluster.origin.upstream_rq_completed"]);
    site.get("/").await;
    eventually("the times of responses", || async {
        let names = names().await;
        let all = [
            "cluster.origin.external.upstream_rq_completed",
            "cluster.origin.upstream_rq_completed",
            "cluster.origin.external.upstream_rq_time",
            "cluster.origin.upstream_rq_time",
        ];
        (names == all).then_some(())
    })
    .await;
}

#[tokio::test]
async fn clusters_show_their_hosts_and_traffic() {
    let (site, origin) = site().await;
    for _ in 0..3 {
        site.get("/").await;
    }
    let host = format!("origin::127.0.0.1:{}", origin.port());
    let admin = site.admin();
    eventually("three requests on the host", || async {
        let text = admin.text("/clusters").await;
        text.contains(&format!("{host}::rq_total::3\n"))
            .then_some(())
    })
    .await;
    let text = admin.text("/clusters").await;
    for line in [
        "origin::observability_name::origin".to_owned(),
        "origin::default_priority::max_connections::1024".to_owned(),
        "origin::added_via_api::false".to_owned(),
        format!("{host}::cx_connect_fail::0"),
        format!("{host}::health_flags::healthy"),
        format!("{host}::weight::1"),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    let all = admin.json("/clusters?format=json").await;
    let status = &all["cluster_statuses"][0]["host_statuses"][0];
    assert_eq!(
        status["address"]["socket_address"],
        json!({ "address": "127.0.0.1", "port_value": origin.port() })
    );
}

#[tokio::test]
async fn stats_in_every_shape() {
    let (site, _origin) = site().await;
    for _ in 0..5 {
        site.get("/").await;
    }
    let admin = site.admin();
    admin
        .stat_reaches("http.ingress.downstream_rq_2xx", 5)
        .await;
    let filtered = admin
        .text("/stats?filter=^http%5C.ingress%5C.downstream_rq_2xx$")
        .await;
    assert_eq!(filtered, "http.ingress.downstream_rq_2xx: 5\n");
    let used = admin.text("/stats?usedonly").await;
    assert!(used.contains("http.ingress.downstream_rq_2xx: 5"));
    assert!(!used.contains("http.ingress.downstream_rq_5xx: 0"));
    let counters = admin.text("/stats?type=Counters").await;
    assert!(
        !counters.contains("server.live"),
        "a gauge among the counters"
    );

    let all = admin
        .json("/stats?format=json&filter=downstream_rq_2xx")
        .await;
    let found = all["stats"].as_array().expect("an array");
    assert!(found.contains(&json!({ "name": "http.ingress.downstream_rq_2xx", "value": 5 })));

    let prometheus = admin.text("/stats/prometheus").await;
    let line = "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",\
        envoy_http_conn_manager_prefix=\"ingress\"} 5";
    assert!(
        prometheus.lines().any(|found| found == line),
        "{line} is not in\n{prometheus}"
    );
    let times = "# TYPE envoy_cluster_upstream_rq_time histogram";
    eventually("a histogram", || async {
        let text = admin.text("/stats/prometheus").await;
        text.contains(times).then_some(())
    })
    .await;

    admin.post("/reset_counters").await.expect("an answer");
    assert_eq!(admin.stat("http.ingress.downstream_rq_2xx").await, Some(0));
    assert_eq!(admin.stat("server.live").await, Some(1));
}

#[tokio::test]
async fn histograms_have_quantiles() {
    let (site, _origin) = site().await;
    site.get("/").await;
    eventually("quantiles of the request time", || async {
        let text = site.admin().text("/stats?filter=downstream_rq_time").await;
        text.lines()
            .any(|line| {
                line.starts_with("http.ingress.downstream_rq_time: P0(") && line.contains("P99(")
            })
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn log_levels_can_be_changed() {
    let (site, _origin) = site().await;
    let admin = site.admin();
    let text = admin
        .post("/logging?level=debug")
        .await
        .expect("an answer")
        .text();
    assert!(text.contains("  http: debug"), "{text}");
    let text = admin
        .post("/logging?http=trace")
        .await
        .expect("an answer")
        .text();
    assert!(text.contains("  http: trace"), "{text}");
    assert!(text.contains("  router: debug"), "{text}");
}

#[tokio::test]
async fn runtime_values_can_be_modified() {
    let home = Home::new();
    let runtime = json!({ "layered_runtime": { "layers": [
        { "name": "base", "static_layer": { "some.key": 3 } },
        { "name": "admin", "admin_layer": {} },
    ] } });
    let proxy = Proxy::start(&home, &runtime, &[]).await;
    let admin = proxy.admin();
    let read = async || -> Value { admin.json("/runtime").await["entries"]["some.key"].clone() };
    assert_eq!(read().await["final_value"], "3");
    let reply = admin
        .post("/runtime_modify?some.key=7")
        .await
        .expect("an answer");
    assert_eq!(reply.text(), "OK\n");
    let entry = read().await;
    assert_eq!(
        entry,
        json!({ "final_value": "7", "layer_values": ["3", "7"] })
    );
}

#[tokio::test]
async fn listeners_can_be_drained() {
    let (site, _origin) = site().await;
    assert_eq!(site.get("/direct").await.text(), "direct");
    site.admin()
        .post("/drain_listeners")
        .await
        .expect("an answer");
    eventually("the port to close", || async {
        let closed = crate::common::client::dial(site.port.number())
            .await
            .is_err();
        closed.then_some(())
    })
    .await;
    site.admin()
        .stat_reaches("listener_manager.listener_stopped", 1)
        .await;
}

#[tokio::test]
async fn quitquitquit_ends_the_process() {
    let (mut site, _origin) = site().await;
    let reply = site.admin().post("/quitquitquit").await.expect("an answer");
    assert_eq!((reply.status.as_u16(), &*reply.text()), (200, "OK\n"));
    assert!(site.proxy.end().await.success());
}

#[tokio::test]
async fn a_large_dump_does_not_hold_up_ready() {
    let (home, port) = (Home::new(), Port::free());
    let clusters = (0..1000)
        .map(|number| cluster(&format!("cluster-{number}"), &[1]))
        .collect();
    let listeners = vec![listener(
        "main",
        port.number(),
        http(vec![any_host(vec![answer("/", 200, "here")])]),
    )];
    let proxy = Proxy::start(&home, &bootstrap(listeners, clusters), &[]).await;
    let admin = proxy.admin();
    let (dump, stats, ready) = tokio::join!(
        admin.text("/config_dump"),
        admin.text("/stats"),
        admin.text("/ready")
    );
    assert!(dump.contains("cluster-999") && stats.contains("cluster.cluster-999."));
    assert_eq!(ready.trim(), "LIVE");
    assert_eq!(get(port.number(), "/").await.text(), "here");
}
