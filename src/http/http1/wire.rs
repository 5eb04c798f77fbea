//! A client's connection as its requests and responses see it.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};

use super::{
    encode::{self, Asked, ResponseFraming},
    head::{self, BadHead, Framing, Head, HeadLimits},
};
use crate::{
    codec::{ChunkedDecoder, Inbound, Outbound, ResponseHead, Step},
    http::{body::BodyAborted, downstream::DownstreamIo, interim::Continue},
    net::{Pipe, Prefixed, Stream},
};

/// What a client is told that waits for it before it sends a body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Bytes of requests to come that are read while one is under way, for only so
/// is it seen that the client has left.
const PIPELINED_MAX: usize = 64 * 1024;

/// How much of the request's body is still to be read.
#[derive(Debug)]
enum Reading {
    Length(u64),
    Chunked(ChunkedDecoder),
    Done,
    /// It broke off or was malformed.
    Failed(BodyAborted),
}

/// What came of waiting for a request.
#[derive(Debug)]
pub enum Begin {
    /// A request's head.
    Request(Box<Head>),
    /// The client has left.
    Closed,
    /// The client sent what is no request.
    Bad(BadHead),
}

/// The socket with its buffers, shared by the connection's task and by the body
/// of the request under way. Only ever polled by that task.
#[derive(Debug)]
pub struct Wire {
    io: DownstreamIo<Stream>,
    inbound: Inbound,
    /// Bytes that wait for the client.
    pub outbound: Outbound,
    limits: HeadLimits,
    reading: Reading,
    told: Continue,
    /// A head has begun to come, or more has come of it, since it was last parsed.
    fresh: bool,
    sent: u64,
}

impl Wire {
    /// A connection before its first request. `buffer` is how many bytes may be read at
    /// once, and wait to be written.
    pub fn new(io: DownstreamIo<Stream>, limits: HeadLimits, buffer: usize) -> Self {
        Self {
            io,
            inbound: Inbound::up_to(buffer),
            outbound: Outbound::up_to(buffer),
            limits,
            reading: Reading::Done,
            told: Continue::Unasked,
            fresh: false,
            sent: 0,
        }
    }

    /// Waits for the head of the next request.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Begin> {
        loop {
            if self.fresh && self.inbound.may_hold_head(self.limits.bytes) {
                self.fresh = false;
                match head::head(&mut self.inbound.bytes, self.limits) {
                    Ok(Some(head)) => {
                        self.inbound.found_head();
                        return Poll::Ready(Begin::Request(Box::new(head)));
                    }
                    Ok(None) => self.inbound.found_no_head(),
                    Err(bad) => return Poll::Ready(Begin::Bad(bad)),
                }
            }
            match ready!(self.inbound.poll_first(cx, &mut self.io)) {
                Ok(0) | Err(_) => return Poll::Ready(Begin::Closed),
                Ok(_) => self.fresh = true,
            }
        }
    }

    /// Whether a part of a head has come.
    pub fn is_in_head(&self) -> bool {
        !self.inbound.bytes.is_empty()
    }

    /// Prepares for the body of a request. `waits` says that the client wants
    /// to be told to send it.
    pub fn begin(&mut self, framing: Framing, waits: bool) {
        self.fresh = !self.inbound.bytes.is_empty();
        self.reading = match framing {
            Framing::Length(0) => Reading::Done,
            Framing::Length(length) => Reading::Length(length),
            Framing::Chunked => Reading::Chunked(ChunkedDecoder::default()),
        };
        self.told = Continue::awaited(waits && !self.is_received());
    }

    /// What became of the client's waiting to be told to send the body.
    pub fn take_told(&mut self) -> Continue {
        std::mem::take(&mut self.told)
    }

    /// Puts a response that comes before the one to the request where it waits for the
    /// client.
    pub fn inform(&mut self, head: &mut ResponseHead) {
        let asked = Asked {
            version: Version::HTTP_11,
            head: false,
            names: self.limits.wire.names,
        };
        let out = &mut self.outbound.head;
        encode::head(head, ResponseFraming::None, None, asked, out);
    }

    /// Whether the request has been read to its end.
    pub fn is_received(&self) -> bool {
        matches!(self.reading, Reading::Done)
    }

    /// Whether bytes came that nobody will read.
    pub fn has_unread(&self) -> bool {
        !self.is_received() || !self.inbound.bytes.is_empty()
    }

    /// Ready when the client has left, or its request has broken off. Reads ahead a
    /// little to find out, once the request has been read. Writes what waits meanwhile.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.outbound.is_empty()
            && let Poll::Ready(Err(_)) = self.poll_write(cx)
        {
            return Poll::Ready(());
        }
        if matches!(self.reading, Reading::Failed(_)) {
            return Poll::Ready(());
        }
        while self.is_received() && self.inbound.bytes.len() < PIPELINED_MAX {
            match ready!(self.inbound.poll_first(cx, &mut self.io)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => self.fresh = true,
            }
        }
        Poll::Pending
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// When the client cannot be written to.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbound.poll_write(cx, &mut self.io, &mut self.sent)
    }

    /// Whether the client can be given what a pipe holds.
    pub fn takes_pipes(&self) -> bool {
        self.io.takes_pipes()
    }

    /// Writes what a pipe holds, for which nothing else may wait.
    ///
    /// # Errors
    /// When the client cannot be written to.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<()>> {
        debug_assert!(self.outbound.is_empty(), "in the order in which they came");
        let before = pipe.held();
        let drained = self.io.poll_drain(cx, pipe);
        self.sent += (before - pipe.held()) as u64;
        drained
    }

    /// Bytes written so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        if self.told == Continue::Awaited {
            self.told = Continue::Told;
            self.outbound.head.extend_from_slice(CONTINUE);
        }
        if !self.outbound.is_empty()
            && let Poll::Ready(Err(_)) = self.poll_write(cx)
        {
            return self.fail(BodyAborted::Left);
        }
        loop {
            match &mut self.reading {
                Reading::Done => return Poll::Ready(None),
                Reading::Failed(how) => return Poll::Ready(Some(Err(*how))),
                Reading::Length(left) => {
                    let buffered = self.inbound.bytes.len();
                    let n = buffered.min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if n > 0 {
                        *left -= n as u64;
                        if *left == 0 {
                            self.reading = Reading::Done;
                        }
                        let data = self.inbound.bytes.split_to(n).freeze();
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Reading::Chunked(decoder) => match decoder.decode(&mut self.inbound.bytes) {
                    Ok(Step::Data(data)) => {
                        // Look ahead, so that the end is known with the last data.
                        if let Ok(Step::End) = decoder.decode_end(&mut self.inbound.bytes) {
                            self.reading = Reading::Done;
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Ok(Step::Trailers(trailers)) => {
                        self.reading = Reading::Done;
                        self.fresh = !self.inbound.bytes.is_empty();
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    Ok(Step::End) => {
                        self.reading = Reading::Done;
                        self.fresh = !self.inbound.bytes.is_empty();
                        return Poll::Ready(None);
                    }
                    Ok(Step::More) => {}
                    Err(_) => return self.fail(BodyAborted::Malformed),
                },
            }
            match ready!(self.inbound.poll_more(cx, &mut self.io)) {
                Ok(0) | Err(_) => return self.fail(BodyAborted::Left),
                Ok(_) => self.fresh = true,
            }
        }
    }

    fn fail<T>(&mut self, how: BodyAborted) -> Poll<Option<Result<T, BodyAborted>>> {
        self.reading = Reading::Failed(how);
        Poll::Ready(Some(Err(how)))
    }

    /// Ready when a connection that is over may be let go: at once when all that
    /// the client sent was read, otherwise once it has closed too, for what is
    /// closed on unread bytes loses its last response on the way.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inbound.bytes.clear();
        while let Ok(1..) = ready!(self.inbound.poll_first(cx, &mut self.io)) {
            self.inbound.bytes.clear();
        }
        Poll::Ready(())
    }

    /// Tells the client that nothing more comes.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.io), cx)
    }

    /// Whether the client has to be told at its own level that nothing more comes.
    pub fn is_tls(&self) -> bool {
        matches!(self.io.get_ref(), Stream::Tls(_))
    }

    /// The stream itself, with what was read beyond the last head.
    pub fn into_tunnel(self) -> Prefixed<DownstreamIo<Stream>> {
        Prefixed::new(self.inbound.bytes.freeze(), self.io)
    }
}

/// The body of the request under way.
#[derive(Debug)]
pub struct Http1Body {
    wire: Rc<RefCell<Wire>>,
    length: Option<u64>,
}

impl Http1Body {
    /// The body that [`Wire::begin`] has prepared for.
    pub fn new(wire: Rc<RefCell<Wire>>, framing: Framing) -> Self {
        let length = match framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        Self { wire, length }
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        let frame = ready!(self.wire.borrow_mut().poll_body(cx));
        if let (Some(Ok(frame)), Some(left)) = (&frame, &mut self.length)
            && let Some(data) = frame.data_ref()
        {
            *left -= data.len() as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.wire.borrow().is_received()
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
