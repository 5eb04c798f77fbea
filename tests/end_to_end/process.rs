//! The command line, signals, and the end of the process.

use std::time::{Duration, Instant};

use crate::common::client::{dial, get_until, header, request};
use crate::common::config::{
    LISTENER, answer, any_host, bootstrap, cluster, discovery, file_source, http, http_with,
    listener, route,
};
use crate::common::{DEADLINE, Home, Origin, Port, Program, Proxy, Site, eventually, get, json};

#[test]
fn the_version_has_envoys_shape() {
    let output = Program::under_test().run(&["--version"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let version = text
        .trim()
        .split_once("  version: ")
        .expect("PROGRAM  version: …")
        .1;
    assert_eq!(version.matches('/').count(), 4, "{text}");
}

#[test]
fn help_names_the_flags() {
    let output = Program::under_test().run(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for flag in [
        "--config-path",
        "--config-yaml",
        "--mode",
        "--log-level",
        "--component-log-level",
        "--log-path",
        "--log-format",
        "--log-format-escaped",
        "--concurrency",
        "--service-cluster",
        "--service-node",
        "--service-zone",
        "--admin-address-path",
        "--local-address-ip-version",
        "--drain-time-s",
        "--drain-strategy",
        "--parent-shutdown-time-s",
        "--base-id",
        "--use-dynamic-base-id",
        "--base-id-path",
        "--restart-epoch",
        "--disable-hot-restart",
        "--reject-unknown-dynamic-fields",
        "--allow-unknown-static-fields",
        "--ignore-unknown-dynamic-fields",
        "--file-flush-interval-msec",
        "--cpuset-threads",
        "--stats-tag",
    ] {
        assert!(text.contains(flag), "{flag} is not in\n{text}");
    }
}

#[test]
fn a_wrong_flag_is_an_error() {
    for args in [
        &["--no-such-flag"][..],
        &["--concurrency", "x"],
        &["--mode", "dance"],
    ] {
        let output = Program::under_test().run(args);
        assert!(!output.status.success(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?} without a word");
    }
}

#[tokio::test]
async fn yaml_on_the_command_line_is_merged() {
    let (home, first, second) = (Home::new(), Port::free(), Port::free());
    let speaking = |name: &str, port: &Port| {
        listener(
            name,
            port.number(),
            http(vec![any_host(vec![answer("/", 200, name)])]),
        )
    };
    let more = bootstrap(vec![speaking("second", &second)], vec![]).to_string();
    let base = bootstrap(vec![speaking("first", &first)], vec![]);
    let _proxy = Proxy::start(&home, &base, &["--config-yaml", &more]).await;
    // Lists are appended.
    assert_eq!(get(first.number(), "/").await.text(), "first");
    assert_eq!(get(second.number(), "/").await.text(), "second");
}

#[tokio::test]
async fn node_flags_override_the_bootstrap() {
    let home = Home::new();
    let node = json!({ "node": { "id": "from-file", "cluster": "from-file" } });
    let arguments = ["--service-node", "from-flag", "--service-zone", "zone-flag"];
    let proxy = Proxy::start(&home, &node, &arguments).await;
    let info = proxy.admin().json("/server_info").await;
    assert_eq!(info["node"]["id"], "from-flag");
    assert_eq!(info["node"]["cluster"], "from-file");
    assert_eq!(info["node"]["locality"]["zone"], "zone-flag");
}

#[tokio::test]
async fn component_levels_show_those_components_only() {
    let origin = Origin::http("origin").await;
    let filter = http(vec![any_host(vec![route("/", "origin")])]);
    let arguments = [
        "-l",
        "off",
        "--component-log-level",
        "upstream:debug,connection:trace",
    ];
    let clusters = vec![cluster("origin", &[origin.port()])];
    let site = Site::with_args(filter, clusters, &arguments).await;
    site.get("/").await;
    let log = eventually("lines of the connection component", || async {
        let log = site.proxy.log();
        log.contains("][connection] ").then_some(log)
    })
    .await;
    for line in log.lines() {
        assert!(
            line.contains("][upstream] ") || line.contains("][connection] "),
            "{line}"
        );
    }
    assert!(log.contains("][debug][upstream] "), "{log}");
}

#[tokio::test]
async fn the_log_format_can_be_chosen() {
    let home = Home::new();
    let log = home.text("own.log");
    let arguments = ["--log-format", "<%l|%n> %v", "--log-path", &log];
    let _proxy = Proxy::start(&home, &bootstrap(vec![], vec![]), &arguments).await;
    eventually("a line in that format", || async {
        home.read("own.log")
            .lines()
            .any(|line| line.starts_with("<info|main> "))
            .then_some(())
    })
    .await;
}

fn validate(home: &Home, bootstrap: &crate::common::Value) -> (bool, String) {
    home.mv_value("checked.yaml", bootstrap);
    let path = home.text("checked.yaml");
    let output = Program::under_test().run(&["--mode", "validate", "-c", &path]);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8(text).expect("UTF-8"),
    )
}

#[test]
fn validate_accepts_what_is_good() {
    let home = Home::new();
    let port = Port::free();
    let filter = http(vec![any_host(vec![route("/", "origin")])]);
    let good = bootstrap(
        vec![listener("main", port.number(), filter)],
        vec![cluster("origin", &[1])],
    );
    let (passed, text) = validate(&home, &good);
    assert!(passed, "{text}");
    let line = format!("configuration '{}' OK", home.text("checked.yaml"));
    assert!(text.contains(&line), "{text}");
}

#[test]
fn validate_shows_every_error_at_once() {
    let home = Home::new();
    let port = Port::free();
    let mut bad = bootstrap(
        vec![listener("main", port.number(), http(vec![]))],
        vec![cluster("one", &[1]), cluster("two", &[1])],
    );
    bad["static_resources"]["clusters"][0]["connect_timeout"] = json!("soon");
    bad["static_resources"]["clusters"][1]["lb_polisy"] = json!("RANDOM");
    // What follows from nothing of this is found as well.
    let clusters = bad["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters.push(cluster("three", &[1]));
    clusters[2]["load_assignment"]["cluster_name"] = json!("");
    bad["static_resources"]["listeners"] = json!([
        listener(
            "main",
            port.number(),
            http(vec![any_host(vec![route("/", "nowhere")])])
        ),
        listener(
            "twin",
            port.number(),
            http(vec![any_host(vec![
                route("/a", "one"),
                route("/b", "four"),
            ])])
        ),
    ]);
    bad["stats_flush_interval"] = json!("now");
    bad["node"] = json!({ "id": "n", "cluster": "c" });
    bad["dynamic_resources"] = json!({ "cds_config": file_source(&home.text("cds.yaml")) });
    let (passed, text) = validate(&home, &bad);
    assert!(!passed);
    for expected in [
        "checked.yaml:",
        "clusters[0].connect_timeout: ",
        "clusters[1].lb_polisy: ",
        "did you mean lb_policy",
        "clusters[2].load_assignment.cluster_name: ",
        "routes[0].route.cluster: unknown cluster 'nowhere'",
        "routes[1].route.cluster: unknown cluster 'four'",
        "listeners[1].address: error adding listener: 'twin' has duplicate address",
        "stats_flush_interval: ",
        "dynamic_resources.cds_config",
        "cds.yaml",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert!(!text.contains("unknown cluster 'one'"), "{text}");
}

#[test]
fn validate_opens_the_files_that_are_named() {
    let home = Home::new();
    let port = Port::free();
    let filter = http_with(json!({ "rds": {
        "route_config_name": "routes", "config_source": file_source(&home.text("rds.yaml")),
    } }));
    let lds = |filter| discovery(LISTENER, vec![listener("main", port.number(), filter)]);
    let dynamic = json!({
        "node": { "id": "n", "cluster": "c" },
        "dynamic_resources": { "lds_config": file_source(&home.text("lds.yaml")) },
    });
    let (passed, text) = validate(&home, &dynamic);
    assert!(!passed && text.contains("lds.yaml"), "{text}");

    home.mv_value("lds.yaml", &lds(filter));
    let (passed, text) = validate(&home, &dynamic);
    assert!(!passed && text.contains("rds.yaml"), "{text}");

    let unknown = http(vec![any_host(vec![route("/", "nowhere")])]);
    home.mv_value("lds.yaml", &lds(unknown));
    let (passed, text) = validate(&home, &dynamic);
    assert!(!passed && text.contains("nowhere"), "{text}");
}

async fn slow_site(args: &[&str]) -> (Site, Origin) {
    let origin = Origin::http("origin").await;
    let filter = http(vec![any_host(vec![route("/", "origin")])]);
    let clusters = vec![cluster("origin", &[origin.port()])];
    let site = Site::with_args(filter, clusters, args).await;
    (site, origin)
}

#[tokio::test]
async fn sigterm_lets_requests_finish() {
    let (mut site, origin) = slow_site(&["--drain-time-s", "5"]).await;
    let port = site.port.number();
    let slow = tokio::spawn(async move {
        let slow = header(request("GET", "a", "/"), "x-origin-delay-ms", "700");
        crate::common::client::once(port, slow).await
    });
    eventually("the request at the origin", || async {
        (origin.requests() > 0).then_some(())
    })
    .await;
    site.proxy.signal("TERM");
    eventually("the port to close", || async {
        dial(port).await.is_err().then_some(())
    })
    .await;
    let reply = slow.await.expect("no panic").expect("a response");
    assert_eq!(reply.status, 200);
    let started = Instant::now();
    assert!(site.proxy.end().await.success());
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "nothing was left to wait for"
    );
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let (mut site, origin) = slow_site(&["--drain-time-s", "60"]).await;
    let port = site.port.number();
    tokio::spawn(async move {
        let slow = header(request("GET", "a", "/"), "x-origin-delay-ms", "20000");
        crate::common::client::once(port, slow).await.ok();
    });
    eventually("the request at the origin", || async {
        (origin.requests() > 0).then_some(())
    })
    .await;
    site.proxy.signal("TERM");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(site.proxy.ended().is_none(), "it waits for the request");
    site.proxy.signal("TERM");
    site.proxy.end().await;
}

#[tokio::test]
async fn sigint_ends_it_too() {
    let (mut site, _origin) = slow_site(&["--drain-time-s", "1"]).await;
    site.proxy.signal("INT");
    assert!(site.proxy.end().await.success());
}

#[tokio::test]
async fn an_idle_proxy_ends_quickly() {
    let (mut site, _origin) = slow_site(&["--drain-time-s", "60"]).await;
    let mut idle = site.http1().await;
    idle.send(request("GET", "a", "/"))
        .await
        .expect("a response");
    let started = Instant::now();
    site.proxy.signal("TERM");
    assert!(site.proxy.end().await.success());
    assert!(started.elapsed() < DEADLINE / 3);
}

#[tokio::test]
async fn sighup_reads_files_again() {
    let (home, port) = (Home::new(), Port::free());
    let file = |text: &str| {
        let filter = http(vec![any_host(vec![answer("/", 200, text)])]);
        discovery(LISTENER, vec![listener("main", port.number(), filter)])
    };
    home.mv_value("lds.yaml", &file("one"));
    let bootstrap = json!({
        "node": { "id": "n", "cluster": "c" },
        "dynamic_resources": { "lds_config": file_source(&home.text("lds.yaml")) },
    });
    let proxy = Proxy::start(&home, &bootstrap, &[]).await;
    assert_eq!(get(port.number(), "/").await.text(), "one");
    home.write_value("lds.yaml", &file("two"));
    proxy.signal("HUP");
    get_until(port.number(), "/", |reply| reply.text() == "two").await;
}

#[tokio::test]
async fn sigusr1_opens_logs_again() {
    let (home, port) = (Home::new(), Port::free());
    let log = json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": home.text("access.log"),
        },
    }]);
    let filter = http_with(json!({
        "route_config": { "virtual_hosts": [any_host(vec![answer("/", 200, "here")])] },
        "access_log": log,
    }));
    let static_bootstrap = bootstrap(vec![listener("main", port.number(), filter)], vec![]);
    let proxy = Proxy::start(
        &home,
        &static_bootstrap,
        &["--file-flush-interval-msec", "20"],
    )
    .await;
    get(port.number(), "/before").await;
    eventually("the first line", || async {
        home.read("access.log").contains("/before").then_some(())
    })
    .await;
    std::fs::rename(home.path("access.log"), home.path("old.log")).expect("moved");
    proxy.signal("USR1");
    eventually("a new file", || async {
        get(port.number(), "/after").await;
        home.read("access.log").contains("/after").then_some(())
    })
    .await;
    assert!(home.read("old.log").contains("/before"));
}
