//! The stats of a listener's connections.

use std::{rc::Rc, sync::Arc, time::Instant};

use super::admit::Places;
use crate::{
    model::listener::{Listener, listener_stats, worker_stats},
    net::{ConnectionInfo, filters},
    server::{ConnectionGuard, Worker},
    stats::Block,
};

/// Counts a connection in its listener's stats for as long as it lives.
#[derive(Debug)]
pub(super) struct ConnectionCount {
    id: u64,
    stats: Arc<Block>,
    worker_stats: Option<Arc<Block>>,
    since: Instant,
    /// Of the network filters it has passed.
    pub(super) held: Vec<filters::Held>,
    _places: Places,
    _worker: ConnectionGuard,
}

impl ConnectionCount {
    pub(super) fn new(
        info: &ConnectionInfo,
        listener: &Listener,
        worker: &Rc<Worker>,
        places: Places,
        guard: ConnectionGuard,
    ) -> Self {
        let stats = listener.stats.clone();
        let worker_stats = listener.worker_stats.get(worker.index).cloned();
        stats.inc(listener_stats::downstream_cx_total);
        stats.gauge_add(listener_stats::downstream_cx_active, 1);
        if let Some(stats) = &worker_stats {
            stats.inc(worker_stats::downstream_cx_total);
            stats.gauge_add(worker_stats::downstream_cx_active, 1);
        }
        Self {
            id: info.id,
            stats,
            worker_stats,
            since: info.accepted,
            held: Vec::new(),
            _places: places,
            _worker: guard,
        }
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.stats.inc(listener_stats::downstream_cx_destroy);
        self.stats
            .gauge_sub(listener_stats::downstream_cx_active, 1);
        if let Some(stats) = &self.worker_stats {
            stats.gauge_sub(worker_stats::downstream_cx_active, 1);
        }
        let length = self.since.elapsed().as_millis();
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.stats
            .record(listener_stats::downstream_cx_length_ms, length);
        tracing::debug!(
            target: "connection", connection_id = self.id, "closed after {length} ms"
        );
    }
}
