//! `overload_manager`: what the process does less of when something runs short.
//!
//! Monitors on the control thread say how much of a resource is used. By their
//! triggers, actions and load shed points are then in force to a share of one:
//! workers read the share, and at less than all of it leave it to chance.

mod compile;
mod manager;
mod monitor;
mod timers;
mod trigger;

pub use compile::Settings;
pub use manager::Manager;
pub use timers::{Timer, Timers};

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::{
    net::limits::OpenConnections,
    stats::{self, Block},
};

crate::stat_table! {
    /// `overload.MONITOR.`
    pub mod monitor_stats {
        counters { failed_updates, skipped_updates }
        gauges { pressure }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `overload.ACTION.`
    pub mod action_stats {
        counters {}
        gauges { active, scale_percent }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `overload.LOAD_SHED_POINT.`
    pub mod point_stats {
        counters { shed_load_count }
        gauges { scale_percent }
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `overload.`
    pub mod manager_stats {
        counters {}
        gauges {}
        histograms { refresh_interval_delay: Milliseconds }
        texts {}
    }
}

/// A share of one, written by the control thread and read by all.
#[derive(Debug, Default)]
pub struct Level(AtomicU32);

/// All of it.
const FULL: u32 = 1 << 16;

impl Level {
    fn set(&self, share: f64) {
        // Between none and all of it.
        self.0.store((share * f64::from(FULL)) as u32, Relaxed);
    }

    /// The share.
    pub fn share(&self) -> f64 {
        f64::from(self.0.load(Relaxed)) / f64::from(FULL)
    }

    /// Whether it is all.
    pub fn is_full(&self) -> bool {
        self.0.load(Relaxed) >= FULL
    }

    /// Whether it happens this time.
    pub fn happens(&self, random: impl FnOnce() -> u64) -> bool {
        match self.0.load(Relaxed) {
            0 => false,
            FULL.. => true,
            share => random() % u64::from(FULL) < u64::from(share),
        }
    }
}

/// Where load is shed.
#[derive(Debug, Default)]
pub struct ShedPoint {
    level: Level,
    /// None where it is not configured.
    stats: Option<Arc<Block>>,
}

impl ShedPoint {
    /// Whether it may ever shed any.
    pub fn is_configured(&self) -> bool {
        self.stats.is_some()
    }

    /// Whether this is shed; counts it.
    pub fn sheds(&self, random: impl FnOnce() -> u64) -> bool {
        let sheds = self.level.happens(random);
        if sheds && let Some(stats) = &self.stats {
            stats.inc(point_stats::shed_load_count);
        }
        sheds
    }
}

/// `global_downstream_max_connections`: the connections of all listeners that may be
/// open.
#[derive(Debug)]
pub struct Connections {
    /// Those that are.
    pub open: Arc<OpenConnections>,
    stats: Arc<Block>,
}

impl Connections {
    fn new(limit: u64, registry: &Arc<stats::Registry>, name: &str) -> Self {
        Self {
            open: OpenConnections::at_most(limit),
            stats: registry.block(&format!("overload.{name}."), &monitor_stats::TABLE),
        }
    }

    /// Counts one that was refused.
    pub fn refused(&self) {
        self.stats.inc(monitor_stats::failed_updates);
    }
}

/// What is in force, by Envoy's names. Of a process without an overload manager,
/// nothing.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each is documented by its name in Envoy's API")]
pub struct Overload {
    pub stop_accepting_connections: Level,
    pub stop_accepting_requests: Level,
    pub disable_http_keepalive: Level,
    pub reject_incoming_connections: Level,
    pub reduce_timeouts: Timers,
    pub tcp_listener_accept: ShedPoint,
    pub http_connection_manager_decode_headers: ShedPoint,
    pub hcm_ondata_creating_codec: ShedPoint,
    pub http1_server_abort_dispatch: ShedPoint,
    pub http2_server_go_away_on_dispatch: ShedPoint,
    pub http_downstream_filter_check: ShedPoint,
    pub connections: Option<Connections>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_happens_as_often() {
        let level = Level::default();
        assert!(!level.happens(|| 0) && !level.is_full());
        level.set(0.25);
        let times = (0..u64::from(FULL))
            .filter(|n| level.happens(|| *n))
            .count();
        assert_eq!(times, FULL as usize / 4);
        level.set(1.0);
        assert!(level.happens(|| u64::MAX) && level.is_full());
    }
}
