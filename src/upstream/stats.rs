//! The names of a cluster's stats, as Envoy's.

crate::stat_table! {
    /// `cluster.NAME.`
    pub mod cluster_stats {
        counters {
            assignment_stale,
            assignment_timeout_received,
            assignment_use_cached,
            bind_errors,
            default_total_match_count = "default.total_match_count",
            lb_healthy_panic,
            lb_local_cluster_not_ok,
            lb_recalculate_zone_structures,
            lb_subsets_created,
            lb_subsets_fallback,
            lb_subsets_fallback_panic,
            lb_subsets_removed,
            lb_subsets_selected,
            lb_zone_cluster_too_small,
            lb_zone_no_capacity_left,
            lb_zone_routing_all_directly,
            lb_zone_routing_cross_zone,
            lb_zone_routing_sampled,
            membership_change,
            original_dst_host_invalid,
            retry_or_shadow_abandoned,
            update_attempt,
            update_empty,
            update_failure,
            update_no_rebuild,
            update_success,
            upstream_cx_close_notify,
            upstream_cx_connect_attempts_exceeded,
            upstream_cx_connect_fail,
            upstream_cx_connect_timeout,
            upstream_cx_connect_with_0_rtt,
            upstream_cx_destroy,
            upstream_cx_destroy_local,
            upstream_cx_destroy_local_with_active_rq,
            upstream_cx_destroy_remote,
            upstream_cx_destroy_remote_with_active_rq,
            upstream_cx_destroy_with_active_rq,
            upstream_cx_http1_total,
            upstream_cx_http2_total,
            upstream_cx_http3_total,
            upstream_cx_idle_timeout,
            upstream_cx_max_duration_reached,
            upstream_cx_max_requests,
            upstream_cx_none_healthy,
            upstream_cx_overflow,
            upstream_cx_pool_overflow,
            upstream_cx_preconnect_skipped,
            upstream_cx_protocol_error,
            upstream_cx_rx_bytes_total,
            upstream_cx_total,
            upstream_cx_tx_bytes_total,
            upstream_flow_control_backed_up_total,
            upstream_flow_control_drained_total,
            upstream_flow_control_paused_reading_total,
            upstream_flow_control_resumed_reading_total,
            upstream_http3_broken,
            upstream_internal_redirect_failed_total,
            upstream_internal_redirect_succeeded_total,
            upstream_rq_0rtt,
            upstream_rq_active_overflow,
            upstream_rq_cancelled,
            upstream_rq_maintenance_mode,
            upstream_rq_max_duration_reached,
            upstream_rq_pending_failure_eject,
            upstream_rq_pending_overflow,
            upstream_rq_pending_total,
            upstream_rq_per_try_idle_timeout,
            upstream_rq_per_try_timeout,
            upstream_rq_retry,
            upstream_rq_retry_backoff_exponential,
            upstream_rq_retry_backoff_ratelimited,
            upstream_rq_retry_limit_exceeded,
            upstream_rq_retry_overflow,
            upstream_rq_retry_success,
            upstream_rq_rx_reset,
            upstream_rq_rx_reset_no_error,
            upstream_rq_timeout,
            upstream_rq_total,
            upstream_rq_tx_reset,
        }
        gauges {
            default_cx_open = "circuit_breakers.default.cx_open",
            default_cx_pool_open = "circuit_breakers.default.cx_pool_open",
            default_rq_open = "circuit_breakers.default.rq_open",
            default_rq_pending_open = "circuit_breakers.default.rq_pending_open",
            default_rq_retry_open = "circuit_breakers.default.rq_retry_open",
            high_cx_open = "circuit_breakers.high.cx_open",
            high_cx_pool_open = "circuit_breakers.high.cx_pool_open",
            high_rq_open = "circuit_breakers.high.rq_open",
            high_rq_pending_open = "circuit_breakers.high.rq_pending_open",
            high_rq_retry_open = "circuit_breakers.high.rq_retry_open",
            lb_subsets_active,
            max_host_weight,
            membership_degraded,
            membership_excluded,
            membership_healthy,
            membership_total,
            upstream_cx_active,
            upstream_cx_rx_bytes_buffered,
            upstream_cx_tx_bytes_buffered,
            upstream_queue_overloaded,
            upstream_rq_active,
            upstream_rq_pending_active,
            version,
            warming_state,
        }
        histograms {
            upstream_cx_connect_ms: Milliseconds,
            upstream_cx_length_ms: Milliseconds,
            upstream_rq_per_cx: Unspecified,
            upstream_rq_time: Milliseconds,
            external_upstream_rq_time = "external.upstream_rq_time": Milliseconds,
            internal_upstream_rq_time = "internal.upstream_rq_time": Milliseconds,
        }
        texts {}
        codes { "upstream_rq" }
        late { "upstream_rq_time", "external.upstream_rq_time", "internal.upstream_rq_time" }
    }
}

crate::stat_table! {
    /// `cluster.NAME.MATCH.`, for each of `transport_socket_matches`.
    pub mod transport_match_stats {
        counters { total_match_count }
        gauges {}
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `cluster.NAME.`, of clusters with subsets.
    pub mod subset_stats {
        counters {}
        gauges { lb_subsets_single_host_per_subset_duplicate }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `cluster.NAME.ring_hash_lb.`
    pub mod ring_hash_stats {
        counters {}
        gauges { max_hashes_per_host, min_hashes_per_host, size }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `cluster.NAME.maglev_lb.`
    pub mod maglev_stats {
        counters {}
        gauges { max_entries_per_host, min_entries_per_host }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `cluster.NAME.circuit_breakers.{default,high}.`, with `track_remaining`.
    pub mod remaining_stats {
        counters {}
        gauges {
            remaining_cx,
            remaining_cx_pools,
            remaining_pending,
            remaining_retries,
            remaining_rq,
        }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `thread_local_cluster_manager.THREAD.`
    pub mod thread_stats {
        counters {}
        gauges {
            // Those that the thread has used.
            clusters_inflated,
        }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `dns.cares.`, whoever asks
    pub mod dns_stats {
        counters { get_addr_failure, not_found, reinits, resolve_total, timeouts }
        gauges { pending_resolutions }
        histograms {}
        texts {}
    }
}
