//! One pooled HTTP/1 connection and what is counted about it.

use std::{
    cell::Cell,
    io,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::{
    super::{Breakers, Host, HostStat, WorkerCluster, stats::cluster_stats},
    http1::{HeadLimits, Http1Connection},
    io::Io,
};
use crate::{
    formatter::UpstreamConnection,
    model::cluster::{Cluster, HttpOptions},
    upstream::Permit,
};

/// The permit of a connection under `max_connections`; none for one that was
/// made in spite of it.
pub type ConnectionPermit = Option<Permit<Arc<Breakers>>>;

/// What is the same for every request on a connection, and its stats, which it
/// counts down when it is dropped.
#[derive(Debug)]
pub struct ConnectionFacts {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    /// For the access log.
    pub info: Rc<UpstreamConnection>,
    made: Instant,
    requests: Cell<u32>,
    by_host: Cell<bool>,
    active: Cell<u32>,
    _permit: ConnectionPermit,
}

impl ConnectionFacts {
    /// Counts a connection that has just been made.
    pub fn new(
        cluster: Arc<Cluster>,
        host: Arc<Host>,
        info: UpstreamConnection,
        permit: ConnectionPermit,
    ) -> Self {
        cluster.stats.inc(cluster_stats::upstream_cx_total);
        cluster
            .stats
            .gauge_add(cluster_stats::upstream_cx_active, 1);
        host.inc(HostStat::cx_total);
        host.inc(HostStat::cx_active);
        Self {
            cluster,
            host,
            info: Rc::new(info),
            made: Instant::now(),
            requests: Cell::new(0),
            by_host: Cell::new(false),
            active: Cell::new(0),
            _permit: permit,
        }
    }

    /// Counts a request that begins.
    pub fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.active.set(self.active.get() + 1);
    }

    /// Counts a request that has ended.
    pub fn end(&self) {
        self.active.set(self.active.get() - 1);
    }

    /// Requests under way.
    pub fn active(&self) -> u32 {
        self.active.get()
    }

    /// How many requests it has had.
    pub fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// The host ended it, not this proxy.
    pub fn closed_by_host(&self) {
        self.by_host.set(true);
    }

    /// Whether its limits let it take another request.
    pub fn may_go_on(&self, now: Instant, options: &HttpOptions) -> bool {
        let enough = options
            .max_requests_per_connection
            .is_some_and(|max| self.requests() >= max);
        if enough {
            self.cluster
                .stats
                .inc(cluster_stats::upstream_cx_max_requests);
        }
        !enough && !self.is_old(now, options)
    }

    fn is_old(&self, now: Instant, options: &HttpOptions) -> bool {
        let old = options
            .max_connection_duration
            .is_some_and(|max| now - self.made >= max);
        if old {
            self.cluster
                .stats
                .inc(cluster_stats::upstream_cx_max_duration_reached);
        }
        old
    }

    /// The limits in force when it was made.
    pub fn options(&self) -> &HttpOptions {
        &self.cluster.http
    }

    /// Its cluster when it was made.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Its host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }
}

impl Drop for ConnectionFacts {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        let (side, side_active) = match self.by_host.get() {
            true => (
                cluster_stats::upstream_cx_destroy_remote,
                cluster_stats::upstream_cx_destroy_remote_with_active_rq,
            ),
            false => (
                cluster_stats::upstream_cx_destroy_local,
                cluster_stats::upstream_cx_destroy_local_with_active_rq,
            ),
        };
        stats.inc(cluster_stats::upstream_cx_destroy);
        stats.inc(side);
        if self.active.get() > 0 {
            stats.inc(cluster_stats::upstream_cx_destroy_with_active_rq);
            stats.inc(side_active);
        }
        stats.gauge_sub(cluster_stats::upstream_cx_active, 1);
        let length = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        stats.record(cluster_stats::upstream_cx_length_ms, length);
        stats.record(
            cluster_stats::upstream_rq_per_cx,
            self.requests.get().into(),
        );
        self.host.dec(HostStat::cx_active);
    }
}

/// A pooled HTTP/1 connection.
#[derive(Debug)]
pub struct Connection {
    /// The exchange under way.
    pub http1: Http1Connection<Io>,
    /// What is known and counted.
    pub facts: ConnectionFacts,
    idle_since: Instant,
}

impl Connection {
    pub(super) fn new(io: Io, facts: ConnectionFacts) -> Self {
        let options = facts.options();
        let limits = HeadLimits {
            bytes: options.max_response_headers_kb as usize * 1024,
            headers: options.max_headers as usize,
            wire: options.http1,
        };
        facts
            .cluster
            .stats
            .inc(cluster_stats::upstream_cx_http1_total);
        facts.cluster.http1_stats();
        let buffer = facts.cluster.buffered();
        Self {
            http1: Http1Connection::new(io, limits, buffer),
            facts,
            idle_since: Instant::now(),
        }
    }

    /// Whether it can be used: pending is good news here.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.http1.poll_idle(cx)
    }

    /// Whether the host has said nothing since the last exchange, which leaves
    /// nothing but to use it. Nobody is woken when that changes.
    pub(super) fn is_quiet(&mut self) -> bool {
        match self.http1.io() {
            Io::Tcp(tcp) => {
                let read = tcp.try_read(&mut [0]);
                read.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
            }
            // A session may have something to read that is nothing for us.
            _ => {
                let mut cx = Context::from_waker(Waker::noop());
                self.poll_idle(&mut cx).is_pending()
            }
        }
    }

    pub(super) fn closed_by_host(&self) {
        self.facts.closed_by_host();
    }

    /// Counts the bytes of the exchange that has ended.
    pub fn count_traffic(&mut self) -> (u64, u64) {
        let (received, sent) = self.http1.take_traffic();
        let stats = &self.facts.cluster.stats;
        stats.add(cluster_stats::upstream_cx_rx_bytes_total, received);
        stats.add(cluster_stats::upstream_cx_tx_bytes_total, sent);
        (received, sent)
    }

    pub(super) fn may_go_on(&self, now: Instant) -> bool {
        let facts = &self.facts;
        self.http1.is_reusable() && facts.may_go_on(now, facts.options())
    }

    pub(super) fn rest(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// When it has to be closed if it goes on resting.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        let options = self.facts.options();
        let idle = options.idle_timeout.map(|limit| self.idle_since + limit);
        let old = options.max_connection_duration;
        let old = old.map(|limit| self.facts.made + limit);
        [idle, old].into_iter().flatten().min()
    }

    pub(super) fn has_rested_enough(&self, now: Instant) -> bool {
        if self.facts.is_old(now, self.facts.options()) {
            return true;
        }
        let limit = self.facts.options().idle_timeout;
        let enough =
            limit.is_some_and(|limit| now.saturating_duration_since(self.idle_since) >= limit);
        if enough {
            self.facts
                .cluster
                .stats
                .inc(cluster_stats::upstream_cx_idle_timeout);
        }
        enough
    }
}

impl AsRef<Breakers> for WorkerCluster {
    fn as_ref(&self) -> &Breakers {
        &self.cluster.breakers
    }
}
