//! What is wrong is refused with its place, counted, and shown until it is
//! put right; what was good before goes on serving.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::common::client::get_until;
use crate::common::config::{
    any_host, bootstrap, file_source, file_watched, http, listener, route,
};
use crate::common::tls::{Authority, ends_tls};
use crate::common::{Home, Port, Program, Proxy, Value, eventually, get, json};

const LISTENERS: &str = r#"version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: main
  address:
    socket_address: { address: 127.0.0.1, port_value: PORT }
  filter_chains:
  - filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: ingress
        route_config:
          name: local
          virtual_hosts:
          - name: all
            domains: ["*"]
            routes:
            - match: { prefix: "/" }
              direct_response: { status: 200, body: { inline_string: "TEXT" } }
        http_filters:
        - name: envoy.filters.http.router
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"#;

const CLUSTERS: &str = r#"version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: first
  type: STATIC
  connect_timeout: 1s
  load_assignment:
    cluster_name: first
    endpoints:
    - lb_endpoints:
      - endpoint:
          address:
            socket_address: { address: 127.0.0.1, port_value: 1 }
"#;

/// The stats of the two subscriptions that count what was wrong.
#[derive(Clone, Copy)]
enum Counted {
    /// It could be read, and was refused.
    Rejected,
    /// It could not be read or parsed.
    Failure,
}

/// A proxy whose listeners and clusters come from two good files.
struct Watched {
    home: Home,
    port: Port,
    proxy: Proxy,
}

impl Watched {
    async fn start() -> Self {
        let (home, port) = (Home::new(), Port::free());
        home.mv("lds.yaml", listeners(&port, "good"));
        home.mv("cds.yaml", CLUSTERS);
        let bootstrap = file_watched(&home.text("lds.yaml"), &home.text("cds.yaml"));
        let proxy = Proxy::start(&home, &bootstrap, &["--drain-time-s", "1"]).await;
        assert_eq!(get(port.number(), "/").await.text(), "good");
        Self { home, port, proxy }
    }

    fn listeners(&self, text: &str) -> String {
        listeners(&self.port, text)
    }

    /// The good listener file with one change.
    fn changed(&self, from: &str, to: &str) -> String {
        let good = self.listeners("bad");
        assert!(good.contains(from), "{from:?} is not in the file");
        good.replacen(from, to, 1)
    }

    /// Moves a bad listener file into place, then a good one.
    async fn refuses_listeners(&self, text: &str, counted: Counted, expected: &[&str]) {
        self.refuses("lds.yaml", "listener_manager.lds", text, counted, expected)
            .await;
        self.home.mv("lds.yaml", self.listeners("good again"));
        get_until(self.port.number(), "/", |reply| {
            reply.text() == "good again"
        })
        .await;
        self.shows_nothing(expected).await;
    }

    /// Moves a bad cluster file into place, then a good one.
    async fn refuses_clusters(&self, text: &str, counted: Counted, expected: &[&str]) {
        self.refuses("cds.yaml", "cluster_manager.cds", text, counted, expected)
            .await;
        self.home.mv("cds.yaml", CLUSTERS);
        self.shows_nothing(expected).await;
    }

    async fn refuses(
        &self,
        file: &str,
        prefix: &str,
        text: &str,
        counted: Counted,
        expected: &[&str],
    ) {
        let admin = self.proxy.admin();
        let name = match counted {
            Counted::Rejected => format!("{prefix}.update_rejected"),
            Counted::Failure => format!("{prefix}.update_failure"),
        };
        let before = admin.stat(&name).await.expect("the stat exists");
        self.home.mv(file, text);
        admin.stat_reaches(&name, before + 1).await;
        let log = self.proxy.log();
        for piece in expected {
            assert!(
                log.contains(piece),
                "the log does not say {piece:?}:\n{log}"
            );
        }
        let piece = expected[0];
        eventually(&format!("{piece:?} on show"), || async {
            self.shown().await.contains(piece).then_some(())
        })
        .await;
        assert_eq!(get(self.port.number(), "/").await.text(), "good");
    }

    async fn shows_nothing(&self, expected: &[&str]) {
        let piece = expected[0];
        eventually(&format!("{piece:?} to go"), || async {
            (!self.shown().await.contains(piece)).then_some(())
        })
        .await;
    }

    /// What the dump shows of what was refused: a resource, or a whole file.
    async fn shown(&self) -> String {
        let dump = self.proxy.admin().json("/config_dump").await;
        let mut errors = Vec::new();
        for config in dump["configs"].as_array().expect("configs") {
            let lists = config.as_object().expect("a dump").values();
            for entry in lists.filter_map(Value::as_array).flatten() {
                let details = entry["error_state"]["details"].as_str();
                errors.extend(details.map(str::to_owned));
            }
        }
        errors.join("\n")
    }
}

fn listeners(port: &Port, text: &str) -> String {
    LISTENERS
        .replace("PORT", &port.number().to_string())
        .replace("TEXT", text)
}

#[tokio::test]
async fn an_unknown_field() {
    let watched = Watched::start().await;
    let text = watched.changed(
        "stat_prefix: ingress",
        "stat_prefix: ingress\n        sta_prefix: x",
    );
    watched
        .refuses_listeners(
            &text,
            Counted::Rejected,
            &["sta_prefix", "lds.yaml:13:9", "stat_prefix"],
        )
        .await;
}

#[tokio::test]
async fn an_unknown_type_url() {
    let watched = Watched::start().await;
    let text = watched.changed("router.v3.Router", "router.v3.Rooter");
    watched
        .refuses_listeners(
            &text,
            Counted::Rejected,
            &[
                "envoy.extensions.filters.http.router.v3.Rooter",
                "lds.yaml:2",
            ],
        )
        .await;
}

#[tokio::test]
async fn a_wrong_type() {
    let watched = Watched::start().await;
    let text = watched.changed("status: 200", "status: [200]");
    watched
        .refuses_listeners(&text, Counted::Rejected, &["lds.yaml:20:", "status"])
        .await;
}

#[tokio::test]
async fn a_broken_constraint() {
    let watched = Watched::start().await;
    let text = watched.changed("status: 200", "status: 99");
    watched
        .refuses_listeners(&text, Counted::Rejected, &["lds.yaml:20:", "status"])
        .await;
}

#[tokio::test]
async fn a_missing_required_field() {
    let watched = Watched::start().await;
    let text = watched.changed("        stat_prefix: ingress\n", "");
    watched
        .refuses_listeners(&text, Counted::Rejected, &["lds.yaml:", "stat_prefix"])
        .await;
}

#[tokio::test]
async fn a_duplicate_name() {
    let watched = Watched::start().await;
    let good = watched.listeners("good");
    let resource = good.split_once("resources:\n").expect("in the text").1;
    let other = Port::free().number().to_string();
    let twin = resource.replace(&watched.port.number().to_string(), &other);
    let text = format!("resources:\n{resource}{twin}");
    watched
        .refuses_listeners(&text, Counted::Rejected, &["duplicate", "main"])
        .await;
}

#[tokio::test]
async fn a_duplicate_address() {
    let watched = Watched::start().await;
    let good = watched.listeners("good");
    let resource = good.split_once("resources:\n").expect("in the text").1;
    let twin = resource.replace("name: main", "name: twin");
    let text = format!("resources:\n{resource}{twin}");
    let address = format!("127.0.0.1:{}", watched.port.number());
    watched
        .refuses_listeners(&text, Counted::Rejected, &["twin", &address])
        .await;
}

#[tokio::test]
async fn a_duplicate_key() {
    let watched = Watched::start().await;
    let text = watched.changed(
        "stat_prefix: ingress",
        "stat_prefix: ingress\n        stat_prefix: other",
    );
    watched
        .refuses_listeners(
            &text,
            Counted::Failure,
            &["lds.yaml:13:", "duplicate", "stat_prefix"],
        )
        .await;
}

#[tokio::test]
async fn a_missing_file_at_the_start() {
    let home = Home::new();
    home.mv("cds.yaml", CLUSTERS);
    let bootstrap = file_watched(&home.text("lds.yaml"), &home.text("cds.yaml"));
    let mut proxy = Program::under_test().launch(&home, &bootstrap, &[]);
    assert!(!proxy.end().await.success());
    assert!(
        proxy.log().contains(&home.text("lds.yaml")),
        "{}",
        proxy.log()
    );
}

#[tokio::test]
async fn a_missing_file_inside_a_resource() {
    let watched = Watched::start().await;
    let text = watched.home.text("rds.yaml");
    let good = watched.listeners("unused");
    let start = good.find("        route_config:").expect("in the text");
    let end = good.find("        http_filters:").expect("in the text");
    let rds = format!(
        "        rds:\n          route_config_name: local\n          config_source:\n            \
         resource_api_version: V3\n            path_config_source: {{ path: {text} }}\n"
    );
    let changed = format!("{}{rds}{}", &good[..start], &good[end..]);
    watched
        .refuses_listeners(&changed, Counted::Rejected, &["rds.yaml"])
        .await;
}

#[tokio::test]
async fn what_was_missing_arrives() {
    let watched = Watched::start().await;
    let text = watched.changed(
        "direct_response: { status: 200, body: { inline_string: \"bad\" } }",
        "route: { cluster: late }",
    );
    // A direct listener without route validation takes any name; this one has
    // its routes inline, and the cluster must exist.
    let text = text.replace(
        "name: local",
        "name: local\n          validate_clusters: true",
    );
    watched
        .refuses(
            "lds.yaml",
            "listener_manager.lds",
            &text,
            Counted::Rejected,
            &["late"],
        )
        .await;
    watched
        .home
        .mv("cds.yaml", CLUSTERS.replace("first", "late"));
    // Nobody listens behind the cluster.
    get_until(watched.port.number(), "/", |reply| reply.status == 503).await;
    watched.shows_nothing(&["unknown cluster"]).await;
}

#[tokio::test]
async fn a_yaml_bomb() {
    let watched = Watched::start().await;
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let below = level - 1;
        let references = vec![format!("*a{below}"); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{references}]\n"));
    }
    text.push_str("resources: []\n");
    watched
        .refuses_listeners(&text, Counted::Failure, &["lds.yaml:"])
        .await;
}

#[tokio::test]
async fn a_deeply_nested_document() {
    let watched = Watched::start().await;
    let depth = 100_000;
    let text = format!("resources: {}{}", "[".repeat(depth), "]".repeat(depth));
    watched
        .refuses_listeners(&text, Counted::Failure, &["lds.yaml:"])
        .await;
}

#[tokio::test]
async fn a_file_cut_in_half() {
    let watched = Watched::start().await;
    let good = watched.listeners("bad");
    let half = good.find("virtual_hosts").expect("in the text") + 5;
    watched
        .refuses_listeners(&good[..half], Counted::Failure, &["lds.yaml:"])
        .await;
}

#[tokio::test]
async fn an_empty_file() {
    let watched = Watched::start().await;
    watched
        .refuses_listeners("", Counted::Failure, &["lds.yaml:", "empty"])
        .await;
}

#[tokio::test]
async fn a_port_in_use() {
    let watched = Watched::start().await;
    let taken = Port::free();
    let holder = TcpListener::bind(("127.0.0.1", taken.number())).expect("a free port");
    let good = watched.listeners("good");
    let resource = good.split_once("resources:\n").expect("in the text").1;
    let other = resource.replace("name: main", "name: other").replace(
        &watched.port.number().to_string(),
        &taken.number().to_string(),
    );
    let address = format!("127.0.0.1:{}", taken.number());
    let text = format!("resources:\n{resource}{other}");
    watched
        .refuses_listeners(&text, Counted::Rejected, &[&address, "in use"])
        .await;
    drop(holder);
}

/// What `--mode validate` says of a listener with these two files.
fn said_of(certificate: &[u8], key: &[u8]) -> String {
    let (home, port) = (Home::new(), Port::free());
    home.mv("a.pem", certificate);
    home.mv("a.key", key);
    let context = json!({ "common_tls_context": { "tls_certificates": [{
        "certificate_chain": { "filename": home.text("a.pem") },
        "private_key": { "filename": home.text("a.key") },
    }] } });
    let mut listener = listener("main", port.number(), http(vec![]));
    listener["filter_chains"][0]["transport_socket"] = ends_tls(context);
    let path = home.text("bootstrap.json");
    home.mv_value("bootstrap.json", &bootstrap(vec![listener], vec![]));
    let output = Program::under_test().run(&["--mode", "validate", "-c", &path]);
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).replace(&home.text(""), "")
}

#[test]
fn certificates_and_keys_of_every_wrong_kind() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["a.org"]), authority.issue(&["a.org"]));
    let (certificate, key) = (one.certificate.as_bytes(), one.key.as_bytes());
    assert!(said_of(certificate, key).contains(" OK"));
    let der = CertificateDer::from_pem_slice(certificate).expect("PEM");
    let encrypted = one.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let wrong_order = [other.certificate.as_bytes(), certificate].concat();
    let cases: [(&[u8], &[u8], &str); 8] = [
        (
            key,
            key,
            ".certificate_chain: a.pem holds a private key; a PEM certificate is needed",
        ),
        (
            &der,
            key,
            ".certificate_chain: a.pem is in binary form, DER (openssl",
        ),
        (
            &certificate[..300],
            key,
            ".certificate_chain: a.pem has a section that is cut off",
        ),
        (
            certificate,
            certificate,
            ".private_key: a.key holds a certificate; an unencrypted PEM",
        ),
        (certificate, b"", ".private_key: a.key is empty;"),
        (
            certificate,
            encrypted.as_bytes(),
            ".private_key: a.key holds an encrypted private key (openssl",
        ),
        (
            certificate,
            other.key.as_bytes(),
            ": the private_key (a.key) does not belong to the first certificate",
        ),
        (
            &wrong_order,
            key,
            ": the private_key (a.key) belongs to certificate 2 of certificate_chain (a.pem)",
        ),
    ];
    for (certificate, key, expected) in cases {
        let said = said_of(certificate, key);
        assert!(said.contains(expected), "{expected:?} is not in {said:?}");
        assert!(said.contains("bootstrap.json:"), "{said:?}");
    }
}

#[tokio::test]
async fn a_field_that_is_not_supported_yet() {
    let watched = Watched::start().await;
    let text = CLUSTERS.replace(
        "type: STATIC",
        "type: STATIC\n  track_timeout_budgets: true",
    );
    let words = ["cds.yaml:6:", "track_timeout_budgets"];
    watched
        .refuses_clusters(&text, Counted::Rejected, &words)
        .await;
}

#[tokio::test]
async fn the_good_ones_beside_a_bad_one() {
    let watched = Watched::start().await;
    let good = CLUSTERS.split_once("resources:\n").expect("in the text").1;
    let second = good.replace("first", "second");
    let bad = good
        .replace("first", "bad")
        .replace("connect_timeout: 1s", "connect_timeout: -1s");
    let text = format!("resources:\n{good}{bad}{second}");
    watched
        .refuses(
            "cds.yaml",
            "cluster_manager.cds",
            &text,
            Counted::Rejected,
            &["bad"],
        )
        .await;
    let clusters = watched.proxy.admin().text("/clusters").await;
    assert!(clusters.contains("second::"), "{clusters}");
    assert!(!clusters.contains("bad::"), "{clusters}");
}

#[tokio::test]
async fn the_error_state_names_version_and_reason() {
    let watched = Watched::start().await;
    let text = watched.changed("status: 200", "status: 99");
    watched
        .refuses(
            "lds.yaml",
            "listener_manager.lds",
            &text,
            Counted::Rejected,
            &["status"],
        )
        .await;
    let dump = watched
        .proxy
        .admin()
        .json("/config_dump?resource=dynamic_listeners")
        .await;
    let error = &dump["configs"][0]["error_state"];
    let details = error["details"].as_str().unwrap_or_default();
    assert!(
        details.contains("status") && details.contains("lds.yaml"),
        "{dump:#}"
    );
    assert!(error["last_update_attempt"].is_string(), "{dump:#}");
    assert_eq!(
        dump["configs"][0]["active_state"]["listener"]["name"], "main",
        "{dump:#}"
    );
}

#[tokio::test]
async fn a_directory_that_is_deleted_and_made_again() {
    let (home, port) = (Home::new(), Port::free());
    fs::create_dir(home.path("watched")).expect("a directory");
    home.mv("watched/lds.yaml", listeners(&port, "one"));
    let bootstrap = json!({
        "node": { "id": "test-node", "cluster": "test-cluster" },
        "dynamic_resources": { "lds_config": file_source(&home.text("watched/lds.yaml")) },
    });
    let _proxy = Proxy::start(&home, &bootstrap, &[]).await;
    fs::remove_dir_all(home.path("watched")).expect("removed");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get(port.number(), "/").await.text(), "one");
    fs::create_dir(home.path("watched")).expect("a directory");
    home.mv("watched/lds.yaml", listeners(&port, "two"));
    get_until(port.number(), "/", |reply| reply.text() == "two").await;
    home.mv("watched/lds.yaml", listeners(&port, "three"));
    get_until(port.number(), "/", |reply| reply.text() == "three").await;
}

#[tokio::test]
async fn a_debug_log_in_the_watched_directory() {
    let (home, port) = (Home::new(), Port::free());
    home.mv("lds.yaml", listeners(&port, "one"));
    let bootstrap = json!({
        "node": { "id": "test-node", "cluster": "test-cluster" },
        "dynamic_resources": { "lds_config": file_source(&home.text("lds.yaml")) },
    });
    let log = home.text("debug.log");
    let arguments = ["-l", "trace", "--log-path", &log];
    let _proxy = Proxy::start(&home, &bootstrap, &arguments).await;
    home.mv("lds.yaml", listeners(&port, "two"));
    get_until(port.number(), "/", |reply| reply.text() == "two").await;
    // Nothing happens now, so the log must come to rest.
    let mut sizes = Vec::new();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        sizes.push(home.read("debug.log").len());
    }
    assert!(sizes[0] > 0, "nothing was logged");
    assert!(sizes[3] - sizes[1] < 100_000, "it chases itself: {sizes:?}");
}

#[tokio::test]
async fn an_edit_in_place_is_reported() {
    let watched = Watched::start().await;
    let text = watched.listeners("edited");
    fs::write(watched.home.path("lds.yaml"), text).expect("written");
    eventually("a line about the edit", || async {
        let log = watched.proxy.log();
        log.lines()
            .any(|line| line.contains("lds.yaml") && line.contains("in place"))
            .then_some(())
    })
    .await;
    assert_eq!(get(watched.port.number(), "/").await.text(), "good");
}

#[tokio::test]
async fn a_bad_file_at_the_start_does_not_stop_the_server() {
    let (home, port) = (Home::new(), Port::free());
    home.mv(
        "lds.yaml",
        listeners(&port, "one").replace("stat_prefix", "stat_prefi"),
    );
    home.mv("cds.yaml", CLUSTERS);
    let bootstrap = file_watched(&home.text("lds.yaml"), &home.text("cds.yaml"));
    let proxy = Proxy::start(&home, &bootstrap, &[]).await;
    proxy
        .admin()
        .stat_reaches("listener_manager.lds.update_rejected", 1)
        .await;
    home.mv("lds.yaml", listeners(&port, "two"));
    get_until(port.number(), "/", |reply| reply.text() == "two").await;
}

#[tokio::test]
async fn resources_of_another_type() {
    let watched = Watched::start().await;
    watched
        .refuses_listeners(CLUSTERS, Counted::Rejected, &["lds.yaml:", "Cluster"])
        .await;
}

#[tokio::test]
async fn bad_bootstraps_do_not_start() {
    let unknown_cluster = |port: &Port| {
        let filter = http(vec![any_host(vec![route("/", "nowhere")])]);
        let listener = listener("main", port.number(), filter);
        json!({ "static_resources": { "listeners": [listener] } })
    };
    let port = Port::free();
    for (bootstrap, expected) in [
        (json!({ "static_resource": {} }), "static_resource"),
        (
            json!({ "static_resources": { "listeners": {} } }),
            "listeners",
        ),
        (unknown_cluster(&port), "nowhere"),
        (
            json!({ "static_resources": { "clusters": [{ "name": "" }] } }),
            "clusters[0]",
        ),
    ] {
        let home = Home::new();
        let mut proxy = Program::under_test().launch(&home, &bootstrap, &[]);
        let status = proxy.end().await;
        assert_eq!(status.code(), Some(1), "{bootstrap}:\n{}", proxy.log());
        let log = proxy.log();
        assert!(log.contains(expected), "{expected:?} is not in\n{log}");
    }
}

#[test]
fn the_texts_above_are_what_they_say() {
    // Guards the line numbers that the tests expect.
    assert_eq!(
        LISTENERS.lines().nth(11),
        Some("        stat_prefix: ingress")
    );
    assert!(
        LISTENERS
            .lines()
            .nth(19)
            .is_some_and(|line| line.contains("status: 200"))
    );
    assert!(
        CLUSTERS
            .lines()
            .nth(4)
            .is_some_and(|line| line.contains("type: STATIC"))
    );
}
