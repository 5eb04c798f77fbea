//! `envoy.config.cluster.v3.Cluster`, compiled.
//!
//! A [`Cluster`] is immutable but for its host set, which the control thread
//! swaps. What belongs to its name rather than to its configuration (hosts,
//! circuit breakers, stats) goes on when another configuration replaces it.

mod balancing;
mod breakers;
mod compile;
mod discovery;
pub mod dns;
mod endpoints;
mod hashing;
mod http_options;
mod original_dst;
mod protocol;
mod socket;
mod subsets;
mod transport;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    api::envoy::config::core::v3::Metadata,
    codec::stats::http1_stats,
    digest::Digest,
    net::http2::stats::http2_stats,
    stats::{Block, Registry, Table},
    upstream::{
        Breakers, Endpoint, HostSet, Hosts, LbContext, LbState, Priority, Resource,
        balance::{Balancing, Choice, HashTable, TableKind},
        breakers::Thresholds,
        host_set::Membership,
        original_dst::OriginalDst,
        stats::{cluster_stats, maglev_stats, remaining_stats, ring_hash_stats, subset_stats},
    },
};

pub use discovery::Discovery;
pub use endpoints::{Duplicates, EndpointSet, EndpointSpec, LocalitySpec, ResolvedNames, Target};
pub use http_options::{Http2Options, HttpOptions, KeepAlive};
pub use protocol::Protocol;
pub use socket::{Bind, SocketOptions};
pub use transport::{Transport, Transports};

/// One upstream cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// `alt_stat_name`, or its name: what its stats are called by.
    pub observability_name: Arc<str>,
    /// `cluster.NAME.`, of [`cluster_stats`].
    pub stats: Arc<Block>,
    /// The zone that this proxy is in, where it is in one.
    pub zone: Option<Box<str>>,
    http1_stats: OnceLock<Arc<Block>>,
    http2_stats: OnceLock<Arc<Block>>,
    registry: Arc<Registry>,
    /// `connect_timeout`, 5 s unless set. TCP and TLS together.
    pub connect_timeout: Duration,
    /// `per_connection_buffer_limit_bytes`, 1 MiB unless set: what is kept of a request
    /// for a retry. What it is to connections, [`Cluster::buffered`] says.
    pub buffer_limit: usize,
    /// How a host is chosen.
    pub balancing: Balancing,
    /// What carries the bytes of its connections, by endpoint.
    pub transports: Transports,
    /// What an HTTP request is spoken in.
    pub protocol: Protocol,
    /// Limits and codec settings of HTTP.
    pub http: Arc<HttpOptions>,
    /// Socket options of new connections.
    pub socket: SocketOptions,
    /// Limits that hold for the whole process.
    pub breakers: Arc<Breakers>,
    /// `metadata`, for formatters.
    pub metadata: Option<Arc<Metadata>>,
    /// Equal for two configurations whose connections look the same on the wire,
    /// apart from the transport, so that one can use the other's.
    pub wire_identity: Digest,
    /// Where its hosts come from.
    pub discovery: Discovery,
    /// `cluster.NAME.ring_hash_lb.` or `cluster.NAME.maglev_lb.`
    hash_stats: Option<Arc<Block>>,
    hosts: Hosts,
    thresholds: [Thresholds; 2],
    /// `cluster.NAME.circuit_breakers.PRIORITY.`, with `track_remaining`.
    remaining: [Option<Arc<Block>>; 2],
    /// `cluster.NAME.`, where hosts are divided into subsets.
    subset_stats: Option<Arc<Block>>,
    /// Its host set has been filled from its discovery.
    initialized: AtomicBool,
    /// It has come into force.
    active: AtomicBool,
    /// The control thread and the workers.
    threads: usize,
}

impl Cluster {
    /// How many bytes may be read at once from a host's connection, and wait to be
    /// written to it.
    pub fn buffered(&self) -> usize {
        match self.buffer_limit {
            0 => usize::MAX,
            limit => limit,
        }
    }

    /// Chooses a host for one request or connection, and counts how.
    pub fn choose<'a>(&self, state: &'a mut LbState, cx: &LbContext<'_>) -> Choice<'a> {
        state.choose(&self.hosts, &self.balancing, cx, &self.stats)
    }

    /// `cluster.NAME.http1.`
    pub fn http1_stats(&self) -> &Arc<Block> {
        self.http1_stats
            .get_or_init(|| self.part("http1.", &http1_stats::TABLE))
    }

    /// `cluster.NAME.http2.`
    pub fn http2_stats(&self) -> &Arc<Block> {
        self.http2_stats
            .get_or_init(|| self.part("http2.", &http2_stats::TABLE))
    }

    /// A part of its stats: `cluster.NAME.` + `part`.
    pub fn part(&self, part: &str, table: &'static Table) -> Arc<Block> {
        let prefix = format!("{}{part}", self.stats.prefix());
        self.registry.block(&prefix, table)
    }

    /// The hosts in force. On the request path, ask an [`LbState`].
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Whether the hosts come from this configuration's own discovery, rather
    /// than from the one before.
    pub fn is_initialized(&self) -> bool {
        self.initialized.load(Relaxed)
    }

    /// The control thread and the workers: what per-thread state is sized by.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The limits it is configured with, by priority.
    pub fn thresholds(&self, priority: Priority) -> &Thresholds {
        &self.thresholds[priority as usize]
    }

    /// How it knows its hosts, where they are where connections were meant to go.
    pub fn original_dst(&self) -> Option<&Arc<OriginalDst>> {
        match &self.discovery {
            Discovery::OriginalDst(original) => Some(original),
            _ => None,
        }
    }

    /// Puts other hosts in force. Only the control thread does.
    pub fn set_members(&self, membership: Membership) {
        let before = self.hosts.load();
        let set = HostSet::new(membership, &self.balancing);
        let changed = !self.initialized.swap(true, Relaxed) || !same_hosts(&before, &set);
        self.count_new_hosts(&before, &set);
        let heaviest = set.endpoints().map(|endpoint| endpoint.weight).max();
        let heaviest = u64::from(heaviest.unwrap_or(0));
        self.stats
            .gauge_set(cluster_stats::max_host_weight, heaviest);
        if self.active.load(Relaxed) {
            self.count_subsets(Some(&before), &set);
        }
        self.hosts.store(set);
        self.count_members();
        if changed {
            self.stats.inc(cluster_stats::membership_change);
            let count = self.hosts.load().count();
            tracing::debug!(
                target: "upstream", "membership update for cluster '{}': {} hosts, {} healthy",
                self.name, count.total, count.healthy
            );
        }
    }

    /// Arranges the same hosts again after a health flag has changed.
    pub fn health_changed(&self) {
        let membership = self.hosts.load().membership().clone();
        self.hosts.store(HostSet::new(membership, &self.balancing));
        self.count_members();
    }

    /// Called once, on the control thread, when this configuration comes into
    /// force: what belongs to the cluster's name follows it from here on.
    pub fn activate(&self) {
        for priority in [Priority::Default, Priority::High] {
            self.breakers
                .set_thresholds(priority, self.thresholds(priority));
        }
        self.count_members();
        self.active.store(true, Relaxed);
        self.count_subsets(None, &self.hosts.load());
    }

    /// Counts the subsets that have come and gone since a set of hosts of this cluster, or
    /// since whatever was there before it; one for each thread, as in Envoy.
    fn count_subsets(&self, before: Option<&HostSet>, now: &HostSet) {
        let number = |subsets: usize| (subsets * self.threads) as u64;
        let now = now.subsets.as_deref();
        let active = now.map_or(0, |now| number(now.len()));
        let known = self.stats.gauge(cluster_stats::lb_subsets_active);
        let before = before.and_then(|before| before.subsets.as_deref());
        let (created, removed) = match (before, now) {
            (Some(before), Some(now)) => (number(now.beyond(before)), number(before.beyond(now))),
            _ => (active, known),
        };
        let stats = &self.stats;
        if active != known {
            stats.gauge_set(cluster_stats::lb_subsets_active, active);
        }
        for (counter, by) in [
            (cluster_stats::lb_subsets_created, created),
            (cluster_stats::lb_subsets_removed, removed),
        ] {
            if by > 0 {
                stats.add(counter, by);
            }
        }
        if let (Some(stats), Some(now)) = (&self.subset_stats, now) {
            let duplicate = subset_stats::lb_subsets_single_host_per_subset_duplicate;
            stats.gauge_set(duplicate, now.duplicates());
        }
    }

    /// Each new host gets a transport socket, which is counted.
    fn count_new_hosts(&self, before: &HostSet, now: &HostSet) {
        let known = before.by_key();
        for locality in &now.membership().localities {
            let of_locality = locality.metadata.as_deref();
            let new = |endpoint: &&Arc<Endpoint>| !known.contains_key(endpoint.host.key());
            for endpoint in locality.endpoints.iter().filter(new) {
                if !self.transports.count(endpoint, of_locality) {
                    self.stats.inc(cluster_stats::default_total_match_count);
                }
            }
        }
    }

    fn count_members(&self) {
        let set = self.hosts.load();
        self.count_hashes(&set);
        let count = set.count();
        let stats = &self.stats;
        stats.gauge_set(cluster_stats::membership_total, count.total);
        stats.gauge_set(cluster_stats::membership_healthy, count.healthy);
        stats.gauge_set(cluster_stats::membership_degraded, count.degraded);
        stats.gauge_set(cluster_stats::membership_excluded, count.excluded);
    }

    /// How evenly hashes are spread; of several priorities the last one counts, as in
    /// Envoy.
    fn count_hashes(&self, set: &HostSet) {
        let spread = set.tables.iter().rev().find_map(HashTable::spread);
        let (Some(spread), Some(hashing)) = (spread, self.balancing.hashing()) else {
            return;
        };
        let Some(stats) = &self.hash_stats else {
            return;
        };
        match hashing.table {
            TableKind::Ring(_) => {
                stats.gauge_set(ring_hash_stats::size, spread.size);
                stats.gauge_set(ring_hash_stats::min_hashes_per_host, spread.min);
                stats.gauge_set(ring_hash_stats::max_hashes_per_host, spread.max);
            }
            TableKind::Maglev { .. } => {
                stats.gauge_set(maglev_stats::min_entries_per_host, spread.min);
                stats.gauge_set(maglev_stats::max_entries_per_host, spread.max);
            }
        }
    }

    /// Brings the gauges of the circuit breakers up to date. They are computed
    /// when somebody reads them: call this on the control thread before that.
    pub fn refresh_gauges(&self) {
        for (priority, gauges) in [
            (Priority::Default, DEFAULT_GAUGES),
            (Priority::High, HIGH_GAUGES),
        ] {
            for (resource, gauge) in gauges {
                let open = self.breakers.is_open(priority, resource);
                // One that never opened is not in use.
                if open || self.stats.gauge_used(gauge) {
                    self.stats.gauge_set(gauge, open.into());
                }
            }
            if let Some(block) = &self.remaining[priority as usize] {
                for (resource, gauge) in REMAINING_GAUGES {
                    block.gauge_set(gauge, self.breakers.remaining(priority, resource));
                }
                // `max_connection_pools` is refused: there is no limit.
                block.gauge_set(remaining_stats::remaining_cx_pools, u64::MAX);
            }
        }
    }
}

fn same_hosts(a: &HostSet, b: &HostSet) -> bool {
    let ids = |set: &HostSet| {
        let mut ids: Vec<_> = set.endpoints().map(|e| e.host.id()).collect();
        ids.sort_unstable();
        ids
    };
    ids(a) == ids(b)
}

type Gauges = [(Resource, crate::stats::Gauge); 4];

const DEFAULT_GAUGES: Gauges = [
    (Resource::Connections, cluster_stats::default_cx_open),
    (Resource::Requests, cluster_stats::default_rq_open),
    (
        Resource::PendingRequests,
        cluster_stats::default_rq_pending_open,
    ),
    (Resource::Retries, cluster_stats::default_rq_retry_open),
];

const HIGH_GAUGES: Gauges = [
    (Resource::Connections, cluster_stats::high_cx_open),
    (Resource::Requests, cluster_stats::high_rq_open),
    (
        Resource::PendingRequests,
        cluster_stats::high_rq_pending_open,
    ),
    (Resource::Retries, cluster_stats::high_rq_retry_open),
];

const REMAINING_GAUGES: Gauges = [
    (Resource::Connections, remaining_stats::remaining_cx),
    (Resource::Requests, remaining_stats::remaining_rq),
    (
        Resource::PendingRequests,
        remaining_stats::remaining_pending,
    ),
    (Resource::Retries, remaining_stats::remaining_retries),
];
