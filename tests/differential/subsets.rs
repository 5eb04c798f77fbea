//! Random subsets of random hosts: a request must lead to the same hosts in both
//! proxies, or to none, and be counted alike.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::One;
use crate::common::client::{H1, request};
use crate::common::config::{address, any_host, typed};
use crate::common::{Origin, Program, with};
use crate::number;
use crate::random::Random;

/// Clusters under each seed.
const CLUSTERS: usize = 40;
/// Requests' metadata for each cluster.
const QUERIES: usize = 12;
/// Hosts of a cluster, at most. As many requests meet all of them in turn.
const HOSTS: usize = 6;
const ROUNDS: u64 = 1;

const KEYS: &[&str] = &["stage", "type", "version"];
const POLICIES: &[&str] = &["NO_FALLBACK", "ANY_ENDPOINT", "DEFAULT_SUBSET"];
const STATS: &[&str] = &[
    "active",
    "created",
    "removed",
    "selected",
    "fallback",
    "fallback_panic",
    "single_host_per_subset_duplicate",
];

fn value(random: &mut Random) -> Value {
    match random.below(8) {
        0 => json!(true),
        1 => json!(1.5),
        2 => json!(["a", "b"]),
        3 => json!(["b", "c"]),
        _ => random.one_of(&["a", "b", "c"]).into(),
    }
}

fn labels(random: &mut Random) -> Value {
    let mut labels = json!({});
    for key in KEYS {
        if random.chance(60) {
            labels[key] = value(random);
        }
    }
    labels
}

fn metadata(labels: Value) -> Value {
    json!({ "filter_metadata": { "envoy.lb": labels } })
}

fn host(random: &mut Random, port: u16) -> Value {
    let mut host = json!({ "endpoint": { "address": address(port) } });
    if random.chance(90) {
        host["metadata"] = metadata(labels(random));
    }
    host
}

fn some_keys(random: &mut Random) -> Vec<&'static str> {
    let mut keys = KEYS.to_vec();
    keys.retain(|_| random.chance(55));
    keys
}

fn selector(random: &mut Random) -> Value {
    let keys = some_keys(random);
    let mut selector = json!({ "keys": keys });
    if random.chance(40) {
        selector["fallback_policy"] = random.one_of(POLICIES).into();
    } else if keys.len() > 1 && random.chance(50) {
        selector["fallback_policy"] = "KEYS_SUBSET".into();
        selector["fallback_keys_subset"] = json!(keys[random.below(2)..][..1]);
    } else if random.chance(20) {
        selector["single_host_per_subset"] = true.into();
    }
    selector
}

/// Known to differ: Envoy minds no fallback of a selector whose keys begin those of one
/// before it, and counts the hosts of selectors with the same keys as duplicates.
fn make_plain(selectors: &mut [Value]) {
    let keys = |selector: &Value| selector["keys"].as_array().expect("keys").clone();
    let all: Vec<_> = selectors.iter().map(keys).collect();
    for (at, selector) in selectors.iter_mut().enumerate() {
        let others = all.iter().enumerate().filter(|(other, _)| *other != at);
        let mut longer = others.filter(|(_, keys)| keys.starts_with(&all[at]));
        if longer.next().is_some() {
            *selector = json!({ "keys": all[at] });
        }
    }
}

fn settings(random: &mut Random) -> Value {
    let mut selectors: Vec<_> = (0..1 + random.below(4)).map(|_| selector(random)).collect();
    make_plain(&mut selectors);
    let mut settings = json!({ "subset_selectors": selectors });
    settings["fallback_policy"] = random.one_of(POLICIES).into();
    if random.chance(60) {
        settings["default_subset"] = labels(random);
    }
    for field in ["panic_mode_any", "list_as_any"] {
        settings[field] = random.chance(40).into();
    }
    if random.chance(40) {
        settings["metadata_fallback_policy"] = "FALLBACK_LIST".into();
    }
    settings
}

fn cluster(random: &mut Random, name: &str, ports: &[u16]) -> Value {
    let number = 1 + random.below(HOSTS);
    let mut levels = [Vec::new(), Vec::new()];
    // Where some hosts of several levels are unhealthy, chance decides on the level.
    let several = random.chance(30);
    for port in &ports[..number] {
        let mut host = host(random, *port);
        if !several && random.chance(20) {
            host["health_status"] = "UNHEALTHY".into();
        }
        levels[usize::from(several && random.chance(40))].push(host);
    }
    let [first, second] = levels;
    let cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": { "cluster_name": name, "endpoints": [
            { "lb_endpoints": first },
            { "priority": 1, "lb_endpoints": second },
        ] },
    });
    let settings = settings(random);
    if random.chance(50) {
        return with(cluster, json!({ "lb_subset_config": settings }));
    }
    let policy = |name: &str, body: Value| {
        json!({ "policies": [{ "typed_extension_config": {
            "name": "policy",
            "typed_config": typed(
                &format!("envoy.extensions.load_balancing_policies.{name}"),
                body,
            ),
        } }] })
    };
    let settings = with(
        settings,
        json!({
            "allow_redundant_keys": random.chance(50),
            "subset_lb_policy": policy("round_robin.v3.RoundRobin", json!({})),
        }),
    );
    let subset = policy("subset.v3.Subset", settings);
    with(cluster, json!({ "load_balancing_policy": subset }))
}

fn query(random: &mut Random) -> Value {
    let mut query = labels(random);
    if random.chance(15) {
        query["other"] = "a".into();
    }
    if random.chance(25) {
        let list: Vec<_> = (0..random.below(3)).map(|_| labels(random)).collect();
        query["fallback_list"] = list.into();
    }
    query
}

fn route(random: &mut Random, path: &str, cluster: &str) -> Value {
    let (mut of_route, mut of_cluster) = (Some(query(random)), None);
    if random.chance(30) {
        of_cluster = Some(query(random));
    }
    if random.chance(20) {
        of_route = None;
    }
    let mut action = match of_cluster {
        None => json!({ "cluster": cluster }),
        Some(query) => json!({ "weighted_clusters": { "clusters": [{
            "name": cluster, "weight": 1, "metadata_match": metadata(query),
        }] } }),
    };
    if let Some(query) = of_route {
        action["metadata_match"] = metadata(query);
    }
    json!({ "match": { "path": path }, "route": action })
}

/// Who answers a path, or with which status nobody does.
async fn answers(to: &One, path: &str) -> BTreeSet<String> {
    let mut connection = H1::connect(to.port.number()).await.expect("a connection");
    let mut who = BTreeSet::new();
    for _ in 0..HOSTS {
        let reply = connection.send(request("GET", "a", path)).await;
        let reply = reply.expect("an answer");
        who.insert(match reply.status.is_success() {
            true => reply.seen().origin,
            false => reply.status.to_string(),
        });
    }
    who
}

async fn counted(by: &One, cluster: &str) -> Vec<(&'static str, Option<u64>)> {
    let stats = STATS.iter().map(async |stat| {
        let name = format!("cluster.{cluster}.lb_subsets_{stat}");
        (*stat, by.proxy.admin().stat(&name).await)
    });
    join_all(stats).await
}

#[tokio::test]
async fn requests_lead_to_the_same_hosts() {
    let Some(envoy) = Program::oracle() else {
        println!("skipped: NUNCIO_ORACLE_ENVOY does not name an Envoy binary");
        return;
    };
    let origins = join_all((0..HOSTS).map(async |at| Origin::http(&at.to_string()).await)).await;
    let ports: Vec<_> = origins.iter().map(Origin::port).collect();
    let seed = number("NUNCIO_DIFFERENTIAL_SEED", 1);
    let mut differing = Vec::new();
    for round in seed..seed + number("NUNCIO_DIFFERENTIAL_ROUNDS", ROUNDS) {
        let random = &mut Random::new(round);
        let (mut clusters, mut routes, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..CLUSTERS {
            let name = format!("c{number}");
            let cluster = cluster(random, &name, &ports);
            for query in 0..QUERIES {
                let path = format!("/{name}/{query}");
                let route = route(random, &path, &name);
                asked.push((path, number, route.clone()));
                routes.push(route);
            }
            clusters.push(cluster);
        }
        let manager = json!({ "route_config": { "virtual_hosts": [any_host(routes)] } });
        let envoy = One::start(&envoy, &manager, &clusters).await;
        let nuncio = One::start(&Program::under_test(), &manager, &clusters).await;
        for (path, cluster, route) in asked {
            let (theirs, ours) = tokio::join!(answers(&envoy, &path), answers(&nuncio, &path));
            if theirs != ours {
                let cluster = &clusters[cluster];
                differing.push(format!(
                    "seed {round}: Envoy {theirs:?}, nuncio {ours:?}: {route}\n  in {cluster}"
                ));
            }
        }
        for cluster in &clusters {
            let name = cluster["name"].as_str().expect("a name");
            let (theirs, ours) = tokio::join!(counted(&envoy, name), counted(&nuncio, name));
            if theirs != ours {
                differing.push(format!(
                    "seed {round}: Envoy {theirs:?}\n  nuncio {ours:?}\n  in {cluster}"
                ));
            }
        }
    }
    let some = &differing[..differing.len().min(5)];
    assert!(
        differing.is_empty(),
        "{} differ:\n\n{}",
        differing.len(),
        some.join("\n\n")
    );
}
