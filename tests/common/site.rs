//! The smallest whole: one HTTP listener, its clusters, a running proxy.

use super::client::{self, Failure, H1, H2, Outgoing, Reply};
use super::config::{any_host, bootstrap, http, http_with, listener, with};
use super::{Admin, Home, Port, Proxy, Value, json};

/// A proxy with one static HTTP listener.
#[derive(Debug)]
pub struct Site {
    pub proxy: Proxy,
    pub port: Port,
    pub home: Home,
}

impl Site {
    /// One virtual host for every domain, with these routes.
    pub async fn routes(routes: Vec<Value>, clusters: Vec<Value>) -> Self {
        Self::hosts(vec![any_host(routes)], clusters).await
    }

    /// These virtual hosts.
    pub async fn hosts(virtual_hosts: Vec<Value>, clusters: Vec<Value>) -> Self {
        Self::filter(http(virtual_hosts), clusters).await
    }

    /// These routes under a connection manager with these fields besides.
    pub async fn manager(fields: Value, routes: Vec<Value>, clusters: Vec<Value>) -> Self {
        let usual = json!({ "route_config": { "virtual_hosts": [any_host(routes)] } });
        Self::filter(http_with(with(usual, fields)), clusters).await
    }

    /// This network filter.
    pub async fn filter(filter: Value, clusters: Vec<Value>) -> Self {
        Self::with_args(filter, clusters, &[]).await
    }

    /// This network filter, and more arguments for the command line.
    pub async fn with_args(filter: Value, clusters: Vec<Value>, args: &[&str]) -> Self {
        let (home, port) = (Home::new(), Port::free());
        let listeners = vec![listener("main", port.number(), filter)];
        let proxy = Proxy::start(&home, &bootstrap(listeners, clusters), args).await;
        Self { proxy, port, home }
    }

    /// A GET for example.com that must be answered.
    pub async fn get(&self, path: &str) -> Reply {
        client::get(self.port.number(), path).await
    }

    /// A GET for a named host that must be answered.
    pub async fn get_from(&self, host: &str, path: &str) -> Reply {
        client::get_from(self.port.number(), host, path).await
    }

    /// One request on a connection of its own, which must be answered.
    pub async fn send(&self, request: Outgoing) -> Reply {
        self.try_send(request).await.expect("a response")
    }

    /// One request on a connection of its own.
    pub async fn try_send(&self, request: Outgoing) -> Result<Reply, Failure> {
        client::once(self.port.number(), request).await
    }

    /// A new HTTP/1 connection.
    pub async fn http1(&self) -> H1 {
        H1::connect(self.port.number()).await.expect("a connection")
    }

    /// A new HTTP/2 connection.
    pub async fn http2(&self) -> H2 {
        H2::connect(self.port.number()).await.expect("a connection")
    }

    /// The admin server.
    pub fn admin(&self) -> &Admin {
        self.proxy.admin()
    }
}
