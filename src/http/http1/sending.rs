//! A response on its way to the client.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

use super::{
    Server,
    encode::{ResponseFraming, TooMuch},
    wire::Wire,
};
use crate::{
    codec::encode::last_chunk,
    http::{ResponseBody, stats::http_stats},
    net::Pipe,
    overload::Timer,
};

/// The response broke off, or the client does not take it.
pub struct Broken;

impl From<TooMuch> for Broken {
    fn from(_: TooMuch) -> Self {
        Self
    }
}

/// Counts a response that did not come to its end.
fn broken_off(server: &Server<'_>) -> Broken {
    let stats = &server.manager.stats;
    stats.inc(http_stats::downstream_rq_tx_reset);
    server.session.close();
    Broken
}

/// A response on its way to the client.
pub struct Sending {
    /// How the rest of the body is framed; `None` when nothing is left of it.
    framing: Option<ResponseFraming>,
    trailers: bool,
    /// A part of the body that goes from socket to socket, behind what else waits.
    pipe: Option<Pipe>,
    /// Since when the client has not taken a byte, and how many it had by then.
    blocked: Option<(Instant, u64)>,
}

impl Sending {
    /// The body of a response is to follow its head, framed like this; with `trailers`,
    /// if there are any. `None` is for what waits already.
    pub fn new(framing: Option<ResponseFraming>, trailers: bool) -> Self {
        Self {
            framing,
            trailers,
            pipe: None,
            blocked: None,
        }
    }

    /// Reads the body and writes it as the client takes it; ready when all is written.
    ///
    /// # Errors
    /// When the connection cannot go on.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        server: &Server<'_>,
        mut body: Pin<&mut ResponseBody>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let mut starved = false;
            while self.pipe.is_none()
                && let Some(framing) = self.framing.filter(|_| server.has_room())
            {
                if self
                    .poll_next(cx, server, framing, body.as_mut())?
                    .is_pending()
                {
                    starved = true;
                    break;
                }
            }
            let mut wire = server.wire.borrow_mut();
            match self.poll_write(cx, &mut wire) {
                Poll::Ready(Ok(())) => self.blocked = None,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken)),
                Poll::Pending => {
                    let sent = wire.sent();
                    drop(wire);
                    return self.poll_blocked(cx, server, sent);
                }
            }
            if self.framing.is_none() {
                return Poll::Ready(Ok(()));
            }
            if starved {
                return wire.poll_left(cx).map(|()| Err(Broken));
            }
        }
    }

    /// Takes the next part of the body, or its end.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        server: &Server<'_>,
        framing: ResponseFraming,
        mut body: Pin<&mut ResponseBody>,
    ) -> Poll<Result<(), Broken>> {
        let long = matches!(framing, ResponseFraming::Length(left) if left >= Pipe::MUCH as u64);
        if long && server.wire.borrow().takes_pipes() {
            match ready!(body.poll_pipe(cx)) {
                Some(Ok(pipe)) => {
                    self.framing = framing.after(pipe.held() as u64)?;
                    self.pipe = Some(pipe);
                    return Poll::Ready(Ok(()));
                }
                Some(Err(_)) => return Poll::Ready(Err(broken_off(server))),
                None => {}
            }
        }
        Poll::Ready(match ready!(body.poll_frame(cx)) {
            Some(Ok(frame)) => self.push(server, framing, frame),
            Some(Err(_)) => Err(broken_off(server)),
            None => self.finish(server, framing, None),
        })
    }

    /// Writes what waits, in its order.
    fn poll_write(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<io::Result<()>> {
        ready!(wire.poll_write(cx))?;
        if let Some(pipe) = &mut self.pipe {
            ready!(wire.poll_drain(cx, pipe))?;
            self.pipe = None;
        }
        Poll::Ready(Ok(()))
    }

    fn push(
        &mut self,
        server: &Server<'_>,
        framing: ResponseFraming,
        frame: Frame<Bytes>,
    ) -> Result<(), Broken> {
        match frame.into_data() {
            Ok(data) if data.is_empty() => Ok(()),
            Ok(data) => {
                let n = data.len() as u64;
                let chunked = framing == ResponseFraming::Chunked;
                server.wire.borrow_mut().outbound.push(data, chunked);
                self.framing = framing.after(n)?;
                Ok(())
            }
            Err(frame) => self.finish(server, framing, frame.into_trailers().ok()),
        }
    }

    fn finish(
        &mut self,
        server: &Server<'_>,
        framing: ResponseFraming,
        trailers: Option<HeaderMap>,
    ) -> Result<(), Broken> {
        match framing {
            ResponseFraming::Chunked => {
                let trailers = trailers.filter(|_| self.trailers).unwrap_or_default();
                let out = &mut server.wire.borrow_mut().outbound.head;
                last_chunk(&trailers, out);
            }
            ResponseFraming::Length(left) if left > 0 => return Err(Broken),
            _ => {}
        }
        self.framing = None;
        Ok(())
    }

    /// A client that takes nothing for the stream idle timeout is given up.
    fn poll_blocked(
        &mut self,
        cx: &mut Context<'_>,
        server: &Server<'_>,
        sent: u64,
    ) -> Poll<Result<(), Broken>> {
        let managed = server.session.current();
        let Some(limit) = managed.manager().timeouts.stream_idle else {
            return Poll::Pending;
        };
        let timers = &managed.chain().listener.overload.reduce_timeouts;
        let limit = timers.scale(Timer::StreamFlush, limit);
        let since = match self.blocked {
            Some((since, before)) if before == sent => since,
            _ => Instant::now(),
        };
        self.blocked = Some((since, sent));
        let rings = server.session.alarm().poll(cx, since + limit);
        rings.map(|()| {
            let stats = &server.manager.stats;
            stats.inc(http_stats::downstream_rq_idle_timeout);
            Err(Broken)
        })
    }
}
