//! The same random requests through the real Envoy and through nuncio, under
//! the same generated configuration: status, headers, body and what the origin
//! saw must be equal.
//!
//! Runs where `NUNCIO_ORACLE_ENVOY` names an Envoy binary, and is skipped with
//! a message elsewhere. `NUNCIO_DIFFERENTIAL_SEED` and
//! `NUNCIO_DIFFERENTIAL_ROUNDS` choose other configurations, and more of them.

#[path = "../common/mod.rs"]
mod common;

mod chains;
mod compare;
mod generate;
mod hashing;
mod http1;
mod random;
mod raw;
mod subsets;
mod tls;

use std::collections::BTreeMap;

use common::client::{H1, H2, Outgoing, Reply};
use common::config::{bootstrap, cluster, http_with, http2_upstream, listener};
use common::{Home, Origin, Port, Program, Proxy, Value, with};
use random::Random;

/// Configurations in one run.
const ROUNDS: u64 = 12;
/// Requests under each configuration.
const REQUESTS: usize = 120;
/// More differences than this add nothing to a report.
const REPORTED: usize = 40;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}"))
    })
}

#[tokio::test]
async fn envoy_and_nuncio_do_the_same() {
    let Some(envoy) = Program::oracle() else {
        println!("skipped: NUNCIO_ORACLE_ENVOY does not name an Envoy binary");
        return;
    };
    let seed = number("NUNCIO_DIFFERENTIAL_SEED", 1);
    let rounds = number("NUNCIO_DIFFERENTIAL_ROUNDS", ROUNDS);
    let mut report = Report::default();
    for round in seed..seed + rounds {
        let mut random = Random::new(round);
        let pair = Pair::start(&envoy, &mut random).await;
        for _ in 0..REQUESTS {
            let mut request = generate::request(&mut random);
            let http2 = random.chance(25);
            if http2 {
                // Known to differ: Envoy redirects by the `:scheme` of HTTP/2,
                // nuncio by what `x-forwarded-proto` says.
                request.headers_mut().remove("x-forwarded-proto");
            }
            report.requests += 1;
            if let Some((shown, difference)) = pair.differs(request, http2).await {
                report.note(difference, || {
                    let manager = serde_json::to_string(&pair.manager).expect("JSON");
                    format!("seed {round}: {shown}\n  under {manager}")
                });
            }
        }
    }
    println!(
        "{} requests under {rounds} configurations from seed {seed}",
        report.requests
    );
    assert!(report.kinds.is_empty(), "{}", report.text());
}

/// Differences by kind, each with how often it was met and the first example.
#[derive(Default)]
struct Report {
    requests: u64,
    kinds: BTreeMap<String, (u64, String)>,
}

impl Report {
    fn note(&mut self, kind: String, example: impl FnOnce() -> String) {
        self.kinds.entry(kind).or_insert_with(|| (0, example())).0 += 1;
    }

    fn text(&self) -> String {
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let mut text = format!("{} kinds of difference", kinds.len());
        for (kind, (count, example)) in kinds.into_iter().take(REPORTED) {
            text.push_str(&format!(
                "\n\n{count} times:\n{kind}\n  first with {example}"
            ));
        }
        text
    }
}

/// Both proxies with the same configuration and the same origins.
struct Pair {
    manager: Value,
    envoy: One,
    nuncio: One,
    _origins: Vec<Origin>,
}

struct One {
    port: Port,
    proxy: Proxy,
    _home: Home,
}

impl Pair {
    async fn start(envoy: &Program, random: &mut Random) -> Self {
        let origins = vec![
            Origin::http("one").await,
            Origin::http("two").await,
            Origin::http2("three").await,
        ];
        let clusters = vec![
            cluster("one", &[origins[0].port()]),
            cluster("two", &[origins[1].port()]),
            with(cluster("three", &[origins[2].port()]), http2_upstream()),
        ];
        let manager = generate::manager(random);
        Self {
            envoy: One::start(envoy, &manager, &clusters).await,
            nuncio: One::start(&Program::under_test(), &manager, &clusters).await,
            manager,
            _origins: origins,
        }
    }

    /// The request in words and what the two did differently with it.
    async fn differs(&self, request: Outgoing, http2: bool) -> Option<(String, String)> {
        let shown = format!(
            "{} {} {:?}{}",
            request.method(),
            request.uri(),
            request.headers(),
            if http2 { " over HTTP/2" } else { "" }
        );
        let (expected, found) = tokio::join!(
            self.envoy.send(request.clone(), http2),
            self.nuncio.send(request, http2)
        );
        let difference = compare::difference(&expected, &found)?;
        Some((shown, difference))
    }
}

impl One {
    async fn start(program: &Program, manager: &Value, clusters: &[Value]) -> Self {
        let (home, port) = (Home::new(), Port::free());
        let listeners = vec![listener("main", port.number(), http_with(manager.clone()))];
        let whole = bootstrap(listeners, clusters.to_vec());
        let arguments = ["--concurrency", "1", "-l", "warning"];
        let proxy = program.start(&home, &whole, &arguments).await;
        Self {
            port,
            proxy,
            _home: home,
        }
    }

    async fn send(&self, request: Outgoing, http2: bool) -> Result<Reply, String> {
        let port = self.port.number();
        let reply = if http2 {
            match H2::connect(port).await {
                Ok(connection) => connection.send(request).await,
                Err(error) => Err(error),
            }
        } else {
            match H1::connect(port).await {
                Ok(mut connection) => connection.send(request).await,
                Err(error) => Err(error),
            }
        };
        reply.map_err(|error| error.to_string())
    }
}
