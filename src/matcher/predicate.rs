//! The conditions of a `matcher_list`.

use ipnet::IpNet;
use xxhash_rust::xxh64::xxh64;

use std::{net::IpAddr, sync::Arc};

use super::{Input, Value};
use crate::{
    model::matcher::{IpTable, StringMatcher},
    runtime::RuntimeFraction,
    stats::Block,
};

crate::stat_table! {
    /// Under the `stat_prefix` of an `envoy.matching.matchers.ip`.
    pub mod ip_stats {
        counters { ip_parsing_failed }
        gauges {}
        histograms {}
        texts {}
    }
}

/// A condition on some inputs.
#[derive(Debug)]
pub enum Predicate<I> {
    /// Of one value.
    Single(Input<I>, Condition),
    /// Any of them.
    Or(Box<[Predicate<I>]>),
    /// All of them.
    And(Box<[Predicate<I>]>),
    /// The opposite.
    Not(Box<Predicate<I>>),
}

/// A condition on a value; none is met where there is no value.
#[derive(Debug)]
pub enum Condition {
    /// Its text.
    Text(StringMatcher),
    /// It is an IP address of one of some ranges.
    Ip(IpTable<()>, Arc<Block>),
    /// Its hash by this seed, of so many parts, is of the threshold or above.
    Hash {
        /// What is mixed into the hash.
        seed: u64,
        /// How many parts there are.
        modulo: u32,
        /// The first part that meets it.
        threshold: u32,
    },
    /// Its hash by this seed is within a fraction.
    Fraction(RuntimeFraction, u64),
}

impl<I> Predicate<I> {
    /// Whether the inputs meet it.
    pub fn is_met<'v>(&self, read: &impl Fn(&I) -> Option<Value<'v>>) -> bool {
        match self {
            Self::Single(input, condition) => input
                .read(read)
                .is_some_and(|value| condition.is_met(&value)),
            Self::Or(predicates) => predicates.iter().any(|one| one.is_met(read)),
            Self::And(predicates) => predicates.iter().all(|one| one.is_met(read)),
            Self::Not(predicate) => !predicate.is_met(read),
        }
    }
}

impl Condition {
    /// An IP address of one of some ranges.
    pub fn ip(ranges: Vec<IpNet>, stats: Arc<Block>) -> Self {
        Self::Ip(IpTable::new(ranges.into_iter().map(|r| (r, ()))), stats)
    }

    fn is_met(&self, value: &Value<'_>) -> bool {
        match self {
            Self::Text(matcher) => matcher.is_match(&value.text()),
            Self::Ip(ranges, stats) => {
                let ip: Option<IpAddr> = value.ip();
                if ip.is_none() && !value.text().is_empty() {
                    stats.inc(ip_stats::ip_parsing_failed);
                }
                ip.is_some_and(|ip| ranges.find(ip).is_some())
            }
            Self::Hash {
                seed,
                modulo,
                threshold,
            } => {
                let part = xxh64(&value.text(), *seed) % u64::from(*modulo);
                part >= u64::from(*threshold)
            }
            Self::Fraction(fraction, seed) => fraction.enabled(xxh64(&value.text(), *seed)),
        }
    }
}
