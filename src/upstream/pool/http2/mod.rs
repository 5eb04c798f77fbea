//! A shared HTTP/2 connection to a host.

mod exchange;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};

use super::{ConnectError, Pool, connection::ConnectionFacts, io::Io};
use crate::{
    model::cluster::HttpOptions,
    net::http2::{Watched, stats::http2_stats, until_silent},
    upstream::{WorkerCluster, stats::cluster_stats},
};

pub use exchange::{Http2Error, Http2Exchange};

/// Bytes of a request that may wait for the connection to write them.
const SEND_BUFFER: usize = 400 * 1024;

/// An HTTP/2 connection, driven by a task of its own.
#[derive(Debug)]
pub struct Http2Connection {
    sender: SendRequest<Bytes>,
    /// What is known and counted.
    pub facts: ConnectionFacts,
    idle_since: Cell<Instant>,
    /// Streams the host allows at a time.
    offered: Rc<Cell<u32>>,
    /// Takes no more requests.
    closing: Rc<Cell<bool>>,
}

impl Http2Connection {
    pub(super) async fn handshake(
        io: Io,
        facts: ConnectionFacts,
    ) -> Result<Rc<Self>, ConnectError> {
        let options = facts.options();
        let stats = facts.cluster().http2_stats().clone();
        let limits = options.http2.limits.clone();
        let io = Watched::new(io, limits, stats.clone());
        let (sender, mut connection) = builder(options, facts.cluster().buffered())
            .handshake(io)
            .await
            .map_err(|error| ConnectError::Handshake(error.to_string().into()))?;
        facts
            .cluster()
            .stats
            .inc(cluster_stats::upstream_cx_http2_total);
        let keepalive = options.http2.keep_alive.clone();
        let pings = connection.ping_pong();
        let closing = Rc::new(Cell::new(false));
        let offered = Rc::new(Cell::new(allowed(connection.max_concurrent_send_streams())));
        let shared = Rc::new(Self {
            sender,
            facts,
            idle_since: Cell::new(Instant::now()),
            offered: offered.clone(),
            closing: closing.clone(),
        });
        let weak = Rc::downgrade(&shared);
        tokio::task::spawn_local(async move {
            let mut connection = pin!(connection);
            let mut silent = pin!(until_silent(
                pings,
                keepalive.as_ref().and_then(|k| k.interval),
                keepalive.map_or(Duration::ZERO, |k| k.timeout),
            ));
            poll_fn(|cx| {
                // How it ends shows at each of its streams.
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                offered.set(allowed(connection.max_concurrent_send_streams()));
                silent
                    .as_mut()
                    .poll(cx)
                    .map(|()| stats.inc(http2_stats::keepalive_timeout))
            })
            .await;
            closing.set(true);
            if let Some(connection) = weak.upgrade() {
                connection.facts.closed_by_host();
            }
        });
        Ok(shared)
    }

    /// A handle to send one request with.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Whether it takes no more requests.
    pub fn is_closed(&self) -> bool {
        self.closing.get()
    }

    /// The host said that it takes no more requests.
    pub fn went_away(&self) {
        self.closing.set(true);
    }

    /// Whether it takes more requests, at once or when some have ended. One that has
    /// had enough closes with its last stream, for then nobody holds a sender.
    pub(super) fn takes_more(&self, now: Instant) -> bool {
        if !self.is_closed() && !self.facts.may_go_on(now, self.facts.options()) {
            self.close_when_idle();
        }
        !self.is_closed()
    }

    /// Whether another stream may be opened.
    pub(super) fn has_room(&self) -> bool {
        let limit = self.facts.options().http2.max_concurrent_streams;
        self.facts.active() < limit.min(self.offered.get())
    }

    /// Counts a stream that has ended.
    pub fn release(&self) {
        self.facts.end();
        self.idle_since.set(Instant::now());
    }

    /// Whether it has been without a stream for so long that it has to be closed.
    pub(super) fn has_rested_enough(&self, now: Instant) -> bool {
        let limit = self.facts.options().idle_timeout;
        let rested = now.saturating_duration_since(self.idle_since.get());
        let enough = self.facts.active() == 0 && limit.is_some_and(|limit| rested >= limit);
        if enough {
            let stats = &self.facts.cluster().stats;
            stats.inc(cluster_stats::upstream_cx_idle_timeout);
            self.close_when_idle();
        }
        enough
    }

    /// Takes no more requests.
    pub(super) fn close_when_idle(&self) {
        self.closing.set(true);
    }
}

/// A stream's place on its connection, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    connection: Rc<Http2Connection>,
    pool: Rc<Pool>,
    cluster: Rc<WorkerCluster>,
}

impl Place {
    /// Takes a place for a stream that begins.
    pub fn new(
        connection: Rc<Http2Connection>,
        pool: Rc<Pool>,
        cluster: Rc<WorkerCluster>,
    ) -> Self {
        connection.facts.begin();
        let stats = connection.facts.cluster().http2_stats();
        stats.gauge_add(http2_stats::streams_active, 1);
        Self {
            connection,
            pool,
            cluster,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &Http2Connection {
        &self.connection
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let stats = self.connection.facts.cluster().http2_stats();
        stats.gauge_sub(http2_stats::streams_active, 1);
        self.connection.release();
        self.pool.serve_waiting(&self.cluster);
    }
}

fn builder(options: &HttpOptions, buffer: usize) -> Builder {
    let http2 = &options.http2;
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(http2.stream_window)
        .initial_connection_window_size(http2.connection_window)
        .max_header_list_size(options.max_response_headers_kb * 1024)
        .max_concurrent_streams(http2.max_concurrent_streams)
        .max_send_buffer_size(SEND_BUFFER.min(buffer));
    if let Some(size) = http2.hpack_table_size {
        builder.header_table_size(size);
    }
    builder
}

fn allowed(streams: usize) -> u32 {
    u32::try_from(streams).unwrap_or(u32::MAX)
}
