//! `MAGLEV`: a table of fixed size in which every host takes, in turn, the next place
//! of a sequence of its own that is free (Eisenbud et al., "Maglev", NSDI 2016, 3.4).

use xxhash_rust::xxh64::xxh64;

use super::Spread;

#[derive(Debug)]
pub(super) struct Maglev {
    size: u64,
    /// The index of the host at each place, packed: there are many clusters, and a
    /// table is larger than all that is known of its hosts.
    places: Packed,
    spread: Spread,
}

/// A host that still takes places.
struct Taker {
    index: u32,
    share: f64,
    /// It has had what its share gives until this is reached.
    target: f64,
    offset: u64,
    skip: u64,
    next: u64,
    count: u64,
}

impl Maglev {
    /// A table of `size` places, a prime, for hosts by their keys, with the share of
    /// each.
    pub(super) fn new(hosts: &[(String, f64)], size: u64) -> Self {
        let mut order: Vec<u32> = (0..).take(hosts.len()).collect();
        order.sort_by_key(|index| &hosts[*index as usize].0);
        let mut takers: Vec<_> = order
            .into_iter()
            .map(|index| {
                let (key, share) = &hosts[index as usize];
                Taker {
                    index,
                    share: *share,
                    target: 0.0,
                    offset: xxh64(key.as_bytes(), 0) % size,
                    skip: xxh64(key.as_bytes(), 1) % (size - 1) + 1,
                    next: 0,
                    count: 0,
                }
            })
            .collect();
        let places = fill(&mut takers, size as usize);
        let counts = || takers.iter().map(|taker| taker.count);
        Self {
            size,
            spread: Spread {
                size,
                min: counts().min().unwrap_or(0),
                max: counts().max().unwrap_or(0),
            },
            places: Packed::new(&places),
        }
    }

    pub(super) fn spread(&self) -> Spread {
        self.spread
    }

    /// The index of the host for a hash: with each further attempt, for another hash.
    pub(super) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        let hash = match attempt {
            0 => hash,
            // Nearly all bits change, so that the places lie far apart.
            attempt => hash ^ 0u64.wrapping_sub(attempt.into()),
        };
        self.places.get((hash % self.size) as usize)
    }
}

/// The index of the host at each place; empty without hosts.
fn fill(takers: &mut [Taker], size: usize) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let most = takers.iter().map(|taker| taker.share).fold(0.0, f64::max);
    if takers.is_empty() {
        return Vec::new();
    }
    let mut places = vec![FREE; size];
    let mut taken = 0;
    for round in 1u32.. {
        for taker in &mut *takers {
            if taken == size {
                return places;
            }
            // The host with the greatest share takes part in every round, one with a
            // third of that in every third.
            if f64::from(round) * taker.share < taker.target {
                continue;
            }
            taker.target += most;
            let place = loop {
                let place = (taker.offset + taker.skip * taker.next) % size as u64;
                taker.next += 1;
                if places[place as usize] == FREE {
                    break place as usize;
                }
            };
            places[place] = taker.index;
            taker.count += 1;
            taken += 1;
        }
    }
    places
}

/// Numbers, each in as few bits as the greatest needs.
#[derive(Debug)]
struct Packed {
    bits: u32,
    words: Box<[u64]>,
}

impl Packed {
    fn new(numbers: &[u32]) -> Self {
        let greatest = numbers.iter().max().map_or(0, |greatest| *greatest);
        let bits = (u32::BITS - greatest.leading_zeros()).max(1);
        let word = |numbers: &[u32]| {
            let shifted = numbers.iter().zip(0..);
            shifted.fold(0, |word, (number, at)| {
                word | u64::from(*number) << (at * bits)
            })
        };
        Self {
            bits,
            words: numbers
                .chunks((u64::BITS / bits) as usize)
                .map(word)
                .collect(),
        }
    }

    fn get(&self, index: usize) -> Option<usize> {
        let in_word = (u64::BITS / self.bits) as usize;
        let shifted = self.words.get(index / in_word)? >> ((index % in_word) as u32 * self.bits);
        Some((shifted & ((1 << self.bits) - 1)) as usize)
    }
}
