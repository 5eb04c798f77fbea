//! Circuit breakers: limits that hold for the whole process and cost little
//! while they are far.
//!
//! A limit is a number of tokens. Each token is in one of three places: in the
//! centre, among a thread's own credits, or out, held by whatever counts against
//! the limit. A thread takes from its own credits, which no other thread
//! touches in ordinary times. When they are used up it fetches a batch from the
//! centre; when the centre is empty it takes what other threads have to spare;
//! and only when there is nothing anywhere does it refuse. So the limit is never
//! exceeded, and is always reached: 1 means 1 with eight workers.
//!
//! Only requests come often enough for that to matter. Connections, pending
//! requests and retries are counted in the centre alone.

use std::{
    ops::Deref,
    sync::{
        OnceLock,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use crate::stats;

/// `envoy.config.core.v3.RoutingPriority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// `DEFAULT`.
    #[default]
    Default,
    /// `HIGH`.
    High,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open connections: `max_connections`.
    Connections,
    /// Requests that wait for a connection: `max_pending_requests`.
    PendingRequests,
    /// Requests under way: `max_requests`.
    Requests,
    /// Retries under way: `max_retries`, or the retry budget.
    Retries,
}

/// The limits of one priority.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_pending_requests`.
    pub max_pending_requests: u32,
    /// `max_requests`.
    pub max_requests: u32,
    /// `max_retries`; without effect when there is a budget.
    pub max_retries: u32,
    /// `retry_budget`.
    pub retry_budget: Option<RetryBudget>,
    /// `track_remaining`.
    pub track_remaining: bool,
}

impl Default for Thresholds {
    /// Envoy's: 1024 of everything, and 3 retries.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// Retries as a share of the requests under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// `budget_percent`.
    pub percent: f64,
    /// `min_retry_concurrency`: always allowed.
    pub min_concurrency: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20.0,
            min_concurrency: 3,
        }
    }
}

/// The circuit breakers of one cluster. They belong to the cluster's name: a
/// changed limit applies to what is already open.
#[derive(Debug)]
pub struct Breakers {
    priorities: [Limits; 2],
}

impl Breakers {
    /// Breakers with these limits. `threads` counts the control thread and the workers.
    pub fn new(default: &Thresholds, high: &Thresholds, threads: usize) -> Self {
        Self {
            priorities: [Limits::new(default, threads), Limits::new(high, threads)],
        }
    }

    /// Puts other limits in force. What is out stays out and counts.
    pub fn set_thresholds(&self, priority: Priority, thresholds: &Thresholds) {
        let limits = self.limits(priority);
        limits
            .connections
            .set_limit(thresholds.max_connections.into());
        limits
            .pending
            .set_limit(thresholds.max_pending_requests.into());
        limits.requests.set_limit(thresholds.max_requests.into());
        limits.retries.set_limit(thresholds.max_retries.into());
        limits.set_budget(thresholds.retry_budget);
    }

    /// Counts one more against a limit, unless that would exceed it. Each
    /// success has to be paid back with [`release`](Self::release);
    /// [`acquire`](Self::acquire) does that by itself.
    pub fn try_acquire(&self, priority: Priority, resource: Resource) -> bool {
        let limits = self.limits(priority);
        match resource {
            Resource::Requests => limits.requests.try_acquire(),
            Resource::Retries => {
                let limit = limits.retry_limit();
                limits.retries.try_acquire(limit)
            }
            _ => {
                let count = limits.count(resource);
                count.try_acquire(count.limit.load(Relaxed))
            }
        }
    }

    /// Gives one back.
    pub fn release(&self, priority: Priority, resource: Resource) {
        let limits = self.limits(priority);
        match resource {
            Resource::Requests => limits.requests.release(),
            _ => limits.count(resource).release(),
        }
    }

    /// Counts one more for as long as the permit lives; `None` when the limit is
    /// reached. `owner` is whatever keeps the breakers alive, such as a worker's
    /// `Rc` of its cluster.
    pub fn acquire<O>(owner: O, priority: Priority, resource: Resource) -> Option<Permit<O>>
    where
        O: Deref<Target: AsRef<Self>>,
    {
        let granted = owner.deref().as_ref().try_acquire(priority, resource);
        // Not `then_some`: a permit that is made is given back when it is dropped.
        granted.then(|| Permit {
            owner,
            priority,
            resource,
        })
    }

    /// How much is out.
    pub fn used(&self, priority: Priority, resource: Resource) -> u64 {
        let limits = self.limits(priority);
        match resource {
            Resource::Requests => limits.requests.used(),
            _ => limits.count(resource).used.load(Relaxed),
        }
    }

    /// The limit in force; a retry budget's moves with the requests under way.
    pub fn limit(&self, priority: Priority, resource: Resource) -> u64 {
        let limits = self.limits(priority);
        match resource {
            Resource::Requests => limits.requests.limit.load(Relaxed).unsigned_abs(),
            Resource::Retries => limits.retry_limit(),
            _ => limits.count(resource).limit.load(Relaxed),
        }
    }

    /// What is left before the limit.
    pub fn remaining(&self, priority: Priority, resource: Resource) -> u64 {
        self.limit(priority, resource)
            .saturating_sub(self.used(priority, resource))
    }

    /// Whether the limit is reached: the breaker is open.
    pub fn is_open(&self, priority: Priority, resource: Resource) -> bool {
        self.remaining(priority, resource) == 0
    }

    fn limits(&self, priority: Priority) -> &Limits {
        &self.priorities[priority as usize]
    }
}

impl AsRef<Breakers> for Breakers {
    fn as_ref(&self) -> &Breakers {
        self
    }
}

/// Counts against a limit until it is dropped.
#[derive(Debug)]
#[must_use = "dropping the permit gives it back"]
pub struct Permit<O: Deref<Target: AsRef<Breakers>>> {
    owner: O,
    priority: Priority,
    resource: Resource,
}

impl<O: Deref<Target: AsRef<Breakers>>> Drop for Permit<O> {
    fn drop(&mut self) {
        let breakers = self.owner.deref().as_ref();
        breakers.release(self.priority, self.resource);
    }
}

/// One priority's limits.
#[derive(Debug)]
struct Limits {
    requests: Spread,
    connections: Count,
    pending: Count,
    retries: Count,
    /// Bits of the budget's percentage, or [`NO_BUDGET`].
    budget_percent: AtomicU64,
    budget_min: AtomicU64,
}

/// No percentage: a NaN.
const NO_BUDGET: u64 = u64::MAX;

impl Limits {
    fn new(thresholds: &Thresholds, threads: usize) -> Self {
        let limits = Self {
            requests: Spread::new(thresholds.max_requests, threads),
            connections: Count::new(thresholds.max_connections),
            pending: Count::new(thresholds.max_pending_requests),
            retries: Count::new(thresholds.max_retries),
            budget_percent: AtomicU64::new(NO_BUDGET),
            budget_min: AtomicU64::new(0),
        };
        limits.set_budget(thresholds.retry_budget);
        limits
    }

    fn set_budget(&self, budget: Option<RetryBudget>) {
        let (percent, min) = budget.map_or((NO_BUDGET, 0), |b| {
            (b.percent.to_bits(), u64::from(b.min_concurrency))
        });
        self.budget_min.store(min, Relaxed);
        self.budget_percent.store(percent, Relaxed);
    }

    fn retry_limit(&self) -> u64 {
        match self.budget_percent.load(Relaxed) {
            NO_BUDGET => self.retries.limit.load(Relaxed),
            percent => {
                let under_way = self.requests.used() + self.pending.used.load(Relaxed);
                // Rounded down, as Envoy does.
                let share = (f64::from_bits(percent) / 100.0 * under_way as f64) as u64;
                share.max(self.budget_min.load(Relaxed))
            }
        }
    }

    fn count(&self, resource: Resource) -> &Count {
        match resource {
            Resource::Connections => &self.connections,
            Resource::PendingRequests => &self.pending,
            Resource::Retries => &self.retries,
            Resource::Requests => unreachable!("requests are spread over the threads"),
        }
    }
}

/// A limit that one shared number counts.
#[derive(Debug)]
struct Count {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Count {
    fn new(limit: u32) -> Self {
        Self {
            used: AtomicU64::new(0),
            limit: AtomicU64::new(limit.into()),
        }
    }

    fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    fn try_acquire(&self, limit: u64) -> bool {
        let one_more = |used| (used < limit).then_some(used + 1);
        self.used.fetch_update(AcqRel, Relaxed, one_more).is_ok()
    }

    fn release(&self) {
        self.used.fetch_sub(1, Release);
    }
}

/// A limit whose tokens are spread over the threads.
#[derive(Debug)]
struct Spread {
    limit: AtomicI64,
    /// Tokens that no thread has. Below zero after the limit was lowered under
    /// what is out: those that come back pay the debt first.
    centre: AtomicI64,
    threads: usize,
    /// Made when the first token is taken, so that idle clusters have none.
    credits: OnceLock<Box<[Credits]>>,
}

/// One thread's own tokens, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Credits(AtomicI64);

impl Credits {
    fn take(&self) -> bool {
        let one_less = |credits: i64| (credits > 0).then(|| credits - 1);
        self.0.fetch_update(Acquire, Relaxed, one_less).is_ok()
    }
}

/// A thread fetches at most this many tokens at once, and never so many that
/// the others have to come and take them back soon.
const MAX_BATCH: i64 = 64;

impl Spread {
    fn new(limit: u32, threads: usize) -> Self {
        Self {
            limit: AtomicI64::new(limit.into()),
            centre: AtomicI64::new(limit.into()),
            threads,
            credits: OnceLock::new(),
        }
    }

    fn credits(&self) -> &[Credits] {
        self.credits
            .get_or_init(|| (0..self.threads).map(|_| Credits::default()).collect())
    }

    fn try_acquire(&self) -> bool {
        let credits = self.credits();
        let own = &credits[stats::thread()];
        own.take() || self.fetch(own) || credits.iter().any(Credits::take)
    }

    /// Takes a batch from the centre: one token is taken, the rest kept.
    fn fetch(&self, own: &Credits) -> bool {
        let batch = self.limit.load(Relaxed) / (self.threads as i64 * 8);
        let batch = batch.clamp(1, MAX_BATCH);
        let without = |centre: i64| (centre > 0).then(|| centre - batch.min(centre));
        match self.centre.fetch_update(Acquire, Relaxed, without) {
            Ok(before) => {
                let rest = batch.min(before) - 1;
                if rest > 0 {
                    own.0.fetch_add(rest, Release);
                }
                true
            }
            Err(_) => false,
        }
    }

    fn release(&self) {
        if self.centre.load(Relaxed) < 0 {
            self.centre.fetch_add(1, Release);
        } else {
            self.credits()[stats::thread()].0.fetch_add(1, Release);
        }
    }

    fn set_limit(&self, limit: u64) {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let before = self.limit.swap(limit, Relaxed);
        if before == limit {
            return;
        }
        self.centre.fetch_add(limit - before, AcqRel);
        if limit < before {
            // Tokens that lie with the threads belong to the old limit.
            for credits in self.credits.get().into_iter().flatten() {
                self.centre.fetch_add(credits.0.swap(0, AcqRel), AcqRel);
            }
        }
    }

    fn used(&self) -> u64 {
        let spare: i64 = self
            .credits
            .get()
            .into_iter()
            .flatten()
            .map(|credits| credits.0.load(Relaxed))
            .sum();
        let free = self.centre.load(Relaxed) + spare;
        // Tokens on their way between two places can be counted twice or not at all.
        u64::try_from(self.limit.load(Relaxed) - free).unwrap_or(0)
    }
}

#[cfg(test)]
#[path = "breakers_test.rs"]
mod tests;
