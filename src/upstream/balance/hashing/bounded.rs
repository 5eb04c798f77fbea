//! `hash_balance_factor`: a host that has more than its share of the requests gives
//! those of its hashes to others (Mirrokni et al., "Consistent Hashing with Bounded
//! Loads", arXiv 1608.01350), chosen at random but always the same for one hash.

use super::{Share, twister::Twister};
use crate::upstream::HostStat;

/// The index of the host that takes a request in place of the one its hash leads to,
/// which takes it itself unless it is too busy. `factor` is in percent of the average;
/// `active` are the requests of the cluster.
pub(super) fn choose(hosts: &[Share], chosen: usize, hash: u64, factor: u32, active: u64) -> usize {
    let slots = ((active + 1) * u64::from(factor)).div_ceil(100);
    // Above 1 it is too busy.
    let load = |index: usize| {
        let (endpoint, share) = &hosts[index];
        let slots = (slots as f64 * share).ceil().max(1.0);
        endpoint.host.stat(HostStat::rq_active) as f64 / slots
    };
    let mut least = (chosen, load(chosen));
    if least.1 <= 1.0 {
        return chosen;
    }
    let mut random = Twister::new(hash as u32);
    let mut order: Vec<usize> = (0..hosts.len()).collect();
    for at in 0..order.len() {
        let left = (order.len() - at) as u32;
        order.swap(at, at + random.below(left) as usize);
        let other = order[at];
        if other == chosen {
            continue;
        }
        let load = load(other);
        if load <= 1.0 {
            return other;
        }
        if load < least.1 {
            least = (other, load);
        }
    }
    least.0
}
