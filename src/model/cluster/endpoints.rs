//! `envoy.config.endpoint.v3.ClusterLoadAssignment`, compiled.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use foldhash::fast::RandomState;

use crate::{
    api::envoy::config::{
        core::v3::{self as core, HealthStatus, Metadata},
        endpoint::v3::{
            self as pb, cluster_load_assignment::Policy, endpoint::AdditionalAddress,
            lb_endpoint::HostIdentifier, locality_lb_endpoints,
        },
    },
    config::{At, Reported},
    model::Context,
    net::{
        Address,
        proxy_protocol::{Tlvs, compile_per_host},
    },
    refuse,
    upstream::{
        Endpoint, Host, HostSet, Locality,
        host::{Addresses, EndpointStatus, HostKey},
        host_set::{DEFAULT_OVERPROVISIONING, LocalityEndpoints, Membership},
    },
};

use super::Transports;

/// Where endpoints stand and how much they take, independent of any cluster.
#[derive(Debug)]
pub struct EndpointSet {
    /// `cluster_name`.
    pub cluster_name: Arc<str>,
    /// By locality and priority.
    pub localities: Vec<LocalitySpec>,
    /// `overprovisioning_factor`, in percent.
    pub overprovisioning: u32,
    /// `weighted_priority_health`.
    pub weighted_priority_health: bool,
}

/// `LocalityLbEndpoints`.
#[derive(Debug)]
pub struct LocalitySpec {
    /// Where they stand.
    pub locality: Arc<Locality>,
    /// `load_balancing_weight`; 0 when there is none.
    pub weight: u32,
    /// `priority`.
    pub priority: u32,
    /// `metadata`.
    pub metadata: Option<Arc<Metadata>>,
    /// The endpoints.
    pub endpoints: Vec<EndpointSpec>,
}

/// `LbEndpoint`.
#[derive(Debug)]
pub struct EndpointSpec {
    /// Where it is.
    pub target: Target,
    /// `hostname`.
    pub hostname: Arc<str>,
    /// `load_balancing_weight`, 1 unless set.
    pub weight: u32,
    /// `health_status`.
    pub status: EndpointStatus,
    /// `metadata`.
    pub metadata: Option<Arc<Metadata>>,
    /// What it asks to be told by the PROXY protocol, in its metadata.
    pub asks: Arc<Tlvs>,
}

/// What an endpoint is reached by.
#[derive(Debug)]
pub enum Target {
    /// These addresses.
    Address(Addresses),
    /// A DNS name and a port.
    Name(Arc<str>, u16),
}

/// Whether an endpoint may be given by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// It is resolved.
    Resolved,
    /// Nobody would resolve it.
    Refused,
}

/// What names resolved to, by the index of their locality and endpoint.
pub type ResolvedNames = HashMap<(usize, usize), Vec<Addresses>>;

/// What becomes of an address that comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicates {
    /// It counts twice: `STATIC`, as in Envoy.
    Kept,
    /// It counts once, the first time: all others.
    Dropped,
}

impl EndpointSet {
    /// Compiles the answer of an EDS subscription.
    ///
    /// # Errors
    /// Everything in the message that is wrong or not supported is reported.
    pub fn compile(
        message: pb::ClusterLoadAssignment,
        _cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        Self::compile_with(message, Names::Refused, at)
    }

    pub(super) fn compile_with(
        message: pb::ClusterLoadAssignment,
        names: Names,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::ClusterLoadAssignment {
            cluster_name,
            endpoints,
            named_endpoints,
            policy,
        } = message;
        let Policy {
            drop_overloads,
            overprovisioning_factor,
            endpoint_stale_after,
            weighted_priority_health,
        } = policy.unwrap_or_default();
        let mut outcome = refuse!(at; named_endpoints)
            .and(refuse!(at.field("policy"); drop_overloads, endpoint_stale_after));
        let mut localities = Vec::with_capacity(endpoints.len());
        let place = at.field("endpoints");
        for (index, locality) in endpoints.into_iter().enumerate() {
            match compile_locality(locality, names, &place.index(index)) {
                Ok(locality) => localities.push(locality),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self {
            cluster_name: cluster_name.into(),
            localities,
            overprovisioning: overprovisioning_factor.unwrap_or(DEFAULT_OVERPROVISIONING),
            weighted_priority_health,
        })
    }

    /// Its hosts: those of `known` where an address is the same, new ones
    /// elsewhere. A name stands for what it resolved to.
    pub fn membership(
        &self,
        known: Option<&HostSet>,
        transports: &Transports,
        names: &ResolvedNames,
        threads: usize,
        duplicates: Duplicates,
    ) -> Membership {
        let known = known.map(HostSet::by_key).unwrap_or_default();
        let mut fresh = HashMap::<HostKey, Arc<Host>, RandomState>::default();
        let mut host = |addresses: &Addresses| {
            let key = HostKey::Address(addresses.first.clone());
            let host = match known.get(&key) {
                Some(host) => Arc::clone(host),
                None => Arc::clone(
                    fresh
                        .entry(key.clone())
                        .or_insert_with(|| Host::new(key, addresses.clone(), threads)),
                ),
            };
            if **host.addresses() != *addresses {
                host.set_addresses(addresses.clone());
            }
            host
        };
        let mut seen = HashSet::<u64, RandomState>::default();
        let mut localities = Vec::with_capacity(self.localities.len());
        for (l, spec) in self.localities.iter().enumerate() {
            let mut endpoints = Vec::with_capacity(spec.endpoints.len());
            for (e, endpoint) in spec.endpoints.iter().enumerate() {
                let addresses = match &endpoint.target {
                    Target::Address(addresses) => std::slice::from_ref(addresses),
                    Target::Name(..) => names.get(&(l, e)).map_or(&[][..], Vec::as_slice),
                };
                for addresses in addresses {
                    let host = host(addresses);
                    if duplicates == Duplicates::Kept || seen.insert(host.id()) {
                        endpoints.push(Arc::new(spec.member(endpoint, host, transports)));
                    }
                }
            }
            localities.push(spec.with(endpoints));
        }
        self.arrange(localities)
    }

    /// A membership under this assignment's policy.
    pub fn arrange(&self, localities: Vec<LocalityEndpoints>) -> Membership {
        Membership {
            localities,
            overprovisioning: self.overprovisioning,
            weighted_priority_health: self.weighted_priority_health,
        }
    }
}

impl LocalitySpec {
    /// This locality with these members.
    pub fn with(&self, endpoints: Vec<Arc<Endpoint>>) -> LocalityEndpoints {
        LocalityEndpoints {
            locality: Arc::clone(&self.locality),
            weight: self.weight,
            priority: self.priority,
            metadata: self.metadata.clone(),
            endpoints,
        }
    }

    /// A host as a member of this locality, reached through one of `transports`.
    pub fn member(
        &self,
        spec: &EndpointSpec,
        host: Arc<Host>,
        transports: &Transports,
    ) -> Endpoint {
        let transport = transports.select(spec.metadata.as_deref(), self.metadata.as_deref());
        let hostname = match &spec.target {
            Target::Name(name, _) if spec.hostname.is_empty() => name,
            _ => &spec.hostname,
        };
        Endpoint {
            host,
            hostname: Arc::clone(hostname),
            weight: spec.weight,
            priority: self.priority,
            locality: Arc::clone(&self.locality),
            status: spec.status,
            metadata: spec.metadata.clone(),
            asks: Arc::clone(&spec.asks),
            transport: Arc::clone(transport),
        }
    }
}

fn compile_locality(
    message: pb::LocalityLbEndpoints,
    names: Names,
    at: &At<'_>,
) -> Result<LocalitySpec, Reported> {
    let pb::LocalityLbEndpoints {
        locality,
        mut lb_endpoints,
        load_balancing_weight,
        priority,
        // Only a hint for balancers that this API does not have.
        proximity: _,
        metadata,
        lb_config,
    } = message;
    let mut place = at.field("lb_endpoints");
    let list;
    match lb_config {
        Some(locality_lb_endpoints::LbConfig::LoadBalancerEndpoints(more)) => {
            list = at.field("load_balancer_endpoints");
            place = list.field("lb_endpoints");
            lb_endpoints = more.lb_endpoints;
        }
        Some(locality_lb_endpoints::LbConfig::LedsClusterLocalityConfig(_)) => {
            return Err(at.field("leds_cluster_locality_config").unsupported());
        }
        None => {}
    }
    let mut outcome = Ok(());
    let mut endpoints = Vec::with_capacity(lb_endpoints.len());
    let mut total: u64 = 0;
    for (index, endpoint) in lb_endpoints.into_iter().enumerate() {
        match compile_endpoint(endpoint, names, &place.index(index)) {
            Ok(endpoint) => {
                total += u64::from(endpoint.weight);
                endpoints.push(endpoint);
            }
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome?;
    if total > u64::from(u32::MAX) {
        return Err(place.error(format_args!(
            "the sum of the weights is {total}; the greatest allowed is {}",
            u32::MAX
        )));
    }
    // Without a name it has no weight, as in Envoy.
    let weight = locality.as_ref().and(load_balancing_weight);
    let core::Locality {
        region,
        zone,
        sub_zone,
    } = locality.unwrap_or_default();
    Ok(LocalitySpec {
        locality: Arc::new(Locality {
            region: region.into(),
            zone: zone.into(),
            sub_zone: sub_zone.into(),
        }),
        weight: weight.unwrap_or(0),
        priority,
        metadata: metadata.map(Arc::new),
        endpoints,
    })
}

fn compile_endpoint(
    message: pb::LbEndpoint,
    names: Names,
    at: &At<'_>,
) -> Result<EndpointSpec, Reported> {
    let pb::LbEndpoint {
        host_identifier,
        health_status,
        metadata,
        load_balancing_weight,
    } = message;
    let endpoint = match host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => {
            return Err(at.field("endpoint_name").unsupported());
        }
        None => return Err(at.field("endpoint").error("is required")),
    };
    let at_endpoint = at.field("endpoint");
    let pb::Endpoint {
        address,
        // Says how active health checks reach it; those are refused.
        health_check_config: _,
        hostname,
        additional_addresses,
        // Names the endpoint's own stats; `per_endpoint_stats` is refused.
        observability_name: _,
    } = endpoint;
    let place = at_endpoint.field("address");
    let address = address.ok_or_else(|| place.error("is required"))?;
    let mut target = compile_target(address, names, &place)?;
    let place = at_endpoint.field("additional_addresses");
    if let Target::Address(addresses) = &mut target {
        let mut others = Vec::with_capacity(additional_addresses.len());
        for (index, AdditionalAddress { address }) in additional_addresses.into_iter().enumerate() {
            let place = place.index(index);
            let place = place.field("address");
            let address = address.ok_or_else(|| place.error("is required"))?;
            if let Target::Address(address) = compile_target(address, Names::Refused, &place)? {
                others.push(address.first);
            }
        }
        addresses.others = others.into();
    } else if !additional_addresses.is_empty() {
        return Err(place.error("an endpoint with a DNS name has the addresses it resolves to"));
    }
    let asks = match &metadata {
        Some(metadata) => compile_per_host(metadata, &at.field("metadata"))?,
        None => Arc::default(),
    };
    Ok(EndpointSpec {
        target,
        asks,
        hostname: hostname.into(),
        weight: match load_balancing_weight {
            Some(0) => {
                return Err(at
                    .field("load_balancing_weight")
                    .error("must be at least 1"));
            }
            weight => weight.unwrap_or(1),
        },
        status: match HealthStatus::try_from(health_status) {
            Ok(HealthStatus::Unknown | HealthStatus::Healthy) => EndpointStatus::Healthy,
            Ok(HealthStatus::Unhealthy) => EndpointStatus::Unhealthy,
            Ok(HealthStatus::Draining) => EndpointStatus::Draining,
            Ok(HealthStatus::Timeout) => EndpointStatus::Timeout,
            Ok(HealthStatus::Degraded) => EndpointStatus::Degraded,
            Err(_) => {
                let place = at.field("health_status");
                return Err(place.error(format_args!("{health_status} is not a HealthStatus")));
            }
        },
        metadata: metadata.map(Arc::new),
    })
}

fn compile_target(address: core::Address, names: Names, at: &At<'_>) -> Result<Target, Reported> {
    if let (Names::Resolved, Some(core::address::Address::SocketAddress(socket))) =
        (names, &address.address)
        && socket.address.parse::<std::net::IpAddr>().is_err()
    {
        let at = at.field("socket_address");
        let core::SocketAddress {
            protocol,
            address,
            port_specifier,
            resolver_name,
            // Only means something for an IP address that is listened on.
            ipv4_compat: _,
            network_namespace_filepath,
        } = socket.clone();
        refuse!(at; resolver_name, network_namespace_filepath)?;
        if protocol == i32::from(core::socket_address::Protocol::Udp) {
            return Err(at.field("protocol").error("UDP is not supported yet"));
        }
        if address.is_empty() {
            return Err(at.field("address").error("must not be empty"));
        }
        let port = Address::port(port_specifier, &at)?;
        return Ok(Target::Name(address.into(), port));
    }
    Address::compile(address, at).map(|address| Target::Address(address.into()))
}
