//! The stats of subscriptions and of what is configured, under Envoy's names.

crate::stat_table! {
    /// One subscription: `listener_manager.lds.`, `cluster.web.`, `sds.server.`, …
    pub mod subscription_stats {
        counters {
            init_fetch_timeout, update_rejected,
            // Not in Envoy: a file was written in place, which is not applied.
            update_ignored_in_place,
        }
        gauges { update_time }
        histograms { update_duration: Milliseconds }
        texts { version_text }
    }
}

crate::stat_table! {
    /// The rest of one subscription, which for endpoints stands among the stats
    /// of their cluster.
    pub mod update_stats {
        counters { update_attempt, update_failure, update_success }
        gauges { version }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// What some subscriptions count besides: `cluster_manager.cds.`, `http.ingress.rds.local.`
    pub mod reload_stats {
        counters { config_reload }
        gauges { config_reload_time_ms }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// An answer without the resource that was asked for: `http.ingress.rds.local.`
    pub mod empty_stats {
        counters { update_empty }
        gauges {}
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// The scopes of a connection manager: `http.ingress.scoped_rds.NAME.`
    pub mod scope_stats {
        counters { update_empty }
        gauges {
            // Those whose routes come by RDS.
            active_scopes,
            all_scopes, on_demand_scopes,
        }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `extension_config_discovery.http_filter.NAME.`
    pub mod extension_stats {
        counters { config_conflict, config_fail, config_reload }
        gauges {}
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `sds.NAME.`
    pub mod rotation_stats {
        counters { key_rotation_failed }
        gauges {}
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// A stream to a management server: `control_plane.` for ADS,
    /// `cluster_manager.cds.control_plane.` for one of its own.
    pub mod control_plane_stats {
        counters { rate_limit_enforced }
        gauges { connected_state, pending_requests }
        histograms {}
        texts { identifier }
    }
}

crate::stat_table! {
    /// `cluster_manager.`
    pub mod cluster_manager_stats {
        counters {
            cluster_added, cluster_modified, cluster_removed, cluster_updated,
            cluster_updated_via_merge, update_merge_cancelled, update_out_of_merge_window,
        }
        gauges { active_clusters, warming_clusters }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `listener_manager.`
    pub mod listener_manager_stats {
        counters {
            listener_added, listener_create_failure, listener_create_success,
            listener_in_place_updated, listener_modified, listener_removed, listener_stopped,
        }
        gauges {
            total_filter_chains_draining, total_listeners_active, total_listeners_draining,
            total_listeners_warming, workers_pinned, workers_started,
        }
        histograms {}
        texts {}
    }
}
