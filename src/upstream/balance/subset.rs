//! Subsets of a cluster's hosts, by their metadata: `lb_subset_config`.
//!
//! A subset is a host set of its own, with priorities, localities and panic. All are
//! made when the hosts change, in one list in the order of their labels, in which a
//! request finds its own.

use std::{collections::BTreeMap, slice, sync::Arc};

use prost_types::{Struct, Value, value::Kind};

use super::{
    Balancing, Choice, GroupState, LbContext, choose_from,
    metadata_match::{Label, Labels},
};
use crate::{
    stats::Block,
    upstream::{
        host::Endpoint,
        host_set::{HostSet, LocalityEndpoints, Membership, Slots},
        stats::cluster_stats,
    },
};

/// How a cluster's hosts are divided, and who is chosen among.
#[derive(Clone, Debug, Default)]
pub struct SubsetSettings {
    /// `fallback_policy`.
    pub fallback: FallbackPolicy,
    /// `default_subset`.
    pub default_subset: Struct,
    /// `subset_selectors`, no two with the same keys, in the order in which they are
    /// tried.
    pub selectors: Box<[SubsetSelector]>,
    /// `scale_locality_weight`: a locality counts by how many of its hosts are in a subset.
    pub scale_locality_weight: bool,
    /// `panic_mode_any`: any host, where the fallback has none.
    pub panic_mode_any: bool,
    /// `list_as_any`: a host's list stands for each of its values.
    pub list_as_any: bool,
    /// `metadata_fallback_policy: FALLBACK_LIST`: requests bring what they ask in turn.
    pub fallback_list: bool,
    /// `allow_redundant_keys`: requests may ask for more than a selector has keys.
    pub allow_redundant_keys: bool,
}

/// Who is chosen among where there is no subset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FallbackPolicy {
    /// Nobody.
    #[default]
    NoFallback,
    /// All hosts.
    AnyEndpoint,
    /// The hosts of the default subset.
    DefaultSubset,
}

/// By which keys subsets are made.
#[derive(Clone, Debug)]
pub struct SubsetSelector {
    /// `keys`, in order, each but once.
    pub keys: Box<[Box<str>]>,
    /// `fallback_policy`.
    pub fallback: SelectorFallback,
    /// `single_host_per_subset`: of a subset's hosts the first alone counts.
    pub single_host: bool,
}

/// Who is chosen among where a selector has no subset.
#[derive(Clone, Debug)]
pub enum SelectorFallback {
    /// Whom the cluster says.
    NotDefined,
    /// As this says.
    Policy(FallbackPolicy),
    /// Whom the request would get if it asked for these of the keys alone.
    KeysSubset(Box<[Box<str>]>),
}

impl SubsetSettings {
    fn uses_default(&self) -> bool {
        let default = FallbackPolicy::DefaultSubset;
        self.fallback == default
            || self.selectors.iter().any(|selector| {
                matches!(selector.fallback, SelectorFallback::Policy(policy) if policy == default)
            })
    }

    /// The selector for what is asked.
    fn selector<'a>(
        &self,
        asked: impl Iterator<Item = &'a Label> + Clone,
    ) -> Option<&SubsetSelector> {
        self.selectors.iter().find(|selector| {
            let mut keys = selector.keys.iter();
            match self.allow_redundant_keys {
                true => keys.all(|key| asked.clone().any(|label| label.key == *key)),
                false => keys.eq(asked.clone().map(|label| &label.key)),
            }
        })
    }

    /// Whether a host is in the default subset.
    fn is_default(&self, endpoint: &Endpoint) -> bool {
        let has = |(key, wanted): (&String, &Value)| {
            let value = endpoint.label(key);
            value.is_some_and(|value| self.values(value).any(|value| value == wanted))
        };
        self.default_subset.fields.iter().all(has)
    }

    /// What a value of a host's metadata stands for.
    fn values<'v>(&self, value: &'v Value) -> impl Iterator<Item = &'v Value> {
        let list = match &value.kind {
            Some(Kind::ListValue(list)) if self.list_as_any => Some(&list.values),
            _ => None,
        };
        let alone = list.is_none().then_some(value);
        alone.into_iter().chain(list.into_iter().flatten())
    }

    /// What the subsets are called that a host is in.
    fn labels_of(&self, endpoint: &Endpoint, keys: &[Box<str>]) -> Vec<Labels> {
        let mut all = vec![Vec::new()];
        for key in keys {
            let value = endpoint.label(key);
            let mut own: Vec<_> = value
                .into_iter()
                .flat_map(|value| self.values(value))
                .map(|value| Label::new(key, value))
                .collect();
            own.sort_unstable();
            own.dedup();
            all = all
                .iter()
                .flat_map(|before| {
                    own.iter()
                        .map(|own| [&before[..], slice::from_ref(own)].concat())
                })
                .collect();
        }
        all.into_iter().map(Into::into).collect()
    }
}

/// The hosts of a subset, each with the place of its locality.
type Members = Vec<(usize, Arc<Endpoint>)>;

#[derive(Debug)]
enum Subset {
    Hosts(Box<HostSet>),
    /// Whatever its health.
    Single(Arc<Endpoint>),
}

/// The subsets of a cluster's hosts at one moment.
#[derive(Debug)]
pub struct Subsets {
    /// In the order of their labels.
    subsets: Box<[(Labels, Subset)]>,
    default: Option<Box<HostSet>>,
    duplicates: u64,
}

impl Subsets {
    /// Divides hosts.
    pub(in crate::upstream) fn new(
        membership: &Membership,
        settings: &SubsetSettings,
        balancing: &Balancing,
        slots: &mut Slots,
    ) -> Self {
        let mut part = |members: Members| {
            let membership = membership_of(&members, membership, settings.scale_locality_weight);
            Box::new(HostSet::arranged(membership, balancing, slots))
        };
        let everyone = || {
            let localities = membership.localities.iter().enumerate();
            localities.flat_map(|(place, locality)| {
                let endpoints = locality.endpoints.iter();
                endpoints.map(move |endpoint| (place, endpoint))
            })
        };
        let mut duplicates = 0;
        let mut subsets = BTreeMap::new();
        for selector in &settings.selectors {
            let mut found = BTreeMap::<Labels, Members>::new();
            for (place, endpoint) in everyone() {
                for labels in settings.labels_of(endpoint, &selector.keys) {
                    let members = found.entry(labels).or_default();
                    members.push((place, endpoint.clone()));
                }
            }
            for (labels, members) in found {
                let subset = match selector.single_host {
                    true => {
                        duplicates += members.len() as u64 - 1;
                        let first = members.into_iter().min_by_key(|(_, e)| e.priority);
                        first.map(|(_, endpoint)| Subset::Single(endpoint))
                    }
                    false => Some(Subset::Hosts(part(members))),
                };
                subsets.extend(subset.map(|subset| (labels, subset)));
            }
        }
        let default = settings.uses_default().then(|| {
            let members = everyone().filter(|(_, endpoint)| settings.is_default(endpoint));
            part(members.map(|(place, e)| (place, e.clone())).collect())
        });
        Self {
            subsets: subsets.into_iter().collect(),
            default,
            duplicates,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.subsets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.subsets.is_empty()
    }

    /// How many of them are not among others.
    pub fn beyond(&self, others: &Self) -> usize {
        let subsets = self.subsets.iter();
        let new = subsets.filter(|(labels, _)| others.find(labels.iter()).is_none());
        new.count()
    }

    /// How many hosts do not count because another one is the only one of its subset.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Where the subset of these labels stands.
    fn find<'l>(&'l self, labels: impl Iterator<Item = &'l Label> + Clone) -> Option<usize> {
        let found = self
            .subsets
            .binary_search_by(|(subset, _)| subset.iter().cmp(labels.clone()));
        found.ok()
    }
}

/// A part of the hosts as a membership of its own.
fn membership_of(members: &Members, whole: &Membership, scale: bool) -> Membership {
    let by_locality = members.chunk_by(|a, b| a.0 == b.0).map(|members| {
        let locality = &whole.localities[members[0].0];
        let share = members.len() as f64 / locality.endpoints.len() as f64;
        LocalityEndpoints {
            locality: locality.locality.clone(),
            weight: match scale {
                true => (f64::from(locality.weight) * share).round() as u32,
                false => locality.weight,
            },
            priority: locality.priority,
            metadata: locality.metadata.clone(),
            endpoints: members.iter().map(|(_, e)| e.clone()).collect(),
        }
    });
    Membership {
        localities: by_locality.collect(),
        overprovisioning: whole.overprovisioning,
        weighted_priority_health: whole.weighted_priority_health,
    }
}

/// Where a request is led.
enum Led<'a> {
    /// To a subset, whatever is in it.
    Subset(&'a Subset),
    /// There is none, and its selector says who instead.
    Selector(FallbackPolicy),
    /// There is none.
    Fallback,
}

/// One choice from a cluster with subsets.
pub(super) struct SubsetChoice<'a, 'c> {
    pub(super) whole: &'a HostSet,
    pub(super) subsets: &'a Subsets,
    pub(super) settings: &'c SubsetSettings,
    pub(super) balancing: &'c Balancing,
    pub(super) cx: &'c LbContext<'c>,
    /// The cluster's, of [`cluster_stats`].
    pub(super) stats: &'c Block,
}

impl<'a> SubsetChoice<'a, '_> {
    /// Chooses a host for what the request asks, in turn.
    pub(super) fn choose(&self, groups: &mut [GroupState]) -> Choice<'a> {
        let asked = self.cx.metadata_match;
        let asked = asked.map(|asked| asked.in_turn(self.settings.fallback_list));
        for labels in asked.unwrap_or(&[Labels::default()]) {
            let choice = self.choose_for(labels, groups);
            if matches!(choice, Choice::Host { .. }) {
                return choice;
            }
        }
        Choice::None
    }

    fn choose_for(&self, asked: &[Label], groups: &mut [GroupState]) -> Choice<'a> {
        match self.lead(asked) {
            Led::Subset(subset) => {
                self.stats.inc(cluster_stats::lb_subsets_selected);
                match subset {
                    Subset::Hosts(hosts) => self.choose_from(hosts, groups),
                    Subset::Single(endpoint) => Choice::Host {
                        endpoint,
                        panic: false,
                    },
                }
            }
            Led::Selector(policy) => self.fall_back(policy, groups),
            Led::Fallback => {
                let choice = self.fall_back(self.settings.fallback, groups);
                if matches!(choice, Choice::Host { .. }) {
                    self.stats.inc(cluster_stats::lb_subsets_fallback);
                    return choice;
                }
                let falls_back = self.settings.fallback != FallbackPolicy::NoFallback;
                if !(self.settings.panic_mode_any && falls_back) {
                    return choice;
                }
                let choice = self.choose_from(self.whole, groups);
                if matches!(choice, Choice::Host { .. }) {
                    self.stats.inc(cluster_stats::lb_subsets_fallback_panic);
                }
                choice
            }
        }
    }

    fn lead(&self, asked: &[Label]) -> Led<'a> {
        let mut kept: Option<&[Box<str>]> = None;
        loop {
            let asked = asked
                .iter()
                .filter(|label| kept.is_none_or(|keys| keys.contains(&label.key)));
            let Some(selector) = self.settings.selector(asked.clone()) else {
                return Led::Fallback;
            };
            let of_selector = asked.filter(|label| selector.keys.contains(&label.key));
            if let Some(at) = self.subsets.find(of_selector) {
                return Led::Subset(&self.subsets.subsets[at].1);
            }
            match &selector.fallback {
                SelectorFallback::NotDefined => return Led::Fallback,
                SelectorFallback::Policy(policy) => return Led::Selector(*policy),
                // Fewer each time.
                SelectorFallback::KeysSubset(keys) => kept = Some(keys),
            }
        }
    }

    fn fall_back(&self, policy: FallbackPolicy, groups: &mut [GroupState]) -> Choice<'a> {
        match (policy, &self.subsets.default) {
            (FallbackPolicy::AnyEndpoint, _) => self.choose_from(self.whole, groups),
            (FallbackPolicy::DefaultSubset, Some(default)) => self.choose_from(default, groups),
            (FallbackPolicy::DefaultSubset, None) | (FallbackPolicy::NoFallback, _) => Choice::None,
        }
    }

    fn choose_from(&self, hosts: &'a HostSet, groups: &mut [GroupState]) -> Choice<'a> {
        choose_from(hosts, groups, self.balancing, self.cx, self.stats)
    }
}

#[cfg(test)]
#[path = "subset_test.rs"]
mod tests;
