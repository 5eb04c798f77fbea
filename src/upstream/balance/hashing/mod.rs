//! Choosing a host by a hash, as Envoy's `RING_HASH` and `MAGLEV` do: the same hash
//! leads to the same host, and a change of the hosts moves as few hashes as can be.
//!
//! A [`HashTable`] is made with the host set, on the control thread, and shared by the
//! workers, who only look up. What is in it, and every choice from it, is Envoy's to
//! the last bit: two proxies side by side lead the same client to the same host.

mod bounded;
mod maglev;
mod murmur;
mod ring;
mod shares;
mod twister;

use std::sync::Arc;

use self::{maglev::Maglev, ring::Ring, shares::shares};
use super::{Choice, LbContext, policy::Hashing, policy::TableKind};
use crate::{
    stats::Block,
    upstream::{
        Endpoint,
        host_set::{HostSet, Membership},
        stats::cluster_stats,
    },
};

/// A host that takes part, and its share of the hashes: all of them together are 1.
type Share = (Arc<Endpoint>, f64);

/// What leads hashes to the hosts of one priority.
#[derive(Debug)]
pub struct HashTable {
    hosts: Box<[Share]>,
    lookup: Lookup,
    /// See [`Hashing::balance_factor`].
    balance_factor: Option<u32>,
}

#[derive(Debug)]
enum Lookup {
    Ring(Ring),
    Maglev(Maglev),
}

/// How evenly a table is spread over its hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Its entries.
    pub size: u64,
    /// The entries of the host that has the fewest.
    pub min: u64,
    /// The entries of the host that has the most.
    pub max: u64,
}

impl HashTable {
    /// The table for the priority of this number. `panic`: health is not looked at.
    pub fn new(
        membership: &Membership,
        priority: usize,
        panic: bool,
        locality_weighted: bool,
        hashing: &Hashing,
    ) -> Self {
        let hosts = shares(membership, priority, panic, locality_weighted);
        let key = |endpoint: &Arc<Endpoint>| endpoint.hash_key(hashing.use_hostname);
        let keyed: Vec<_> = hosts
            .iter()
            .map(|(host, share)| (key(host), *share))
            .collect();
        Self {
            lookup: match &hashing.table {
                TableKind::Ring(settings) => Lookup::Ring(Ring::new(&keyed, settings)),
                TableKind::Maglev { size } => Lookup::Maglev(Maglev::new(&keyed, *size)),
            },
            hosts: hosts.into(),
            balance_factor: hashing.balance_factor,
        }
    }

    /// How evenly it is spread; `None` without hosts.
    pub fn spread(&self) -> Option<Spread> {
        let spread = match &self.lookup {
            Lookup::Ring(ring) => ring.spread(),
            Lookup::Maglev(maglev) => maglev.spread(),
        };
        (!self.hosts.is_empty()).then_some(spread)
    }

    /// The host for a hash. With each further `attempt` it is another one, most likely.
    /// `active` says how many requests the cluster has under way.
    fn choose(&self, hash: u64, attempt: u32, active: u64) -> Option<&Arc<Endpoint>> {
        let index = match &self.lookup {
            Lookup::Ring(ring) => ring.find(hash, attempt)?,
            Lookup::Maglev(maglev) => maglev.find(hash, attempt)?,
        };
        let index = match self.balance_factor {
            Some(factor) => bounded::choose(&self.hosts, index, hash, factor, active),
            None => index,
        };
        self.hosts.get(index).map(|(endpoint, _)| endpoint)
    }
}

/// Chooses by the request's hash, or by a random one where it has none. The hash
/// chooses the priority, too. `stats` are the cluster's.
pub(super) fn choose<'a>(set: &'a HostSet, cx: &LbContext<'_>, stats: &Block) -> Choice<'a> {
    let hash = cx.hash.unwrap_or(cx.random);
    let (priority, _) = set.loads.choose(hash);
    let panic = set.loads.is_panic(priority);
    if panic {
        stats.inc(cluster_stats::lb_healthy_panic);
    }
    let Some(table) = set.tables.get(priority) else {
        return Choice::None;
    };
    let active = match table.balance_factor {
        Some(_) => stats.gauge(cluster_stats::upstream_rq_active),
        None => 0,
    };
    for attempt in 0.. {
        let Some(endpoint) = table.choose(hash, attempt, active) else {
            break;
        };
        if attempt >= cx.attempts || !cx.avoids(endpoint) {
            return Choice::Host { endpoint, panic };
        }
    }
    Choice::None
}

#[cfg(test)]
mod tests;
