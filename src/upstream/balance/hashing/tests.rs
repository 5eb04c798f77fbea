use std::collections::HashSet;

use xxhash_rust::xxh64::xxh64;

use super::*;
use crate::upstream::{
    HostStat, Locality,
    balance::{
        Balancing, HashFunction, LbState, Policy, RingSettings,
        tests::{DOWN, UP, endpoint, hosts, locality, stats, with},
    },
    host_set::Hosts,
};

/// Ports of the hosts, the last digit of which names them.
const FIRST: u16 = 21001;

fn hashing(table: TableKind) -> Hashing {
    Hashing {
        table,
        use_hostname: false,
        balance_factor: None,
        policies: None,
    }
}

fn ring(min_size: u64, max_size: u64, function: HashFunction) -> Hashing {
    hashing(TableKind::Ring(RingSettings {
        min_size,
        max_size,
        function,
    }))
}

fn usual_ring() -> Hashing {
    ring(1024, 8 << 20, HashFunction::XxHash)
}

fn maglev(size: u64) -> Hashing {
    hashing(TableKind::Maglev { size })
}

fn eight(weight: impl Fn(u32) -> u32) -> Vec<Arc<Endpoint>> {
    let host = |index: u32| endpoint(FIRST + index as u16, weight(index), 0, UP);
    (0..8).map(host).collect()
}

fn name(choice: Choice<'_>) -> u64 {
    match choice {
        Choice::Host { endpoint, .. } => {
            u64::from(endpoint.host.address().ip().unwrap().port() % 10)
        }
        Choice::None => 0,
    }
}

fn choose(hosts: &Hosts, balancing: &Balancing, cx: LbContext<'_>) -> u64 {
    name(LbState::default().choose(hosts, balancing, &cx, &stats()))
}

/// The names of the hosts for the hashes of `key 0` and so on.
fn chosen(endpoints: Vec<Arc<Endpoint>>, hashing: Hashing, keys: u64) -> (String, Spread) {
    let balancing = with(Policy::Hash(hashing));
    let hosts = hosts(vec![locality(0, 0, endpoints)], &balancing);
    let names = (0..keys).map(|key| {
        let cx = LbContext {
            hash: Some(xxh64(format!("key {key}").as_bytes(), 0)),
            ..LbContext::default()
        };
        choose(&hosts, &balancing, cx).to_string()
    });
    let spread = hosts.load().tables[0].spread().expect("hosts");
    (names.collect(), spread)
}

/// What Envoy 1.40 chose, and how it spread its tables.
#[test]
fn the_choices_are_those_of_envoy() {
    let uneven = |index| index * index + 1;
    for (endpoints, hashing, expected, (size, min, max)) in [
        (
            eight(|_| 1),
            usual_ring(),
            "78352282714322215845877335417135",
            (1024, 128, 128),
        ),
        (
            eight(uneven),
            ring(97, 131, HashFunction::MurmurHash2),
            "87866717758478887888786463872778",
            (131, 1, 44),
        ),
        (
            eight(|_| 1),
            maglev(65537),
            "77364618855668114763273776347152",
            (65537, 8192, 8193),
        ),
        (
            eight(uneven),
            maglev(1009),
            "46881674767688658787388864878685",
            (1009, 7, 340),
        ),
    ] {
        let what = format!("{hashing:?}");
        let (names, spread) = chosen(endpoints, hashing, 32);
        assert_eq!(names, expected, "{what}");
        assert_eq!(spread, Spread { size, min, max }, "{what}");
    }
}

#[test]
fn a_host_that_goes_takes_only_its_own_hashes_along() {
    for hashing in [usual_ring(), maglev(65537)] {
        let (before, _) = chosen(eight(|_| 1), hashing.clone(), 400);
        let mut fewer = eight(|_| 1);
        fewer.remove(2);
        let (after, _) = chosen(fewer, hashing.clone(), 400);
        let moved = before.chars().zip(after.chars());
        let moved = moved.filter(|(before, after)| *before != '3' && before != after);
        // By the remainder of a division nearly all would.
        assert!(moved.count() < 80, "{hashing:?}");
    }
}

#[test]
fn a_request_without_a_hash_goes_anywhere() {
    let balancing = with(Policy::Hash(usual_ring()));
    let hosts = hosts(vec![locality(0, 0, eight(|_| 1))], &balancing);
    let at_random = |random: u64| LbContext {
        random: random.wrapping_mul(0x2545_f491_4f6c_dd1d),
        ..LbContext::default()
    };
    let names = (1..200).map(|random| choose(&hosts, &balancing, at_random(random)));
    assert_eq!(names.collect::<HashSet<_>>(), (1..=8).collect());
}

#[test]
fn another_attempt_leads_to_another_host() {
    for hashing in [usual_ring(), maglev(65537)] {
        let balancing = with(Policy::Hash(hashing));
        let hosts = hosts(vec![locality(0, 0, eight(|_| 1))], &balancing);
        let of = |hash, avoid: &dyn Fn(&Endpoint) -> bool| {
            let cx = LbContext {
                hash: Some(hash),
                avoid: Some(avoid),
                attempts: 20,
                ..LbContext::default()
            };
            choose(&hosts, &balancing, cx)
        };
        for hash in (0..50).map(|key: u64| xxh64(&key.to_le_bytes(), 0)) {
            let first = of(hash, &|_| false);
            let tried = |endpoint: &Endpoint| {
                u64::from(endpoint.host.address().ip().unwrap().port() % 10) == first
            };
            assert_ne!(of(hash, &tried), first);
            // When all are to be avoided, it is the last.
            assert_ne!(of(hash, &|_| true), 0);
        }
    }
}

#[test]
fn only_the_healthy_take_part_unless_in_panic() {
    let sick = |sick: usize| {
        let host = |index: u16| {
            let status = if usize::from(index) < sick { DOWN } else { UP };
            endpoint(FIRST + index, 1, 0, status)
        };
        (0..8).map(host).collect::<Vec<_>>()
    };
    let names = |sick| {
        chosen(sick, maglev(1009), 300)
            .0
            .chars()
            .collect::<HashSet<_>>()
    };
    assert_eq!(names(sick(3)), "45678".chars().collect());
    assert_eq!(names(sick(6)), "12345678".chars().collect());
}

#[test]
fn localities_share_by_weight_alone() {
    let balancing = Balancing {
        locality_weighted: true,
        ..with(Policy::Hash(usual_ring()))
    };
    let mut endpoints = eight(|_| 1);
    let mut far = endpoints.split_off(4);
    Arc::get_mut(&mut far[0]).unwrap().status = DOWN;
    let mut near = locality(3, 0, endpoints);
    near.locality = Arc::new(Locality {
        zone: "near".into(),
        ..Locality::default()
    });
    let set = hosts(vec![locality(1, 0, far), near], &balancing).load();
    let shares: Vec<_> = set.tables[0]
        .hosts
        .iter()
        .map(|(_, share)| *share)
        .collect();
    let third = 0.25 / 3.0;
    assert_eq!(
        shares,
        [third, third, third, 0.1875, 0.1875, 0.1875, 0.1875]
    );
}

#[test]
fn a_busy_host_gives_to_one_that_is_not() {
    let mut hashing = usual_ring();
    hashing.balance_factor = Some(100);
    let balancing = with(Policy::Hash(hashing));
    let endpoints = eight(|_| 1);
    let hosts = hosts(vec![locality(0, 0, endpoints.clone())], &balancing);
    let stats = stats();
    let mut chosen = Vec::new();
    for _ in 0..16 {
        let cx = LbContext {
            hash: Some(7),
            ..LbContext::default()
        };
        let index = name(LbState::default().choose(&hosts, &balancing, &cx, &stats)) - 1;
        endpoints[index as usize].host.inc(HostStat::rq_active);
        stats.gauge_add(cluster_stats::upstream_rq_active, 1);
        chosen.push(index);
    }
    // A host takes one request too many before it counts as busy.
    assert_eq!(chosen[0], chosen[1]);
    assert_ne!(chosen[1], chosen[2]);
    let active = endpoints.iter().map(|e| e.host.stat(HostStat::rq_active));
    assert!(active.max() <= Some(3), "{chosen:?}");
}
