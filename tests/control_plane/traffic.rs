//! Clients that notice whatever a change of configuration does to them.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::common::client::{self, Failure, H1, H2, Reply};

/// Time between two requests of a client.
const PAUSE: Duration = Duration::from_millis(5);

/// Keep-alive HTTP/1 and HTTP/2 clients, and one that opens a connection for
/// each request; they run until they are asked how it went.
pub struct Traffic {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    requests: AtomicU64,
    violations: Mutex<Vec<String>>,
}

impl Traffic {
    /// Starts it against a port.
    pub async fn start(port: u16) -> Self {
        let shared = Arc::<Shared>::default();
        let mut clients = JoinSet::new();
        for number in 0..4 {
            let mut connection = H1::connect(port).await.expect("an HTTP/1 connection");
            let shared = Arc::clone(&shared);
            clients.spawn(async move {
                while shared.goes_on().await {
                    let turn = shared.requests.load(Ordering::Relaxed);
                    shared.note("HTTP/1", number, connection.send(request(turn)).await);
                    if connection.is_closed() {
                        shared.violation(format!("HTTP/1 client {number}: closed"));
                        return;
                    }
                }
            });
        }
        for number in 0..2 {
            let connection = H2::connect(port).await.expect("an HTTP/2 connection");
            let shared = Arc::clone(&shared);
            clients.spawn(async move {
                while shared.goes_on().await {
                    let turn = shared.requests.load(Ordering::Relaxed);
                    shared.note("HTTP/2", number, connection.send(request(turn)).await);
                    if connection.is_closed() {
                        shared.violation(format!("HTTP/2 client {number}: closed"));
                        return;
                    }
                }
            });
        }
        let fresh = Arc::clone(&shared);
        clients.spawn(async move {
            while fresh.goes_on().await {
                let turn = fresh.requests.load(Ordering::Relaxed);
                fresh.note("new connection", 0, client::once(port, request(turn)).await);
            }
        });
        Self { shared, clients }
    }

    /// How many requests there were so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have been made.
    pub async fn more(&self, count: u64) {
        let until = self.requests() + count;
        while self.requests() < until && !self.clients.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When a request failed or a connection was closed.
    pub async fn lost_nothing(mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("no client panics");
        }
        let violations = self.shared.violations.lock().expect("no panic");
        assert!(
            violations.is_empty(),
            "{} of {} requests:\n{}",
            violations.len(),
            self.requests(),
            violations
                .iter()
                .take(20)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
}

/// Every third request has a body, every fifth is in flight for a while.
fn request(turn: u64) -> client::Outgoing {
    let mut request = client::request("GET", "example.com", "/");
    // For routes that are scoped.
    request = client::header(request, "x-scope", "a");
    if turn.is_multiple_of(5) {
        request = client::header(request, "x-origin-delay-ms", "60");
    }
    if turn.is_multiple_of(3) {
        *request.method_mut() = http::Method::POST;
        request = client::body(request, vec![b'p'; 20_000]);
    }
    request
}

impl Shared {
    async fn goes_on(&self) -> bool {
        tokio::time::sleep(PAUSE).await;
        !self.stopped.load(Ordering::Relaxed)
    }

    fn note(&self, kind: &str, number: usize, reply: Result<Reply, Failure>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match reply {
            Err(error) => self.violation(format!("{kind} {number}: {error}")),
            Ok(reply) if reply.status != 200 => {
                self.violation(format!(
                    "{kind} {number}: {} {}",
                    reply.status,
                    reply.text()
                ));
            }
            Ok(reply) if reply.header("connection") == "close" => {
                self.violation(format!("{kind} {number}: connection: close"));
            }
            Ok(_) => {}
        }
    }

    fn violation(&self, text: String) {
        self.violations.lock().expect("no panic").push(text);
    }
}
