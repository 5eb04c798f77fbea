//! One worker thread: its view of the configuration and everything its
//! connections share.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use arc_swap::{ArcSwap, Cache};
use tokio::sync::mpsc;

use crate::{
    model::{
        Snapshot, SnapshotSlot,
        listener::{Facts, ListenAddress, Listener, TrafficDirection},
    },
    net::{
        Address,
        accept::{AcceptLoops, Handed},
        signal::Signal,
    },
    stats::{Block, Registry},
    upstream::WorkerClusters,
};

use super::{Chain, Door, DrainStrategy, Draining, Lifecycle, Phase, stats::server_stats};

/// A listener as this worker sees it: one [`Chain`] for each filter chain.
#[derive(Debug)]
struct WorkerListener {
    listener: Arc<Listener>,
    chains: Vec<Rc<Chain>>,
}

/// State shared by the connections of one worker thread. Never leaves it.
#[derive(Debug)]
pub struct Worker {
    /// 0 for the first worker.
    pub index: usize,
    /// The part of the worker that knows upstream hosts and pools.
    pub upstream: WorkerClusters,
    /// Lines of access logs that are not handed to their files yet.
    pub access_log: Rc<crate::access_log::Buffers>,
    /// The time of day, as requests need it.
    pub clock: crate::http::Clock,
    snapshot: RefCell<Cache<SnapshotSlot, Arc<Snapshot>>>,
    generation: Cell<u64>,
    listeners: RefCell<HashMap<Arc<str>, WorkerListener, foldhash::fast::RandomState>>,
    accept: AcceptLoops,
    lifecycle: Lifecycle,
    phase: Cell<Phase>,
    phase_changed: Signal,
    connections: Cell<usize>,
    /// Where each worker takes connections over.
    peers: Box<[mpsc::Sender<Handed>]>,
    /// Stats under `server.`.
    server: Arc<Block>,
    connection_ids: Arc<AtomicU64>,
    random: Cell<u64>,
}

impl Worker {
    pub(super) fn new(
        index: usize,
        snapshot: SnapshotSlot,
        lifecycle: Lifecycle,
        registry: &Registry,
        connection_ids: Arc<AtomicU64>,
        peers: Box<[mpsc::Sender<Handed>]>,
        seed: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            index,
            access_log: crate::access_log::Buffers::new(),
            upstream: WorkerClusters::new(&format!("worker_{index}"), registry),
            clock: crate::http::Clock::default(),
            snapshot: RefCell::new(Cache::new(snapshot)),
            generation: Cell::new(0),
            listeners: RefCell::default(),
            accept: AcceptLoops::default(),
            phase: Cell::new(lifecycle.phase()),
            lifecycle,
            phase_changed: Signal::new(),
            connections: Cell::new(0),
            peers,
            server: registry.block("server.", &server_stats::TABLE),
            connection_ids,
            random: Cell::new(seed | 1),
        })
    }

    /// The generation this worker has adopted.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The configuration in force, as this worker last saw it.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow_mut().load().clone()
    }

    /// Runs `look` on the configuration in force, without touching a reference count.
    pub fn with_snapshot<T>(&self, look: impl FnOnce(&Snapshot) -> T) -> T {
        look(self.snapshot.borrow_mut().load())
    }

    /// Adopts the newest configuration; costs one relaxed load when it is the
    /// same. Returns its generation.
    pub fn refresh(self: &Rc<Self>) -> u64 {
        let changed = {
            let mut cache = self.snapshot.borrow_mut();
            let newest = cache.load();
            (newest.generation != self.generation.get()).then(|| newest.clone())
        };
        if let Some(snapshot) = changed {
            self.adopt(&snapshot);
        }
        self.generation.get()
    }

    fn adopt(self: &Rc<Self>, snapshot: &Snapshot) {
        self.accept.drain_removed(self, snapshot);
        self.generation.set(snapshot.generation);
        let mut superseded = Vec::new();
        {
            let mut mine = self.listeners.borrow_mut();
            mine.retain(|name, old| {
                let kept = snapshot.listeners.contains_key(name);
                if !kept {
                    superseded.append(&mut old.chains);
                }
                kept
            });
            for (name, listener) in snapshot.listeners.iter() {
                let old = mine.get(name);
                if old.is_some_and(|old| Arc::ptr_eq(&old.listener, listener)) {
                    continue;
                }
                let chains = listener
                    .filter_chains
                    .all()
                    .iter()
                    .map(|filter_chain| {
                        Rc::new(Chain {
                            listener: listener.clone(),
                            filter_chain: filter_chain.clone(),
                            superseded: Signal::new(),
                        })
                    })
                    .collect();
                let new = WorkerListener {
                    listener: listener.clone(),
                    chains,
                };
                if let Some(old) = mine.insert(name.clone(), new) {
                    superseded.extend(old.chains);
                }
            }
        }
        self.accept.reconcile(self, snapshot);
        self.upstream.snapshot_changed(snapshot);
        // Last, so that those who wake find everything in its place.
        for chain in superseded {
            chain.superseded.raise();
        }
    }

    /// The chain that serves a connection, by the configuration in force.
    pub fn find_chain(&self, listener: &str, door: &Door, facts: &Facts<'_>) -> Option<Rc<Chain>> {
        let listeners = self.listeners.borrow();
        let found = listeners.get(listener)?;
        if !door.leads_to(&found.listener, &facts.info.local) {
            return None;
        }
        let index = found.listener.filter_chains.find(facts)?;
        found.chains.get(index).cloned()
    }

    /// The listener in force for an address: its own, or else one for all
    /// addresses with its port.
    pub fn listener_at(&self, address: &Address) -> Option<Arc<Listener>> {
        let listeners = self.listeners.borrow();
        let of = |fits: fn(&ListenAddress, &Address) -> bool| {
            let mut all = listeners.values();
            all.find(|l| l.listener.addresses.iter().any(|a| fits(a, address)))
        };
        let found = of(ListenAddress::is).or_else(|| of(ListenAddress::is_any))?;
        Some(found.listener.clone())
    }

    /// A listener in force, by name.
    pub fn listener(&self, name: &str) -> Option<Arc<Listener>> {
        self.listeners
            .borrow()
            .get(name)
            .map(|l| l.listener.clone())
    }

    /// What the process is doing, as this worker last heard.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Raised when [`Worker::phase`] has changed.
    pub fn phase_changed(&self) -> &Signal {
        &self.phase_changed
    }

    pub(super) fn set_phase(self: &Rc<Self>, phase: Phase) {
        if self.phase.replace(phase) != phase {
            let snapshot = self.snapshot();
            self.accept.reconcile(self, &snapshot);
            self.phase_changed.raise();
        }
    }

    /// The drain of the whole process, or of all its listeners of this direction,
    /// if one is under way.
    pub fn draining(&self, direction: TrafficDirection) -> Option<Draining> {
        let phase = self.phase.get();
        let since = phase.draining_since(direction)?;
        Some(match phase.ending {
            true => Draining::new(since, self.lifecycle.drain_time(), DrainStrategy::Immediate),
            false => self.drain_from(since),
        })
    }

    pub(super) fn drain_from(&self, since: Instant) -> Draining {
        Draining::new(
            since,
            self.lifecycle.drain_time(),
            self.lifecycle.strategy(),
        )
    }

    /// Room to hand a connection to another worker; `None` when it has enough to do
    /// or is gone.
    pub fn room_at(&self, worker: usize) -> Option<mpsc::Permit<'_, Handed>> {
        self.peers.get(worker)?.try_reserve().ok()
    }

    /// A connection id, unique within the process.
    pub fn next_connection_id(&self) -> u64 {
        // One for each connection, not for each request.
        self.connection_ids.fetch_add(1, Relaxed)
    }

    /// Counts a connection for as long as the guard lives.
    pub fn connection_guard(self: &Rc<Self>) -> ConnectionGuard {
        self.connections.set(self.connections.get() + 1);
        self.server.gauge_add(server_stats::total_connections, 1);
        ConnectionGuard(self.clone())
    }

    /// Open downstream connections of this worker.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// A fast pseudo-random number (xorshift64*), for load balancing and drain,
    /// not for secrets.
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// See [`Worker::connection_guard`].
#[derive(Debug)]
pub struct ConnectionGuard(Rc<Worker>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.server.gauge_sub(server_stats::total_connections, 1);
        if self.0.connections.get() == 0 {
            // A worker that drains waits for its last connection.
            self.0.phase_changed.raise();
        }
    }
}

/// A slot that holds the empty configuration.
pub fn empty_snapshot() -> SnapshotSlot {
    Arc::new(ArcSwap::from_pointee(Snapshot::default()))
}
