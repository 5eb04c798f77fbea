//! What tests of both variants share.

use std::{sync::Arc, time::Instant};

use prost::Message;
use prost_types::Any;

use crate::api::envoy::{
    config::{cluster::v3::Cluster, core::v3::Node, endpoint::v3::ClusterLoadAssignment},
    service::discovery::v3::Resource,
};

use super::TypeUrl;

pub const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

pub fn clusters() -> TypeUrl {
    CLUSTERS.into()
}

pub fn endpoints() -> TypeUrl {
    ENDPOINTS.into()
}

pub fn now() -> Instant {
    Instant::now()
}

pub fn node() -> Arc<Node> {
    Arc::new(Node {
        id: "node".to_owned(),
        ..Node::default()
    })
}

pub fn cluster(name: &str) -> Any {
    let message = Cluster {
        name: name.to_owned(),
        ..Cluster::default()
    };
    Any::from_msg(&message).unwrap()
}

pub fn assignment(name: &str) -> Any {
    let message = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        ..ClusterLoadAssignment::default()
    };
    Any::from_msg(&message).unwrap()
}

/// Bytes that are no message at all.
pub fn broken(type_url: &str) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: vec![0xff; 3],
    }
}

pub fn wrapped(resource: Option<Any>, name: &str, ttl: i64) -> Any {
    Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
        value: Resource {
            name: name.to_owned(),
            resource,
            ttl: (ttl > 0).then_some(prost_types::Duration {
                seconds: ttl,
                nanos: 0,
            }),
            ..Resource::default()
        }
        .encode_to_vec(),
    }
}
