//! Balancing by a hash. That it leads where Envoy's does is compared in
//! `tests/differential`.

use crate::common::client::{Outgoing, header, request};
use crate::common::config::{cluster, route, typed};
use crate::common::{Origin, Reply, Site, Value, json, with};

const HASHING: [&str; 2] = ["RING_HASH", "MAGLEV"];

async fn origins() -> (Vec<Origin>, Vec<u16>) {
    let mut origins = Vec::new();
    for name in ["one", "two", "three", "four", "five"] {
        origins.push(Origin::http(name).await);
    }
    let ports = origins.iter().map(Origin::port).collect();
    (origins, ports)
}

/// Everything goes to one cluster of these hosts.
async fn site(ports: &[u16], policy: &str, forward: Value) -> Site {
    let cluster = with(cluster("hashed", ports), json!({ "lb_policy": policy }));
    let route = with(route("/", "hashed"), json!({ "route": forward }));
    Site::routes(vec![route], vec![cluster]).await
}

fn get() -> Outgoing {
    request("GET", "example.com", "/")
}

fn cookies(reply: &Reply) -> Vec<&str> {
    let all = reply.headers.get_all("set-cookie").iter();
    all.map(|value| value.to_str().expect("text")).collect()
}

#[tokio::test]
async fn a_client_without_a_cookie_is_given_one_that_ties_it() {
    let (_origins, ports) = origins().await;
    let cookie = json!({ "cookie": {
        "name": "tied",
        "ttl": "90.5s",
        "path": "/in",
        "attributes": [{ "name": "SameSite", "value": "Strict" }, { "name": "Secure" }],
    }});
    for policy in HASHING {
        let site = site(&ports, policy, json!({ "hash_policy": [cookie] })).await;
        let mut client = site.http1().await;
        let first = client.send(get()).await.expect("an answer");
        let given = cookies(&first);
        let [given] = given[..] else {
            panic!("one cookie: {given:?}");
        };
        let (pair, attributes) = given.split_once("; ").expect("attributes");
        assert_eq!(
            attributes,
            "Max-Age=90; Path=/in; SameSite=Strict; Secure; HttpOnly"
        );
        let value = pair
            .strip_prefix("tied=\"")
            .and_then(|value| value.strip_suffix('"'));
        assert_eq!(value.map(str::len), Some(16), "{given}");
        // All of a connection get the same.
        let second = client.send(get()).await.expect("an answer");
        assert_eq!(cookies(&second), [given]);
        assert_eq!(second.seen().origin, first.seen().origin);
        // With it, any connection leads there.
        for _ in 0..10 {
            let tied = site.send(header(get(), "cookie", pair)).await;
            assert_eq!(tied.seen().origin, first.seen().origin);
            assert_eq!(cookies(&tied), Vec::<&str>::new());
        }
        // One that is empty is as good as none.
        let empty = client
            .send(header(get(), "cookie", "tied="))
            .await
            .expect("an answer");
        assert_eq!(cookies(&empty), [given]);
    }
}

#[tokio::test]
async fn only_a_cluster_that_hashes_gives_a_cookie() {
    let (_origins, ports) = origins().await;
    let cookie = json!({ "hash_policy": [{ "cookie": { "name": "tied", "ttl": "0s" } }] });
    let site = site(&ports, "ROUND_ROBIN", cookie).await;
    assert_eq!(cookies(&site.send(get()).await), Vec::<&str>::new());
}

/// Envoy says each of them, too.
#[tokio::test]
async fn every_try_gives_its_cookie_and_may_go_elsewhere() {
    let (origins, ports) = origins().await;
    let previous = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
    let forward = json!({
        "hash_policy": [{ "cookie": { "name": "tied", "ttl": "0s" } }],
        "retry_policy": {
            "retry_on": "5xx",
            "num_retries": 2,
            "host_selection_retry_max_attempts": 100,
            "retry_host_predicate": [
                { "name": "previous", "typed_config": typed(previous, json!({})) },
            ],
        },
    });
    for policy in HASHING {
        let site = site(&ports, policy, forward.clone()).await;
        let before: Vec<u64> = origins.iter().map(Origin::requests).collect();
        let failed = site.send(header(get(), "x-origin-status", "503")).await;
        assert_eq!(failed.status, 503);
        let given = cookies(&failed);
        assert_eq!(given.len(), 3);
        assert!(given[0].ends_with("\"; HttpOnly"), "{given:?}");
        assert!(given.iter().all(|other| *other == given[0]));
        let tries = origins
            .iter()
            .zip(&before)
            .map(|(origin, before)| origin.requests() - before);
        let mut tries: Vec<u64> = tries.collect();
        tries.sort_unstable();
        assert_eq!(tries, [0, 0, 1, 1, 1], "{policy}");
    }
}

/// A balancer's own cookie goes out with any answer.
#[tokio::test]
async fn a_balancer_may_have_policies_of_its_own() {
    let (origins, ports) = origins().await;
    let own = |ports: &[u16]| {
        let type_name = "envoy.extensions.load_balancing_policies.maglev.v3.Maglev";
        let config = json!({ "consistent_hashing_lb_config": {
            "hash_policy": [{ "cookie": { "name": "own", "ttl": "5s" } }],
        }});
        let policy = json!({ "name": "own", "typed_config": typed(type_name, config) });
        let policies = json!([{ "typed_extension_config": policy }]);
        let policy = json!({ "load_balancing_policy": { "policies": policies } });
        with(cluster("own", ports), policy)
    };
    let hashed = json!({ "route": { "hash_policy": [
        { "cookie": { "name": "of-the-route", "ttl": "5s" } },
    ]}});
    let routes = || vec![with(route("/", "own"), hashed.clone())];
    let site = Site::routes(routes(), vec![own(&ports)]).await;
    let reply = site.send(get()).await;
    let given = cookies(&reply);
    assert!(
        given.len() == 1 && given[0].starts_with("own="),
        "{given:?}"
    );

    drop(origins);
    let gone = site.send(get()).await;
    assert_eq!(gone.status, 503);
    assert!(cookies(&gone)[0].starts_with("own="));
}
