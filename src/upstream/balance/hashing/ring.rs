//! `RING_HASH`: hosts stand on a ring, each at many places, and a hash belongs to the
//! next place that follows it.

use std::fmt::Write;

use xxhash_rust::xxh64::xxh64;

use super::{Spread, murmur::murmur2};
use crate::upstream::balance::policy::{HashFunction, RingSettings};

#[derive(Debug)]
pub(super) struct Ring {
    /// Places and the index of the host there, in the order of the places.
    places: Box<[(u64, u32)]>,
    spread: Spread,
}

impl Ring {
    /// A ring of hosts by their keys, with the share of each.
    pub(super) fn new(hosts: &[(String, f64)], settings: &RingSettings) -> Self {
        let least = hosts.iter().map(|(_, share)| *share).fold(1.0, f64::min);
        // As many that the host with the least share has a whole number of places.
        let whole = (least * settings.min_size as f64).ceil() / least;
        let scale = whole.min(settings.max_size as f64);
        let size = scale.ceil() as u64;
        let mut spread = Spread {
            size,
            min: size,
            max: 0,
        };
        let mut places = Vec::with_capacity(size as usize);
        // Both are sums over all hosts, so that what cannot be divided evens out.
        let (mut current, mut target) = (0.0, 0.0);
        let mut text = String::new();
        for ((key, share), index) in hosts.iter().zip(0..) {
            target += scale * share;
            let mut count = 0;
            while current < target {
                text.clear();
                // Writing to a string does not fail.
                let _written = write!(text, "{key}_{count}");
                places.push((hash(&text, settings.function), index));
                count += 1;
                current += 1.0;
            }
            spread.min = spread.min.min(count);
            spread.max = spread.max.max(count);
        }
        // Stable: of hosts at the same place the first counts.
        places.sort_by_key(|(place, _)| *place);
        Self {
            places: places.into(),
            spread,
        }
    }

    pub(super) fn spread(&self) -> Spread {
        self.spread
    }

    /// The index of the host for a hash: with each further attempt, that at the next
    /// place.
    pub(super) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        let at = self.places.partition_point(|(place, _)| *place < hash);
        // From the end of the ring it goes on at its beginning.
        let at = if at == self.places.len() { 0 } else { at };
        let at = (at + attempt as usize).checked_rem(self.places.len())?;
        Some(self.places[at].1 as usize)
    }
}

fn hash(text: &str, function: HashFunction) -> u64 {
    match function {
        HashFunction::XxHash => xxh64(text.as_bytes(), 0),
        HashFunction::MurmurHash2 => murmur2(text.as_bytes()),
    }
}
