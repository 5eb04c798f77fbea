//! Choosing a host, as Envoy's load balancers do.
//!
//! A choice goes down three steps: a priority, by the share of its hosts that
//! can be used; where localities have weights, a locality; then a host, by the
//! cluster's policy. What a choice needs to remember is in the worker's own
//! [`LbState`]. A policy that goes by a hash has nothing to remember, and looks up
//! host and locality in one step. A cluster may be divided into subsets of its hosts;
//! then the choice is made among those of one.

mod edf;
mod hashing;
mod loads;
mod metadata_match;
mod policy;
mod subset;

use std::{net::SocketAddr, sync::Arc};

pub use hashing::{HashTable, Spread};
pub use loads::{Availability, Loads, PriorityHealth};
pub use metadata_match::MetadataMatch;
pub use policy::{Balancing, HashFunction, Hashing, LeastRequest, Policy, RingSettings, TableKind};
pub use subset::{FallbackPolicy, SelectorFallback, SubsetSelector, SubsetSettings, Subsets};

use edf::Edf;
use subset::SubsetChoice;

use super::host_set::{Group, HostSet, Hosts, PriorityHosts};
use super::{host::Endpoint, host::HostStat, stats::cluster_stats};
use crate::stats::Block;

/// What a choice may depend on.
#[derive(Clone, Copy, Default)]
pub struct LbContext<'a> {
    /// A fresh random number.
    pub random: u64,
    /// What ties the request to a host, where the policy goes by a hash.
    pub hash: Option<u64>,
    /// What is asked of the host's metadata, where the cluster has subsets.
    pub metadata_match: Option<&'a MetadataMatch>,
    /// Where an `ORIGINAL_DST` cluster is to go.
    pub destination: Option<SocketAddr>,
    /// Hosts to stay away from, such as those tried before.
    pub avoid: Option<&'a dyn Fn(&Endpoint) -> bool>,
    /// How often to choose again when the choice is to be avoided:
    /// `host_selection_retry_max_attempts`.
    pub attempts: u32,
}

impl LbContext<'_> {
    fn avoids(&self, endpoint: &Endpoint) -> bool {
        self.avoid.is_some_and(|avoid| avoid(endpoint))
    }
}

/// A choice, or why there is none.
#[derive(Debug)]
pub enum Choice<'a> {
    /// This host. `panic`: among all hosts, healthy or not.
    Host {
        /// The host.
        endpoint: &'a Arc<Endpoint>,
        /// Too few hosts are healthy, so health was not looked at.
        panic: bool,
    },
    /// No host can be used.
    None,
}

/// A worker's memory of its choices from one cluster.
#[derive(Debug, Default)]
pub struct LbState {
    /// Version of the set; 0 before the first choice.
    version: u64,
    set: Option<Arc<HostSet>>,
    groups: Vec<GroupState>,
}

/// What is remembered about one group.
#[derive(Debug, Default)]
struct GroupState {
    /// Round robin's place, kept over a change of the hosts.
    turn: Option<usize>,
    /// The schedule, where weights differ.
    schedule: Option<Edf>,
}

impl LbState {
    /// The hosts in force, as this worker has last seen them.
    pub fn hosts(&mut self, hosts: &Hosts) -> &Arc<HostSet> {
        let version = hosts.version();
        if self.version != version || self.set.is_none() {
            let set = self.set.insert(hosts.load());
            self.version = version;
            self.groups.resize_with(set.slots(), GroupState::default);
            for group in &mut self.groups {
                group.schedule = None;
            }
        }
        self.set.as_ref().expect("it was set above, once")
    }

    /// Chooses a host. `stats` are the cluster's, of [`cluster_stats`]: it is counted
    /// whenever health is not looked at, also when that finds no host.
    pub fn choose(
        &mut self,
        hosts: &Hosts,
        balancing: &Balancing,
        cx: &LbContext<'_>,
        stats: &Block,
    ) -> Choice<'_> {
        self.hosts(hosts);
        let (Some(set), groups) = (&self.set, &mut self.groups) else {
            return Choice::None;
        };
        match (&set.subsets, &balancing.subsets) {
            (Some(subsets), Some(settings)) => SubsetChoice {
                whole: set,
                subsets,
                settings,
                balancing,
                cx,
                stats,
            }
            .choose(groups),
            _ => choose_from(set, groups, balancing, cx, stats),
        }
    }
}

/// Chooses among the hosts of one set.
fn choose_from<'a>(
    set: &'a HostSet,
    groups: &mut [GroupState],
    balancing: &Balancing,
    cx: &LbContext<'_>,
    stats: &Block,
) -> Choice<'a> {
    if balancing.hashing().is_some() {
        return hashing::choose(set, cx, stats);
    }
    let mut random = Random(cx.random);
    for attempt in 0.. {
        let (priority, availability) = set.loads.choose(random.next());
        let panic = set.loads.is_panic(priority);
        if panic {
            stats.inc(cluster_stats::lb_healthy_panic);
        }
        let target = (priority, availability, panic);
        let Some(endpoint) = pick(set, groups, balancing, target, &mut random) else {
            return Choice::None;
        };
        if attempt >= cx.attempts || !cx.avoids(endpoint) {
            return Choice::Host { endpoint, panic };
        }
    }
    Choice::None
}

/// Numbers drawn from the one that the caller gave: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

fn pick<'a>(
    set: &'a HostSet,
    groups: &mut [GroupState],
    balancing: &Balancing,
    (priority, availability, panic): (usize, Availability, bool),
    random: &mut Random,
) -> Option<&'a Arc<Endpoint>> {
    let hosts = set.priorities.get(priority)?;
    let group = if panic {
        if balancing.fail_traffic_on_panic {
            return None;
        }
        &hosts.all
    } else {
        locality(hosts, availability, groups, random).unwrap_or(match availability {
            Availability::Healthy => &hosts.healthy,
            Availability::Degraded => &hosts.degraded,
        })
    };
    pick_host(group, &mut groups[group.slot], balancing, random)
}

/// The locality whose turn it is, where localities have weights.
fn locality<'a>(
    hosts: &'a PriorityHosts,
    availability: Availability,
    groups: &mut [GroupState],
    random: &mut Random,
) -> Option<&'a Group> {
    let localities = hosts.localities.as_ref()?;
    let (weighed, slot) = match availability {
        Availability::Healthy => (&localities.healthy, localities.slots[0]),
        Availability::Degraded => (&localities.degraded, localities.slots[1]),
    };
    let weight = |index: usize| weighed[index].1;
    let schedule = groups[slot]
        .schedule
        .get_or_insert_with(|| Edf::new(weighed.len(), weight, random.next()));
    schedule.pick(weight).map(|index| &weighed[index].0)
}

fn pick_host<'a>(
    group: &'a Group,
    state: &mut GroupState,
    balancing: &Balancing,
    random: &mut Random,
) -> Option<&'a Arc<Endpoint>> {
    let endpoints = &group.endpoints;
    if endpoints.len() < 2 {
        return endpoints.first();
    }
    let index = match &balancing.policy {
        // One that goes by a hash has a table.
        Policy::Random | Policy::Hash(_) => random.below(endpoints.len()),
        Policy::RoundRobin if group.equal_weights => {
            let turn = state
                .turn
                .get_or_insert_with(|| random.below(endpoints.len()));
            let index = *turn % endpoints.len();
            *turn = turn.wrapping_add(1);
            index
        }
        Policy::RoundRobin => {
            let weight = |index: usize| f64::from(endpoints[index].weight);
            let schedule = state
                .schedule
                .get_or_insert_with(|| Edf::new(endpoints.len(), weight, random.next()));
            schedule.pick(weight)?
        }
        Policy::LeastRequest(policy) if group.equal_weights => least_of(endpoints, policy, random),
        Policy::LeastRequest(policy) => {
            let weight = |index: usize| {
                let endpoint = &endpoints[index];
                policy.weight(endpoint.weight, endpoint.host.stat(HostStat::rq_active))
            };
            let schedule = state
                .schedule
                .get_or_insert_with(|| Edf::new(endpoints.len(), weight, random.next()));
            schedule.pick(weight)?
        }
    };
    endpoints.get(index)
}

/// The one with the fewest requests under way in the whole process, of a few
/// drawn at random (or of all); the first of equals.
///
/// This reads what other workers write. A worker's own numbers would be cheaper
/// and wrong: it would send to a host that the others have filled.
fn least_of(endpoints: &[Arc<Endpoint>], policy: &LeastRequest, random: &mut Random) -> usize {
    let active = |index: usize| endpoints[index].host.stat(HostStat::rq_active);
    if policy.full_scan || policy.choices as usize >= endpoints.len().saturating_mul(4) {
        // Starting anywhere spreads the requests over equals.
        let start = random.below(endpoints.len());
        let all = (start..endpoints.len()).chain(0..start);
        return all.min_by_key(|&index| active(index)).unwrap_or(start);
    }
    let mut best = random.below(endpoints.len());
    let mut fewest = active(best);
    for _ in 1..policy.choices {
        let other = random.below(endpoints.len());
        let requests = active(other);
        if requests < fewest {
            (best, fewest) = (other, requests);
        }
    }
    best
}

#[cfg(test)]
mod tests;
