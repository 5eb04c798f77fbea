//! `envoy.config.cluster.v3.Cluster`, compiled.

use std::sync::Arc;

/// One upstream cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`, compiled.
#[derive(Debug)]
pub struct EndpointSet {}
