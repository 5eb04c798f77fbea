use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tempfile::TempDir;

use super::*;
use crate::{
    admin::state::ConfigView,
    api::envoy::config::{
        bootstrap::v3::bootstrap::{DynamicResources, StaticResources},
        core::v3::{ConfigSource, Node, config_source::ConfigSourceSpecifier},
    },
    config::{Report, Strictness},
    model::{Snapshot, context::ServerInfo},
    stats,
};

#[path = "../../../tests/common/ports.rs"]
mod ports;

use ports::Port;

/// Longer than anything takes that is to come at once.
const SOON: Duration = Duration::from_secs(5);

struct Scene {
    root: TempDir,
    snapshot: SnapshotSlot,
    configurator: Option<Rc<Configurator>>,
}

impl Scene {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            configurator: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let temporary = self.path("temporary");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    /// Starts with a CDS file that is there already.
    fn start(&mut self, resources: StaticResources) {
        let cds_config = ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::Path(
                self.path("cds.yaml").display().to_string(),
            )),
            ..ConfigSource::default()
        };
        let lds = self.path("lds.yaml");
        let lds_config = lds.exists().then(|| ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::Path(lds.display().to_string())),
            ..ConfigSource::default()
        });
        let dynamic = DynamicResources {
            cds_config: Some(cds_config),
            lds_config,
            ..DynamicResources::default()
        };
        let stats = stats::Registry::new(1);
        let setup = Setup {
            runtime: crate::runtime::Runtime::new(Vec::new(), &stats),
            stats,
            server: ServerInfo {
                node_id: "node".to_owned(),
                node_cluster: "cluster".to_owned(),
                concurrency: 1,
                ..ServerInfo::default()
            },
            node: Node::default(),
            strictness: Strictness::default(),
            state_dir: None,
            snapshot: self.snapshot.clone(),
            bootstrap: (Bytes::new(), SystemTime::now()),
            publish: Box::new(|_| ()),
        };
        let report = Report::new();
        let started = Configurator::start(Some(resources), Some(dynamic), setup, &report.root());
        let configurator = started.unwrap_or_else(|_| panic!("{report}"));
        let run = Rc::clone(&configurator);
        tokio::task::spawn_local(async move { run.run().await });
        self.configurator = Some(configurator);
    }

    fn configurator(&self) -> &Configurator {
        self.configurator.as_deref().unwrap()
    }

    fn clusters(&self) -> Vec<String> {
        let snapshot = self.snapshot.load();
        let mut names: Vec<_> = snapshot.clusters.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    fn listeners(&self) -> Vec<String> {
        let snapshot = self.snapshot.load();
        let mut names: Vec<_> = snapshot.listeners.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    fn listener_error(&self, name: &str) -> String {
        let all = self.configurator().resources(Kind::Listener);
        let found = all.into_iter().find(|r| &*r.name == name);
        let error = found.and_then(|r| r.error);
        error.map_or_else(String::new, |e| e.details.to_string())
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !holds(self) {
            let sources = || self.configurator().sources();
            assert!(
                start.elapsed() < SOON,
                "{what}: {:?} {:?}",
                self.clusters(),
                sources()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        start.elapsed()
    }

    fn error(&self, name: &str) -> Option<String> {
        let all = self.configurator().resources(Kind::Cluster);
        let found = all.into_iter().find(|r| &*r.name == name)?;
        found.error.map(|e| e.details.to_string())
    }

    fn counter(&self, name: &str) -> u64 {
        let stats = self.configurator().subscriptions.stats();
        let (prefix, last) = name.rsplit_once('.').unwrap();
        let tables = [
            &crate::xds::stats::subscription_stats::TABLE,
            &crate::xds::stats::update_stats::TABLE,
        ];
        let counts = tables.into_iter().filter_map(|table| {
            let index = table.counters.iter().position(|c| *c == last)?;
            let block = stats.block(&format!("{prefix}."), table);
            Some(block.counter(stats::Counter(index as u16)))
        });
        counts.sum()
    }
}

fn cds(version: &str, clusters: &[String]) -> String {
    format!(
        "version_info: v{version}\nresources:\n{}",
        clusters.join("\n")
    )
}

fn fixed(name: &str, port: u16) -> String {
    format!(
        r#"- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: {name}
  type: STATIC
  load_assignment:
    cluster_name: {name}
    endpoints:
    - lb_endpoints:
      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"#
    )
}

fn eds(scene: &Scene, name: &str) -> String {
    format!(
        r#"- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: {name}
  type: EDS
  eds_cluster_config: {{eds_config: {{path_config_source: {{path: {}}}}}}}"#,
        scene.path("eds.yaml").display()
    )
}

fn assignment(name: &str, port: u16) -> String {
    format!(
        r#"resources:
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: {name}
  endpoints:
  - lb_endpoints:
    - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"#
    )
}

async fn locally(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_file_moved_into_place_is_in_force_at_once() {
    locally(async {
        let mut scene = Scene::new();
        scene.put("cds.yaml", &cds("1", &[fixed("a", 1)]));
        scene.start(StaticResources::default());
        assert_eq!(scene.clusters(), ["a"]);
        let kept = scene.snapshot.load().clusters["a"].clone();
        scene.put("cds.yaml", &cds("2", &[fixed("a", 1), fixed("b", 2)]));
        let took = scene
            .until("b is added", |s| s.clusters() == ["a", "b"])
            .await;
        assert!(took < Duration::from_millis(100), "{took:?}");
        assert!(Arc::ptr_eq(&kept, &scene.snapshot.load().clusters["a"]));
        assert_eq!(&*scene.configurator().version(Kind::Cluster), "v2");
        scene.put("cds.yaml", "resources: []");
        scene
            .until("all are removed", |s| s.clusters().is_empty())
            .await;
        assert_eq!(scene.counter("cluster_manager.cds.update_success"), 3);
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_place_and_the_rest_applied() {
    locally(async {
        let mut scene = Scene::new();
        scene.put("cds.yaml", &cds("1", &[fixed("a", 1), fixed("b", 1)]));
        scene.start(StaticResources::default());
        let bad = fixed("a", 1).replace("type: STATIC", "tipe: STATIC");
        scene.put("cds.yaml", &cds("2", &[bad, fixed("b", 2), fixed("c", 3)]));
        scene
            .until("c is added", |s| s.clusters() == ["a", "b", "c"])
            .await;
        let error = scene.error("a").unwrap();
        assert!(error.contains("cds.yaml:5:"), "{error}");
        assert!(error.contains("tipe"), "{error}");
        // Something of it was applied.
        assert_eq!(&*scene.configurator().version(Kind::Cluster), "v2");
        assert_eq!(scene.counter("cluster_manager.cds.update_rejected"), 1);
        let source = &scene.configurator().sources()[0];
        assert!(
            source
                .error
                .as_ref()
                .unwrap()
                .details
                .contains("cluster(s) a:")
        );
        // Nor is an answer that cannot be taken forgotten.
        scene.put("cds.yaml", "resources: [{}]");
        let refused = |s: &Scene| s.counter("cluster_manager.cds.update_rejected") == 2;
        scene.until("a refusal", refused).await;
        assert!(scene.configurator().sources()[0].error.is_some());
        scene.put("cds.yaml", "resources: [");
        scene
            .until("a failure", |s| {
                s.counter("cluster_manager.cds.update_failure") == 1
            })
            .await;
        assert_eq!(scene.clusters(), ["a", "b", "c"]);
    })
    .await;
}

#[tokio::test]
async fn two_files_in_either_order_both_take_effect() {
    locally(async {
        let mut scene = Scene::new();
        scene.put("cds.yaml", &cds("1", &[]));
        scene.start(StaticResources::default());
        let text = cds("2", &[eds(&scene, "e"), fixed("a", 1)]);
        scene.put("cds.yaml", &text);
        scene.until("a is added", |s| s.clusters() == ["a"]).await;
        let error = scene.error("e").unwrap();
        assert!(error.contains("does not exist"), "{error}");
        scene.put("eds.yaml", &assignment("e", 7));
        scene
            .until("e is added", |s| s.clusters() == ["a", "e"])
            .await;
        assert_eq!(scene.error("e"), None);
        assert_eq!(&*scene.configurator().version(Kind::Cluster), "v2");
        let hosts = |s: &Scene| s.snapshot.load().clusters["e"].hosts().load().count().total;
        scene.until("its host is there", |s| hosts(s) == 1).await;
        // Another's endpoints are refused, and the last good stay.
        scene.put("eds.yaml", &assignment("other", 7));
        scene
            .until("it is refused", |s| {
                s.counter("cluster.e.update_rejected") == 1
            })
            .await;
        assert_eq!(hosts(&scene), 1);
    })
    .await;
}

#[tokio::test]
async fn an_edit_in_place_waits_for_a_signal() {
    locally(async {
        let mut scene = Scene::new();
        scene.put("cds.yaml", &cds("1", &[fixed("a", 1)]));
        scene.start(StaticResources::default());
        fs::write(scene.path("cds.yaml"), cds("2", &[fixed("b", 1)])).unwrap();
        let noticed = |s: &Scene| s.configurator().sources()[0].notice.is_some();
        scene.until("it is noticed", noticed).await;
        assert_eq!(scene.clusters(), ["a"]);
        scene.configurator().reload_all();
        scene.until("it is read", |s| s.clusters() == ["b"]).await;
        assert!(!noticed(&scene));
    })
    .await;
}

fn tunnel(name: &str, port: u16, prefix: &str) -> String {
    format!(
        r#"- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: {name}
  address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
  filter_chains:
  - filters:
    - name: tunnel
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
        stat_prefix: {prefix}
        cluster: a"#
    )
}

fn web(scene: &Scene, name: &str, port: u16) -> String {
    format!(
        r#"- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: {name}
  address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
  filter_chains:
  - filters:
    - name: web
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: web
        rds: {{route_config_name: local, config_source: {{path: {}}}}}
        http_filters:
        - name: router
          typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"#,
        scene.path("rds.yaml").display()
    )
}

fn lds(listeners: &[String]) -> String {
    format!("resources:\n{}", listeners.join("\n"))
}

#[tokio::test]
async fn a_socket_belongs_to_its_address() {
    locally(async {
        let mut scene = Scene::new();
        let claims = (Port::free(), Port::free());
        let (one, two) = (claims.0.number(), claims.1.number());
        scene.put("cds.yaml", &cds("1", &[fixed("a", 1)]));
        scene.put("lds.yaml", &lds(&[tunnel("x", one, "x")]));
        scene.start(StaticResources::default());
        scene.until("x is there", |s| s.listeners() == ["x"]).await;
        let socket = |s: &Scene, name: &str| s.snapshot.load().listeners[name].sockets[0].clone();
        let first = socket(&scene, "x");
        // Another configuration of the same address keeps the socket.
        let modified = |s: &Scene| s.snapshot.load().listeners["x"].clone();
        let before = modified(&scene);
        scene.put("lds.yaml", &lds(&[tunnel("x", one, "other")]));
        scene
            .until("x is another", |s| !Arc::ptr_eq(&before, &modified(s)))
            .await;
        assert!(Arc::ptr_eq(&first, &socket(&scene, "x")));
        // So does another listener that takes the address over.
        scene.put(
            "lds.yaml",
            &lds(&[tunnel("u", one, "u"), tunnel("v", one, "v")]),
        );
        scene.until("u took over", |s| s.listeners() == ["u"]).await;
        assert!(Arc::ptr_eq(&first, &socket(&scene, "u")));
        let error = scene.listener_error("v");
        assert!(error.contains("duplicate address"), "{error}");
        scene.put(
            "lds.yaml",
            &lds(&[tunnel("u", two, "u"), tunnel("v", one, "v")]),
        );
        scene
            .until("both are there", |s| s.listeners() == ["u", "v"])
            .await;
        assert_eq!(scene.listener_error("v"), "");
    })
    .await;
}

#[tokio::test]
async fn an_address_that_is_given_up_is_taken() {
    locally(async {
        let mut scene = Scene::new();
        let claim = Port::free();
        let port = claim.number();
        let other = TcpListener::bind(("127.0.0.1", port)).unwrap();
        scene.put("cds.yaml", &cds("1", &[fixed("a", 1)]));
        scene.put("lds.yaml", &lds(&[tunnel("x", port, "x")]));
        scene.start(StaticResources::default());
        let refused = |s: &Scene| s.listener_error("x").contains("Address already in use");
        scene.until("x is refused", refused).await;
        assert_eq!(scene.listeners(), Vec::<String>::new());
        drop(other);
        scene.until("x is bound", |s| s.listeners() == ["x"]).await;
        assert_eq!(scene.listener_error("x"), "");
    })
    .await;
}

#[tokio::test]
async fn a_listener_waits_for_its_routes() {
    locally(async {
        let routes = |cluster: &str| {
            format!(
                r#"resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: local
  validate_clusters: true
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]"#
            )
        };
        let mut scene = Scene::new();
        let claim = Port::free();
        let port = claim.number();
        scene.put("cds.yaml", &cds("1", &[fixed("a", 1)]));
        scene.put("lds.yaml", &lds(&[tunnel("x", port, "x")]));
        scene.start(StaticResources::default());
        scene.until("x is there", |s| s.listeners() == ["x"]).await;
        let old = scene.snapshot.load().listeners["x"].clone();
        scene.put("lds.yaml", &lds(&[web(&scene, "x", port)]));
        let refused = |s: &Scene| s.listener_error("x").contains("does not exist");
        scene.until("x is refused", refused).await;
        // The file comes, but leads to a cluster that does not exist.
        scene.put("rds.yaml", &routes("b"));
        let warms = |s: &Scene| {
            s.configurator()
                .unready()
                .iter()
                .any(|u| u.name.ends_with(" x"))
        };
        scene.until("x warms", warms).await;
        assert!(Arc::ptr_eq(&old, &scene.snapshot.load().listeners["x"]));
        scene.put("cds.yaml", &cds("2", &[fixed("a", 1), fixed("b", 1)]));
        let serves = |s: &Scene| !Arc::ptr_eq(&old, &s.snapshot.load().listeners["x"]);
        scene.until("x serves by its routes", serves).await;
        assert!(!warms(&scene));
        let routes = &scene.configurator().resources(Kind::Route)[0];
        assert!(routes.active.is_some() && routes.error.is_none());
    })
    .await;
}
