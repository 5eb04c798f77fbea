//! What a change costs does not depend on how much there is besides.

use std::time::{Duration, Instant};

use crate::common::Origin;
use crate::common::config::assignment;
use crate::scene::{DELTA_ADS, Stage};
use crate::server::{Answer, CLUSTER, ENDPOINTS, resource};

/// Pushes that are measured.
const PUSHES: u32 = 200;

/// One changed endpoint set among many costs what it costs among few.
#[tokio::test]
async fn a_change_costs_the_same_among_many() {
    let (few, many) = (100, scale());
    let among_few = Cost::among(few).await;
    let among_many = Cost::among(many).await;
    println!("among {few}: {among_few:?}; among {many}: {among_many:?}");
    // Walking everything would cost as many times more as there are more.
    let both = format!("among {few}: {among_few:?}; among {many}: {among_many:?}");
    assert!(among_many.cpu < 3 * among_few.cpu, "{both}");
    // Other tests may run beside this one.
    assert!(among_many.middle < 3 * among_few.middle, "{both}");
}

/// `NUNCIO_TEST_SCALE`: how many clusters are many.
fn scale() -> usize {
    let given = std::env::var("NUNCIO_TEST_SCALE").ok();
    given.and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

/// Of one push, until it is in force and acknowledged.
#[derive(Debug)]
struct Cost {
    /// Of the proxy.
    cpu: Duration,
    middle: Duration,
    #[expect(dead_code, reason = "it is shown")]
    slowest: Duration,
}

impl Cost {
    async fn among(clusters: usize) -> Self {
        let mode = DELTA_ADS;
        let stage = Stage::new(mode).await;
        let other = Origin::http("two").await;
        let names = (1..clusters).map(|n| format!("cluster-{n}"));
        let names: Vec<_> = std::iter::once("backend".to_owned()).chain(names).collect();
        let port = stage.origin.port();
        let all = names.iter().map(|name| mode.eds(name));
        stage.plane.set(CLUSTER, all.collect());
        let all = names.iter().map(|name| assignment(name, &[port]));
        stage.plane.set(ENDPOINTS, all.collect());
        let scene = stage.start().await;
        scene.reaches("one").await;
        let ports = [other.port(), port];
        let (mut waits, mut before) = (Vec::new(), Duration::ZERO);
        for turn in 0..PUSHES + 10 {
            // The first ones warm it up.
            if turn == 10 {
                before = scene.proxy.cpu();
            }
            let changed = assignment("backend", &[ports[turn as usize % 2]]);
            let begun = Instant::now();
            let nonce = scene.plane.send(
                ENDPOINTS,
                Answer {
                    version: format!("v{turn}"),
                    type_url: ENDPOINTS.to_owned(),
                    resources: vec![resource(ENDPOINTS, &changed)],
                    ..Answer::default()
                },
            );
            while !scene.plane.is_answered(&nonce) {
                assert!(begun.elapsed() < Duration::from_secs(10), "no answer");
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            waits.push(begun.elapsed());
        }
        let cpu = (scene.proxy.cpu() - before) / PUSHES;
        // What is acknowledged is in force.
        let last = ["two", "one"][(PUSHES as usize + 9) % 2];
        let reply = crate::common::client::get(scene.port.number(), "/").await;
        assert_eq!(reply.seen().origin, last);
        waits.sort_unstable();
        Self {
            cpu,
            middle: waits[waits.len() / 2],
            slowest: waits[waits.len() - 1],
        }
    }
}
