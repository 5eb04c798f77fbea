//! Random filter chains and random connections: both proxies must take the same
//! listeners, and lead each connection to the same chain.
//!
//! Each chain is a TCP proxy to an origin that says the chain's name, so that
//! even what begins with TLS is answered in clear.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::common::config::{LISTENER, bootstrap, cluster, discovery, tcp, typed};
use crate::common::tls::client_hello;
use crate::common::{Home, Origin, Port, Program, Proxy, Value, eventually, json, with};
use crate::number;
use crate::random::Random;

/// Listeners under each seed.
const LISTENERS: usize = 40;
/// Connections to each listener that is accepted.
const CONNECTIONS: usize = 25;
const ROUNDS: u64 = 3;
/// How long a chain's name is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

const CHAINS: &[&str] = &["a", "b", "c", "d", "e", "f"];
/// Not `0.0.0.0/0`: beside a chain without a range, which is as good as that,
/// Envoy takes one or the other by chance.
const RANGES: &[(&str, u32)] = &[
    ("127.0.0.0", 8),
    ("127.0.0.1", 32),
    ("127.1.0.0", 16),
    ("127.1.2.0", 24),
    ("127.1.2.3", 32),
    ("10.0.0.0", 8),
    ("10.1.0.0", 16),
    ("10.1.2.3", 32),
    ("10.1.2.3", 8),
];
const SOURCES: &[&str] = &[
    "127.0.0.1",
    "127.1.2.3",
    "127.1.2.4",
    "127.1.9.9",
    "127.9.9.9",
];
const TOLD: &[&str] = &["10.1.2.3", "10.1.9.9", "10.9.9.9", "11.1.1.1", "127.0.0.1"];
const NAMES: &[&str] = &[
    "a.com",
    "b.a.com",
    "c.b.a.com",
    "*.a.com",
    "*.b.a.com",
    "*.com",
    "org",
    "*.org",
    "",
];
const ASKED: &[&str] = &[
    "a.com",
    "b.a.com",
    "c.b.a.com",
    "x.c.b.a.com",
    "b.com",
    "org",
    "z.org",
];
const PROTOCOLS: &[&str] = &["h2", "http/1.1", "http/1.0", "h2c", "x"];
const PORTS: &[u16] = &[1000, 1001, 2000];
const DIALED: &[&str] = &["127.0.0.1", "127.1.2.3", "127.1.2.4", "127.9.9.9"];

fn range(random: &mut Random) -> Value {
    let (prefix, length) = RANGES[random.below(RANGES.len())];
    json!({ "address_prefix": prefix, "prefix_len": length })
}

fn some<T>(random: &mut Random, mut one: impl FnMut(&mut Random) -> T) -> Vec<T> {
    (0..=random.below(2)).map(|_| one(random)).collect()
}

/// A `FilterChainMatch`; `port` is the listener's own.
fn rule(random: &mut Random, port: u16) -> Value {
    let mut rule = json!({});
    let mut set = |name: &str, value: Value| rule[name] = value;
    if random.chance(20) {
        set(
            "destination_port",
            match random.chance(70) {
                true => json!(port),
                false => json!(80),
            },
        );
    }
    if random.chance(25) {
        set("prefix_ranges", some(random, range).into());
    }
    if random.chance(35) {
        set(
            "server_names",
            some(random, |r| r.one_of(NAMES).to_owned()).into(),
        );
    }
    if random.chance(20) {
        set(
            "transport_protocol",
            random.one_of(&["tls", "raw_buffer", ""]).into(),
        );
    }
    if random.chance(20) {
        let protocols = some(random, |r| r.one_of(PROTOCOLS).to_owned());
        set("application_protocols", protocols.into());
    }
    if random.chance(20) {
        set("direct_source_prefix_ranges", some(random, range).into());
    }
    if random.chance(20) {
        set(
            "source_type",
            random
                .one_of(&["ANY", "EXTERNAL", "SAME_IP_OR_LOOPBACK"])
                .into(),
        );
    }
    if random.chance(30) {
        set("source_prefix_ranges", some(random, range).into());
    }
    if random.chance(20) {
        set(
            "source_ports",
            some(random, |r| PORTS[r.below(PORTS.len())]).into(),
        );
    }
    rule
}

fn action(random: &mut Random) -> Value {
    // One of them is no chain's.
    let name = random.one_of(&["a", "b", "c", "d", "e", "f", "none"]);
    json!({ "name": "x", "typed_config": typed("google.protobuf.StringValue", json!({ "value": name })) })
}

/// Without `keep_matching`, on which Envoy crashes here.
fn on_match(random: &mut Random, port: u16, depth: usize) -> Value {
    match depth > 0 && random.chance(40) {
        true => json!({ "matcher": matcher(random, port, depth - 1) }),
        false => json!({ "action": action(random) }),
    }
}

/// An input, and a text that it may have, of which the exact one is a part.
fn input(random: &mut Random, port: u16) -> (Value, Vec<String>) {
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let (name, texts): (&str, Vec<String>) = match random.below(9) {
        0 => ("DestinationIP", own(DIALED)),
        1 => ("DestinationPort", vec![port.to_string(), "80".to_owned()]),
        2 => ("SourceIP", own(&[SOURCES, TOLD].concat())),
        3 => ("SourcePort", PORTS.iter().map(u16::to_string).collect()),
        4 => ("DirectSourceIP", own(SOURCES)),
        5 => ("SourceType", own(&["local"])),
        6 => ("ServerName", own(ASKED)),
        7 => ("TransportProtocol", own(&["tls", "raw_buffer"])),
        _ => (
            "ApplicationProtocol",
            own(&["'h2'", "'http/1.1'", "'h2','http/1.1'", "'x'", "'http/1.0'"]),
        ),
    };
    let kind = format!("envoy.extensions.matching.common_inputs.network.v3.{name}Input");
    (
        json!({ "name": "x", "typed_config": typed(&kind, json!({})) }),
        texts,
    )
}

fn predicate(random: &mut Random, port: u16, depth: usize) -> Value {
    match random.below(if depth == 0 { 2 } else { 5 }) {
        0 | 1 => {
            let (input, texts) = input(random, port);
            let text = texts[random.below(texts.len())].clone();
            let part = text[..1 + random.below(text.len())].to_owned();
            let of_port = input.to_string().contains("PortInput");
            // The two proxies listen on ports of their own, so what holds for a part
            // of one need not for the other's.
            let of_own_port = input.to_string().contains("DestinationPortInput");
            let condition = match random.below(6) {
                1..=3 if of_own_port => json!({ "value_match": { "exact": text } }),
                1 => json!({ "value_match": { "prefix": part } }),
                2 => json!({ "value_match": { "suffix": text[text.len() - 1..] } }),
                3 => {
                    json!({ "value_match": { "contains": part.to_uppercase(), "ignore_case": true } })
                }
                4 => json!({ "custom_match": { "name": "x", "typed_config": typed(
                    "envoy.extensions.matching.input_matchers.ip.v3.Ip",
                    json!({ "cidr_ranges": some(random, range), "stat_prefix": "x" }),
                ) } }),
                // A hash of a port differs, as the ports of the two proxies do.
                5 if !of_port => json!({ "custom_match": { "name": "x", "typed_config": typed(
                    "envoy.extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing",
                    json!({ "threshold": random.below(4), "modulo": 3, "seed": "7" }),
                ) } }),
                _ => json!({ "value_match": { "exact": text } }),
            };
            json!({ "single_predicate": with(json!({ "input": input }), condition) })
        }
        2 => json!({ "not_matcher": predicate(random, port, depth - 1) }),
        n => {
            let both = [0, 1].map(|_| predicate(random, port, depth - 1));
            let name = if n == 3 { "or_matcher" } else { "and_matcher" };
            json!({ name: { "predicate": both } })
        }
    }
}

/// A `filter_chain_matcher`.
fn matcher(random: &mut Random, port: u16, depth: usize) -> Value {
    let mut matcher = match random.below(10) {
        0 => json!({}),
        1..4 => {
            let one = |random: &mut Random| {
                json!({
                    "predicate": predicate(random, port, 2),
                    "on_match": on_match(random, port, depth),
                })
            };
            json!({ "matcher_list": { "matchers": some(random, one) } })
        }
        kind => {
            let (mut input, texts) = input(random, port);
            let tree = match kind {
                4 | 5 => {
                    let chosen: BTreeSet<String> =
                        some(random, |r| texts[r.below(texts.len())].clone())
                            .into_iter()
                            .collect();
                    let map: serde_json::Map<String, Value> = chosen
                        .into_iter()
                        .map(|text| (text, on_match(random, port, depth)))
                        .collect();
                    json!({ "exact_match_map": { "map": map } })
                }
                6 => {
                    let chosen: BTreeSet<String> = (0..3)
                        .map(|_| {
                            let text = &texts[random.below(texts.len())];
                            text[..random.below(text.len() + 1)].to_owned()
                        })
                        .collect();
                    let map: serde_json::Map<String, Value> = chosen
                        .into_iter()
                        .map(|text| (text, on_match(random, port, depth)))
                        .collect();
                    json!({ "prefix_match_map": { "map": map } })
                }
                7 | 8 => {
                    if random.chance(80) {
                        let name = random.one_of(&["DestinationIP", "SourceIP", "DirectSourceIP"]);
                        let kind = format!(
                            "envoy.extensions.matching.common_inputs.network.v3.{name}Input"
                        );
                        input["typed_config"] = typed(&kind, json!({}));
                    }
                    let ranges: Vec<Value> = (0..1 + random.below(4))
                        .map(|_| {
                            json!({
                                "ranges": some(random, range),
                                "on_match": on_match(random, port, depth),
                                "exclusive": random.chance(30),
                            })
                        })
                        .collect();
                    let kind = "xds.type.matcher.v3.IPMatcher";
                    custom(typed(kind, json!({ "range_matchers": ranges })))
                }
                _ => {
                    if random.chance(80) {
                        let kind =
                            "envoy.extensions.matching.common_inputs.network.v3.ServerNameInput";
                        input["typed_config"] = typed(kind, json!({}));
                    }
                    let mut names = vec![
                        "a.com",
                        "b.a.com",
                        "*.a.com",
                        "*.b.a.com",
                        "*.com",
                        "*",
                        "org",
                    ];
                    let domains: Vec<Value> = (0..1 + random.below(3))
                        .map(|_| {
                            // Seldom one that is there already.
                            let index = random.below(names.len());
                            let name = match random.chance(97) {
                                true => names.remove(index),
                                false => names[index],
                            };
                            json!({
                                "domains": [name],
                                "on_match": on_match(random, port, depth),
                            })
                        })
                        .collect();
                    let kind = "xds.type.matcher.v3.ServerNameMatcher";
                    custom(typed(kind, json!({ "domain_matchers": domains })))
                }
            };
            json!({ "matcher_tree": with(json!({ "input": input }), tree) })
        }
    };
    if random.chance(30) {
        matcher["on_no_match"] = on_match(random, port, depth);
    }
    matcher
}

fn custom(config: Value) -> Value {
    json!({ "custom_match": { "name": "x", "typed_config": config } })
}

fn filter(name: &str, kind: &str) -> Value {
    let kind = format!("envoy.extensions.filters.listener.{name}.v3.{kind}");
    json!({ "name": name, "typed_config": typed(&kind, json!({})) })
}

/// A listener without its address, and whether it reads the PROXY protocol.
fn listener(random: &mut Random, name: &str, port: u16) -> (Value, bool) {
    let told = random.chance(50);
    let mut filters = Vec::new();
    if told {
        filters.push(filter("proxy_protocol", "ProxyProtocol"));
    }
    if random.chance(70) {
        filters.push(filter("tls_inspector", "TlsInspector"));
    }
    if random.chance(40) {
        filters.push(filter("http_inspector", "HttpInspector"));
    }
    let by_matcher = random.chance(50);
    let chain = |name: &str| json!({ "name": name, "filters": [tcp(name, name)] });
    let count = 1 + random.below(CHAINS.len());
    let chains = CHAINS[..count].iter().map(|name| match by_matcher {
        true => chain(name),
        false => with(
            chain(name),
            json!({ "filter_chain_match": rule(random, port) }),
        ),
    });
    let mut listener = json!({
        "name": name,
        "listener_filters": filters,
        "filter_chains": chains.collect::<Vec<_>>(),
        "listener_filters_timeout": "1s",
        "continue_on_listener_filters_timeout": true,
    });
    if by_matcher {
        listener["filter_chain_matcher"] = matcher(random, port, 2);
    }
    if random.chance(50) {
        listener["default_filter_chain"] = chain("default");
    }
    (listener, told)
}

/// What a client does.
#[derive(Clone, Debug)]
struct Attempt {
    from: &'static str,
    to: &'static str,
    told: Option<(&'static str, &'static str, u16)>,
    server_name: Option<&'static str>,
    protocols: Vec<&'static str>,
    tls: bool,
    http: &'static str,
}

impl Attempt {
    fn new(random: &mut Random, told: bool) -> Self {
        Self {
            from: random.one_of(SOURCES),
            to: random.one_of(DIALED),
            told: (told && random.chance(85)).then(|| {
                let port = PORTS[random.below(PORTS.len())];
                (random.one_of(TOLD), random.one_of(DIALED), port)
            }),
            server_name: random.chance(80).then(|| random.one_of(ASKED)),
            protocols: match random.chance(60) {
                true => some(random, |r| r.one_of(PROTOCOLS)),
                false => Vec::new(),
            },
            tls: random.chance(60),
            http: random.one_of(&["HTTP/1.1", "HTTP/1.0"]),
        }
    }

    /// The bytes it begins with; `port` is the one the client is told to want.
    fn bytes(&self, port: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some((source, destination, source_port)) = self.told {
            let line = format!("PROXY TCP4 {source} {destination} {source_port} {port}\r\n");
            bytes.extend(line.bytes());
        }
        if self.tls {
            bytes.extend(client_hello(self.server_name, &self.protocols));
        } else {
            bytes.extend(format!("GET / {}\r\nhost: a\r\n\r\n", self.http).bytes());
        }
        bytes
    }

    /// The name of the chain that answers; empty when the connection is closed.
    async fn make(&self, port: u16, bytes: &[u8]) -> String {
        let ip = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
        let exchange = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((ip(self.from), 0)))?;
            let mut stream = socket.connect((ip(self.to), port).into()).await?;
            stream.write_all(bytes).await?;
            let mut name = [0; 16];
            let length = stream.read(&mut name).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&name[..length]).into_owned())
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(name)) => name,
            // By a reset.
            Ok(Err(_)) => String::new(),
            Err(_) => "silence".to_owned(),
        }
    }
}

struct One {
    ports: Vec<Port>,
    proxy: Proxy,
    _home: Home,
}

impl One {
    /// A proxy with these listeners, on ports of its own, that takes those it likes.
    async fn start(program: &Program, origins: &[(&str, Origin)], seed: u64) -> (Self, Vec<Value>) {
        let home = Home::new();
        let ports: Vec<Port> = (0..LISTENERS).map(|_| Port::free()).collect();
        let listeners: Vec<Value> = ports
            .iter()
            .enumerate()
            .map(|(index, port)| {
                let (listener, _) = generated(seed, index, port.number());
                let address = json!({ "address": { "socket_address": {
                    "address": "0.0.0.0", "port_value": port.number(),
                } } });
                with(listener, address)
            })
            .collect();
        home.mv_value("lds.json", &discovery(LISTENER, listeners.clone()));
        let clusters = origins
            .iter()
            .map(|(name, origin)| cluster(name, &[origin.port()]))
            .collect();
        let lds = json!({
            "node": { "id": "x", "cluster": "x" },
            "dynamic_resources": { "lds_config": { "path_config_source": {
                "path": home.path("lds.json"),
            } } },
        });
        let whole = with(bootstrap(Vec::new(), clusters), lds);
        let arguments = ["--concurrency", "1", "-l", "warning"];
        let proxy = program.start(&home, &whole, &arguments).await;
        let started = Self {
            ports,
            proxy,
            _home: home,
        };
        (started, listeners)
    }

    /// The names of the listeners it has.
    async fn taken(&self) -> BTreeSet<String> {
        let admin = self.proxy.admin();
        eventually("the listeners", || async {
            let tried = admin.stat("listener_manager.lds.update_attempt").await?;
            (tried > 0).then_some(())
        })
        .await;
        let text = admin.text("/listeners").await;
        let names = text.lines().filter_map(|line| line.split_once("::"));
        names.map(|(name, _)| name.to_owned()).collect()
    }
}

/// The same listener for both, but for what is said of its port.
fn generated(seed: u64, index: usize, port: u16) -> (Value, bool) {
    let mut random = Random::new(seed.wrapping_mul(1000) + index as u64);
    listener(&mut random, &format!("listener-{index}"), port)
}

#[tokio::test]
async fn both_lead_connections_to_the_same_filter_chain() {
    let Some(envoy) = Program::oracle() else {
        println!("skipped: NUNCIO_ORACLE_ENVOY does not name an Envoy binary");
        return;
    };
    let first = number("NUNCIO_DIFFERENTIAL_SEED", 1);
    let rounds = number("NUNCIO_DIFFERENTIAL_CHAIN_ROUNDS", ROUNDS);
    let mut origins = Vec::new();
    for name in CHAINS.iter().chain(&["default"]) {
        origins.push((*name, Origin::says(name).await));
    }
    let mut differences: Vec<String> = Vec::new();
    let mut answers = BTreeMap::<String, usize>::new();
    let (mut taken, mut refused) = (0, 0);
    for seed in first..first + rounds {
        let (mut theirs, configured) = One::start(&envoy, &origins, seed).await;
        let (ours, _) = One::start(&Program::under_test(), &origins, seed).await;
        let (accepted, own) = (theirs.taken().await, ours.taken().await);
        for name in accepted.symmetric_difference(&own) {
            let who = if own.contains(name) {
                "nuncio"
            } else {
                "Envoy"
            };
            let index = configured
                .iter()
                .position(|c| c["name"] == **name)
                .expect("a listener");
            differences.push(format!(
                "seed {seed}: {who} alone takes {}",
                configured[index]
            ));
        }
        taken += accepted.len();
        refused += LISTENERS - accepted.len();
        for (index, listener) in configured.iter().enumerate() {
            let name = listener["name"].as_str().expect("a name");
            if !accepted.contains(name) || !own.contains(name) {
                continue;
            }
            let (their_port, our_port) = (theirs.ports[index].number(), ours.ports[index].number());
            let (_, told) = generated(seed, index, their_port);
            let mut random = Random::new(seed.wrapping_mul(77_777) + index as u64);
            let attempts: Vec<Attempt> = (0..CONNECTIONS)
                .map(|_| Attempt::new(&mut random, told))
                .collect();
            let outcomes = join_all(attempts.iter().map(|attempt| async move {
                let (to_them, to_us) = (attempt.bytes(their_port), attempt.bytes(our_port));
                tokio::join!(
                    attempt.make(their_port, &to_them),
                    attempt.make(our_port, &to_us),
                )
            }))
            .await;
            let by_source_port = listener.to_string().contains("SourcePortInput");
            for (attempt, (expected, found)) in attempts.iter().zip(outcomes) {
                if by_source_port && attempt.told.is_none() {
                    // Each connection has a port of its own.
                    continue;
                }
                *answers.entry(expected.clone()).or_default() += 1;
                if expected != found {
                    differences.push(format!(
                        "seed {seed}: {attempt:?}\n  Envoy {expected:?}, nuncio {found:?}\n  \
                         under {listener}"
                    ));
                }
            }
        }
        assert!(
            theirs.proxy.ended().is_none(),
            "Envoy died:\n{}",
            theirs.proxy.log()
        );
    }
    println!(
        "{taken} listeners taken, {refused} refused by Envoy; chains that answered: {answers:?}"
    );
    assert!(
        differences.is_empty(),
        "{} differences:\n\n{}",
        differences.len(),
        differences[..differences.len().min(10)].join("\n\n")
    );
}
