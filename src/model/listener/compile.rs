//! From `envoy.config.listener.v3.Listener` to [`Listener`].

use std::{sync::Arc, time::Duration};

use crate::{
    api::{
        envoy::config::{core::v3 as core, listener::v3 as pb},
        xds::r#type::matcher::v3::Matcher,
    },
    config::{At, Reported},
    model::Context,
    net::{
        TcpKeepalive,
        limits::OpenConnections,
        listener_filters::{ListenerFilter, ListenerFilters, ProxyProtocol},
        socket::SocketOptions,
        socket_option::SocketOptionList,
    },
    refuse,
};

use super::{
    FilterChain, FilterChains, Limits, ListenAddress, Listener, TrafficDirection, discovery_stats,
    listener_stats, worker_stats,
};

/// `per_connection_buffer_limit_bytes` when it is not set.
pub const DEFAULT_BUFFER_LIMIT: u32 = 1 << 20;
/// `listener_filters_timeout` when it is not set.
pub const DEFAULT_LISTENER_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
/// `max_connections_to_accept_per_socket_event` when it is not set.
pub const DEFAULT_ACCEPTS_PER_EVENT: usize = 64;

impl Listener {
    /// Compiles a listener; it is not bound yet.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(message: pb::Listener, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let pb::Listener {
            name,
            address,
            filter_chains,
            use_original_dst,
            per_connection_buffer_limit_bytes,
            // For people and control planes.
            metadata: _,
            deprecated_v1,
            // Connections adopt a changed listener, so both kinds drain on removal alone.
            drain_type: _,
            listener_filters,
            transparent,
            freebind,
            tcp_fast_open_queue_length,
            socket_options,
            listener_filters_timeout,
            traffic_direction,
            continue_on_listener_filters_timeout,
            udp_listener_config,
            api_listener,
            connection_balance_config,
            reuse_port,
            access_log,
            tcp_backlog_size,
            default_filter_chain,
            bind_to_port,
            listener_specifier,
            stat_prefix,
            enable_reuse_port,
            enable_mptcp,
            ignore_global_conn_limit,
            filter_chain_matcher,
            additional_addresses,
            max_connections_to_accept_per_socket_event,
            bypass_overload_manager,
            fcds_config,
            tcp_keepalive,
            per_connection_buffer_high_watermark_timeout,
            stats_matcher,
        } = message;

        let mut refused = refuse!(at;
            udp_listener_config, api_listener, access_log,
            enable_mptcp, fcds_config,
            per_connection_buffer_high_watermark_timeout, stats_matcher,
        );
        if listener_specifier.is_some() {
            refused = Err(at.field("internal_listener").unsupported());
        }

        let balanced = is_balanced(
            connection_balance_config,
            &at.field("connection_balance_config"),
        );
        let others = SocketOptionList::compile(socket_options, &at.field("socket_options"));
        let others = others.map_err(|reported| refused = Err(reported));
        let options = SocketOptions {
            reuse_port: enable_reuse_port.unwrap_or(true) || reuse_port,
            backlog: tcp_backlog_size,
            freebind: freebind.unwrap_or(false),
            transparent: transparent.unwrap_or(false),
            fast_open: tcp_fast_open_queue_length,
            keepalive: tcp_keepalive.and_then(TcpKeepalive::compile),
            others: others.unwrap_or_default(),
            ..SocketOptions::default()
        };
        let addresses = ListenAddress::compile_all(address, additional_addresses, &options, at);
        let filters = ListenerFilters::compile(listener_filters, cx, &at.field("listener_filters"));
        // Said in the older way, too.
        let older = deprecated_v1
            .and_then(|pb::listener::DeprecatedV1 { bind_to_port }| bind_to_port)
            .unwrap_or(true);
        let bind_to_port = bind_to_port.unwrap_or(true) && older;
        let use_proxy_proto = filter_chains
            .first()
            .or(default_filter_chain.as_ref())
            .and_then(|chain| chain.use_proxy_proto)
            .unwrap_or(false);
        let timeout = listener_filters_timeout
            .map(|d| crate::config::duration(&d, &at.field("listener_filters_timeout")))
            .transpose();
        let scope = match &addresses {
            _ if !stat_prefix.is_empty() => stat_prefix,
            Ok(addresses) => addresses[0].address.to_string().replace(':', "_"),
            // Nothing will be counted.
            Err(_) => String::new(),
        };
        let stat_prefix = format!("listener.{scope}.");
        let chains = (filter_chains, default_filter_chain);
        let chains = compile_chains(chains, filter_chain_matcher, &stat_prefix, cx, at);
        refused?;
        let balance = balanced?.then(|| cx.shared.balances.of(&name, cx.server.concurrency));
        let (addresses, mut filters, timeout, filter_chains) =
            (addresses?, filters?, timeout?, chains?);
        // In Envoy's order, after those that are configured.
        if use_original_dst.unwrap_or(false) {
            filters.push(ListenerFilter::OriginalDst);
        }
        if use_proxy_proto {
            filters.push(ListenerFilter::ProxyProtocol(ProxyProtocol::new(cx, at)?));
        }
        if filter_chains.need_tls_inspection() && !filters.inspect_tls() {
            at.field("listener_filters").warn(
                "has no envoy.filters.listener.tls_inspector, without which no connection meets \
                 what filter chains ask of TLS, as in Envoy",
            );
        }
        let (own, all) = cx.shared.connections.of(&name, cx.runtime);
        let overload = match bypass_overload_manager {
            true => Arc::default(),
            false => cx.server.overload.clone(),
        };
        let all = match (&overload.connections, ignore_global_conn_limit) {
            (Some(limited), false) => limited.open.clone(),
            // By the overload manager, those that may come anyway are not counted.
            (Some(_), true) => OpenConnections::unlimited(),
            (None, _) => all,
        };

        let stats = cx.stats.block(&stat_prefix, &listener_stats::TABLE);
        let worker_stats = (0..cx.server.concurrency)
            .map(|n| {
                cx.stats
                    .block(&format!("{stat_prefix}worker_{n}."), &worker_stats::TABLE)
            })
            .collect();
        Ok(Self {
            name: name.into(),
            addresses,
            bind_to_port,
            sockets: Vec::new(),
            filter_chains,
            filters,
            hand_over_restored: use_original_dst.unwrap_or(false),
            limits: Limits {
                own,
                all,
                ignore_all: ignore_global_conn_limit,
            },
            balance,
            overload,
            listener_filters_timeout: timeout.unwrap_or(DEFAULT_LISTENER_FILTERS_TIMEOUT),
            continue_on_listener_filters_timeout,
            per_connection_buffer_limit: match per_connection_buffer_limit_bytes {
                Some(0) => usize::MAX,
                limit => limit.unwrap_or(DEFAULT_BUFFER_LIMIT) as usize,
            },
            max_accepts_per_event: max_connections_to_accept_per_socket_event
                .map_or(DEFAULT_ACCEPTS_PER_EVENT, |n| n as usize),
            direction: match core::TrafficDirection::try_from(traffic_direction) {
                Ok(core::TrafficDirection::Inbound) => TrafficDirection::Inbound,
                Ok(core::TrafficDirection::Outbound) => TrafficDirection::Outbound,
                _ => TrafficDirection::Unspecified,
            },
            stats,
            discovery_stats: cx.stats.block(&stat_prefix, &discovery_stats::TABLE),
            worker_stats,
        })
    }
}

/// Whether connections go to the workers in turn, not to the one that the kernel
/// chooses.
fn is_balanced(
    message: Option<pb::listener::ConnectionBalanceConfig>,
    at: &At<'_>,
) -> Result<bool, Reported> {
    use pb::listener::connection_balance_config::BalanceType;
    let Some(pb::listener::ConnectionBalanceConfig { balance_type }) = message else {
        return Ok(false);
    };
    match balance_type {
        Some(BalanceType::ExactBalance(_)) => Ok(true),
        Some(BalanceType::CpuLocalityBalance(_)) => {
            at.field("cpu_locality_balance").warn(
                "has no effect where the kernel does not steer connections to the workers of \
                 their processors, as in Envoy",
            );
            Ok(false)
        }
        Some(BalanceType::ExtendBalance(_)) => Err(at.field("extend_balance").unsupported()),
        None => Err(at.error("one of exact_balance, cpu_locality_balance is required")),
    }
}

fn compile_chains(
    (chains, default): (Vec<pb::FilterChain>, Option<pb::FilterChain>),
    matcher: Option<Matcher>,
    stat_prefix: &str,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<FilterChains, Reported> {
    let at_chains = at.field("filter_chains");
    if chains.is_empty() && default.is_none() {
        return Err(at_chains.error("is empty; a listener needs at least one filter chain"));
    }
    let mut compiled = Vec::with_capacity(chains.len());
    let mut outcome = Ok(());
    for (index, mut chain) in chains.into_iter().enumerate() {
        let rule = chain.filter_chain_match.take();
        match FilterChain::compile(chain, stat_prefix, cx, &at_chains.index(index)) {
            Ok(chain) => compiled.push((Arc::new(chain), rule)),
            Err(reported) => outcome = Err(reported),
        }
    }
    let default = default
        .map(|chain| {
            FilterChain::compile(chain, stat_prefix, cx, &at.field("default_filter_chain"))
        })
        .transpose();
    outcome?;
    let default = default?.map(Arc::new);
    match matcher {
        Some(matcher) => FilterChains::compile_named(compiled, matcher, default, cx, at),
        None => FilterChains::compile(compiled, default, &at_chains),
    }
}
