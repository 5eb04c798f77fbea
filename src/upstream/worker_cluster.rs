//! What one worker holds of each cluster it has used: its choice among hosts
//! and its pools.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{
    Endpoint, LbContext, LbState,
    balance::Choice,
    original_dst::OriginalDst,
    pool::{Pool, Wire},
    stats::thread_stats,
    zones::WorkerZones,
};
use crate::{
    digest::Digest,
    model::{Snapshot, cluster::Cluster},
    stats::{Block, Registry},
};

/// Pools by host id and what their connections are like. They outlive the
/// configuration they were made under for as long as the next one looks the same
/// on the wire.
#[derive(Debug, Default)]
struct Pools(RefCell<HashMap<(u64, Wire), Rc<Pool>, RandomState>>);

impl Pools {
    fn drain_all(&self) {
        self.0
            .borrow_mut()
            .drain()
            .for_each(|(_, pool)| pool.drain());
    }

    /// Drains the pools of hosts that are no longer there, or are reached through
    /// another transport.
    fn retain(&self, keep: impl Fn(u64, Digest) -> bool) {
        self.0.borrow_mut().retain(|(host, wire), pool| {
            let keep = keep(*host, wire.transport);
            if !keep {
                pool.drain();
            }
            keep
        });
    }
}

/// A host of an `ORIGINAL_DST` cluster.
#[derive(Debug)]
struct Met {
    endpoint: Arc<Endpoint>,
    /// It is among the cluster's hosts.
    taken_in: bool,
}

/// A cluster as one worker sees it.
#[derive(Debug)]
pub struct WorkerCluster {
    /// Its configuration.
    pub cluster: Arc<Cluster>,
    /// Its name, for the access log.
    pub name: Rc<str>,
    /// What its stats are called by, for the access log.
    pub observability_name: Rc<str>,
    /// Its stats by zone.
    pub zones: WorkerZones,
    lb: RefCell<LbState>,
    /// The hosts of an `ORIGINAL_DST` cluster, also those that are not among its
    /// hosts yet.
    met: RefCell<HashMap<SocketAddr, Met, RandomState>>,
    pools: Rc<Pools>,
    /// Version of the host set the pools were last compared with.
    hosts_seen: std::cell::Cell<u64>,
}

impl WorkerCluster {
    pub(super) fn new(cluster: Arc<Cluster>, previous: Option<&Self>) -> Rc<Self> {
        let pools = match previous {
            Some(previous) if previous.cluster.wire_identity == cluster.wire_identity => {
                previous.pools.clone()
            }
            Some(previous) => {
                previous.pools.drain_all();
                Rc::default()
            }
            None => Rc::default(),
        };
        let this = Rc::new(Self {
            name: cluster.name.as_ref().into(),
            observability_name: cluster.observability_name.as_ref().into(),
            cluster,
            zones: WorkerZones::default(),
            lb: RefCell::default(),
            met: RefCell::default(),
            pools,
            hosts_seen: std::cell::Cell::new(0),
        });
        for pool in this.pools.0.borrow().values() {
            pool.set_owner(Rc::downgrade(&this));
        }
        if previous.is_some() {
            this.refresh();
        }
        this
    }

    /// Chooses a host for a request.
    pub fn choose(&self, cx: &LbContext<'_>) -> Option<Arc<Endpoint>> {
        let mut lb = self.lb.borrow_mut();
        let version = self.cluster.hosts().version();
        if self.hosts_seen.replace(version) != version {
            self.compare_hosts(&mut lb);
        }
        if let Some(original) = self.cluster.original_dst() {
            return self.meet(original, cx.destination?);
        }
        match self.cluster.choose(&mut lb, cx) {
            Choice::Host { endpoint, .. } => Some(endpoint.clone()),
            Choice::None => None,
        }
    }

    fn compare_hosts(&self, lb: &mut LbState) {
        let set = lb.hosts(self.cluster.hosts());
        let reached =
            |endpoint: &Arc<Endpoint>| (endpoint.host.id(), endpoint.transport.identity());
        let mut met = self.met.borrow_mut();
        if self.cluster.original_dst().is_some() {
            // What has been among the hosts and is not any more is forgotten.
            met.retain(|_, known| !known.taken_in);
            met.extend(set.endpoints().filter_map(|endpoint| {
                let endpoint = endpoint.clone();
                let taken_in = true;
                Some((endpoint.host.address().ip()?, Met { endpoint, taken_in }))
            }));
        }
        let met = met.values().map(|met| &met.endpoint);
        let reached: HashSet<(u64, Digest), RandomState> =
            set.endpoints().chain(met).map(reached).collect();
        self.pools
            .retain(|host, transport| reached.contains(&(host, transport)));
    }

    /// The host of an address, made now unless it is known.
    fn meet(&self, original: &OriginalDst, to: SocketAddr) -> Option<Arc<Endpoint>> {
        let mut met = self.met.borrow_mut();
        if let Some(known) = met.get(&to) {
            return Some(known.endpoint.clone());
        }
        let endpoint = original.meet(&self.cluster, to)?;
        let known = Met {
            endpoint: endpoint.clone(),
            taken_in: false,
        };
        met.insert(to, known);
        Some(endpoint)
    }

    /// Drains the pools of hosts that have left the cluster.
    pub fn refresh(&self) {
        let version = self.cluster.hosts().version();
        if self.hosts_seen.replace(version) != version {
            self.compare_hosts(&mut self.lb.borrow_mut());
        }
    }

    /// The pool of connections like this to a host.
    pub fn pool(self: &Rc<Self>, endpoint: &Arc<Endpoint>, wire: Wire) -> Rc<Pool> {
        let mut pools = self.pools.0.borrow_mut();
        let key = (endpoint.host.id(), wire);
        if let Some(pool) = pools.get(&key) {
            return pool.clone();
        }
        let pool = Pool::new(endpoint.clone(), key.1.clone());
        pool.set_owner(Rc::downgrade(self));
        pools.insert(key, pool.clone());
        pool
    }

    /// Lets go of a pool that holds nothing.
    pub(super) fn forget(&self, host: u64, wire: &Wire) {
        let gone = self.pools.0.borrow_mut().remove(&(host, wire.clone()));
        // Dropped where nothing is borrowed.
        drop(gone);
    }
}

impl Drop for WorkerCluster {
    fn drop(&mut self) {
        // The last one takes its pools along; their idle connections close.
        if Rc::strong_count(&self.pools) == 1 {
            self.pools.drain_all();
        }
    }
}

/// The clusters one thread has used.
#[derive(Debug)]
pub struct WorkerClusters {
    used: RefCell<HashMap<Arc<str>, Rc<WorkerCluster>, RandomState>>,
    /// `thread_local_cluster_manager.THREAD.`
    stats: Arc<Block>,
}

impl WorkerClusters {
    /// None yet, for a thread of this name: `main_thread`, `worker_0`.
    pub fn new(thread: &str, registry: &Registry) -> Self {
        let prefix = format!("thread_local_cluster_manager.{thread}.");
        let this = Self {
            used: RefCell::default(),
            stats: registry.block(&prefix, &thread_stats::TABLE),
        };
        this.count();
        this
    }

    fn count(&self) {
        let used = self.used.borrow().len() as u64;
        self.stats.gauge_set(thread_stats::clusters_inflated, used);
    }

    /// A cluster of the configuration in force.
    pub fn get(&self, snapshot: &Snapshot, name: &str) -> Option<Rc<WorkerCluster>> {
        if let Some(cluster) = self.used.borrow().get(name) {
            return Some(cluster.clone());
        }
        let cluster = snapshot.clusters.get(name)?.clone();
        let worker_cluster = WorkerCluster::new(cluster, None);
        self.used
            .borrow_mut()
            .insert(worker_cluster.cluster.name.clone(), worker_cluster.clone());
        self.count();
        Some(worker_cluster)
    }

    /// Follows a change of the configuration: removed clusters go, replaced ones
    /// are replaced, with their pools where what is on the wire is the same.
    pub fn snapshot_changed(&self, snapshot: &Snapshot) {
        let mut gone = Vec::new();
        let mut mine = self.used.borrow_mut();
        mine.retain(|name, cluster| match snapshot.clusters.get(name) {
            Some(now) if Arc::ptr_eq(now, &cluster.cluster) => {
                cluster.refresh();
                true
            }
            Some(now) => {
                let next = WorkerCluster::new(now.clone(), Some(cluster));
                gone.push(std::mem::replace(cluster, next));
                true
            }
            None => {
                cluster.pools.drain_all();
                gone.push(cluster.clone());
                false
            }
        });
        drop(mine);
        self.count();
        // Dropped where nothing is borrowed.
        drop(gone);
    }
}
