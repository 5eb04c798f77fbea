use std::{fs, path::PathBuf};

use prost_types::Duration;
use tempfile::TempDir;

use super::*;
use crate::api::envoy::config::core::v3::config_source::ConfigSourceSpecifier;

struct Scene {
    root: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file in which `DIR/` stands for the directory.
    fn write(&self, name: &str, text: &str) {
        let directory = format!("{}/", self.root.path().display());
        fs::write(self.path(name), text.replace("DIR/", &directory)).unwrap();
    }

    fn source(&self, name: &str) -> Option<ConfigSourceMessage> {
        let path = self.path(name);
        path.exists().then(|| ConfigSourceMessage {
            config_source_specifier: Some(ConfigSourceSpecifier::Path(path.display().to_string())),
            initial_fetch_timeout: Some(Duration::default()),
            ..ConfigSourceMessage::default()
        })
    }

    /// The errors, in which `DIR/` stands for the directory.
    fn validate(&self, resources: StaticResources) -> Vec<String> {
        let stats = stats::Registry::new(0);
        let checks = Checks {
            runtime: Runtime::empty(&stats),
            stats,
            server: ServerInfo::default(),
            strictness: Strictness::default(),
        };
        let dynamic = DynamicResources {
            lds_config: self.source("lds.yaml"),
            cds_config: self.source("cds.yaml"),
            ..DynamicResources::default()
        };
        let report = Report::new();
        validate(resources, dynamic, checks, &report.root());
        let directory = format!("{}/", self.root.path().display());
        let errors = report.into_errors().into_iter();
        errors
            .map(|e| e.to_string().replace(&directory, "DIR/"))
            .collect()
    }
}

const CLUSTER: &str = r#"resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: backend
  type: EDS
  eds_cluster_config: {eds_config: {path: DIR/eds.yaml}}
"#;

const LISTENER: &str = r#"resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: front
  address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
  filter_chains:
  - filters:
    - name: http
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: front
        rds: {route_config_name: local, config_source: {path: DIR/rds.yaml}}
        http_filters:
        - name: router
          typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

const ROUTES: &str = r#"resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: local
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - match: {prefix: /}
      route: {cluster: backend}
"#;

const ENDPOINTS: &str = r#"resources:
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: backend
"#;

fn good() -> Scene {
    let scene = Scene::new();
    scene.write("cds.yaml", CLUSTER);
    scene.write("lds.yaml", LISTENER);
    scene.write("rds.yaml", ROUTES);
    scene.write("eds.yaml", ENDPOINTS);
    scene
}

#[test]
fn what_is_good_has_no_errors() {
    let errors = good().validate(StaticResources::default());
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn a_route_leads_to_a_cluster_there_is() {
    let scene = good();
    scene.write(
        "rds.yaml",
        &ROUTES.replace("cluster: backend", "cluster: bakend"),
    );
    assert_eq!(
        scene.validate(StaticResources::default()),
        [
            "DIR/rds.yaml:9:15: virtual_hosts[0].routes[0].route.cluster: \
          unknown cluster 'bakend', did you mean backend?"
        ]
    );
}

#[test]
fn every_file_is_read() {
    let scene = good();
    scene.write("eds.yaml", &ENDPOINTS.replace("backend", "other"));
    scene.write("rds.yaml", "resources: [");
    let errors = scene.validate(StaticResources::default());
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("DIR/eds.yaml:"), "{errors:?}");
    assert!(errors[0].ends_with("Unexpected EDS configuration (expecting backend): other"));
    assert!(errors[1].starts_with("DIR/rds.yaml:"), "{errors:?}");
    fs::remove_file(scene.path("eds.yaml")).unwrap();
    let errors = scene.validate(StaticResources::default());
    let missing = "paths must refer to an existing path in the system: 'DIR/eds.yaml'";
    assert!(errors[0].contains(missing), "{errors:?}");
    assert!(errors[0].starts_with("DIR/cds.yaml:5:"), "{errors:?}");
}

#[test]
fn names_and_addresses_are_given_once() {
    let scene = good();
    let (_, listener) = LISTENER.split_once('\n').unwrap();
    let second = listener.replace("name: front", "name: side");
    scene.write("lds.yaml", &format!("{LISTENER}{listener}{second}"));
    let errors = scene.validate(StaticResources::default());
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[0].contains("duplicate listener front found, the first is in DIR/lds.yaml:2:3"),
        "{errors:?}"
    );
    assert!(
        errors[1].contains("has duplicate address '127.0.0.1:10000'"),
        "{errors:?}"
    );
}
