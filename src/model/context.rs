//! What compiling a resource may need from outside the message itself.

use std::sync::Arc;

use crate::{
    api::envoy::config::core::v3::{ConfigSource, GrpcService},
    config::{At, Reported},
    http::filters::Filter,
    runtime::Runtime,
    stats,
    upstream::grpc::{Caller, Target},
    xds::{demand::Demand, slot::Slot},
};

use super::{
    Interned,
    cluster::EndpointSet,
    route::{DiscoveredHosts, HostsWanted, RouteTable, ScopeRoutes, ScopeTable},
    secret::{Secret, SecretWanted},
};

/// Subscriptions by which one resource refers to another.
///
/// The same name from the same source gives the same slot. A slot may already
/// be answered. In validation the files are read at once.
pub trait Sources {
    /// A route table by RDS. The subscription's stats stand under
    /// `stat_prefix` (`http.ingress.`) + `rds.NAME.`.
    ///
    /// # Errors
    /// When the source is of a kind that is not supported, or its file is missing.
    fn routes(
        &self,
        source: &ConfigSource,
        name: &str,
        stat_prefix: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<RouteTable>>, Reported>;

    /// The scopes of a connection manager by SRDS, whose routes are had as `routes`
    /// says, and how those are asked for that are `on_demand`. The subscription's stats stand under its prefix + `scoped_rds.NAME.`.
    ///
    /// # Errors
    /// As for [`Sources::routes`].
    fn scopes(
        &self,
        source: &ConfigSource,
        name: &str,
        routes: ScopeRoutes<'_>,
        at: &At<'_>,
    ) -> Result<(Arc<Slot<ScopeTable>>, Demand), Reported>;

    /// The virtual hosts of a route table by VHDS.
    ///
    /// # Errors
    /// As for [`Sources::routes`], and when the source does not speak delta.
    fn virtual_hosts(
        &self,
        source: &ConfigSource,
        wanted: HostsWanted,
        at: &At<'_>,
    ) -> Result<DiscoveredHosts, Reported>;

    /// A secret by SDS, or one of the bootstrap's when `source` is `None`.
    ///
    /// # Errors
    /// As for [`Sources::routes`], and when there is no such static secret, or it is of
    /// another kind.
    fn secret(
        &self,
        source: Option<&ConfigSource>,
        name: &str,
        wanted: SecretWanted,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Secret>>, Reported>;

    /// The endpoints of a cluster by EDS. The subscription's stats stand
    /// directly under `stat_prefix` (`cluster.web.`).
    ///
    /// # Errors
    /// As for [`Sources::routes`].
    fn endpoints(
        &self,
        source: &ConfigSource,
        name: &str,
        stat_prefix: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<EndpointSet>>, Reported>;

    /// An HTTP filter by ECDS, and what stands in its place meanwhile.
    ///
    /// # Errors
    /// As for [`Sources::routes`].
    fn filter(
        &self,
        source: &ConfigSource,
        name: &str,
        want: FilterWanted,
        meanwhile: Meanwhile,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Extension>>, Reported>;

    /// Tells that the resource being compiled refers to this cluster. When
    /// `must_exist` (`validate_clusters`), the resource is refused until there is
    /// one; otherwise only validation looks.
    ///
    /// # Errors
    /// When the cluster has to exist and does not.
    fn cluster(&self, name: &str, must_exist: bool, at: &At<'_>) -> Result<(), Reported>;

    /// A gRPC service that is called besides those that push resources.
    ///
    /// # Errors
    /// What is wrong with it has been reported.
    fn target(&self, service: &GrpcService, at: &At<'_>) -> Result<Target, Reported>;

    /// What services are called by; nothing where none is called, as in validation.
    fn caller(&self) -> Option<Caller>;

    /// How often it has been asked for anything: what was compiled meanwhile without
    /// asking depends on its message alone. `None` when it does not count.
    fn asked(&self) -> Option<u64> {
        None
    }

    /// Tells that these files are part of the resource being compiled (a
    /// certificate, a direct response body): it is compiled again when one of
    /// them is replaced.
    fn depends_on_file(&self, path: &std::path::Path);
}

/// An HTTP filter that came by ECDS.
#[derive(Debug)]
pub struct Extension {
    /// The filter.
    pub filter: Arc<dyn Filter>,
}

/// What a chain expects of a filter that comes by ECDS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterWanted {
    /// `http.STAT_PREFIX.` of the connection manager.
    pub stat_prefix: Box<str>,
    /// The full names of the messages that may configure it.
    pub types: Box<[Box<str>]>,
}

/// What stands in the place of a filter that has not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Nothing: requests are answered with 500.
    Nothing,
    /// A default.
    Default {
        /// The listener need not warm for the filter.
        at_once: bool,
    },
}

/// Handed through every `compile` function.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Where the resource's stats are made.
    pub stats: &'a Arc<stats::Registry>,
    /// Other resources it refers to.
    pub sources: &'a dyn Sources,
    /// Facts about this process that configuration can refer to.
    pub server: &'a ServerInfo,
    /// Parts that resources have in common.
    pub shared: &'a Shared,
    /// Values that may override what is configured.
    pub runtime: &'a Arc<Runtime>,
}

/// Parts that many resources have in common, kept once.
#[derive(Debug, Default)]
pub struct Shared {
    /// Limits and codec settings of clusters.
    pub http_options: Interned<super::cluster::HttpOptions>,
    /// TLS towards origins.
    pub tls_clients: Interned<crate::upstream::tls::Client>,
    /// Counts of open connections.
    pub connections: crate::net::limits::ConnectionLimits,
    /// Connections of listeners that spread them over the workers.
    pub balances: crate::net::balance::Balances,
    /// Tokens of network filters.
    pub token_buckets: Interned<crate::net::filters::TokenBucket>,
    /// Virtual hosts that depend on nothing but what they say.
    pub virtual_hosts: Interned<super::route::VirtualHost>,
    /// Who resolves names.
    pub resolvers: Interned<crate::upstream::dns::Resolver>,
}

/// Facts about this process, fixed at the start.
#[derive(Clone, Debug, Default)]
pub struct ServerInfo {
    /// `node.id`, or `--service-node`.
    pub node_id: String,
    /// `node.cluster`, or `--service-cluster`.
    pub node_cluster: String,
    /// `node.locality.zone`, or `--service-zone`.
    pub zone: String,
    /// The address by which this host is known, for `x-forwarded-for` from a loopback one.
    pub local_address: Option<std::net::IpAddr>,
    /// Number of workers, `--concurrency`.
    pub concurrency: usize,
    /// `--drain-time-s`.
    pub drain_time: std::time::Duration,
    /// `bootstrap.header_prefix`, `x-envoy` unless set.
    pub header_prefix: String,
    /// Whom clusters ask for addresses that do not say.
    pub dns: crate::upstream::dns::ResolverSettings,
    /// From where clusters connect that do not say.
    pub upstream_bind: super::cluster::Bind,
    /// What is in force of the overload manager.
    pub overload: Arc<crate::overload::Overload>,
    /// Where access logs go.
    pub access_logs: Arc<crate::access_log::Sinks>,
}
