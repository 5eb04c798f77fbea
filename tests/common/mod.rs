//! The harness of the end-to-end tests: it starts the real binary on free
//! ports in a directory of its own, with real origins behind it and real
//! clients in front.
//!
//! The proxy under test is nuncio, unless `NUNCIO_TEST_BINARY` names another
//! one. Running the same tests against Envoy shows whether a test asks for
//! Envoy's behaviour or for one that nuncio adds.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses its own part of the harness"
)]

pub mod admin;
pub mod client;
pub mod config;
pub mod home;
pub mod origin;
pub mod ports;
pub mod proxy;
pub mod site;
pub mod tls;

use std::future::Future;
use std::time::{Duration, Instant};

pub use admin::Admin;
pub use client::{H1, H2, Reply, Seen, get};
pub use config::with;
pub use home::Home;
pub use origin::Origin;
pub use ports::Port;
pub use proxy::{Program, Proxy};
pub use serde_json::{Value, json};
pub use site::Site;

/// How long anything that should happen at once may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Asks again every few milliseconds until `probe` answers `Some`.
///
/// # Panics
/// When [`DEADLINE`] passes first; `what` says what was waited for.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "waited {DEADLINE:?} in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
