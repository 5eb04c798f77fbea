//! From the API message to a [`Cluster`].

use std::{
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use crate::{
    api::envoy::config::cluster::v3 as pb,
    config::{At, Reported},
    digest::Digest,
    model::Context,
    refuse,
    upstream::{
        Breakers, HostSet, Hosts,
        balance::TableKind,
        host_set::Membership,
        stats::{cluster_stats, maglev_stats, remaining_stats, ring_hash_stats, subset_stats},
    },
};

use super::{
    Cluster, Discovery, Duplicates, ResolvedNames,
    balancing::{self, Balance},
    breakers,
    discovery::{self, Source},
    dns::DnsFields,
    protocol::{self, Deprecated, Protocol},
    socket, transport,
};

/// `connect_timeout`, unless set.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `per_connection_buffer_limit_bytes`, unless set.
pub const DEFAULT_BUFFER_LIMIT: u32 = 1024 * 1024;

impl Cluster {
    /// Compiles a cluster. `previous` is the one of the same name that it will
    /// replace: its hosts and circuit breakers are kept.
    ///
    /// # Errors
    /// Everything in the message that is wrong or not supported is reported.
    pub fn compile(
        message: pb::Cluster,
        previous: Option<&Arc<Self>>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::Cluster {
            name,
            eds_cluster_config,
            connect_timeout,
            per_connection_buffer_limit_bytes,
            lb_policy,
            health_checks,
            max_requests_per_connection,
            circuit_breakers,
            http_protocol_options,
            http2_protocol_options,
            dns_refresh_rate,
            dns_lookup_family,
            dns_resolvers,
            outlier_detection,
            cleanup_interval,
            upstream_bind_config,
            lb_subset_config,
            transport_socket,
            metadata,
            protocol_selection,
            common_lb_config,
            alt_stat_name,
            common_http_protocol_options,
            upstream_connection_options,
            // Both say what happens when an active health check fails, and
            // `health_checks` is refused.
            close_connections_on_host_health_failure: _,
            ignore_health_on_host_removal: _,
            load_assignment,
            typed_extension_protocol_options,
            respect_dns_ttl,
            filters,
            load_balancing_policy,
            lrs_server,
            transport_socket_matches,
            dns_failure_refresh_rate,
            use_tcp_for_dns_lookups,
            upstream_http_protocol_options,
            track_timeout_budgets,
            upstream_config,
            track_cluster_stats,
            preconnect_policy,
            connection_pool_per_downstream_connection,
            dns_resolution_config,
            // Whether the start waits for the cluster: it always does, at most
            // for the discovery's own timeout.
            wait_for_warm_on_init: _,
            typed_dns_resolver_config,
            // Only for the load reports of `lrs_server`, which is refused.
            lrs_report_endpoint_metrics: _,
            dns_jitter,
            transport_socket_matcher,
            per_connection_buffer_high_watermark_timeout,
            stats_matcher,
            queuing_policies,
            cluster_discovery_type,
            lb_config,
        } = message;
        let refused = refuse!(at; health_checks, outlier_detection, filters,
            lrs_server, transport_socket_matcher, upstream_config,
            track_timeout_budgets, preconnect_policy, connection_pool_per_downstream_connection,
            per_connection_buffer_high_watermark_timeout, stats_matcher, queuing_policies);
        let tracked = track_cluster_stats.map_or(Ok(()), |track| {
            let pb::TrackClusterStats {
                timeout_budgets,
                request_response_sizes,
                per_endpoint_stats,
            } = track;
            refuse!(at.field("track_cluster_stats"); timeout_budgets, request_response_sizes,
                per_endpoint_stats)
        });
        if name.is_empty() {
            return Err(at.field("name").error("must not be empty"));
        }
        let name: Arc<str> = name.into();
        let observability_name = match alt_stat_name.is_empty() {
            true => Arc::clone(&name),
            false => alt_stat_name.into(),
        };
        let stat_prefix = format!("cluster.{}.", stat_name(&observability_name));

        let connect_timeout = connect_timeout.map_or(Ok(DEFAULT_CONNECT_TIMEOUT), |d| {
            crate::config::duration(&d, &at.field("connect_timeout"))
        });
        let provided = discovery::is_original_dst(cluster_discovery_type.as_ref());
        let (original_dst, lb_config) = match lb_config {
            Some(pb::cluster::LbConfig::OriginalDstLbConfig(config)) => (Some(config), None),
            other => (None, other),
        };
        let balance = balancing::compile(
            Balance {
                provided,
                strict_dns: discovery::is_strict_dns(cluster_discovery_type.as_ref()),
                lb_policy,
                lb_config,
                lb_subset_config,
                load_balancing_policy,
                common_lb_config,
            },
            cx,
            at,
        );
        let breakers = breakers::compile(circuit_breakers, at);
        let protocol = protocol::compile(
            typed_extension_protocol_options,
            Deprecated {
                max_requests_per_connection,
                http_protocol_options,
                http2_protocol_options,
                common_http_protocol_options,
                upstream_http_protocol_options,
                protocol_selection,
            },
            cx,
            at,
        );
        let socket = socket::compile(
            upstream_bind_config,
            &cx.server.upstream_bind,
            upstream_connection_options,
            at,
        );
        let wanted = transport::Wanted {
            check_name: protocol
                .as_ref()
                .is_ok_and(|(_, http)| http.auto_san_validation),
            alpn: protocol
                .as_ref()
                .is_ok_and(|(protocol, _)| *protocol == Protocol::Auto),
            stat_prefix: &stat_prefix,
        };
        let transports =
            transport::compile(transport_socket, transport_socket_matches, wanted, cx, at);
        let discovery = discovery::compile(
            Source {
                cluster: &name,
                stat_prefix: &stat_prefix,
                kind: cluster_discovery_type,
                eds_cluster_config,
                load_assignment,
                original_dst,
                cleanup_interval,
                dns: DnsFields {
                    dns_refresh_rate,
                    dns_lookup_family,
                    dns_resolvers,
                    respect_dns_ttl,
                    dns_failure_refresh_rate,
                    use_tcp_for_dns_lookups,
                    dns_resolution_config,
                    typed_dns_resolver_config,
                    dns_jitter,
                },
            },
            cx,
            at,
        );
        // Only now give up: what comes above has reported all it found.
        refused?;
        tracked?;
        let balancing = balance?;
        let thresholds = breakers?;
        let (protocol, http) = protocol?;
        let socket = socket?;
        let (discovery, endpoints) = discovery?;
        let connect_timeout = connect_timeout?;
        let transports = transports?;

        let threads = cx.server.concurrency + 1;
        let breakers = match previous {
            Some(previous) => Arc::clone(&previous.breakers),
            None => Arc::new(Breakers::new(&thresholds[0], &thresholds[1], threads)),
        };
        let remaining = ["default", "high"].map(|priority| {
            let track = thresholds[usize::from(priority == "high")].track_remaining;
            let prefix = format!("{stat_prefix}circuit_breakers.{priority}.");
            track.then(|| cx.stats.block(&prefix, &remaining_stats::TABLE))
        });
        let hash_stats = balancing.hashing().map(|hashing| {
            let (part, table) = match hashing.table {
                TableKind::Ring(_) => ("ring_hash_lb.", &ring_hash_stats::TABLE),
                TableKind::Maglev { .. } => ("maglev_lb.", &maglev_stats::TABLE),
            };
            cx.stats.block(&format!("{stat_prefix}{part}"), table)
        });
        let known = previous.map(|previous| previous.hosts.load());
        let membership = match (&endpoints, &known) {
            (Some(endpoints), known) => endpoints.membership(
                known.as_deref(),
                &transports,
                &ResolvedNames::new(),
                threads,
                Duplicates::Kept,
            ),
            // Until its own discovery has answered it goes on with those hosts.
            (None, Some(known)) => {
                let mut membership = known.membership().clone();
                transports.assign(&mut membership);
                membership
            }
            (None, None) => Membership::default(),
        };
        let initialized = matches!(discovery, Discovery::Static | Discovery::OriginalDst(_));
        let wire_identity = Digest::of((protocol, http.wire(), &socket));
        let stats = cx.stats.block(&stat_prefix, &cluster_stats::TABLE);
        let divided = balancing.subsets.is_some();
        let subset_stats = divided.then(|| cx.stats.block(&stat_prefix, &subset_stats::TABLE));
        let hosts = HostSet::new(membership, &balancing);
        let cluster = Self {
            hosts: Hosts::new(hosts),
            hash_stats,
            wire_identity,
            name,
            observability_name,
            stats,
            zone: (!cx.server.zone.is_empty()).then(|| cx.server.zone.as_str().into()),
            http1_stats: OnceLock::new(),
            http2_stats: OnceLock::new(),
            registry: cx.stats.clone(),
            connect_timeout,
            buffer_limit: per_connection_buffer_limit_bytes.unwrap_or(DEFAULT_BUFFER_LIMIT)
                as usize,
            balancing,
            transports,
            protocol,
            http,
            socket,
            breakers,
            metadata: metadata.map(Arc::new),
            discovery,
            thresholds,
            remaining,
            subset_stats,
            active: AtomicBool::new(false),
            initialized: AtomicBool::new(initialized),
            threads,
        };
        let hosts = cluster.hosts.load();
        if initialized && previous.is_none() && hosts.count().total > 0 {
            cluster.stats.inc(cluster_stats::membership_change);
            cluster.count_new_hosts(
                &HostSet::new(Membership::default(), &cluster.balancing),
                &hosts,
            );
        }
        Ok(cluster)
    }
}

/// A name as part of a stat's: `:` would end a tag.
pub(super) fn stat_name(name: &str) -> String {
    name.replace(':', "_")
}

#[cfg(test)]
#[path = "compile_test.rs"]
mod tests;
