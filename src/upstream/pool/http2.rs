//! A shared HTTP/2 connection to a host.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{ConnectError, connection::ConnectionFacts, io::Io};
use crate::{
    http::{BodyAborted, RequestBody},
    net::LocalExecutor,
    upstream::stats::cluster_stats,
};

/// A request's body, shared between the stream that may have to send it again
/// and the connection that sends it.
#[derive(Debug)]
pub struct SharedBody(pub Rc<RefCell<RequestBody>>);

impl Body for SharedBody {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().size_hint()
    }
}

/// An HTTP/2 connection, driven by a task of its own.
#[derive(Debug)]
pub struct Http2Connection {
    sender: SendRequest<SharedBody>,
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
        let options = &facts.options().http2;
        let mut builder = Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_header_list_size(facts.options().max_response_headers_kb * 1024)
            .max_concurrent_streams(options.max_concurrent_streams);
        if let Some(size) = options.hpack_table_size {
            builder.header_table_size(size);
        }
        if let Some(keep_alive) = &options.keep_alive {
            builder
                .keep_alive_interval(keep_alive.interval)
                .keep_alive_timeout(keep_alive.timeout);
        }
        let (sender, mut connection) = builder
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| ConnectError::Handshake(error.to_string().into()))?;
        facts
            .cluster()
            .stats
            .inc(cluster_stats::upstream_cx_http2_total);
        let closing = Rc::new(Cell::new(false));
        let offered = Rc::new(Cell::new(u32::MAX));
        let shared = Rc::new(Self {
            sender,
            facts,
            idle_since: Cell::new(Instant::now()),
            offered: offered.clone(),
            closing: closing.clone(),
        });
        let weak = Rc::downgrade(&shared);
        tokio::task::spawn_local(async move {
            // How it ends shows at each of its streams.
            poll_fn(|cx| {
                let over = Pin::new(&mut connection).poll(cx).map(drop);
                let streams = connection.current_max_send_streams();
                offered.set(u32::try_from(streams).unwrap_or(u32::MAX));
                over
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
    pub fn sender(&self) -> SendRequest<SharedBody> {
        self.sender.clone()
    }

    /// Whether it takes no more requests.
    pub fn is_closed(&self) -> bool {
        self.closing.get() || self.sender.is_closed()
    }

    /// Whether another stream may be opened.
    pub(super) fn has_room(&self) -> bool {
        let limit = self.facts.options().http2.max_concurrent_streams;
        self.facts.active() < limit.min(self.offered.get())
            && self.facts.may_go_on(Instant::now(), self.facts.options())
    }

    /// Counts a stream that has ended.
    pub fn release(&self) {
        self.facts.end();
        self.idle_since.set(Instant::now());
    }

    pub(super) fn is_idle_for_long(&self, now: Instant) -> bool {
        let limit = self.facts.options().idle_timeout;
        self.facts.active() == 0
            && limit
                .is_some_and(|limit| now.saturating_duration_since(self.idle_since.get()) >= limit)
    }

    /// Takes no more requests. The connection closes when the last stream ends,
    /// for then nobody holds a sender.
    pub(super) fn close_when_idle(&self) {
        self.closing.set(true);
    }
}
