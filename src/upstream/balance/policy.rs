//! How a cluster balances, compiled.

use super::SubsetSettings;
use crate::{
    formatter::RequestView,
    model::route::{HashPolicy, hash},
    net::Address,
    runtime::Key,
};

/// Envoy's default of `healthy_panic_threshold`, in percent.
pub const DEFAULT_PANIC_THRESHOLD: f64 = 50.0;

/// `lb_policy` or `load_balancing_policy`, with what is common to them.
#[derive(Clone, Debug)]
pub struct Balancing {
    /// How a host is chosen among equals.
    pub policy: Policy,
    /// Choose a locality by its weight first.
    pub locality_weighted: bool,
    /// Below this share of usable hosts, in percent, health is not looked at; 0
    /// for never.
    pub panic_threshold: f64,
    /// `upstream.healthy_panic_threshold` of the runtime, which goes before.
    pub panic_threshold_key: Option<Key>,
    /// In panic, choose none instead of any.
    pub fail_traffic_on_panic: bool,
    /// How its hosts are divided, where they are.
    pub subsets: Option<Box<SubsetSettings>>,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            policy: Policy::RoundRobin,
            locality_weighted: false,
            panic_threshold: DEFAULT_PANIC_THRESHOLD,
            panic_threshold_key: None,
            fail_traffic_on_panic: false,
            subsets: None,
        }
    }
}

/// How a host is chosen.
#[derive(Clone, Debug)]
pub enum Policy {
    /// Each in turn, by weight.
    RoundRobin,
    /// Any, whatever its weight, as in Envoy.
    Random,
    /// The least loaded of a few.
    LeastRequest(LeastRequest),
    /// The one that the request's hash leads to.
    Hash(Hashing),
}

/// `RING_HASH` and `MAGLEV`.
#[derive(Clone, Debug)]
pub struct Hashing {
    /// How hashes are led to hosts.
    pub table: TableKind,
    /// `use_hostname_for_hashing`: a host stands in the table by its name, not its address.
    pub use_hostname: bool,
    /// `hash_balance_factor`, in percent: how far above the average a host's requests may
    /// be before others take them.
    pub balance_factor: Option<u32>,
    /// `hash_policy` of the balancer's own, in place of what routes say.
    pub policies: Option<Box<[HashPolicy]>>,
}

/// How hashes are led to hosts.
#[derive(Clone, Debug)]
pub enum TableKind {
    /// A ring.
    Ring(RingSettings),
    /// A table of this size, a prime.
    Maglev {
        /// `table_size`.
        size: u64,
    },
}

/// What a ring is like.
#[derive(Clone, Debug)]
pub struct RingSettings {
    /// `minimum_ring_size`: this many places at least.
    pub min_size: u64,
    /// `maximum_ring_size`: this many at most.
    pub max_size: u64,
    /// What gives a host its places.
    pub function: HashFunction,
}

/// `hash_function`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashFunction {
    /// `XX_HASH`
    XxHash,
    /// `MURMUR_HASH_2`
    MurmurHash2,
}

/// `LEAST_REQUEST`.
#[derive(Clone, Debug)]
pub struct LeastRequest {
    /// `choice_count`: how many are compared.
    pub choices: u32,
    /// `active_request_bias`: how much requests under way lower a weight, where
    /// weights differ.
    pub bias: f64,
    /// `active_request_bias.runtime_key`, which goes before.
    pub bias_key: Option<Key>,
    /// `selection_method: FULL_SCAN`: compare all.
    pub full_scan: bool,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self {
            choices: 2,
            bias: 1.0,
            bias_key: None,
            full_scan: false,
        }
    }
}

impl Balancing {
    /// The panic threshold in force, in percent.
    pub fn panic_threshold(&self) -> f64 {
        let key = self.panic_threshold_key.as_ref();
        let percent = key.and_then(|key| key.read(|value| value.double));
        percent.unwrap_or(self.panic_threshold)
    }

    /// Whether it has policies of its own for the hash of a request.
    pub fn has_own_hash(&self) -> bool {
        self.hashing()
            .is_some_and(|hashing| hashing.policies.is_some())
    }

    /// The hash of a request by the balancer's own policies, without giving cookies;
    /// `None` where it has none.
    pub fn own_hash(&self, request: &RequestView<'_>, client: Option<&Address>) -> Option<u64> {
        let policies = self.hashing()?.policies.as_ref()?;
        hash(policies, request, client, |_| None)
    }

    /// What the choice by a hash is like, where the policy is one.
    pub fn hashing(&self) -> Option<&Hashing> {
        match &self.policy {
            Policy::Hash(hashing) => Some(hashing),
            _ => None,
        }
    }
}

impl LeastRequest {
    /// A host's weight at this moment.
    pub(super) fn weight(&self, weight: u32, active: u64) -> f64 {
        let weight = f64::from(weight);
        let requests = active as f64 + 1.0;
        let key = self.bias_key.as_ref();
        let bias = key.and_then(|key| key.read(|value| value.double));
        match bias.unwrap_or(self.bias) {
            1.0 => weight / requests,
            0.0 => weight,
            bias => weight / requests.powf(bias),
        }
    }
}
