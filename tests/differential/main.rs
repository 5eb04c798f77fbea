//! The same random requests through the real Envoy and through nuncio, under
//! the same generated configuration: status, headers, body and what the origin
//! saw must be equal.
//!
//! Runs where `NUNCIO_ORACLE_ENVOY` names an Envoy binary, and is skipped with
//! a message elsewhere. `NUNCIO_DIFFERENTIAL_SEED` and
//! `NUNCIO_DIFFERENTIAL_ROUNDS` choose other configurations, and more of them.

#[path = "../common/mod.rs"]
mod common;

mod compare;
mod generate;
mod random;

use common::client::{H1, H2, Outgoing, Reply};
use common::config::{bootstrap, cluster, http_with, http2_upstream, listener};
use common::{Home, Origin, Port, Program, Proxy, Value, with};
use random::Random;

/// Configurations in one run.
const ROUNDS: u64 = 12;
/// Requests under each configuration.
const REQUESTS: usize = 120;
/// More differences than this add nothing to a report.
const REPORTED: usize = 12;

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
    let mut report = Vec::new();
    let mut requests = 0;
    for round in seed..seed + rounds {
        let mut random = Random::new(round);
        let pair = Pair::start(&envoy, &mut random).await;
        let mut differences = 0;
        for _ in 0..REQUESTS {
            let request = generate::request(&mut random);
            let http2 = random.chance(25);
            requests += 1;
            if let Some(difference) = pair.differs(request, http2).await {
                differences += 1;
                if report.len() < REPORTED {
                    report.push(format!("seed {round}: {difference}"));
                }
            }
        }
        if differences > 0 {
            report.push(format!(
                "seed {round}: {differences} differences; the connection manager was\n{}",
                serde_json::to_string(&pair.manager).expect("JSON")
            ));
        }
    }
    println!("{requests} requests under {rounds} configurations from seed {seed}");
    assert!(report.is_empty(), "{}", report.join("\n\n"));
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
    _proxy: Proxy,
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

    /// What the two did differently with one request.
    async fn differs(&self, request: Outgoing, http2: bool) -> Option<String> {
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
        Some(format!("{shown}\n{difference}"))
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
            _proxy: proxy,
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
