//! `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`, compiled.

use std::{sync::Arc, time::Duration};

use crate::{
    access_log::AccessLogs,
    api::envoy::{
        config::core::v3::BackoffStrategy,
        extensions::filters::network::tcp_proxy::v3 as pb,
        r#type::v3::{HashPolicy, Percent, hash_policy},
    },
    config::{At, Reported, duration},
    model::Context,
    refuse, stats,
    upstream::balance::MetadataMatch,
};

use super::{
    clusters::{Clusters, Route},
    tunneling::Tunneling,
};

crate::stat_table! {
    /// `tcp.STAT_PREFIX.`
    pub mod tcp_stats {
        counters {
            downstream_cx_drain_close,
            downstream_cx_no_route,
            downstream_cx_overload_close,
            downstream_cx_rx_bytes_total,
            downstream_cx_total,
            downstream_cx_tx_bytes_total,
            downstream_flow_control_paused_reading_total,
            downstream_flow_control_resumed_reading_total,
            early_data_received_count_total,
            idle_timeout,
            max_downstream_connection_duration,
            route_delayed_total,
            upstream_flush_total,
        }
        gauges {
            downstream_cx_rx_bytes_buffered, downstream_cx_tx_bytes_buffered,
            upstream_flush_active,
        }
        histograms {}
        texts {}
    }
}

/// `idle_timeout` when it is not set.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Between two tries `backoff_options` waits at most so many times its base
/// interval, unless it says otherwise.
const DEFAULT_MAX_BACKOFF: u32 = 10;

/// A TCP proxy's settings.
#[derive(Debug)]
pub struct TcpProxy {
    /// `tcp.STAT_PREFIX.`
    pub stats: Arc<stats::Block>,
    /// Time without a byte either way after which a tunnel is closed; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Time after which a tunnel is closed, whatever goes through it.
    max_duration: Option<MaxDuration>,
    /// How often a host is tried, the first time included.
    pub max_connect_attempts: u32,
    /// How long to wait between two tries; `None` does not wait.
    backoff: Option<Backoff>,
    /// When a host is looked for.
    pub connect: ConnectWhen,
    /// Bytes that are read from the client before there is a connection for
    /// them, `max_early_data_bytes`; `None` reads nothing.
    pub early_data: Option<usize>,
    /// Whether a drain ends a tunnel at the next byte, rather than at its end.
    pub check_drain: bool,
    /// Who writes down what happened.
    pub access_logs: AccessLogs,
    /// When else than at the end.
    pub log_options: LogOptions,
    /// How bytes go inside of HTTP; `None` sends them as they are.
    pub(super) tunneling: Option<Tunneling>,
    /// Clients are tied to hosts by their addresses: `hash_policy`.
    pub(super) hash_source_ip: bool,
    /// `metadata_match`, for connections that are led elsewhere.
    pub metadata_match: Option<MetadataMatch>,
    clusters: Clusters,
}

/// `upstream_connect_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectWhen {
    /// At once; with TLS, after the handshake.
    Immediate,
    /// When the client has said something.
    OnData,
}

/// `max_downstream_connection_duration` with its jitter.
#[derive(Clone, Copy, Debug)]
struct MaxDuration {
    limit: Duration,
    /// The most that is added, drawn for each connection.
    jitter: Duration,
}

/// `backoff_options`.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    base: Duration,
    max: Duration,
}

/// `access_log_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Every so often while it is open.
    pub interval: Option<Duration>,
    /// When the upstream is connected.
    pub on_connected: bool,
    /// When it is accepted.
    pub on_start: bool,
}

impl TcpProxy {
    /// Compiles the settings.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(message: pb::TcpProxy, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let pb::TcpProxy {
            stat_prefix,
            cluster_specifier,
            downstream_idle_timeout,
            upstream_idle_timeout,
            access_log,
            max_connect_attempts,
            idle_timeout,
            metadata_match,
            hash_policy,
            tunneling_config,
            max_downstream_connection_duration,
            on_demand,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            backoff_options,
            proxy_protocol_tlvs,
            max_downstream_connection_duration_jitter_percentage,
            upstream_connect_mode,
            max_early_data_bytes,
            proxy_protocol_tlv_merge_policy,
            check_drain_close,
        } = message;
        let refused = refuse!(at;
            // Deprecated by the API in favour of idle_timeout, and without effect in Envoy too:
            // refused rather than ignored.
            downstream_idle_timeout, upstream_idle_timeout,
            on_demand,
            proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy,
        );
        let idle_timeout = time(idle_timeout, "idle_timeout", at);
        let max_duration = MaxDuration::compile(
            max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage,
            at,
        );
        let backoff = backoff_options
            .map(|message| Backoff::compile(message, &at.field("backoff_options")))
            .transpose();
        let hash_source_ip = compile_hash(hash_policy, &at.field("hash_policy"));
        let connect = compile_connect(upstream_connect_mode, max_early_data_bytes, at);
        let log_options = LogOptions::compile(
            access_log_options,
            access_log_flush_interval,
            flush_access_log_on_connected,
            at,
        );
        let tunneling = tunneling_config
            .map(|message| Tunneling::compile(message, &at.field("tunneling_config")))
            .transpose();
        let clusters = Clusters::compile(cluster_specifier, metadata_match.as_ref(), cx, at);
        let access_logs = AccessLogs::compile(access_log, cx, &at.field("access_log"));
        refused?;
        let idle_timeout = idle_timeout?.unwrap_or(DEFAULT_IDLE_TIMEOUT);
        Ok(Self {
            stats: cx
                .stats
                .block(&format!("tcp.{stat_prefix}."), &tcp_stats::TABLE),
            idle_timeout: Some(idle_timeout).filter(|t| !t.is_zero()),
            max_duration: max_duration?,
            max_connect_attempts: max_connect_attempts.unwrap_or(1),
            backoff: backoff?,
            connect: connect?,
            early_data: max_early_data_bytes.map(|n| n as usize),
            check_drain: check_drain_close.unwrap_or(false),
            access_logs: access_logs?,
            log_options: log_options?,
            tunneling: tunneling?,
            hash_source_ip: hash_source_ip?,
            metadata_match: MetadataMatch::new(metadata_match.as_ref(), None),
            clusters: clusters?,
        })
    }

    /// How long a new connection may live; `random` is uniform.
    pub fn max_duration(&self, random: u64) -> Option<Duration> {
        let MaxDuration { limit, jitter } = self.max_duration?;
        let jitter = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
        match jitter {
            0 => Some(limit),
            _ => Some(limit + Duration::from_millis(random % jitter)),
        }
    }

    /// How long to wait after so many tries that failed; `random` is uniform.
    pub fn backoff(&self, failed: u32, random: u64) -> Option<Duration> {
        let Backoff { base, max } = self.backoff?;
        let doubled = 1u32.checked_shl(failed - 1).unwrap_or(u32::MAX);
        let most = base.saturating_mul(doubled).min(max);
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        Some(Duration::from_micros(random % most))
    }

    /// Where a new tunnel goes; `random` is uniform.
    pub fn route(&self, random: u64) -> &Route {
        self.clusters.choose(random)
    }

    /// Every cluster it can choose.
    pub fn referenced_clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clusters.all()
    }
}

fn time(
    value: Option<prost_types::Duration>,
    name: &str,
    at: &At<'_>,
) -> Result<Option<Duration>, Reported> {
    value.map(|d| duration(&d, &at.field(name))).transpose()
}

impl MaxDuration {
    fn compile(
        limit: Option<prost_types::Duration>,
        jitter: Option<Percent>,
        at: &At<'_>,
    ) -> Result<Option<Self>, Reported> {
        let limit = time(limit, "max_downstream_connection_duration", at)?;
        // Without a limit there is nothing to add to, in Envoy too.
        let share = jitter.map_or(0.0, |Percent { value }| value / 100.0);
        Ok(limit.map(|limit| Self {
            limit,
            jitter: limit.mul_f64(share),
        }))
    }
}

impl Backoff {
    fn compile(message: BackoffStrategy, at: &At<'_>) -> Result<Self, Reported> {
        let BackoffStrategy {
            base_interval,
            max_interval,
        } = message;
        let base = time(base_interval, "base_interval", at)?;
        let base = base.ok_or_else(|| at.field("base_interval").error("is required"))?;
        let max = time(max_interval, "max_interval", at)?;
        let max = max.unwrap_or(base * DEFAULT_MAX_BACKOFF);
        if max < base {
            return Err(at
                .field("max_interval")
                .error("must not be less than base_interval"));
        }
        Ok(Self { base, max })
    }
}

impl LogOptions {
    fn compile(
        options: Option<pb::tcp_proxy::TcpAccessLogOptions>,
        old_interval: Option<prost_types::Duration>,
        old_on_connected: bool,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Some(options) = options else {
            return Ok(Self {
                interval: time(old_interval, "access_log_flush_interval", at)?,
                on_connected: old_on_connected,
                on_start: false,
            });
        };
        let twice = |name: &str| {
            at.field(name)
                .error("only one of it and access_log_options can be set")
        };
        if old_interval.is_some() {
            return Err(twice("access_log_flush_interval"));
        }
        if old_on_connected {
            return Err(twice("flush_access_log_on_connected"));
        }
        let pb::tcp_proxy::TcpAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_connected,
            flush_access_log_on_start,
        } = options;
        let at = at.field("access_log_options");
        Ok(Self {
            interval: time(access_log_flush_interval, "access_log_flush_interval", &at)?,
            on_connected: flush_access_log_on_connected,
            on_start: flush_access_log_on_start,
        })
    }
}

/// Whether clients are tied to hosts by their addresses.
fn compile_hash(policies: Vec<HashPolicy>, at: &At<'_>) -> Result<bool, Reported> {
    use hash_policy::{PolicySpecifier, SourceIp};
    let by_source_ip = !policies.is_empty();
    for (index, HashPolicy { policy_specifier }) in policies.into_iter().enumerate() {
        let at = at.index(index);
        match policy_specifier {
            Some(PolicySpecifier::SourceIp(SourceIp {})) => {}
            Some(PolicySpecifier::FilterState(_)) => {
                return Err(at.field("filter_state").unsupported());
            }
            None => return Err(at.error("one of source_ip, filter_state is required")),
        }
    }
    Ok(by_source_ip)
}

fn compile_connect(
    mode: i32,
    early_data: Option<u32>,
    at: &At<'_>,
) -> Result<ConnectWhen, Reported> {
    use pb::UpstreamConnectMode as Mode;
    let mode = Mode::try_from(mode).unwrap_or(Mode::Immediate);
    if mode != Mode::Immediate && early_data.is_none() {
        return Err(at
            .field("max_early_data_bytes")
            .error("is required when upstream_connect_mode is not IMMEDIATE"));
    }
    Ok(match mode {
        Mode::OnDownstreamData => ConnectWhen::OnData,
        // A connection comes here after its handshake.
        Mode::Immediate | Mode::OnDownstreamTlsHandshake => ConnectWhen::Immediate,
    })
}
