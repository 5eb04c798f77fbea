use std::sync::{
    Arc, Barrier,
    atomic::{AtomicI64, Ordering::SeqCst},
};

use super::*;

fn breakers(max_requests: u32, threads: usize) -> Arc<Breakers> {
    let thresholds = Thresholds {
        max_requests,
        max_connections: 2,
        ..Thresholds::default()
    };
    Arc::new(Breakers::new(&thresholds, &Thresholds::default(), threads))
}

fn take(breakers: &Arc<Breakers>, resource: Resource) -> Option<Permit<Arc<Breakers>>> {
    Breakers::acquire(Arc::clone(breakers), Priority::Default, resource)
}

#[test]
fn a_limit_is_reached_and_not_exceeded() {
    let breakers = breakers(3, 9);
    let held: Vec<_> = (0..3)
        .map(|_| take(&breakers, Resource::Requests).unwrap())
        .collect();
    assert!(take(&breakers, Resource::Requests).is_none());
    assert!(breakers.is_open(Priority::Default, Resource::Requests));
    assert_eq!(breakers.used(Priority::Default, Resource::Requests), 3);
    drop(held);
    assert_eq!(breakers.remaining(Priority::Default, Resource::Requests), 3);
    assert!(take(&breakers, Resource::Requests).is_some());
}

#[test]
fn priorities_and_resources_are_apart() {
    let breakers = breakers(1, 2);
    let _request = take(&breakers, Resource::Requests).unwrap();
    let high = Breakers::acquire(Arc::clone(&breakers), Priority::High, Resource::Requests);
    assert!(high.is_some());
    let _first = take(&breakers, Resource::Connections).unwrap();
    let _second = take(&breakers, Resource::Connections).unwrap();
    assert!(take(&breakers, Resource::Connections).is_none());
}

#[test]
fn zero_refuses_everything() {
    let breakers = breakers(0, 2);
    assert!(take(&breakers, Resource::Requests).is_none());
    assert!(breakers.is_open(Priority::Default, Resource::Requests));
}

#[test]
fn a_lowered_limit_counts_what_is_out() {
    let breakers = breakers(100, 2);
    let held: Vec<_> = (0..10)
        .map(|_| take(&breakers, Resource::Requests).unwrap())
        .collect();
    let lower = Thresholds {
        max_requests: 5,
        ..Thresholds::default()
    };
    breakers.set_thresholds(Priority::Default, &lower);
    assert_eq!(breakers.used(Priority::Default, Resource::Requests), 10);
    assert!(take(&breakers, Resource::Requests).is_none());
    drop(held);
    assert_eq!(breakers.used(Priority::Default, Resource::Requests), 0);
    let held: Vec<_> = (0..5)
        .map(|_| take(&breakers, Resource::Requests).unwrap())
        .collect();
    assert!(take(&breakers, Resource::Requests).is_none());
    breakers.set_thresholds(Priority::Default, &Thresholds::default());
    assert!(take(&breakers, Resource::Requests).is_some());
    drop(held);
    assert_eq!(breakers.used(Priority::Default, Resource::Requests), 0);
}

#[test]
fn a_retry_budget_follows_the_requests() {
    let thresholds = Thresholds {
        retry_budget: Some(RetryBudget {
            percent: 25.0,
            min_concurrency: 1,
        }),
        ..Thresholds::default()
    };
    let breakers = Arc::new(Breakers::new(&thresholds, &thresholds, 2));
    assert_eq!(breakers.limit(Priority::Default, Resource::Retries), 1);
    let requests: Vec<_> = (0..11)
        .map(|_| take(&breakers, Resource::Requests).unwrap())
        .collect();
    assert_eq!(breakers.limit(Priority::Default, Resource::Retries), 2);
    let _first = take(&breakers, Resource::Retries).unwrap();
    let _second = take(&breakers, Resource::Retries).unwrap();
    assert!(take(&breakers, Resource::Retries).is_none());
    drop(requests);
}

/// Eight threads take and give back as fast as they can: what is out never
/// exceeds the limit, and no token is lost.
#[test]
fn a_limit_holds_for_the_whole_process() {
    for limit in [1, 7, 1000] {
        const THREADS: usize = 8;
        let breakers = breakers(limit, THREADS + 1);
        let out = Arc::new(AtomicI64::new(0));
        let start = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (1..=THREADS)
            .map(|thread| {
                let (breakers, out) = (Arc::clone(&breakers), Arc::clone(&out));
                let start = Arc::clone(&start);
                std::thread::spawn(move || {
                    stats::set_thread(thread);
                    start.wait();
                    let mut held = Vec::new();
                    let mut granted = 0;
                    for round in 0..20_000 {
                        if let Some(permit) = take(&breakers, Resource::Requests) {
                            let now = out.fetch_add(1, SeqCst) + 1;
                            assert!(now <= i64::from(limit), "{now} out of {limit}");
                            granted += 1;
                            held.push(permit);
                        }
                        if held.len() > (round * 7 + thread) % 200 || round % 31 == 0 {
                            out.fetch_sub(held.len() as i64, SeqCst);
                            held.clear();
                        }
                    }
                    out.fetch_sub(held.len() as i64, SeqCst);
                    granted
                })
            })
            .collect();
        let granted: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
        assert!(granted > 0);
        assert_eq!(breakers.used(Priority::Default, Resource::Requests), 0);
        // Wherever the tokens lie, one thread can still take them all.
        let all: Vec<_> = (0..limit)
            .map(|_| take(&breakers, Resource::Requests).unwrap())
            .collect();
        assert!(take(&breakers, Resource::Requests).is_none());
        drop(all);
    }
}
