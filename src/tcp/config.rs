//! `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`, compiled.

use std::{sync::Arc, time::Duration};

use crate::{
    access_log::AccessLogs,
    api::envoy::extensions::filters::network::tcp_proxy::v3 as pb,
    config::{At, Reported, duration},
    model::Context,
    refuse, stats,
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

/// A TCP proxy's settings.
#[derive(Debug)]
pub struct TcpProxy {
    /// `tcp.STAT_PREFIX.`
    pub stats: Arc<stats::Block>,
    /// Time without a byte either way after which a tunnel is closed; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Time after which a tunnel is closed, whatever goes through it.
    pub max_duration: Option<Duration>,
    /// How often a host is tried, the first time included.
    pub max_connect_attempts: u32,
    /// Who writes down what happened.
    pub access_logs: AccessLogs,
    clusters: Clusters,
}

#[derive(Debug)]
enum Clusters {
    One(Arc<str>),
    /// Each with the sum of the weights up to and including its own.
    Weighted {
        clusters: Vec<(Arc<str>, u64)>,
        total: u64,
    },
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
            metadata_match, hash_policy, tunneling_config, on_demand,
            access_log_flush_interval, flush_access_log_on_connected, access_log_options,
            backoff_options, proxy_protocol_tlvs,
            max_downstream_connection_duration_jitter_percentage, upstream_connect_mode,
            max_early_data_bytes, proxy_protocol_tlv_merge_policy, check_drain_close,
        );
        let time = |value: Option<prost_types::Duration>, name: &str| {
            value.map(|d| duration(&d, &at.field(name))).transpose()
        };
        let idle_timeout = time(idle_timeout, "idle_timeout");
        let max_duration = time(
            max_downstream_connection_duration,
            "max_downstream_connection_duration",
        );
        let clusters = Clusters::compile(cluster_specifier, cx, at);
        let access_logs = AccessLogs::compile(access_log, cx, &at.field("access_log"));
        refused?;
        Ok(Self {
            stats: cx
                .stats
                .block(&format!("tcp.{stat_prefix}."), &tcp_stats::TABLE),
            idle_timeout: Some(idle_timeout?.unwrap_or(DEFAULT_IDLE_TIMEOUT))
                .filter(|t| !t.is_zero()),
            max_duration: max_duration?,
            max_connect_attempts: max_connect_attempts.unwrap_or(1),
            access_logs: access_logs?,
            clusters: clusters?,
        })
    }

    /// The cluster for a new tunnel; `random` is uniform.
    pub fn cluster(&self, random: u64) -> &Arc<str> {
        match &self.clusters {
            Clusters::One(name) => name,
            Clusters::Weighted { clusters, total } => {
                let point = random % total;
                let index = clusters.partition_point(|(_, up_to)| *up_to <= point);
                &clusters[index].0
            }
        }
    }

    /// Every cluster it can choose.
    pub fn referenced_clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let (one, many) = match &self.clusters {
            Clusters::One(name) => (Some(name), [].as_slice()),
            Clusters::Weighted { clusters, .. } => (None, clusters.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|(name, _)| name))
    }
}

impl Clusters {
    fn compile(
        message: Option<pb::tcp_proxy::ClusterSpecifier>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        match message {
            Some(pb::tcp_proxy::ClusterSpecifier::Cluster(name)) => {
                cx.sources.cluster(&name, false, &at.field("cluster"))?;
                Ok(Self::One(name.into()))
            }
            Some(pb::tcp_proxy::ClusterSpecifier::WeightedClusters(
                pb::tcp_proxy::WeightedCluster { clusters },
            )) => {
                let at = at.field("weighted_clusters");
                let at = at.field("clusters");
                let mut total = 0;
                let mut outcome = Ok(());
                let mut weighted = Vec::with_capacity(clusters.len());
                for (index, cluster) in clusters.into_iter().enumerate() {
                    let at = at.index(index);
                    let pb::tcp_proxy::weighted_cluster::ClusterWeight {
                        name,
                        weight,
                        metadata_match,
                    } = cluster;
                    if let Err(reported) = refuse!(at; metadata_match) {
                        outcome = Err(reported);
                    }
                    if let Err(reported) = cx.sources.cluster(&name, false, &at.field("name")) {
                        outcome = Err(reported);
                    }
                    total += u64::from(weight);
                    weighted.push((name.into(), total));
                }
                if total == 0 {
                    return Err(at.error("the weights add up to 0"));
                }
                outcome.map(|()| Self::Weighted {
                    clusters: weighted,
                    total,
                })
            }
            None => Err(at.error("one of cluster, weighted_clusters is required")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shares() {
        let proxy = Clusters::Weighted {
            clusters: vec![("a".into(), 1), ("b".into(), 4)],
            total: 4,
        };
        let Clusters::Weighted { clusters, total } = &proxy else {
            unreachable!()
        };
        let chosen: Vec<&str> = (0..*total)
            .map(|point| &*clusters[clusters.partition_point(|(_, up_to)| *up_to <= point)].0)
            .collect();
        assert_eq!(chosen, ["a", "b", "b", "b"]);
    }
}
