//! Balancing by a hash: under the same clusters, the same request has to go to the same
//! host by both proxies, and their tables have to be spread alike.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::common::client::{H1, Outgoing, header, once, request};
use crate::common::config::{any_host, bootstrap, http, listener, tcp, typed};
use crate::common::{Home, Origin, Port, Program, Proxy, Value, eventually, json, with};

/// Keys that are sent to each cluster.
const KEYS: usize = 60;
const HOSTS: usize = 8;

/// One host: its port, and what else is said of it.
fn host(port: u16, fields: Value) -> Value {
    let address = json!({ "address": "127.0.0.1", "port_value": port });
    let name = format!("host-{port}.example");
    let usual = json!({ "endpoint": {
        "address": { "socket_address": address },
        "hostname": name,
    }});
    with(usual, fields)
}

/// All hosts alike.
fn flat(ports: &[u16], fields: impl Fn(usize) -> Value) -> Value {
    let hosts = ports.iter().enumerate();
    let hosts: Vec<Value> = hosts
        .map(|(index, port)| host(*port, fields(index)))
        .collect();
    json!([{ "lb_endpoints": hosts }])
}

/// Two hosts in each of four localities.
fn grouped(ports: &[u16], fields: impl Fn(usize) -> Value, of: impl Fn(usize) -> Value) -> Value {
    let groups = ports.chunks(2).enumerate();
    let groups = groups.map(|(group, ports)| {
        let hosts = ports.iter().enumerate();
        let hosts = hosts.map(|(index, port)| host(*port, fields(group * 2 + index)));
        with(
            json!({ "lb_endpoints": hosts.collect::<Vec<_>>() }),
            of(group),
        )
    });
    groups.collect()
}

fn cluster(name: &str, endpoints: Value, fields: Value) -> Value {
    let usual = json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": { "cluster_name": name, "endpoints": endpoints },
    });
    with(usual, fields)
}

fn policy(kind: &str, config: Value) -> Value {
    let type_name = format!("envoy.extensions.load_balancing_policies.{kind}");
    json!({ "load_balancing_policy": { "policies": [{ "typed_extension_config": {
        "name": "hashing",
        "typed_config": typed(&type_name, config),
    }}]}})
}

const RING: &str = "ring_hash.v3.RingHash";
const MAGLEV: &str = "maglev.v3.Maglev";

/// Clusters whose hosts and localities differ in all that matters.
fn clusters(ports: &[u16]) -> Vec<Value> {
    let even = |_| json!({});
    let weight = |index: usize| json!({ "load_balancing_weight": index * index + 1 });
    let keyed = |index: usize| {
        let key = match index % 3 {
            0 => json!(format!("key-{index}")),
            1 => json!(index),
            _ => json!(""),
        };
        json!({ "metadata": { "filter_metadata": { "envoy.lb": { "hash_key": key } } } })
    };
    let health = |sick: usize, status: &'static str| {
        move |index: usize| match index < sick {
            true => json!({ "health_status": status }),
            false => json!({}),
        }
    };
    let zone = |group: usize| json!({ "locality": { "zone": format!("zone-{}", 7 - group) } });
    let weighed = |group: usize| {
        with(
            zone(group),
            json!({ "load_balancing_weight": group * 3 + 1 }),
        )
    };
    let priority = |group: usize| json!({ "priority": group / 2 });
    let ring = json!({ "lb_policy": "RING_HASH" });
    let maglev = json!({ "lb_policy": "MAGLEV" });
    let localities = json!({ "common_lb_config": { "locality_weighted_lb_config": {} } });
    let uneven = json!({
        "lb_policy": "RING_HASH",
        "ring_hash_lb_config": {
            "minimum_ring_size": 97,
            "maximum_ring_size": 131,
            "hash_function": "MURMUR_HASH_2",
        },
    });
    let small = json!({ "lb_policy": "MAGLEV", "maglev_lb_config": { "table_size": 1009 } });
    let both = |name: &str, endpoints: Value, more: &Value| {
        [("ring", &ring), ("maglev", &maglev)].map(|(kind, config)| {
            let config = with(config.clone(), more.clone());
            cluster(&format!("{kind}-{name}"), endpoints.clone(), config)
        })
    };
    let nothing = json!({});
    let mut clusters = vec![
        cluster("ring-uneven", flat(ports, weight), uneven.clone()),
        cluster(
            "ring-uneven-localities",
            grouped(ports, weight, weighed),
            with(uneven, localities.clone()),
        ),
        cluster("maglev-uneven", flat(ports, weight), small),
        cluster(
            "ring-typed",
            grouped(ports, weight, weighed),
            policy(
                RING,
                json!({
                    "hash_function": "MURMUR_HASH_2",
                    "minimum_ring_size": 500,
                    "locality_weighted_lb_config": {},
                }),
            ),
        ),
        cluster(
            "ring-name",
            flat(ports, even),
            policy(RING, json!({ "use_hostname_for_hashing": true })),
        ),
        cluster(
            "maglev-name",
            flat(ports, even),
            policy(
                MAGLEV,
                json!({ "consistent_hashing_lb_config": { "use_hostname_for_hashing": true } }),
            ),
        ),
        cluster(
            "maglev-typed",
            grouped(ports, weight, weighed),
            policy(
                MAGLEV,
                json!({
                    "table_size": 5003,
                    "locality_weighted_lb_config": {},
                    "consistent_hashing_lb_config": { "hash_policy": [
                        { "query_parameter": { "name": "q" } },
                    ]},
                }),
            ),
        ),
    ];
    clusters.extend(both("even", flat(ports, even), &nothing));
    clusters.extend(both("keyed", flat(ports, keyed), &nothing));
    clusters.extend(both("sick", flat(ports, health(3, "UNHEALTHY")), &nothing));
    clusters.extend(both(
        "degraded",
        flat(ports, health(5, "DEGRADED")),
        &nothing,
    ));
    clusters.extend(both("panic", flat(ports, health(6, "UNHEALTHY")), &nothing));
    clusters.extend(both(
        "failover",
        grouped(ports, health(3, "UNHEALTHY"), priority),
        &nothing,
    ));
    clusters.extend(both(
        "localities",
        grouped(ports, health(5, "DRAINING"), weighed),
        &localities,
    ));
    clusters.extend(both("no-weights", grouped(ports, even, zone), &localities));
    let nameless = |group: usize| json!({ "load_balancing_weight": group * 3 + 1 });
    clusters.extend(both(
        "nameless",
        grouped(ports, even, nameless),
        &localities,
    ));
    clusters.extend(both("no-hosts", json!([]), &nothing));
    clusters
}

fn route(path: &str, more: Value) -> Value {
    let usual = json!({
        "match": { "prefix": path },
        "route": { "cluster_header": "x-cluster", "hash_policy": [] },
    });
    with(usual, more)
}

/// Ways to the hash of a request.
fn routes() -> Vec<Value> {
    let hashed = |policies: Value| json!({ "route": { "hash_policy": policies } });
    let key = json!({ "header": { "header_name": "x-key" } });
    let cookie = json!({ "cookie": { "name": "session" } });
    let parameter = json!({ "query_parameter": { "name": "q" } });
    let client = json!({ "connection_properties": { "source_ip": true } });
    let rewritten = json!({ "header": {
        "header_name": "x-key",
        "regex_rewrite": { "pattern": { "regex": "[0-4]" }, "substitution": "-" },
    }});
    vec![
        route("/key", hashed(json!([key]))),
        route("/rewritten", hashed(json!([rewritten]))),
        route("/cookie", hashed(json!([cookie]))),
        route("/parameter", hashed(json!([parameter]))),
        route("/client", hashed(json!([client, key]))),
        route(
            "/terminal",
            hashed(json!([
                with(parameter.clone(), json!({ "terminal": true })),
                key
            ])),
        ),
        route("/all", hashed(json!([key, cookie, parameter, client, key]))),
        route(
            "/path",
            with(
                hashed(json!([{ "header": { "header_name": ":path" } }])),
                json!({ "route": { "prefix_rewrite": "/another" } }),
            ),
        ),
        route(
            "/added",
            with(
                hashed(json!([{ "header": { "header_name": "x-added" } }])),
                json!({ "request_headers_to_add": [
                    { "header": { "key": "x-added", "value": "<%REQ(x-key)%>" } },
                ]}),
            ),
        ),
    ]
}

struct One {
    port: Port,
    proxy: Proxy,
    _home: Home,
}

impl One {
    async fn start(program: &Program, filter: Value, clusters: &[Value]) -> Self {
        let (home, port) = (Home::new(), Port::free());
        let listeners = vec![listener("main", port.number(), filter)];
        let whole = bootstrap(listeners, clusters.to_vec());
        let arguments = ["--concurrency", "1", "-l", "warning"];
        let proxy = program.start(&home, &whole, &arguments).await;
        Self {
            port,
            proxy,
            _home: home,
        }
    }

    /// Where requests go: the origin's name, or the status of what is no origin's.
    async fn led(&self, requests: &[Outgoing]) -> Vec<String> {
        let mut client = H1::connect(self.port.number()).await.expect("a connection");
        let mut led = Vec::new();
        for request in requests {
            let reply = client.send(request.clone()).await.expect("an answer");
            led.push(match reply.status.as_u16() {
                200 => reply.seen().origin,
                status => status.to_string(),
            });
        }
        led
    }

    /// What is said of the tables, and how often health was not looked at.
    async fn tables(&self) -> Vec<String> {
        let text = self.proxy.admin().text("/stats").await;
        let of_tables = |line: &&str| {
            ["ring_hash_lb.", "maglev_lb.", "lb_healthy_panic"]
                .iter()
                .any(|name| line.contains(name))
        };
        text.lines().filter(of_tables).map(str::to_owned).collect()
    }
}

async fn origins() -> (Vec<Origin>, Vec<u16>) {
    let mut origins = Vec::new();
    for index in 0..HOSTS {
        origins.push(Origin::http(&format!("origin {index}")).await);
    }
    let ports = origins.iter().map(Origin::port).collect();
    (origins, ports)
}

async fn pair(filter: &Value, clusters: &[Value]) -> Option<[One; 2]> {
    let Some(envoy) = Program::oracle() else {
        println!("skipped: NUNCIO_ORACLE_ENVOY does not name an Envoy binary");
        return None;
    };
    Some([
        One::start(&envoy, filter.clone(), clusters).await,
        One::start(&Program::under_test(), filter.clone(), clusters).await,
    ])
}

fn asked(path: &str, cluster: &str, key: usize) -> Outgoing {
    let path = format!("{path}?a={key}&q=q{key}");
    let request = header(request("GET", "example.com", &path), "x-cluster", cluster);
    let request = header(request, "cookie", &format!("other=1; session=\"s{key}\""));
    let request = match key % 7 {
        // Several values, in either order.
        0 => header(request, "x-key", "another"),
        _ => request,
    };
    header(request, "x-key", &format!("value {key}"))
}

#[tokio::test]
async fn a_hash_leads_to_the_same_host() {
    let (_origins, ports) = origins().await;
    let clusters = clusters(&ports);
    let Some([envoy, nuncio]) = pair(&http(vec![any_host(routes())]), &clusters).await else {
        return;
    };
    let mut asked_for = Vec::new();
    for cluster in &clusters {
        let name = cluster["name"].as_str().expect("a name");
        asked_for.extend((0..KEYS).map(|key| ("/key", name, key)));
    }
    for route in routes() {
        let path = route["match"]["prefix"]
            .as_str()
            .expect("a path")
            .to_owned();
        let path: &'static str = path.leak();
        asked_for.extend((0..KEYS).map(|key| (path, "ring-even", key)));
    }
    let requests: Vec<_> = asked_for
        .iter()
        .map(|(path, name, key)| asked(path, name, *key))
        .collect();
    let (expected, found) = tokio::join!(envoy.led(&requests), nuncio.led(&requests));
    let mut wrong = Vec::new();
    for ((what, expected), found) in asked_for.iter().zip(expected).zip(found) {
        if expected != found {
            wrong.push(format!("{what:?}: {expected} by Envoy, {found} by nuncio"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        requests.len(),
        wrong.join("\n")
    );
    assert_eq!(envoy.tables().await, nuncio.tables().await);
}

/// Requests of one hash that are all under way at once.
#[tokio::test]
async fn what_is_too_much_for_a_host_goes_to_the_same_other() {
    let (origins, ports) = origins().await;
    let weight = |index: usize| json!({ "load_balancing_weight": index + 1 });
    let bounded = json!({ "consistent_hashing_lb_config": { "hash_balance_factor": 130 } });
    let clusters = [
        cluster(
            "ring",
            flat(&ports, weight),
            json!({
                "lb_policy": "RING_HASH", "common_lb_config": bounded,
            }),
        ),
        cluster(
            "maglev",
            flat(&ports, |_| json!({})),
            policy(MAGLEV, bounded),
        ),
    ];
    let Some(pair) = pair(&http(vec![any_host(routes())]), &clusters).await else {
        return;
    };
    let counts = || origins.iter().map(Origin::requests).collect::<Vec<_>>();
    let mut led = Vec::new();
    for One { port, proxy, .. } in &pair {
        for (name, key) in [("ring", 1), ("ring", 2), ("maglev", 1), ("maglev", 3)] {
            let mut under_way = JoinSet::new();
            let mut hosts = Vec::new();
            for _ in 0..20 {
                let before = counts();
                // Longer than the test.
                let request = header(asked("/key", name, key), "x-origin-delay-ms", "600000");
                under_way.spawn(once(port.number(), request));
                let host = eventually("a request reaches an origin", async || {
                    let now = counts();
                    (0..HOSTS).find(|host| now[*host] > before[*host])
                });
                hosts.push(host.await);
            }
            led.push(hosts);
            under_way.shutdown().await;
            let active = format!("cluster.{name}.upstream_rq_active");
            proxy
                .admin()
                .stat_until(&active, |active| active == 0)
                .await;
        }
    }
    let (expected, found) = led.split_at(led.len() / 2);
    assert_eq!(expected, found);
    let moved = |hosts: &Vec<usize>| hosts.iter().any(|host| *host != hosts[0]);
    assert!(expected.iter().all(moved), "{expected:?}");
}

/// Clients at several addresses, by the TCP proxy.
#[tokio::test]
async fn a_client_is_tied_to_the_same_host() {
    let mut origins = Vec::new();
    for index in 0..HOSTS {
        origins.push(Origin::says(&format!("origin {index}")).await);
    }
    let ports: Vec<u16> = origins.iter().map(Origin::port).collect();
    let by_client = json!({ "consistent_hashing_lb_config": { "hash_policy": [
        { "connection_properties": { "source_ip": true } },
    ]}});
    let ring = cluster(
        "ring",
        flat(&ports, |_| json!({})),
        json!({ "lb_policy": "RING_HASH" }),
    );
    let own = cluster(
        "own",
        flat(&ports, |_| json!({})),
        policy(MAGLEV, by_client),
    );
    let hashed = json!({ "typed_config": { "hash_policy": [{ "source_ip": {} }] } });
    for filter in [with(tcp("tcp", "ring"), hashed), tcp("tcp", "own")] {
        let Some([envoy, nuncio]) = pair(&filter, &[ring.clone(), own.clone()]).await else {
            return;
        };
        for last in 1..20 {
            let from = Ipv4Addr::new(127, 0, last, last);
            let expected = told(from, &envoy.port).await;
            assert_eq!(expected, told(from, &nuncio.port).await, "{from}");
        }
    }
}

/// What the origin says to a client at this address.
async fn told(from: Ipv4Addr, port: &Port) -> String {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("a loopback address");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
    let mut stream = socket.connect(to).await.expect("a connection");
    stream.shutdown().await.expect("nothing to say");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("text");
    text
}
