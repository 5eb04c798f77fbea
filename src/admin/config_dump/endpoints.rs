//! `include_eds`: the endpoints of every cluster, as its hosts are now.

use std::{collections::HashMap, sync::Arc};

use prost::Message;
use prost_types::Any;

use crate::{
    admin::{State, clusters, listeners, state::Kind},
    api::{
        self,
        envoy::config::{
            core::v3::{HealthStatus, Locality},
            endpoint::v3::{
                ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
                cluster_load_assignment::Policy, endpoint, lb_endpoint::HostIdentifier,
            },
        },
    },
    model::cluster::{Cluster, Discovery},
    upstream::Endpoint,
};

use super::entry::{self, Entry};

/// By cluster, static or added; what came by EDS with its version and what was
/// refused of it.
pub fn lists(state: &State) -> Vec<(&'static str, Vec<Entry>)> {
    let added = state.config.added(Kind::Cluster);
    let entries = entry::lists(state, Kind::Endpoint).into_iter();
    let mut resources: HashMap<_, _> = entries
        .flat_map(|(_, entries)| entries)
        .filter_map(|entry| match entry {
            Entry::Resource(_, resource) => Some((resource.name.clone(), resource)),
            Entry::Endpoints(..)
            | Entry::Routes(..)
            | Entry::Scopes(_)
            | Entry::InlineScopes(..) => None,
        })
        .collect();
    let (mut of_bootstrap, mut dynamic) = (Vec::new(), Vec::new());
    for cluster in state.snapshot.load().clusters.values() {
        let resource = match &cluster.discovery {
            Discovery::Eds(slot) => resources.get(slot.name()).cloned(),
            Discovery::Static
            | Discovery::StrictDns(..)
            | Discovery::LogicalDns(..)
            | Discovery::OriginalDst(_) => None,
        };
        let list = match added.contains(&cluster.name) {
            true => &mut dynamic,
            false => &mut of_bootstrap,
        };
        list.push(Entry::Endpoints(Arc::clone(cluster), resource));
    }
    for entry in of_bootstrap.iter().chain(&dynamic) {
        if let Entry::Endpoints(_, Some(resource)) = entry {
            resources.remove(&resource.name);
        }
    }
    // Those whose cluster is not in force.
    let rest = resources.into_values();
    dynamic.extend(rest.map(|resource| Entry::Resource(Kind::Endpoint, resource)));
    for list in [&mut of_bootstrap, &mut dynamic] {
        list.sort_by(|a, b| a.name().cmp(b.name()));
    }
    vec![
        ("static_endpoint_configs", of_bootstrap),
        ("dynamic_endpoint_configs", dynamic),
    ]
}

/// The endpoints of one cluster, as its hosts are now.
pub fn of(cluster: &Cluster) -> Any {
    Any {
        type_url: format!("{}{}", api::TYPE_URL_PREFIX, Kind::Endpoint.message_name()),
        value: assignment(cluster).encode_to_vec(),
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
