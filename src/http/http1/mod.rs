//! Serving HTTP/1, driven by the one task of the connection.
//!
//! A request is read, handled and answered before the next one is looked at:
//! nothing is spawned, and nothing goes through a channel. While a request is
//! handled its body reads the socket in place, whenever the upstream wants more
//! of it; the response is asked for more as fast as the client takes it.

mod encode;
mod head;
mod refused;
mod sending;
mod wire;

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Poll, ready},
    time::Instant,
};

use http::{HeaderValue, Method, Version, header};
use http_body::Body;

pub use self::wire::{Http1Body, Wire};
use self::{
    encode::{Asked, ResponseFraming},
    head::{Framing, Head, HeadLimits},
    refused::Refused,
    sending::{Broken, Sending},
    wire::Begin,
};
use super::{
    RequestBody, ResponseBody,
    body::ClientBody,
    config::ConnectionManager,
    downstream::DownstreamIo,
    handle::{self, Response},
    interim::Interim,
    session::{Session, Watch},
    stats::http_stats,
    upgrade::Tunnel,
};
use crate::{codec::ResponseHead, net::Stream, overload::Timer};

/// How a request left its connection.
enum Next {
    /// Ready for another request.
    Request,
    /// Over, after all that was to be said.
    Close,
    /// Over: the client has left, or the response broke off.
    Cut,
    /// A tunnel.
    Tunnel(Tunnel),
}

/// Serves a connection to its end.
pub(super) async fn serve(
    session: &Rc<Session>,
    manager: &ConnectionManager,
    io: DownstreamIo<Stream>,
) {
    manager.http1_stats();
    let limits = HeadLimits {
        bytes: manager.max_request_head,
        headers: manager.common.max_headers,
        http_10: manager.http1.accept_http_10,
        wire: manager.http1.wire,
    };
    let buffer = session
        .current()
        .chain()
        .listener
        .per_connection_buffer_limit;
    let wire = Rc::new(RefCell::new(Wire::new(io, limits, buffer)));
    let served = {
        let server = Server {
            session,
            manager,
            wire: &wire,
        };
        let mut watch = pin!(Watch::new(session).run());
        let mut serving = pin!(server.run());
        poll_fn(|cx| {
            // First, for what it finds is for the other to follow.
            if watch.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            serving.as_mut().poll(cx)
        })
        .await
    };
    // A tunnel stays on the configuration it began with, and sees to its end itself.
    if let Some(tunnel) = served
        && let Some(wire) = Rc::into_inner(wire)
    {
        let mut client = wire.into_inner().into_tunnel();
        // Apart, so that the others do not hold a place for it.
        if Box::pin(tunnel.run(&mut client)).await.is_err() {
            client.get_ref().get_ref().reset_on_close();
        }
    }
}

struct Server<'a> {
    session: &'a Rc<Session>,
    /// The configuration in force when the connection began.
    manager: &'a ConnectionManager,
    wire: &'a Rc<RefCell<Wire>>,
}

impl Server<'_> {
    /// Serves request after request; gives the tunnel if one becomes of them.
    async fn run(&self) -> Option<Tunnel> {
        loop {
            let next = match self.next_request().await {
                None => return None,
                Some(Ok(head)) => self.one(*head).await,
                Some(Err(refused)) => self.refuse(refused).await,
            };
            match next {
                Next::Request => {}
                Next::Close => {
                    self.close().await;
                    return None;
                }
                Next::Cut => return None,
                Next::Tunnel(tunnel) => return Some(tunnel),
            }
        }
    }

    /// Waits for a request. `None` when the connection is over.
    async fn next_request(&self) -> Option<Result<Box<Head>, Refused>> {
        let mut began: Option<Instant> = None;
        poll_fn(|cx| {
            let mut wire = self.wire.borrow_mut();
            match wire.poll_head(cx) {
                Poll::Ready(Begin::Request(head)) => return Poll::Ready(Some(Ok(head))),
                Poll::Ready(Begin::Closed) => {
                    if wire.is_in_head() {
                        handle::left_in_head(self.session.clone());
                    }
                    return Poll::Ready(None);
                }
                Poll::Ready(Begin::Bad(bad)) => return Poll::Ready(Some(Err(Refused::Bad(bad)))),
                Poll::Pending => {}
            }
            if !wire.is_in_head() {
                if !self.session.is_closing() {
                    return Poll::Pending;
                }
                // One that comes yet is answered, and its response asks the client to go.
                ready!(self.session.alarm().poll(cx, self.session.idle_end()));
                return Poll::Ready(None);
            }
            let began = *began.get_or_insert_with(Instant::now);
            let managed = self.session.current();
            let manager = managed.manager();
            let timeouts = &manager.timeouts;
            let reduced = &managed.chain().listener.overload.reduce_timeouts;
            let idle = timeouts.stream_idle;
            let idle = idle.map(|limit| reduced.scale(Timer::StreamIdle, limit));
            let limits = [
                (timeouts.request_headers, Refused::HeadersTimeout),
                (idle, Refused::Idle),
                (timeouts.request, Refused::Timeout),
                (manager.common.max_stream_duration, Refused::Duration),
            ];
            let set = limits
                .iter()
                .filter_map(|(at, why)| at.map(|at| (at, *why)));
            let Some((limit, why)) = set.min_by_key(|(at, _)| *at) else {
                return Poll::Pending;
            };
            ready!(self.session.alarm().poll(cx, began + limit));
            Poll::Ready(Some(Err(why)))
        })
        .await
    }

    /// Handles a request and writes the response.
    async fn one(&self, head: Head) -> Next {
        let Head {
            parts,
            framing,
            keeps_alive,
            waits,
        } = head;
        let asked = Asked {
            version: parts.version,
            head: parts.method == Method::HEAD,
            names: self.manager.http1.wire.names,
        };
        if !keeps_alive {
            self.session.close();
        }
        // Where that is passed on, it is the host that answers.
        let waits = waits && !self.session.current().manager().proxy_100_continue;
        self.wire.borrow_mut().begin(framing, waits);
        let client = match asked.version {
            Version::HTTP_10 => Interim::Nowhere,
            _ => Interim::Http1(self.wire),
        };
        let body = match framing {
            Framing::Length(0) => RequestBody::empty(),
            framing => {
                let body = Http1Body::new(self.wire.clone(), framing);
                RequestBody::new(ClientBody::Http1(body), self.manager.http1.wire.trailers)
            }
        };
        let response = {
            let mut handled = pin!(handle::handle(self.session.clone(), parts, body, &client));
            poll_fn(|cx| match handled.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(response.ok()),
                Poll::Pending => self.wire.borrow_mut().poll_left(cx).map(|()| None),
            })
            .await
        };
        match response {
            Some(response) => self.respond(response, asked).await,
            None => Next::Cut,
        }
    }

    async fn respond(&self, response: Response, asked: Asked) -> Next {
        let told = self.wire.borrow_mut().take_told();
        told.count(self.session);
        let Response {
            mut head, mut body, ..
        } = response;
        if let Some(tunnel) = body.take_tunnel() {
            self.write_head(&mut head, ResponseFraming::None, None, asked);
            return match self.flush().await {
                Next::Cut => Next::Cut,
                _ => Next::Tunnel(tunnel),
            };
        }
        let length = body.size_hint().exact();
        let framing = ResponseFraming::of(head.status, asked, length);
        if framing == ResponseFraming::Close {
            self.session.close();
        }
        let closing = self.session.is_closing();
        match (closing, asked.version) {
            (true, _) => {
                let close = HeaderValue::from_static("close");
                head.headers.insert(header::CONNECTION, close);
            }
            (false, Version::HTTP_10) => {
                let keep = HeaderValue::from_static("keep-alive");
                head.headers.insert(header::CONNECTION, keep);
            }
            _ => {}
        }
        self.write_head(&mut head, framing, length, asked);
        // Of a body that nobody gets, nothing is asked.
        let wanted = (framing != ResponseFraming::None).then_some(framing);
        let mut sending = Sending::new(wanted, self.manager.http1.wire.trailers);
        let sent = poll_fn(|cx| sending.poll(cx, self, Pin::new(&mut body))).await;
        drop(body);
        match sent {
            Err(Broken) => Next::Cut,
            Ok(()) if closing || !self.wire.borrow().is_received() => Next::Close,
            Ok(()) => Next::Request,
        }
    }

    /// Writes what waits, as long as the client takes it.
    async fn flush(&self) -> Next {
        let mut sending = Sending::new(None, false);
        let mut nothing = pin!(ResponseBody::nothing());
        match poll_fn(|cx| sending.poll(cx, self, nothing.as_mut())).await {
            Ok(()) => Next::Close,
            Err(Broken) => Next::Cut,
        }
    }

    /// Answers what is no request.
    async fn refuse(&self, refused: Refused) -> Next {
        if let Some(counter) = refused.counter() {
            let managed = self.session.current();
            managed.manager().stats.inc(counter);
        }
        let asked = Asked {
            version: Version::HTTP_11,
            head: false,
            names: self.manager.http1.wire.names,
        };
        let response = handle::refuse(self.session.clone(), refused.reply());
        self.respond(response, asked).await
    }

    fn write_head(
        &self,
        head: &mut ResponseHead,
        framing: ResponseFraming,
        length: Option<u64>,
        asked: Asked,
    ) {
        let out = &mut self.wire.borrow_mut().outbound.head;
        encode::head(head, framing, length, asked, out);
    }

    fn has_room(&self) -> bool {
        self.wire.borrow().outbound.has_room()
    }

    /// Closes after the last response.
    async fn close(&self) {
        let (unread, tls) = {
            let wire = self.wire.borrow();
            (wire.has_unread(), wire.is_tls())
        };
        if !unread && !tls {
            return;
        }
        let told = poll_fn(|cx| self.wire.borrow_mut().poll_shutdown(cx)).await;
        let managed = self.session.current();
        let manager = managed.manager();
        let limit = manager.timeouts.delayed_close;
        if let Some(limit) = limit.filter(|_| unread && told.is_ok()) {
            // What is closed on unread bytes may lose its last response on the way.
            let read = poll_fn(|cx| self.wire.borrow_mut().poll_close(cx));
            if tokio::time::timeout(limit, read).await.is_err() {
                let name = http_stats::downstream_cx_delayed_close_timeout;
                manager.stats.inc(name);
            }
        }
    }
}
