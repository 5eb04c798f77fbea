//! Who is asked for addresses.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
        ResolverOpts, ServerOrderingStrategy,
    },
    net::{NetError, runtime::TokioRuntimeProvider},
    system_conf::read_system_conf,
};

use super::{DnsError, Family, Resolved, hosts::HostsFile};
use crate::{
    stats::{Block, Registry},
    upstream::stats::dns_stats,
};

/// Names whose addresses this machine knows by itself.
const HOSTS: &str = "/etc/hosts";

/// What makes one resolver different from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResolverSettings {
    /// Ask by the C library, `getaddrinfo`, and nothing below counts but the family.
    pub by_library: bool,
    /// Name servers; empty for the system's.
    pub servers: Vec<SocketAddr>,
    /// Which addresses are wanted.
    pub family: Family,
    /// `use_tcp_for_dns_lookups`.
    pub tcp: bool,
    /// `no_default_search_domain`.
    pub no_search: bool,
    /// `query_timeout_seconds`; 5 s unless set.
    pub timeout: Option<Duration>,
    /// `query_tries`.
    pub tries: Option<u32>,
    /// `rotate_nameservers`.
    pub rotate: bool,
}

/// Looks into `/etc/hosts`, then asks name servers. Shared by all clusters with
/// the same settings. Does not remember answers: each refresh asks.
#[derive(Debug)]
pub struct Resolver {
    settings: ResolverSettings,
    hosts: HostsFile,
    /// `dns.cares.`
    stats: Arc<Block>,
    inner: OnceLock<Result<TokioResolver, String>>,
}

impl Resolver {
    /// A resolver; it is built when it is first asked.
    pub fn new(settings: ResolverSettings, registry: &Registry) -> Self {
        Self {
            settings,
            hosts: HostsFile::new(HOSTS),
            stats: registry.block("dns.cares.", &dns_stats::TABLE),
            inner: OnceLock::new(),
        }
    }

    /// Resolves a name. An IP address resolves to itself.
    ///
    /// # Errors
    /// When there is no address, or nobody can say.
    pub async fn resolve(&self, name: &str) -> Result<Resolved, DnsError> {
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(Resolved {
                addresses: vec![ip],
                ttl: None,
            });
        }
        if self.settings.by_library {
            return self.ask_library(name).await;
        }
        let pending = Pending::begin(&self.stats);
        let written = self.settings.family.of(self.hosts.addresses(name));
        if !written.is_empty() {
            return Ok(Resolved {
                addresses: written,
                ttl: None,
            });
        }
        let inner = self.inner.get_or_init(|| self.build());
        let inner = inner.as_ref().map_err(|e| DnsError::Failed(e.clone()))?;
        let answer = inner.lookup_ip(name).await;
        drop(pending);
        let answer = answer.map_err(|error| {
            let is_no_address = error.is_no_records_found();
            self.stats.inc(match &error {
                _ if is_no_address => dns_stats::not_found,
                NetError::Timeout => dns_stats::timeouts,
                _ => dns_stats::get_addr_failure,
            });
            match is_no_address {
                true => DnsError::NoAddress,
                false => DnsError::Failed(error.to_string()),
            }
        })?;
        let ttl = answer.as_lookup().answers().iter().map(|r| r.ttl).min();
        let addresses: Vec<_> = answer.iter().collect();
        match addresses.is_empty() {
            true => Err(DnsError::NoAddress),
            false => Ok(Resolved {
                addresses,
                ttl: ttl.map(|seconds| Duration::from_secs(seconds.into())),
            }),
        }
    }

    fn build(&self) -> Result<TokioResolver, String> {
        let settings = &self.settings;
        // Without a resolv.conf there are still the servers of the configuration.
        let (system, mut options) = read_system_conf()
            .unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default()));
        let mut servers: Vec<_> = match settings.servers.is_empty() {
            true => system.name_servers().to_vec(),
            false => settings.servers.iter().map(|s| server(*s)).collect(),
        };
        if settings.tcp {
            for server in &mut servers {
                server
                    .connections
                    .retain(|c| c.protocol == ConnectionConfig::tcp().protocol);
            }
        }
        let (domain, search) = match settings.no_search {
            true => (None, Vec::new()),
            false => (system.domain().cloned(), system.search().to_vec()),
        };
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = match settings.family {
            Family::Auto => LookupIpStrategy::Ipv6thenIpv4,
            Family::V4Only => LookupIpStrategy::Ipv4Only,
            Family::V6Only => LookupIpStrategy::Ipv6Only,
            Family::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
            Family::All => LookupIpStrategy::Ipv6AndIpv4,
        };
        if let Some(timeout) = settings.timeout {
            options.timeout = timeout;
        }
        if let Some(tries) = settings.tries {
            options.attempts = tries as usize;
        }
        if settings.rotate {
            options.server_ordering_strategy = ServerOrderingStrategy::RoundRobin;
        }
        let config = ResolverConfig::from_parts(domain, search, servers);
        let provider = TokioRuntimeProvider::default();
        TokioResolver::builder_with_config(config, provider)
            .with_options(options)
            .build()
            .map_err(|error| error.to_string())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the resolver that asks the system's library"
    )]
    async fn ask_library(&self, name: &str) -> Result<Resolved, DnsError> {
        let found = tokio::net::lookup_host((name, 0)).await;
        let found = found.map_err(|error| DnsError::Failed(error.to_string()))?;
        let addresses = self.settings.family.of(found.map(|a| a.ip()));
        match addresses.is_empty() {
            true => Err(DnsError::NoAddress),
            false => Ok(Resolved {
                addresses,
                ttl: None,
            }),
        }
    }
}

/// A question that waits for its answer.
struct Pending<'a>(&'a Block);

impl<'a> Pending<'a> {
    fn begin(stats: &'a Block) -> Self {
        stats.inc(dns_stats::resolve_total);
        stats.gauge_add(dns_stats::pending_resolutions, 1);
        Self(stats)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.gauge_sub(dns_stats::pending_resolutions, 1);
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}
