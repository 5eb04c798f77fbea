//! One stream of an HTTP/2 connection.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::Reason;
use http_body::Body;

use super::{Http2Body, request::Asked, shared::Shared, state::State, tunnel::StreamIo};
use crate::{
    http::{
        RequestBody, ResponseBody,
        body::ClientBody,
        handle::{Response, handle},
        interim::{Continue, Interim},
        request::expects_continue,
        session::Session,
        stats::http_stats,
        upgrade::{self, Tunnel},
    },
    net::http2::stats::http2_stats,
    overload::Timer,
};

/// Serves one request. When the stream is reset or its connection ends it is dropped,
/// and whatever is under way for it ends too.
pub(super) async fn serve(
    session: Rc<Session>,
    shared: Rc<Shared>,
    state: Rc<State>,
    asked: Asked,
) {
    let _active = Active::new(shared.clone());
    let Asked {
        mut head, protocol, ..
    } = asked;
    let protocol = protocol.as_deref().map(String::from_utf8_lossy);
    // What goes through a tunnel is no body: it waits until there is one.
    let tunnel = upgrade::from_extended_connect(&mut head, protocol.as_deref());
    let body = match tunnel || state.received.get() {
        true => RequestBody::empty(),
        false => {
            let waits =
                expects_continue(&head.headers) && !session.current().manager().proxy_100_continue;
            state.told.set(Continue::awaited(waits));
            let body = Http2Body::new(shared.clone(), state.clone());
            RequestBody::new(ClientBody::Http2(body), true)
        }
    };
    let client = Interim::Http2(&shared, &state);
    let response = handle(session.clone(), head, body, &client).await;
    let Ok(Response {
        head,
        mut body,
        flush_timeout,
    }) = response
    else {
        return shared.reset(&state, Reason::INTERNAL_ERROR);
    };
    state.told.take().count(&session);
    if tunnel && let Some(tunnel) = body.take_tunnel() {
        shared.head(&state, head.status, head.headers.iter(), false);
        let client = StreamIo::new(shared.clone(), state.clone());
        // Apart, so that the others do not hold a place for it.
        Box::pin(carry(tunnel, client)).await;
        return;
    }
    let over = body.is_end_stream();
    shared.head(&state, head.status, head.headers.iter(), over);
    drop(head);
    if !over {
        let mut sending = Sending {
            session,
            shared,
            state,
            flush_timeout,
            rest: Bytes::new(),
            blocked: None,
        };
        poll_fn(|cx| sending.poll(cx, &mut body)).await;
    }
}

/// Carries what goes through a tunnel. One that has to be cut ends as the
/// connection of a CONNECT does that is cut (RFC 9113, 8.5).
async fn carry(tunnel: Tunnel, mut client: StreamIo) {
    if tunnel.run(&mut client).await.is_err() {
        client.reset(Reason::CONNECT_ERROR);
    }
}

/// A response's body on its way out.
struct Sending {
    session: Rc<Session>,
    shared: Rc<Shared>,
    state: Rc<State>,
    /// [`Response::flush_timeout`].
    flush_timeout: Option<Duration>,
    /// What was taken from the body and found no room.
    rest: Bytes,
    /// Since when there has been no room.
    blocked: Option<Instant>,
}

impl Sending {
    fn poll(&mut self, cx: &mut Context<'_>, body: &mut ResponseBody) -> Poll<()> {
        let Self { shared, state, .. } = self;
        loop {
            // The next piece is asked for when there is room for it.
            let Poll::Ready(room) = shared.poll_room(state) else {
                return self.poll_blocked(body.is_end_stream());
            };
            self.blocked = None;
            if self.rest.is_empty() {
                match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    None => {
                        shared.data(state, Bytes::new(), true);
                        return Poll::Ready(());
                    }
                    Some(Err(_)) => {
                        shared.reset(state, Reason::INTERNAL_ERROR);
                        return Poll::Ready(());
                    }
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => self.rest = data,
                        Err(frame) => {
                            let trailers = frame.into_trailers().unwrap_or_default();
                            shared.trailers(state, &trailers);
                            return Poll::Ready(());
                        }
                    },
                }
            }
            let part = self.rest.split_to(room.min(self.rest.len()));
            let over = self.rest.is_empty() && body.is_end_stream();
            if !part.is_empty() || over {
                shared.data(state, part, over);
            }
            if over {
                return Poll::Ready(());
            }
        }
    }

    /// A client that takes nothing for a while is given up. `whole`: all of the body is
    /// here.
    fn poll_blocked(&mut self, whole: bool) -> Poll<()> {
        let managed = self.session.current();
        let manager = managed.manager();
        let limit = match whole {
            true => self.flush_timeout,
            false => manager.timeouts.stream_idle,
        };
        let Some(limit) = limit else {
            return Poll::Pending;
        };
        let timers = &managed.chain().listener.overload.reduce_timeouts;
        let limit = timers.scale(Timer::StreamFlush, limit);
        let since = *self.blocked.get_or_insert_with(Instant::now);
        ready!(self.session.alarms().ask(since + limit));
        match whole {
            true => self.shared.stats.inc(http2_stats::tx_flush_timeout),
            false => manager.stats.inc(http_stats::downstream_rq_idle_timeout),
        }
        self.shared.reset(&self.state, Reason::INTERNAL_ERROR);
        Poll::Ready(())
    }
}

/// A stream in the stats, for as long as it lives.
struct Active(Rc<Shared>);

impl Active {
    fn new(shared: Rc<Shared>) -> Self {
        let stats = &shared.stats;
        stats.gauge_add(http2_stats::streams_active, 1);
        Self(shared)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let stats = &self.0.stats;
        stats.gauge_sub(http2_stats::streams_active, 1);
    }
}
