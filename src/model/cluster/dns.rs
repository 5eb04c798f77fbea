//! How a cluster's names are resolved, compiled from the cluster's own fields or
//! from `DnsCluster`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    api::envoy::{
        config::{
            cluster::v3::cluster::{DnsLookupFamily, RefreshRate},
            core::v3::{
                self as core, DnsResolutionConfig, DnsResolverOptions, TypedExtensionConfig,
            },
        },
        extensions::{
            clusters::{
                common::dns::v3::DnsLookupFamily as TypedFamily,
                dns::v3::{DnsCluster, dns_cluster::RefreshRate as TypedRefreshRate},
            },
            network::dns_resolver::{
                cares::v3::CaresDnsResolverConfig, getaddrinfo::v3::GetAddrInfoDnsResolverConfig,
            },
        },
    },
    config::{At, Reported, duration, unpack},
    digest::Digest,
    model::Context,
    net::Address,
    refuse,
    upstream::dns::{DnsSettings, Family, Resolver, ResolverSettings},
};

/// `dns_refresh_rate`, unless set.
const DEFAULT_REFRESH: Duration = Duration::from_secs(5);
/// `dns_min_refresh_rate`, unless set.
const DEFAULT_MIN_REFRESH: Duration = Duration::from_secs(5);

/// The cluster's own fields about DNS.
pub(super) struct DnsFields {
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

/// The fields that say whom to ask, which the bootstrap has as well, for the
/// clusters that do not say.
#[derive(Clone, Debug, Default)]
pub struct ResolverFields {
    /// The newest.
    pub typed_dns_resolver_config: Option<TypedExtensionConfig>,
    /// The one before it.
    pub dns_resolution_config: Option<DnsResolutionConfig>,
    /// The oldest; a cluster's alone.
    pub dns_resolvers: Vec<core::Address>,
    /// Goes with the oldest.
    pub use_tcp_for_dns_lookups: bool,
}

impl ResolverFields {
    /// The first of these that is given counts, as in Envoy; `None` when none is.
    ///
    /// # Errors
    /// Reports what is wrong or not supported.
    pub fn compile(self, at: &At<'_>) -> Result<Option<ResolverSettings>, Reported> {
        let mut settings = ResolverSettings::default();
        if self.typed_dns_resolver_config.is_some() {
            let place = at.field("typed_dns_resolver_config");
            compile_resolver(self.typed_dns_resolver_config, &mut settings, &place)?;
        } else if let Some(config) = self.dns_resolution_config {
            let place = at.field("dns_resolution_config");
            let DnsResolutionConfig {
                resolvers,
                dns_resolver_options,
            } = config;
            settings.servers = servers(resolvers, &place.field("resolvers"))?;
            compile_options(dns_resolver_options, &mut settings);
        } else if !self.dns_resolvers.is_empty() || self.use_tcp_for_dns_lookups {
            settings.servers = servers(self.dns_resolvers, &at.field("dns_resolvers"))?;
            settings.tcp = self.use_tcp_for_dns_lookups;
        } else {
            return Ok(None);
        }
        Ok(Some(settings))
    }
}

pub(super) fn compile_fields(
    message: DnsFields,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<DnsSettings, Reported> {
    let DnsFields {
        dns_refresh_rate,
        dns_lookup_family,
        dns_resolvers,
        respect_dns_ttl,
        dns_failure_refresh_rate,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        dns_jitter,
    } = message;
    let family = match DnsLookupFamily::try_from(dns_lookup_family) {
        Ok(DnsLookupFamily::Auto) => Some(Family::Auto),
        Ok(DnsLookupFamily::V4Only) => Some(Family::V4Only),
        Ok(DnsLookupFamily::V6Only) => Some(Family::V6Only),
        Ok(DnsLookupFamily::V4Preferred) => Some(Family::V4Preferred),
        Ok(DnsLookupFamily::All) => Some(Family::All),
        Err(_) => None,
    };
    let fields = Fields {
        family,
        resolver: ResolverFields {
            typed_dns_resolver_config,
            dns_resolution_config,
            dns_resolvers,
            use_tcp_for_dns_lookups,
        },
        refresh: dns_refresh_rate,
        min_refresh: None,
        failure_refresh: dns_failure_refresh_rate.map(|rate| {
            let RefreshRate {
                base_interval,
                max_interval,
            } = rate;
            (base_interval, max_interval)
        }),
        respect_ttl: respect_dns_ttl,
        jitter: dns_jitter,
    };
    fields.compile(cx, at)
}

/// The settings, and whether all addresses are one endpoint: `LOGICAL_DNS`.
pub(super) fn compile_typed(
    message: DnsCluster,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(DnsSettings, bool), Reported> {
    let DnsCluster {
        dns_refresh_rate,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_jitter,
        typed_dns_resolver_config,
        dns_lookup_family,
        all_addresses_in_single_endpoint,
        dns_min_refresh_rate,
    } = message;
    let family = match TypedFamily::try_from(dns_lookup_family) {
        Ok(TypedFamily::Unspecified | TypedFamily::Auto) => Some(Family::Auto),
        Ok(TypedFamily::V4Only) => Some(Family::V4Only),
        Ok(TypedFamily::V6Only) => Some(Family::V6Only),
        Ok(TypedFamily::V4Preferred) => Some(Family::V4Preferred),
        Ok(TypedFamily::All) => Some(Family::All),
        Err(_) => None,
    };
    let fields = Fields {
        family,
        resolver: ResolverFields {
            typed_dns_resolver_config,
            ..ResolverFields::default()
        },
        refresh: dns_refresh_rate,
        min_refresh: dns_min_refresh_rate,
        failure_refresh: dns_failure_refresh_rate.map(|rate| {
            let TypedRefreshRate {
                base_interval,
                max_interval,
            } = rate;
            (base_interval, max_interval)
        }),
        respect_ttl: respect_dns_ttl,
        jitter: dns_jitter,
    };
    Ok((fields.compile(cx, at)?, all_addresses_in_single_endpoint))
}

/// What both messages say, by fields of the same names.
struct Fields {
    /// `None` when it is no value of the enumeration.
    family: Option<Family>,
    resolver: ResolverFields,
    refresh: Option<prost_types::Duration>,
    min_refresh: Option<prost_types::Duration>,
    /// Its base and its maximum.
    failure_refresh: Option<(Option<prost_types::Duration>, Option<prost_types::Duration>)>,
    respect_ttl: bool,
    jitter: Option<prost_types::Duration>,
}

impl Fields {
    fn compile(self, cx: &Context<'_>, at: &At<'_>) -> Result<DnsSettings, Reported> {
        let time = |value: Option<prost_types::Duration>, default, name| {
            or_default(value, default, &at.field(name))
        };
        let unknown = || {
            at.field("dns_lookup_family")
                .error("is not a DnsLookupFamily")
        };
        let family = self.family.ok_or_else(unknown)?;
        let resolver = self.resolver.compile(at)?;
        let settings = ResolverSettings {
            family,
            ..resolver.unwrap_or_else(|| cx.server.dns.clone())
        };
        let failure_refresh = self
            .failure_refresh
            .map(|(base, max)| failure_rate(base, max, &at.field("dns_failure_refresh_rate")));
        Ok(DnsSettings {
            resolver: shared(settings, cx),
            family,
            refresh: time(self.refresh, DEFAULT_REFRESH, "dns_refresh_rate")?,
            failure_refresh: failure_refresh.transpose()?,
            respect_ttl: self.respect_ttl,
            min_refresh: time(
                self.min_refresh,
                DEFAULT_MIN_REFRESH,
                "dns_min_refresh_rate",
            )?,
            jitter: time(self.jitter, Duration::ZERO, "dns_jitter")?,
        })
    }
}

fn shared(settings: ResolverSettings, cx: &Context<'_>) -> Arc<Resolver> {
    let digest = Digest::of(&settings);
    cx.shared
        .resolvers
        .share(digest, Resolver::new(settings, cx.stats))
}

fn or_default(
    value: Option<prost_types::Duration>,
    default: Duration,
    at: &At<'_>,
) -> Result<Duration, Reported> {
    value.map_or(Ok(default), |value| duration(&value, at))
}

/// From the base to the maximum, which is ten times the base unless set.
fn failure_rate(
    base: Option<prost_types::Duration>,
    max: Option<prost_types::Duration>,
    at: &At<'_>,
) -> Result<(Duration, Duration), Reported> {
    let place = at.field("base_interval");
    let base = base.ok_or_else(|| place.error("is required"))?;
    let base = duration(&base, &place)?;
    let place = at.field("max_interval");
    let max = or_default(max, base * 10, &place)?;
    match max < base {
        true => Err(place.error("must not be less than base_interval")),
        false => Ok((base, max)),
    }
}

fn compile_resolver(
    message: Option<TypedExtensionConfig>,
    settings: &mut ResolverSettings,
    at: &At<'_>,
) -> Result<(), Reported> {
    let Some(TypedExtensionConfig {
        // Only a label: the type says what it is.
        name: _,
        typed_config,
    }) = message
    else {
        return Ok(());
    };
    let at = at.field("typed_config");
    let any = typed_config.ok_or_else(|| at.error("is required"))?;
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig" => {
            compile_cares(unpack(&any, &at)?, settings, &at)
        }
        "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig" => {
            let GetAddrInfoDnsResolverConfig {
                // Each refresh is another try.
                num_retries: _,
                // The runtime has threads for what blocks.
                num_resolver_threads: _,
            } = unpack(&any, &at)?;
            settings.by_library = true;
            Ok(())
        }
        other => Err(at.error(format_args!(
            "{other:?} is not supported; supported are CaresDnsResolverConfig and GetAddrInfoDnsResolverConfig"
        ))),
    }
}

fn compile_cares(
    message: CaresDnsResolverConfig,
    settings: &mut ResolverSettings,
    at: &At<'_>,
) -> Result<(), Reported> {
    let CaresDnsResolverConfig {
        resolvers,
        dns_resolver_options,
        use_resolvers_as_fallback,
        filter_unroutable_families,
        // Each query has a socket of its own.
        udp_max_queries: _,
        query_timeout_seconds,
        query_tries,
        rotate_nameservers,
        edns0_max_payload_size,
        // Both are about a channel of queries that grows old; there is none.
        max_udp_channel_duration: _,
        reinit_channel_on_timeout: _,
        qcache_max_ttl,
    } = message;
    refuse!(at; use_resolvers_as_fallback, filter_unroutable_families, edns0_max_payload_size,
        qcache_max_ttl)?;
    settings.servers = servers(resolvers, &at.field("resolvers"))?;
    compile_options(dns_resolver_options, settings);
    settings.timeout = query_timeout_seconds.map(Duration::from_secs);
    settings.tries = query_tries;
    settings.rotate = rotate_nameservers;
    Ok(())
}

fn compile_options(message: Option<DnsResolverOptions>, settings: &mut ResolverSettings) {
    let DnsResolverOptions {
        use_tcp_for_dns_lookups,
        no_default_search_domain,
    } = message.unwrap_or_default();
    settings.tcp = use_tcp_for_dns_lookups;
    settings.no_search = no_default_search_domain;
}

fn servers(messages: Vec<core::Address>, at: &At<'_>) -> Result<Vec<SocketAddr>, Reported> {
    let mut outcome = Ok(());
    let mut servers = Vec::with_capacity(messages.len());
    for (index, mut message) in messages.into_iter().enumerate() {
        let at = at.index(index);
        if let Some(core::address::Address::SocketAddress(socket)) = &mut message.address {
            // A name server is asked over UDP first, whatever it says here.
            socket.protocol = 0;
        }
        match Address::compile(message, &at) {
            Ok(Address::Ip(address)) => servers.push(address),
            Ok(Address::Pipe(_)) => outcome = Err(at.error("a name server has an IP address")),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| servers)
}
