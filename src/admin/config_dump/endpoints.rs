//! `include_eds`: the endpoints of every cluster, as its hosts are now.

use std::sync::Arc;

use prost::Message;
use prost_types::Any;

use crate::{
    admin::{State, clusters, listeners, state::Kind},
    api::{
        self,
        envoy::{
            admin::v3 as pb,
            config::{
                core::v3::{HealthStatus, Locality},
                endpoint::v3::{
                    ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
                    cluster_load_assignment::Policy, endpoint, lb_endpoint::HostIdentifier,
                },
            },
        },
    },
    model::cluster::{Cluster, Discovery},
    upstream::Endpoint,
};

use super::entry::{self, Entry};

/// Static lists by cluster, then what came by EDS and what was refused there.
pub fn lists(state: &State) -> Vec<(&'static str, Vec<Entry>)> {
    let snapshot = state.snapshot.load();
    let mut clusters: Vec<_> = snapshot
        .clusters
        .values()
        .filter(|cluster| !matches!(cluster.discovery, Discovery::Eds(_)))
        .collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let mut lists = entry::lists(state, Kind::Endpoint);
    for (field, entries) in &mut lists {
        if *field == "static_endpoint_configs" {
            *entries = clusters
                .iter()
                .map(|c| Entry::Endpoints(Arc::clone(c)))
                .collect();
        }
    }
    lists
}

/// The endpoints of one cluster, as its hosts are now.
pub fn dump(cluster: &Cluster) -> pb::endpoints_config_dump::StaticEndpointConfig {
    pb::endpoints_config_dump::StaticEndpointConfig {
        endpoint_config: Some(Any {
            type_url: format!("{}{}", api::TYPE_URL_PREFIX, Kind::Endpoint.message_name()),
            value: assignment(cluster).encode_to_vec(),
        }),
        last_updated: None,
    }
}

fn assignment(cluster: &Cluster) -> ClusterLoadAssignment {
    let hosts = cluster.hosts().load();
    let membership = hosts.membership();
    let endpoints = membership.localities.iter().map(|group| {
        let locality = &group.locality;
        LocalityLbEndpoints {
            locality: Some(Locality {
                region: locality.region.to_string(),
                zone: locality.zone.to_string(),
                sub_zone: locality.sub_zone.to_string(),
            }),
            lb_endpoints: group.endpoints.iter().map(|e| lb_endpoint(e)).collect(),
            load_balancing_weight: Some(group.weight),
            priority: group.priority,
            ..Default::default()
        }
    });
    ClusterLoadAssignment {
        cluster_name: cluster.name.to_string(),
        endpoints: endpoints.collect(),
        policy: Some(Policy {
            overprovisioning_factor: Some(membership.overprovisioning),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn lb_endpoint(endpoint: &Endpoint) -> LbEndpoint {
    let status: HealthStatus = clusters::health_status(endpoint);
    LbEndpoint {
        health_status: status.into(),
        metadata: endpoint.metadata.as_deref().cloned(),
        load_balancing_weight: Some(endpoint.weight),
        host_identifier: Some(HostIdentifier::Endpoint(PbEndpoint {
            address: Some(listeners::message_of(&endpoint.host.address())),
            health_check_config: Some(endpoint::HealthCheckConfig::default()),
            hostname: endpoint.hostname.to_string(),
            ..Default::default()
        })),
    }
}
