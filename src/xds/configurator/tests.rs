use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tempfile::TempDir;

use super::*;
use crate::{
    admin::state::ConfigView,
    api::envoy::config::core::v3::{ConfigSource, config_source::ConfigSourceSpecifier},
    config::Report,
    model::Snapshot,
};

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
        let dynamic = DynamicResources {
            cds_config: Some(cds_config),
            ..DynamicResources::default()
        };
        let stats = stats::Registry::new(0);
        let setup = Setup {
            runtime: crate::runtime::Runtime::new(Vec::new(), &stats),
            stats,
            server: ServerInfo {
                node_id: "node".to_owned(),
                node_cluster: "cluster".to_owned(),
                ..ServerInfo::default()
            },
            strictness: Strictness::default(),
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
        let table = &crate::xds::stats::subscription_stats::TABLE;
        let index = table.counters.iter().position(|c| *c == last).unwrap();
        let block = stats.block(&format!("{prefix}."), table);
        block.counter(stats::Counter(index as u16))
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
        assert_eq!(&*scene.configurator().version(Kind::Cluster), "v1");
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
