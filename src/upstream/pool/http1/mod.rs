//! One HTTP/1 connection to a host, driven by the task whose request it serves.
//!
//! hyper's HTTP/1 client wants a task of its own for each connection, hands
//! every request and body chunk to it over channels, and takes the request's
//! headers away. Here the exchange is polled in place: the request stays with
//! its stream (for another attempt, and for the access log), nothing is woken
//! to forward a byte, and what is known at a failure is exact: whether any byte
//! of a response was seen decides if a request may be sent again.

mod decode;
mod duplex;
mod encode;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite};

use self::decode::{Head, ResponseFraming};
pub use self::{
    duplex::{Duplex, Piece},
    encode::RequestFraming,
};
use crate::codec::{
    ChunkedDecoder, Inbound, Malformed, Outbound, RequestHead, ResponseHead, Step,
    encode::last_chunk,
};
use crate::model::http1::Http1Wire;
use crate::net::{FillError, Pipe, Socket};

/// What a response head may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, `max_response_headers_kb`, 60 KiB unless set.
    pub bytes: usize,
    /// Headers, `max_headers_count`, 100 unless set.
    pub headers: usize,
    /// How it is read, and requests are written.
    pub wire: Http1Wire,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            bytes: 60 * 1024,
            headers: 100,
            wire: Http1Wire::default(),
        }
    }
}

impl From<Malformed> for Http1Error {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Protocol(what)
    }
}

/// How an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error {
    /// The host closed before it sent any byte of a response.
    #[error("the host closed the connection before a response")]
    Closed,
    /// The connection ended in the middle of a response.
    #[error("the connection ended inside a response")]
    Incomplete,
    /// What came is not HTTP/1.
    #[error("the host's response is not valid HTTP/1: {0}")]
    Protocol(&'static str),
    /// The response head exceeds its limits.
    #[error("the head of the host's response is too large")]
    HeadTooLarge,
    /// Reading or writing failed.
    #[error("the connection to the host failed: {0}")]
    Io(#[from] io::Error),
    /// The request's body failed on the way in.
    #[error("the request's body ended early")]
    RequestBody,
}

/// An HTTP/1 connection to a host. At most one exchange at a time.
///
/// An exchange is: [`start`](Self::start), then
/// [`poll_head`](Self::poll_head), then [`poll_body`](Self::poll_body) until
/// [`is_complete`](Self::is_complete). The request's body is written as it
/// comes by either of the two.
#[derive(Debug)]
pub struct Http1Connection<T> {
    io: T,
    inbound: Inbound,
    outbound: Outbound,
    limits: HeadLimits,
    sending: RequestFraming,
    receiving: ResponseFraming,
    /// The response to this method may come without its body.
    head_request: bool,
    /// What makes a tunnel of the connection.
    tunnel: Option<RequestFraming>,
    keep_alive: bool,
    received: u64,
    sent: u64,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Http1Connection<T> {
    /// Wraps an established byte stream. `buffer` is how many bytes may be read at once,
    /// and wait to be written.
    pub fn new(io: T, limits: HeadLimits, buffer: usize) -> Self {
        Self {
            io,
            inbound: Inbound::up_to(buffer),
            outbound: Outbound::up_to(buffer),
            limits,
            sending: RequestFraming::None,
            receiving: ResponseFraming::Done,
            head_request: false,
            tunnel: None,
            keep_alive: true,
            received: 0,
            sent: 0,
        }
    }

    /// Begins an exchange: the request's head waits to be written.
    /// `scheme` is for a target in absolute form.
    pub fn start(&mut self, request: &RequestHead, scheme: &str, framing: RequestFraming) {
        debug_assert!(self.is_complete(), "one exchange at a time");
        let out = &mut self.outbound.head;
        encode::head(request, scheme, framing, self.limits.wire, out);
        self.head_request = request.method == Method::HEAD;
        self.tunnel =
            matches!(framing, RequestFraming::Upgrade | RequestFraming::Connect).then_some(framing);
        self.sending = framing;
        self.receiving = ResponseFraming::Head;
    }

    /// Writes what there is of the request; ready when all of it is written.
    fn poll_request<B>(
        &mut self,
        cx: &mut Context<'_>,
        mut body: Pin<&mut B>,
    ) -> Poll<Result<(), Http1Error>>
    where
        B: Body<Data = Bytes>,
    {
        loop {
            let mut starved = false;
            while !self.sending.is_done() && self.outbound.has_room() {
                match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => self.enqueue(frame)?,
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Http1Error::RequestBody)),
                    Poll::Ready(None) => self.finish_request()?,
                    Poll::Pending => {
                        starved = true;
                        break;
                    }
                }
            }
            ready!(self.poll_write(cx))?;
            if self.sending.is_done() {
                return Poll::Ready(Ok(()));
            }
            if starved {
                return Poll::Pending;
            }
        }
    }

    fn enqueue(&mut self, frame: Frame<Bytes>) -> Result<(), Http1Error> {
        let frame = match frame.into_data() {
            Ok(data) => {
                if data.is_empty() {
                    return Ok(());
                }
                self.sending
                    .take(data.len() as u64)
                    .map_err(|()| Http1Error::RequestBody)?;
                let chunked = self.sending == RequestFraming::Chunked;
                self.outbound.push(data, chunked);
                return Ok(());
            }
            Err(frame) => frame,
        };
        if let Ok(mut trailers) = frame.into_trailers()
            && self.sending == RequestFraming::Chunked
        {
            if !self.limits.wire.trailers {
                trailers.clear();
            }
            last_chunk(&trailers, &mut self.outbound.head);
            self.sending = RequestFraming::None;
        }
        Ok(())
    }

    fn finish_request(&mut self) -> Result<(), Http1Error> {
        match self.sending {
            RequestFraming::Chunked => last_chunk(&HeaderMap::new(), &mut self.outbound.head),
            RequestFraming::Length(left) if left > 0 => return Err(Http1Error::RequestBody),
            _ => {}
        }
        self.sending = RequestFraming::None;
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        let written = self.outbound.poll_write(cx, &mut self.io, &mut self.sent);
        written.map_err(Into::into)
    }

    /// Reads once, outside a body; ready with the number of bytes, 0 at the end of
    /// the stream.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let n = ready!(self.inbound.poll_first(cx, &mut self.io))?;
        self.received += n as u64;
        Poll::Ready(Ok(n))
    }

    /// Writes the request and waits for the head of the response. Interim
    /// responses but 101 are given to `interim`.
    ///
    /// # Errors
    /// Any of [`Http1Error`]. [`Http1Error::Closed`] and a failed write say that
    /// no byte of a response was seen.
    pub fn poll_head<B>(
        &mut self,
        cx: &mut Context<'_>,
        body: Pin<&mut B>,
        mut interim: impl FnMut(ResponseHead),
    ) -> Poll<Result<ResponseHead, Http1Error>>
    where
        B: Body<Data = Bytes>,
    {
        let writing = self.poll_request(cx, body);
        loop {
            if self.inbound.may_hold_head(self.limits.bytes) {
                match decode::head(&mut self.inbound.bytes, self.limits)? {
                    Some(mut head) => {
                        self.inbound.found_head();
                        if head.is_interim() {
                            interim(head.parts);
                            continue;
                        }
                        self.accept(&mut head)?;
                        return Poll::Ready(Ok(head.parts));
                    }
                    None => self.inbound.found_no_head(),
                }
            }
            let seen = self.received > 0;
            match self.poll_first(cx) {
                Poll::Ready(Ok(0)) if !seen => return Poll::Ready(Err(Http1Error::Closed)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Http1Error::Incomplete)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) if seen => return Poll::Ready(Err(Http1Error::Incomplete)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                // A host that answers early and closes makes the write fail: its
                // answer, read above, counts for more.
                Poll::Pending => match writing {
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    _ => return Poll::Pending,
                },
            }
        }
    }

    fn accept(&mut self, head: &mut Head) -> Result<(), Http1Error> {
        self.keep_alive = head.keeps_alive();
        let status = head.parts.status;
        self.receiving = match self.tunnel {
            Some(RequestFraming::Connect) if status.is_success() => ResponseFraming::Tunnel,
            Some(RequestFraming::Upgrade) if status == StatusCode::SWITCHING_PROTOCOLS => {
                ResponseFraming::Tunnel
            }
            _ if status == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(Http1Error::Protocol("101 to a request without upgrade"));
            }
            _ => decode::framing(head, self.head_request, self.limits.wire.chunked_length)?,
        };
        if matches!(
            self.receiving,
            ResponseFraming::Close | ResponseFraming::Tunnel
        ) {
            self.keep_alive = false;
        }
        Ok(())
    }

    /// Reads the response's body and goes on writing the request's.
    ///
    /// Gives `None` at the end; [`is_complete`](Self::is_complete) is true as
    /// soon as the last frame has been given.
    pub fn poll_body<B>(
        &mut self,
        cx: &mut Context<'_>,
        body: Pin<&mut B>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>>
    where
        B: Body<Data = Bytes>,
    {
        if !self.sending.is_done() || !self.outbound.is_empty() {
            // A failed write spoils the connection, not the response: the host
            // may have answered without wanting the rest.
            if let Poll::Ready(Err(_)) = self.poll_request(cx, body) {
                self.keep_alive = false;
                self.sending = RequestFraming::None;
                self.outbound.clear();
            }
        }
        loop {
            let step = match &mut self.receiving {
                ResponseFraming::Done | ResponseFraming::Head | ResponseFraming::Tunnel => {
                    return Poll::Ready(None);
                }
                ResponseFraming::Length(left) => {
                    let n = self
                        .inbound
                        .bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if n > 0 {
                        *left -= n as u64;
                        if *left == 0 {
                            self.receiving = ResponseFraming::Done;
                        }
                        let data = self.inbound.bytes.split_to(n).freeze();
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Ok(())
                }
                ResponseFraming::Close => {
                    if !self.inbound.bytes.is_empty() {
                        let data = self.inbound.bytes.split().freeze();
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Ok(())
                }
                ResponseFraming::Chunked(decoder) => {
                    match decoder.decode(&mut self.inbound.bytes) {
                        Ok(Step::Data(data)) => {
                            // Look ahead, so that the end is known with the last data.
                            if let Ok(Step::End) = decoder.decode_end(&mut self.inbound.bytes) {
                                self.receiving = ResponseFraming::Done;
                            }
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                        Ok(Step::Trailers(trailers)) => {
                            self.receiving = ResponseFraming::Done;
                            let passed = self.limits.wire.trailers;
                            let frame = passed.then(|| Ok(Frame::trailers(trailers)));
                            return Poll::Ready(frame);
                        }
                        Ok(Step::End) => {
                            self.receiving = ResponseFraming::Done;
                            return Poll::Ready(None);
                        }
                        Ok(Step::More) => Ok(()),
                        Err(error) => Err(error.into()),
                    }
                }
            };
            let step: Result<(), Http1Error> = step;
            if let Err(error) = step {
                return Poll::Ready(Some(Err(error)));
            }
            let read = ready!(self.inbound.poll_more(cx, &mut self.io));
            self.received += *read.as_ref().unwrap_or(&0) as u64;
            match read {
                Ok(0) if self.receiving == ResponseFraming::Close => {
                    self.receiving = ResponseFraming::Done;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(Http1Error::Incomplete))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// What the host has sent of a long body, for another socket; `None` where its
    /// frames are to be asked for. It stands for a frame.
    ///
    /// # Errors
    /// As those of [`poll_body`](Self::poll_body).
    pub fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Http1Error>>>
    where
        T: Socket,
    {
        let asked = self.sending.is_done() && self.outbound.is_empty();
        let (ResponseFraming::Length(left), Some(socket)) = (&mut self.receiving, self.io.socket())
        else {
            return Poll::Ready(None);
        };
        if !asked || !self.inbound.bytes.is_empty() || *left < Pipe::MUCH as u64 {
            return Poll::Ready(None);
        }
        let most = self.inbound.read_max();
        let most = most.min(usize::try_from(*left).unwrap_or(usize::MAX));
        let pipe = match ready!(Pipe::filled(cx, socket, most)) {
            Ok(pipe) if pipe.held() == 0 => return Poll::Ready(Some(Err(Http1Error::Incomplete))),
            Ok(pipe) => pipe,
            Err(FillError::Pipe(_)) => return Poll::Ready(None),
            Err(FillError::Socket(error)) => return Poll::Ready(Some(Err(error.into()))),
        };
        self.received += pipe.held() as u64;
        *left -= pipe.held() as u64;
        if *left == 0 {
            self.receiving = ResponseFraming::Done;
        }
        Poll::Ready(Some(Ok(pipe)))
    }

    /// Bytes of body that are still to come, where the head told.
    pub fn body_left(&self) -> Option<u64> {
        match self.receiving {
            ResponseFraming::Length(left) => Some(left),
            ResponseFraming::Done => Some(0),
            _ => None,
        }
    }

    /// Whether all of the body lies in the buffer, so that one more
    /// [`poll_body`](Self::poll_body) gives it whole.
    pub fn has_whole_body(&self) -> bool {
        match self.receiving {
            ResponseFraming::Length(left) => self.inbound.bytes.len() as u64 >= left,
            _ => self.is_complete(),
        }
    }

    /// Whether the response has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.receiving == ResponseFraming::Done
    }

    /// Whether another exchange may use this connection after a complete one.
    pub fn is_reusable(&self) -> bool {
        self.keep_alive
            && self.is_complete()
            && self.sending.is_done()
            // A host that was asked for a tunnel may wait for what was meant for it.
            && self.tunnel.is_none()
            && self.outbound.is_empty()
            && self.inbound.bytes.is_empty()
    }

    /// Whether an idle connection is still good: the host has neither closed it
    /// nor said anything unasked. Registers `cx` to be woken when that changes.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_first(cx).map(|_| ())
    }

    /// The byte stream.
    pub fn io(&self) -> &T {
        &self.io
    }

    /// Bytes received and sent since this was last asked.
    pub fn take_traffic(&mut self) -> (u64, u64) {
        (
            std::mem::take(&mut self.received),
            std::mem::take(&mut self.sent),
        )
    }

    /// Gives the byte stream back once it is a tunnel, with what was read beyond the head.
    pub fn into_tunnel(self) -> (T, Bytes) {
        (self.io, self.inbound.bytes.freeze())
    }
}

#[cfg(test)]
mod tests;
