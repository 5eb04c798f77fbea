//! The hosts of a cluster at one moment, arranged for choosing.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Acquire, Ordering::Release},
    },
};

use arc_swap::ArcSwap;

use crate::api::envoy::config::core::v3::Metadata;

use super::{
    balance::{Balancing, HashTable, Loads, PriorityHealth, Subsets},
    host::{Endpoint, Health, Host, HostKey, Locality},
};

/// Overprovisioning factor, in percent, where none is given.
pub const DEFAULT_OVERPROVISIONING: u32 = 140;

/// Hosts of one locality and priority, as configured or resolved.
#[derive(Clone, Debug)]
pub struct LocalityEndpoints {
    /// Where they stand.
    pub locality: Arc<Locality>,
    /// `load_balancing_weight` of the locality; 0 when there is none.
    pub weight: u32,
    /// `priority`.
    pub priority: u32,
    /// `metadata`, where given.
    pub metadata: Option<Arc<Metadata>>,
    /// The hosts.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// What a host set is made of.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Hosts by locality and priority.
    pub localities: Vec<LocalityEndpoints>,
    /// `overprovisioning_factor`, in percent.
    pub overprovisioning: u32,
    /// `weighted_priority_health`: count weights, not hosts.
    pub weighted_priority_health: bool,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            localities: Vec::new(),
            overprovisioning: DEFAULT_OVERPROVISIONING,
            weighted_priority_health: false,
        }
    }
}

/// Hosts among which one choice is made.
#[derive(Debug)]
pub struct Group {
    /// The hosts.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// Whether all have the same weight.
    pub equal_weights: bool,
    /// Index of this group's state among a worker's.
    pub(super) slot: usize,
}

/// One priority's hosts, by what may be chosen among.
#[derive(Debug)]
pub struct PriorityHosts {
    /// All of them: chosen among in panic.
    pub all: Group,
    /// Those that are healthy.
    pub healthy: Group,
    /// Those that are degraded.
    pub degraded: Group,
    /// By locality, where localities have weights.
    pub localities: Option<Localities>,
}

/// Weighted localities of one priority.
#[derive(Debug)]
pub struct Localities {
    /// Healthy hosts of each, with the locality's effective weight.
    pub healthy: Box<[(Group, f64)]>,
    /// Degraded hosts of each, with the locality's effective weight.
    pub degraded: Box<[(Group, f64)]>,
    /// Index of the state of the choice among them, healthy and degraded.
    pub(super) slots: [usize; 2],
}

/// Numbers for the `membership_*` gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MembershipCount {
    /// All hosts.
    pub total: u64,
    /// Healthy ones.
    pub healthy: u64,
    /// Degraded ones.
    pub degraded: u64,
    /// Those left out of the share of healthy ones.
    pub excluded: u64,
}

/// The hosts of a cluster at one moment. Immutable; a change of membership,
/// weight or health makes another.
#[derive(Debug)]
pub struct HostSet {
    membership: Membership,
    /// By priority, 0 first; there is always one.
    pub priorities: Box<[PriorityHosts]>,
    /// How requests are spread over the priorities.
    pub loads: Loads,
    /// By priority, where hosts are chosen by a hash.
    pub tables: Box<[HashTable]>,
    /// Its subsets, where the cluster has any.
    pub subsets: Option<Box<Subsets>>,
    count: MembershipCount,
    slots: usize,
}

impl HostSet {
    /// Arranges hosts for choosing.
    pub fn new(membership: Membership, balancing: &Balancing) -> Self {
        let mut slots = Slots(0);
        let mut set = Self::arranged(membership, balancing, &mut slots);
        let subsets = balancing.subsets.as_ref();
        let subsets =
            subsets.map(|settings| Subsets::new(&set.membership, settings, balancing, &mut slots));
        set.subsets = subsets.map(Box::new);
        set.slots = slots.0;
        set
    }

    /// A set, or a part of one, whose states are the next of a worker's.
    pub(super) fn arranged(
        membership: Membership,
        balancing: &Balancing,
        slots: &mut Slots,
    ) -> Self {
        let levels = membership
            .localities
            .iter()
            .map(|l| l.priority as usize + 1);
        let levels = levels.max().unwrap_or(1);
        let mut count = MembershipCount::default();
        let (priorities, health): (Vec<_>, Vec<_>) = (0..levels)
            .map(|level| arrange(level, &membership, balancing, slots, &mut count))
            .unzip();
        let loads = Loads::new(
            &health,
            membership.overprovisioning,
            balancing.panic_threshold(),
        );
        let table = |hashing| {
            let (membership, loads) = (&membership, &loads);
            (0..levels).map(move |level| {
                let panic = loads.is_panic(level);
                HashTable::new(
                    membership,
                    level,
                    panic,
                    balancing.locality_weighted,
                    hashing,
                )
            })
        };
        Self {
            tables: balancing.hashing().into_iter().flat_map(table).collect(),
            membership,
            priorities: priorities.into(),
            loads,
            subsets: None,
            count,
            slots: slots.0,
        }
    }

    /// What it was made of.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Every host, in the order of the configuration.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.membership.localities.iter().flat_map(|l| &l.endpoints)
    }

    /// How many there are.
    pub fn count(&self) -> MembershipCount {
        self.count
    }

    /// Its hosts by key, so that the next set can keep them.
    pub fn by_key(&self) -> HashMap<&HostKey, &Arc<Host>, foldhash::fast::RandomState> {
        self.endpoints().map(|e| (e.host.key(), &e.host)).collect()
    }

    /// How many states a worker needs to choose from it.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }
}

/// The states that a worker needs, one after the other.
#[derive(Debug)]
pub(super) struct Slots(usize);

impl Slots {
    fn next(&mut self) -> usize {
        self.0 += 1;
        self.0 - 1
    }

    fn group(&mut self, endpoints: Arc<[Arc<Endpoint>]>) -> Group {
        let equal_weights = endpoints.windows(2).all(|w| w[0].weight == w[1].weight);
        Group {
            endpoints,
            equal_weights,
            slot: self.next(),
        }
    }
}

fn arrange(
    level: usize,
    membership: &Membership,
    balancing: &Balancing,
    slots: &mut Slots,
    count: &mut MembershipCount,
) -> (PriorityHosts, PriorityHealth) {
    let localities: Vec<_> = membership
        .localities
        .iter()
        .filter(|l| l.priority as usize == level)
        .collect();
    let weight_of = |e: &Endpoint| match membership.weighted_priority_health {
        true => u64::from(e.weight),
        false => 1,
    };
    let mut health = PriorityHealth::default();
    let mut parts = Parts::default();
    for endpoint in localities.iter().flat_map(|l| &l.endpoints) {
        count.total += 1;
        health.hosts += 1;
        health.total += weight_of(endpoint);
        if endpoint.is_excluded() {
            count.excluded += 1;
            health.excluded_hosts += 1;
            health.excluded += weight_of(endpoint);
        }
        match endpoint.health() {
            Health::Healthy => {
                count.healthy += 1;
                health.healthy_hosts += 1;
                health.healthy += weight_of(endpoint);
                parts.healthy.push(Arc::clone(endpoint));
            }
            Health::Degraded => {
                count.degraded += 1;
                health.degraded_hosts += 1;
                health.degraded += weight_of(endpoint);
                parts.degraded.push(Arc::clone(endpoint));
            }
            Health::Unhealthy => {}
        }
        parts.all.push(Arc::clone(endpoint));
    }
    let by_locality = balancing
        .locality_weighted
        .then(|| weigh(&localities, membership.overprovisioning, slots))
        .flatten();
    let all: Arc<[_]> = parts.all.into();
    // The usual case: everything is healthy, and one list is enough.
    let healthy = match parts.healthy.len() == all.len() {
        true => Arc::clone(&all),
        false => parts.healthy.into(),
    };
    let hosts = PriorityHosts {
        all: slots.group(all),
        healthy: slots.group(healthy),
        degraded: slots.group(parts.degraded.into()),
        localities: by_locality,
    };
    (hosts, health)
}

#[derive(Default)]
struct Parts {
    all: Vec<Arc<Endpoint>>,
    healthy: Vec<Arc<Endpoint>>,
    degraded: Vec<Arc<Endpoint>>,
}

/// Localities by their weight, scaled by how many of their hosts can be used.
/// `None` when no locality has any weight.
fn weigh(
    localities: &[&LocalityEndpoints],
    overprovisioning: u32,
    slots: &mut Slots,
) -> Option<Localities> {
    if localities.iter().all(|l| l.weight == 0) {
        return None;
    }
    let mut part = |wanted: Health| -> Box<[(Group, f64)]> {
        let weighed = localities.iter().map(|l| {
            let eligible = l.endpoints.iter().filter(|e| e.health() == wanted);
            let eligible: Arc<[_]> = eligible.cloned().collect();
            let counted = l.endpoints.iter().filter(|e| !e.is_excluded()).count();
            let available = match counted {
                0 => 0.0,
                n => eligible.len() as f64 / n as f64 * f64::from(overprovisioning) / 100.0,
            };
            let weight = f64::from(l.weight) * available.min(1.0);
            (slots.group(eligible), weight)
        });
        weighed.collect()
    };
    let (healthy, degraded) = (part(Health::Healthy), part(Health::Degraded));
    Some(Localities {
        healthy,
        degraded,
        slots: [slots.next(), slots.next()],
    })
}

/// Where the control thread puts the next host set, and workers see with one
/// load whether there is another.
#[derive(Debug)]
pub struct Hosts {
    version: AtomicU64,
    set: ArcSwap<HostSet>,
}

impl Hosts {
    /// Starts with this set, at version 1.
    pub fn new(set: HostSet) -> Self {
        Self {
            version: AtomicU64::new(1),
            set: ArcSwap::from_pointee(set),
        }
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// The set in force.
    pub fn load(&self) -> Arc<HostSet> {
        self.set.load_full()
    }

    /// Puts another set in force. Only the control thread does.
    pub fn store(&self, set: HostSet) {
        self.set.store(Arc::new(set));
        self.version.fetch_add(1, Release);
    }
}
