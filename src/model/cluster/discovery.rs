//! Where a cluster's hosts come from.

use std::sync::Arc;

use prost_types::Duration;

use crate::{
    api::envoy::config::{
        cluster::v3::cluster::{
            ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig,
            OriginalDstLbConfig,
        },
        endpoint::v3::ClusterLoadAssignment,
    },
    config::{At, Reported, unpack},
    model::Context,
    upstream::{dns::DnsSettings, original_dst::OriginalDst},
    xds::slot::Slot,
};

use super::{
    dns::{self, DnsFields},
    endpoints::{EndpointSet, Names, Target},
};

/// Where a cluster's hosts come from.
#[derive(Debug)]
pub enum Discovery {
    /// `STATIC`: from the configuration itself.
    Static,
    /// `STRICT_DNS`: every address of every name.
    StrictDns(Arc<DnsSettings>, Arc<EndpointSet>),
    /// `LOGICAL_DNS`: one host, known by its name.
    LogicalDns(Arc<DnsSettings>, Arc<EndpointSet>),
    /// `EDS`: from a subscription.
    Eds(Arc<Slot<EndpointSet>>),
    /// `ORIGINAL_DST`: where connections were meant to go.
    OriginalDst(Arc<OriginalDst>),
}

/// Where a cluster says it.
pub(super) struct Source<'a> {
    pub(super) cluster: &'a str,
    pub(super) stat_prefix: &'a str,
    pub(super) kind: Option<ClusterDiscoveryType>,
    pub(super) eds_cluster_config: Option<EdsClusterConfig>,
    pub(super) load_assignment: Option<ClusterLoadAssignment>,
    pub(super) original_dst: Option<OriginalDstLbConfig>,
    pub(super) cleanup_interval: Option<Duration>,
    /// Without effect in clusters that are not resolved, in Envoy too.
    pub(super) dns: DnsFields,
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
        original_dst,
        cleanup_interval,
        dns,
    } = source;
    let place = at.field("load_assignment");
    if eds_cluster_config.is_some() && !is_eds(kind.as_ref()) {
        let place = at.field("eds_cluster_config");
        return Err(place.error("means nothing unless the type is EDS"));
    }
    let kind = match kind {
        Some(ClusterDiscoveryType::Type(value)) => {
            let place = at.field("type");
            DiscoveryType::try_from(value)
                .map_err(|_| place.error(format_args!("{value} is not a DiscoveryType")))?
        }
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            let at = at.field("cluster_type");
            let (dns, logical) = compile_custom(custom, dns, cx, &at)?;
            return compile_dns(dns, logical, load_assignment, &place);
        }
        None => DiscoveryType::Static,
    };
    match kind {
        DiscoveryType::Static => {
            let message = load_assignment.unwrap_or_default();
            let endpoints = EndpointSet::compile_with(message, Names::Refused, &place)?;
            Ok((Discovery::Static, Some(endpoints)))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let dns = dns::compile_fields(dns, cx, at)?;
            let logical = kind == DiscoveryType::LogicalDns;
            compile_dns(dns, logical, load_assignment, &place)
        }
        DiscoveryType::Eds if load_assignment.is_some() => {
            Err(place.error("means nothing with type EDS; remove one of them"))
        }
        DiscoveryType::Eds => {
            let place = at.field("eds_cluster_config");
            let config = eds_cluster_config;
            let config = config.ok_or_else(|| place.error("is required by type EDS"))?;
            let EdsClusterConfig {
                eds_config,
                service_name,
            } = config;
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
        DiscoveryType::OriginalDst => {
            if load_assignment.is_some() {
                return Err(place.error("ORIGINAL_DST clusters must have no load assignment"));
            }
            let original = super::original_dst::compile(original_dst, cleanup_interval, at)?;
            Ok((Discovery::OriginalDst(original.into()), None))
        }
    }
}

pub(super) fn is_original_dst(kind: Option<&ClusterDiscoveryType>) -> bool {
    let original = i32::from(DiscoveryType::OriginalDst);
    matches!(kind, Some(ClusterDiscoveryType::Type(kind)) if *kind == original)
}

pub(super) fn is_strict_dns(kind: Option<&ClusterDiscoveryType>) -> bool {
    let strict = i32::from(DiscoveryType::StrictDns);
    matches!(kind, Some(ClusterDiscoveryType::Type(kind)) if *kind == strict)
}

fn is_eds(kind: Option<&ClusterDiscoveryType>) -> bool {
    matches!(kind, Some(ClusterDiscoveryType::Type(kind)) if *kind == i32::from(DiscoveryType::Eds))
}

fn compile_dns(
    dns: DnsSettings,
    logical: bool,
    load_assignment: Option<ClusterLoadAssignment>,
    at: &At<'_>,
) -> Result<(Discovery, Option<EndpointSet>), Reported> {
    let message = load_assignment.unwrap_or_default();
    let mut endpoints = EndpointSet::compile_with(message, Names::Resolved, at)?;
    if !logical {
        return Ok((Discovery::StrictDns(dns.into(), endpoints.into()), None));
    }
    let count: usize = endpoints.localities.iter().map(|l| l.endpoints.len()).sum();
    if endpoints.localities.len() != 1 || count != 1 {
        let place = at.field("endpoints");
        return Err(place.error(format_args!(
            "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint; found {count}"
        )));
    }
    // An address is resolved already, but stays what a name would be: one host.
    for endpoint in &mut endpoints.localities[0].endpoints {
        if let Target::Address(addresses) = &endpoint.target {
            let address = addresses
                .first
                .ip()
                .ok_or_else(|| at.error("a cluster that is resolved has host names, not a pipe"))?;
            endpoint.target = Target::Name(address.ip().to_string().into(), address.port());
        }
    }
    Ok((Discovery::LogicalDns(dns.into(), endpoints.into()), None))
}

/// A `cluster_type`: the DNS cluster, which may also be called by the names of
/// the two that it took the place of.
fn compile_custom(
    message: CustomClusterType,
    dns: DnsFields,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(DnsSettings, bool), Reported> {
    let CustomClusterType { name, typed_config } = message;
    let place = at.field("typed_config");
    match (name.as_str(), typed_config) {
        ("envoy.cluster.strict_dns", None) => Ok((dns::compile_fields(dns, cx, at)?, false)),
        ("envoy.cluster.logical_dns", None) => Ok((dns::compile_fields(dns, cx, at)?, true)),
        (_, Some(any))
            if any
                .type_url
                .ends_with("envoy.extensions.clusters.dns.v3.DnsCluster") =>
        {
            let (settings, logical) = dns::compile_typed(unpack(&any, &place)?, cx, &place)?;
            // The old names still say which of the two it is, as in Envoy.
            let logical = match name.as_str() {
                "envoy.cluster.strict_dns" => false,
                "envoy.cluster.logical_dns" => true,
                _ => logical,
            };
            Ok((settings, logical))
        }
        (_, any) => {
            let url = any.map(|any| any.type_url).unwrap_or_default();
            Err(at.error(format_args!(
                "{name:?} ({url}) is not supported; supported is envoy.extensions.clusters.dns.v3.DnsCluster"
            )))
        }
    }
}
