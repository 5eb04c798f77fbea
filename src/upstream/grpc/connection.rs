//! One HTTP/2 connection, shared by the calls to a host.

use std::{
    cell::Cell,
    future::Future,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tonic::body::Body;

use crate::{
    digest::Digest,
    model::cluster::Cluster,
    net::LocalExecutor,
    upstream::{
        Alpn, Endpoint,
        pool::{ConnectError, ConnectionFacts, ConnectionPermit, Wire, connect},
        stats::cluster_stats,
    },
};

/// A connection, driven by a task that ends with it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Body>,
    facts: Rc<ConnectionFacts>,
    /// What it looks like on the wire: see [`Cluster::wire_identity`], and [`Wire`].
    wire: (Digest, Wire),
    over: Rc<Cell<bool>>,
}

impl Connection {
    /// Connects and shakes hands.
    pub(super) async fn make(
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        permit: ConnectionPermit,
    ) -> Result<Self, ConnectError> {
        let wire = Wire::new(endpoint, Alpn::Http2, None);
        let (io, info) = connect(cluster, endpoint, &wire).await?;
        let facts = ConnectionFacts::new(cluster.clone(), endpoint.host.clone(), info, permit);
        let facts = Rc::new(facts);
        let options = &facts.options().http2;
        let mut builder = Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_header_list_size(facts.options().max_response_headers_kb * 1024);
        if let Some(size) = options.hpack_table_size {
            builder.header_table_size(size);
        }
        if let Some(keep_alive) = &options.keep_alive {
            builder
                .keep_alive_interval(keep_alive.interval)
                .keep_alive_timeout(keep_alive.timeout);
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| ConnectError::Handshake(error.to_string().into()))?;
        cluster.stats.inc(cluster_stats::upstream_cx_http2_total);
        let over = Rc::new(Cell::new(false));
        let (ended, counted) = (over.clone(), facts.clone());
        tokio::task::spawn_local(async move {
            // How it ends shows at each of its calls.
            drop(connection.await);
            ended.set(true);
            counted.closed_by_host();
        });
        Ok(Self {
            sender,
            facts,
            wire: (cluster.wire_identity, wire),
            over,
        })
    }

    /// Whether a call may use it.
    pub(super) fn fits(&self, cluster: &Cluster, endpoint: &Endpoint) -> bool {
        let wire = (
            cluster.wire_identity,
            Wire::new(endpoint, Alpn::Http2, None),
        );
        self.wire == wire && !self.is_over()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.get() || self.sender.is_closed()
    }

    pub(super) fn sender(&self) -> Sender {
        Sender(self.sender.clone())
    }

    /// Counts a call.
    pub(super) fn begin(&self) -> Call {
        self.facts.begin();
        Call(self.facts.clone())
    }
}

/// A call under way, as the connection counts it.
#[derive(Debug)]
pub(super) struct Call(Rc<ConnectionFacts>);

impl Call {
    pub(super) fn succeeded(&self, succeeded: bool) {
        if !succeeded {
            let stats = &self.0.cluster().stats;
            stats.inc(cluster_stats::upstream_rq_rx_reset);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Sends one request over a connection: what tonic's client is made of.
#[derive(Clone, Debug)]
pub struct Sender(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
