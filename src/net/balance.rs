//! `exact_balance`: every worker has as many connections of a listener as the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// The open connections of a listener, by worker.
#[derive(Debug)]
pub struct Balance(Mutex<Box<[u64]>>);

impl Balance {
    fn new(workers: usize) -> Self {
        Self(Mutex::new(vec![0; workers].into()))
    }

    /// Gives a new connection to the worker that has the fewest, and counts it there.
    pub fn give(self: &Arc<Self>) -> Share {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fewest = open.iter().enumerate().min_by_key(|(_, count)| **count);
        let worker = fewest.map_or(0, |(worker, _)| worker);
        if let Some(count) = open.get_mut(worker) {
            *count += 1;
        }
        Share {
            balance: self.clone(),
            worker,
        }
    }

    fn add(&self, worker: usize, change: i64) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(worker) {
            *count = count.saturating_add_signed(change);
        }
    }
}

/// One connection in the balance, for as long as it lives.
#[derive(Debug)]
pub struct Share {
    balance: Arc<Balance>,
    worker: usize,
}

impl Share {
    /// The worker that is to serve it.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Counts it with another worker.
    pub fn keep(&mut self, worker: usize) {
        self.balance.add(self.worker, -1);
        self.balance.add(worker, 1);
        self.worker = worker;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.balance.add(self.worker, -1);
    }
}

/// The balances of listeners by name: they outlive a configuration as the
/// connections do that are counted.
#[derive(Debug, Default)]
pub struct Balances(Mutex<HashMap<Box<str>, Weak<Balance>>>);

impl Balances {
    /// That of a listener.
    pub fn of(&self, listener: &str, workers: usize) -> Arc<Balance> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(balance) = all.get(listener).and_then(Weak::upgrade) {
            return balance;
        }
        all.retain(|_, balance| balance.strong_count() > 0);
        let balance = Arc::new(Balance::new(workers));
        all.insert(listener.into(), Arc::downgrade(&balance));
        balance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_with_the_fewest_gets_the_next() {
        let balances = Balances::default();
        let balance = balances.of("edge", 3);
        let mut shares: Vec<_> = (0..7).map(|_| balance.give()).collect();
        let of = |shares: &[Share], n| shares.iter().filter(|s| s.worker() == n).count();
        assert_eq!([0, 1, 2].map(|n| of(&shares, n)), [3, 2, 2]);
        shares.retain(|share| share.worker() != 1);
        // A configuration that replaces it counts on.
        assert_eq!(balances.of("edge", 3).give().worker(), 1);
        shares[0].keep(1);
        let next: Vec<_> = (0..2).map(|_| balance.give().worker()).collect();
        assert!(!next.contains(&0), "{next:?}");
    }
}
