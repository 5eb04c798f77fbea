//! A client of the admin server.

use std::net::SocketAddr;

use serde_json::Value;

use super::client::{self, Failure, Reply};
use super::eventually;

/// The admin server of one proxy.
#[derive(Clone, Debug)]
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    /// A client for the server at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// One GET.
    pub async fn get(&self, path: &str) -> Result<Reply, Failure> {
        let request = client::request("GET", "admin", path);
        client::once(self.address.port(), request).await
    }

    /// One POST without a body.
    pub async fn post(&self, path: &str) -> Result<Reply, Failure> {
        let request = client::request("POST", "admin", path);
        client::once(self.address.port(), request).await
    }

    /// The text of a page that must be there.
    pub async fn text(&self, path: &str) -> String {
        let reply = self.get(path).await.expect("the admin server answers");
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.text()
    }

    /// The JSON of a page that must be there.
    pub async fn json(&self, path: &str) -> Value {
        let text = self.text(path).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}\n{text}"))
    }

    /// A counter or gauge by its full name; `None` when it does not exist.
    pub async fn stat(&self, name: &str) -> Option<u64> {
        let text = self
            .text(&format!("/stats?filter=^{}$", escape(name)))
            .await;
        text.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            (found == name).then(|| value.parse().expect("a number"))
        })
    }

    /// Waits until a stat satisfies `accept`, and returns its value.
    pub async fn stat_until(&self, name: &str, accept: impl Fn(u64) -> bool) -> u64 {
        eventually(name, || async {
            self.stat(name).await.filter(|value| accept(*value))
        })
        .await
    }

    /// Waits until a counter has reached `least`.
    pub async fn stat_reaches(&self, name: &str, least: u64) -> u64 {
        self.stat_until(name, |value| value >= least).await
    }
}

/// Stat names hold dots only as characters to escape in a regular expression.
fn escape(name: &str) -> String {
    name.replace('.', "\\.")
}
