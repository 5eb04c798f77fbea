//! Which hosts take part, and in what measure.

use std::{collections::BTreeMap, sync::Arc};

use super::Share;
use crate::upstream::{
    Endpoint, Locality,
    host::Health,
    host_set::{LocalityEndpoints, Membership},
};

/// The healthy hosts of a priority, or in panic all of them, by weight. Degraded ones
/// never take part, and the weight of a locality stays what it is however few of its
/// hosts are healthy: both as in Envoy.
pub(super) fn shares(
    membership: &Membership,
    priority: usize,
    panic: bool,
    locality_weighted: bool,
) -> Vec<Share> {
    let localities = membership.localities.iter();
    let localities = localities.filter(|locality| locality.priority as usize == priority);
    let takes_part = |endpoint: &&Arc<Endpoint>| panic || endpoint.health() == Health::Healthy;
    let mut shares = Vec::new();
    if !locality_weighted {
        let endpoints = localities.flat_map(|locality| &locality.endpoints);
        share_out(1.0, endpoints.filter(takes_part), &mut shares);
        return shares;
    }
    let by_locality = by_locality(localities);
    let weights = by_locality.values().map(|(weight, _)| u64::from(*weight));
    let total = weights.sum::<u64>() as f64;
    for (weight, endpoints) in by_locality.into_values().filter(|(weight, _)| *weight > 0) {
        let endpoints = endpoints.iter().copied().filter(takes_part);
        share_out(f64::from(weight) / total, endpoints, &mut shares);
    }
    shares
}

/// Localities that have hosts, in the order of their names: it decides who gets what
/// cannot be divided.
fn by_locality<'a>(
    localities: impl Iterator<Item = &'a LocalityEndpoints>,
) -> BTreeMap<&'a Locality, (u32, Vec<&'a Arc<Endpoint>>)> {
    let mut by_locality = BTreeMap::<_, (u32, Vec<_>)>::new();
    for locality in localities.filter(|locality| !locality.endpoints.is_empty()) {
        let (weight, endpoints) = by_locality.entry(&*locality.locality).or_default();
        *weight = locality.weight;
        endpoints.extend(&locality.endpoints);
    }
    by_locality
}

fn share_out<'a>(
    share: f64,
    endpoints: impl Iterator<Item = &'a Arc<Endpoint>> + Clone,
    shares: &mut Vec<Share>,
) {
    let total = endpoints.clone().map(|endpoint| u64::from(endpoint.weight));
    let total = total.sum::<u64>() as f64;
    shares.extend(endpoints.map(|endpoint| {
        // In this order: another one rounds differently.
        let share = f64::from(endpoint.weight) * share / total;
        (Arc::clone(endpoint), share)
    }));
}
