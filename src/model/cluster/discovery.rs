//! Where a cluster's hosts come from.

use std::sync::Arc;

use crate::{
    api::envoy::config::{
        cluster::v3::cluster::{
            ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, RefreshRate,
        },
        core::v3::{self as core, DnsResolutionConfig, TypedExtensionConfig},
        endpoint::v3::ClusterLoadAssignment,
    },
    config::{At, Reported},
    model::Context,
    refuse,
    xds::slot::Slot,
};

use super::endpoints::{EndpointSet, Names};

/// Where a cluster's hosts come from.
#[derive(Debug)]
pub enum Discovery {
    /// `STATIC`: from the configuration itself.
    Static,
    /// `EDS`: from a subscription.
    Eds(Arc<Slot<EndpointSet>>),
}

/// Where a cluster says it.
pub(super) struct Source<'a> {
    pub(super) cluster: &'a str,
    pub(super) stat_prefix: &'a str,
    pub(super) kind: Option<ClusterDiscoveryType>,
    pub(super) eds_cluster_config: Option<EdsClusterConfig>,
    pub(super) load_assignment: Option<ClusterLoadAssignment>,
    pub(super) dns_refresh_rate: Option<prost_types::Duration>,
    pub(super) dns_lookup_family: i32,
    pub(super) dns_resolvers: Vec<core::Address>,
    pub(super) respect_dns_ttl: bool,
    pub(super) dns_failure_refresh_rate: Option<RefreshRate>,
    pub(super) use_tcp_for_dns_lookups: bool,
    pub(super) dns_resolution_config: Option<DnsResolutionConfig>,
    pub(super) typed_dns_resolver_config: Option<TypedExtensionConfig>,
    pub(super) dns_jitter: Option<prost_types::Duration>,
}

/// The discovery, and the endpoints that are known from the configuration.
pub(super) fn compile(
    source: Source<'_>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(Discovery, Option<EndpointSet>), Reported> {
    let Source {
        cluster,
        stat_prefix,
        kind,
        eds_cluster_config,
        load_assignment,
        dns_refresh_rate: _,
        dns_lookup_family: _,
        dns_resolvers: _,
        respect_dns_ttl: _,
        dns_failure_refresh_rate: _,
        use_tcp_for_dns_lookups: _,
        dns_resolution_config: _,
        typed_dns_resolver_config: _,
        dns_jitter: _,
    } = source;
    let kind = match kind {
        Some(ClusterDiscoveryType::Type(value)) => {
            DiscoveryType::try_from(value).map_err(|_| {
                at.field("type")
                    .error(format_args!("{value} is not a DiscoveryType"))
            })?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return Err(at.field("cluster_type").unsupported());
        }
        None => DiscoveryType::Static,
    };
    match kind {
        DiscoveryType::Static => {
            refuse!(at; eds_cluster_config)?;
            let place = at.field("load_assignment");
            let endpoints = EndpointSet::compile_with(
                load_assignment.unwrap_or_default(),
                Names::Refused,
                &place,
            )?;
            Ok((Discovery::Static, Some(endpoints)))
        }
        DiscoveryType::Eds => {
            let place = at.field("eds_cluster_config");
            let Some(EdsClusterConfig {
                eds_config,
                service_name,
            }) = eds_cluster_config
            else {
                return Err(place.error("is required by type EDS"));
            };
            if load_assignment.is_some() {
                let place = at.field("load_assignment");
                return Err(place.error("means nothing with type EDS; remove one of them"));
            }
            let place = place.field("eds_config");
            let eds_config = eds_config.ok_or_else(|| place.error("is required"))?;
            let name = match service_name.is_empty() {
                true => cluster,
                false => &service_name,
            };
            let slot = cx
                .sources
                .endpoints(&eds_config, name, stat_prefix, &place)?;
            Ok((Discovery::Eds(slot), None))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns | DiscoveryType::OriginalDst => {
            let name = kind.as_str_name();
            Err(at
                .field("type")
                .error(format_args!("{name} is not supported yet")))
        }
    }
}
