use std::{collections::HashMap, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::stats::Registry;
use crate::upstream::{
    Host, Locality,
    host::{EndpointStatus, HostKey},
    host_set::{LocalityEndpoints, Membership},
};

pub(super) fn endpoint(
    port: u16,
    weight: u32,
    priority: u32,
    status: EndpointStatus,
) -> Arc<Endpoint> {
    let address = crate::net::Address::Ip(([127, 0, 0, 1], port).into());
    let host = Host::new(HostKey::Address(address.clone()), address.into(), 3);
    Arc::new(Endpoint {
        host,
        hostname: "".into(),
        weight,
        priority,
        locality: Arc::new(Locality::default()),
        status,
        metadata: None,
        asks: Arc::default(),
        transport: Arc::default(),
    })
}

pub(super) fn locality(
    weight: u32,
    priority: u32,
    endpoints: Vec<Arc<Endpoint>>,
) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: Arc::new(Locality::default()),
        weight,
        priority,
        metadata: None,
        endpoints,
    }
}

pub(super) fn hosts(localities: Vec<LocalityEndpoints>, balancing: &Balancing) -> Hosts {
    let membership = Membership {
        localities,
        ..Membership::default()
    };
    Hosts::new(HostSet::new(membership, balancing))
}

/// How often each port is chosen.
fn tally(hosts: &Hosts, balancing: &Balancing, rounds: u64) -> HashMap<u16, u64> {
    let mut state = LbState::default();
    let mut tally = HashMap::new();
    for round in 0..rounds {
        let cx = LbContext {
            random: round.wrapping_mul(0x2545_f491_4f6c_dd1d),
            ..LbContext::default()
        };
        if let Choice::Host { endpoint, .. } = state.choose(hosts, balancing, &cx, &stats()) {
            let port = endpoint.host.address().ip().unwrap().port();
            *tally.entry(port).or_default() += 1;
        }
    }
    tally
}

pub(super) fn stats() -> Arc<Block> {
    Registry::new(0).block("cluster.test.", &cluster_stats::TABLE)
}

pub(super) fn with(policy: Policy) -> Balancing {
    Balancing {
        policy,
        ..Balancing::default()
    }
}

pub(super) const UP: EndpointStatus = EndpointStatus::Healthy;
pub(super) const DOWN: EndpointStatus = EndpointStatus::Unhealthy;

#[test]
fn round_robin_takes_each_in_turn() {
    let balancing = with(Policy::RoundRobin);
    let endpoints = (1..=3).map(|port| endpoint(port, 1, 0, UP)).collect();
    let hosts = hosts(vec![locality(0, 0, endpoints)], &balancing);
    let mut state = LbState::default();
    let mut ports = Vec::new();
    for _ in 0..7 {
        match state.choose(&hosts, &balancing, &LbContext::default(), &stats()) {
            Choice::Host { endpoint, .. } => {
                ports.push(endpoint.host.address().ip().unwrap().port());
            }
            Choice::None => panic!("there are hosts"),
        }
    }
    for pair in ports.windows(2) {
        assert_eq!(pair[0] % 3 + 1, pair[1], "{ports:?}");
    }
}

#[test]
fn least_request_prefers_the_idle_one() {
    let balancing = with(Policy::LeastRequest(LeastRequest {
        choices: 10,
        ..LeastRequest::default()
    }));
    let busy = endpoint(1, 1, 0, UP);
    busy.host.inc(HostStat::rq_active);
    let idle = endpoint(2, 1, 0, UP);
    let hosts = hosts(vec![locality(0, 0, vec![busy, idle])], &balancing);
    assert_eq!(tally(&hosts, &balancing, 100), HashMap::from([(2, 100)]));
}

#[test]
fn least_request_with_weights_counts_requests_against_them() {
    let balancing = with(Policy::LeastRequest(LeastRequest::default()));
    let heavy = endpoint(1, 4, 0, UP);
    let light = endpoint(2, 1, 0, UP);
    // Its weight falls to 4 / (7 + 1), half of the other's.
    (0..7).for_each(|_| heavy.host.inc(HostStat::rq_active));
    let hosts = hosts(vec![locality(0, 0, vec![heavy, light])], &balancing);
    let tally = tally(&hosts, &balancing, 300);
    assert!((98..=102).contains(&tally[&1]), "{tally:?}");
}

#[test]
fn localities_share_by_weight_and_availability() {
    let balancing = Balancing {
        locality_weighted: true,
        ..Balancing::default()
    };
    let near = locality(3, 0, (1..=2).map(|p| endpoint(p, 1, 0, UP)).collect());
    // One of four is up: 1.4 / 4 of its weight is left.
    let mut far: Vec<_> = (11..=13).map(|p| endpoint(p, 1, 0, DOWN)).collect();
    far.push(endpoint(14, 1, 0, UP));
    let far = locality(3, 0, far);
    let hosts = hosts(vec![near, far], &balancing);
    let tally = tally(&hosts, &balancing, 1350);
    let near = tally[&1] + tally[&2];
    assert!((995..=1005).contains(&near), "{tally:?}");
    assert_eq!(tally[&14] + near, 1350);
}

#[test]
fn a_failed_priority_gives_way_and_panic_takes_any() {
    let balancing = Balancing::default();
    let first = locality(0, 0, vec![endpoint(1, 1, 0, DOWN)]);
    let second = locality(0, 1, vec![endpoint(2, 1, 1, UP)]);
    let failed_over = hosts(vec![first.clone(), second], &balancing);
    assert_eq!(
        tally(&failed_over, &balancing, 50),
        HashMap::from([(2, 50)])
    );

    let panicking = hosts(vec![first], &balancing);
    let mut state = LbState::default();
    let choice = state.choose(&panicking, &balancing, &LbContext::default(), &stats());
    assert!(matches!(choice, Choice::Host { panic: true, .. }));
    let strict = Balancing {
        fail_traffic_on_panic: true,
        ..Balancing::default()
    };
    let choice = state.choose(&panicking, &strict, &LbContext::default(), &stats());
    assert!(matches!(choice, Choice::None));
}

#[test]
fn a_host_to_avoid_is_chosen_only_when_attempts_run_out() {
    let balancing = with(Policy::RoundRobin);
    let endpoints = (1..=2).map(|port| endpoint(port, 1, 0, UP)).collect();
    let hosts = hosts(vec![locality(0, 0, endpoints)], &balancing);
    let avoid = |e: &Endpoint| e.host.address().ip().unwrap().port() == 1;
    let cx = LbContext {
        avoid: Some(&avoid),
        attempts: 1,
        ..LbContext::default()
    };
    let mut state = LbState::default();
    for _ in 0..10 {
        match state.choose(&hosts, &balancing, &cx, &stats()) {
            Choice::Host { endpoint, .. } => assert!(!avoid(endpoint)),
            Choice::None => panic!("there are hosts"),
        }
    }
}

#[test]
fn a_worker_sees_a_change_at_its_next_choice() {
    let balancing = Balancing::default();
    let hosts = hosts(
        vec![locality(0, 0, vec![endpoint(1, 1, 0, UP)])],
        &balancing,
    );
    let mut state = LbState::default();
    let port = |choice: Choice<'_>| match choice {
        Choice::Host { endpoint, .. } => endpoint.host.address().ip().unwrap().port(),
        Choice::None => 0,
    };
    assert_eq!(
        port(state.choose(&hosts, &balancing, &LbContext::default(), &stats())),
        1
    );
    let membership = Membership {
        localities: vec![locality(0, 0, vec![endpoint(2, 1, 0, UP)])],
        ..Membership::default()
    };
    hosts.store(HostSet::new(membership, &balancing));
    assert_eq!(
        port(state.choose(&hosts, &balancing, &LbContext::default(), &stats())),
        2
    );
    hosts.store(HostSet::new(Membership::default(), &balancing));
    assert_eq!(
        port(state.choose(&hosts, &balancing, &LbContext::default(), &stats())),
        0
    );
}

proptest! {
    /// Whatever the weights, each host gets its share to within one turn.
    #[test]
    fn weighted_round_robin_is_exact(weights in prop::collection::vec(1u32..20, 2..8)) {
        let balancing = with(Policy::RoundRobin);
        let endpoints = weights.iter().zip(1..).map(|(w, port)| endpoint(port, *w, 0, UP));
        let hosts = hosts(vec![locality(0, 0, endpoints.collect())], &balancing);
        let sum: u32 = weights.iter().sum();
        let rounds = u64::from(sum) * 10;
        let tally = tally(&hosts, &balancing, rounds);
        for (weight, port) in weights.iter().zip(1u16..) {
            let share = u64::from(*weight) * 10;
            let got = tally.get(&port).copied().unwrap_or(0);
            prop_assert!(got.abs_diff(share) <= 2, "{port}: {got} of {share}, {weights:?}");
        }
    }

    /// A host that can be used is found whenever there is one.
    #[test]
    fn a_usable_host_is_always_found(
        up in prop::collection::vec((0u32..3, any::<bool>()), 1..12),
        random in any::<u64>(),
    ) {
        let balancing = Balancing { panic_threshold: 0.0, ..with(Policy::Random) };
        let usable = up.iter().any(|(_, up)| *up);
        let localities = up.iter().zip(1..).map(|((priority, up), port)| {
            let status = if *up { UP } else { DOWN };
            locality(0, *priority, vec![endpoint(port, 1, *priority, status)])
        });
        let hosts = hosts(localities.collect(), &balancing);
        let mut state = LbState::default();
        let cx = LbContext { random, ..LbContext::default() };
        match state.choose(&hosts, &balancing, &cx, &stats()) {
            Choice::Host { endpoint, panic } => {
                prop_assert!(usable && !panic);
                prop_assert_eq!(endpoint.status, UP);
            }
            Choice::None => prop_assert!(!usable),
        }
    }
}
