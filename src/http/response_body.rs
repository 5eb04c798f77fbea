//! The body of a response, and with it the rest of its stream's life.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    StreamError,
    filters::router::{Exchange, SharedExchange, TcpExchange},
    stats::http_stats,
    stream::{Limit, Stream},
    upgrade::Tunnel,
};
use crate::{formatter::ResponseFlag, net::Pipe};

/// Where the bytes come from.
#[derive(Debug)]
pub enum Source {
    /// Nothing comes.
    Empty,
    /// All of it is here.
    Full(Bytes),
    /// From an HTTP/1 upstream.
    Http1(Exchange),
    /// From an HTTP/2 upstream.
    Http2(Box<SharedExchange>),
    /// From an upstream that is not asked but connected to.
    Tcp(Box<TcpExchange>),
    /// None: the stream has become a tunnel.
    Tunnel(Box<Tunnel>),
}

/// A response's body. When it is dropped its stream is over.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    stream: Option<Box<Stream>>,
    /// What the head said about the length.
    length: Option<u64>,
    /// All of it came along with the head.
    whole: bool,
}

impl ResponseBody {
    /// A body that comes from `source` for `stream`.
    pub fn new(source: Source, stream: Box<Stream>) -> Self {
        let whole = matches!(source, Source::Empty | Source::Full(_));
        let length = match &source {
            Source::Empty | Source::Tunnel(_) => Some(0),
            Source::Full(data) => Some(data.len() as u64),
            Source::Http1(exchange) => exchange.body_left(),
            Source::Http2(exchange) => exchange.body_left(),
            Source::Tcp(_) => None,
        };
        let mut body = Self {
            source,
            stream: Some(stream),
            length,
            whole,
        };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    /// A body without bytes whose stream goes on as a tunnel.
    pub fn tunnel(tunnel: Tunnel) -> Self {
        Self {
            source: Source::Tunnel(Box::new(tunnel)),
            stream: None,
            length: None,
            whole: true,
        }
    }

    /// No body, of no stream.
    pub fn nothing() -> Self {
        Self {
            source: Source::Empty,
            stream: None,
            length: Some(0),
            whole: true,
        }
    }

    /// The tunnel that the stream has become, if it has.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        match std::mem::replace(&mut self.source, Source::Empty) {
            Source::Tunnel(tunnel) => Some(*tunnel),
            source => {
                self.source = source;
                None
            }
        }
    }

    /// A body without bytes whose length is not told: the answer to a HEAD.
    pub fn bodiless(stream: Box<Stream>) -> Self {
        let mut body = Self {
            source: Source::Empty,
            stream: Some(stream),
            length: None,
            whole: true,
        };
        body.finish();
        body
    }

    fn finish(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            match &mut self.source {
                Source::Http2(exchange) => stream.info.bytes_received = exchange.body().received,
                Source::Tcp(exchange) => stream.info.bytes_received = exchange.body().received,
                _ => {}
            }
            if self.whole {
                // Nothing was waited for, so the clock need not be read again.
                stream.info.end = stream.info.timing.first_upstream_rx;
            }
            stream.complete = true;
        }
    }

    /// Waits for a limit of time that ends the stream.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let Some(stream) = &mut self.stream else {
            return Poll::Pending;
        };
        match &mut self.source {
            Source::Http1(exchange) => stream.received(exchange.body().received),
            Source::Http2(exchange) => stream.received(exchange.body().received),
            Source::Tcp(exchange) => stream.received(exchange.body().received),
            _ => {}
        }
        let limit = ready!(stream.poll_limits(cx, None));
        self.source = Source::Empty;
        let (flag, details, error) = match limit {
            Limit::Idle => (
                ResponseFlag::StreamIdleTimeout,
                "stream_idle_timeout",
                StreamError::Idle,
            ),
            Limit::TryIdle => (
                ResponseFlag::StreamIdleTimeout,
                "upstream_per_try_idle_timeout",
                StreamError::Idle,
            ),
            Limit::Deadline if !stream.route_deadline => {
                let stats = &stream.manager().stats;
                stats.inc(http_stats::downstream_rq_max_duration_reached);
                stream.info.response_code_details = Some("max_duration_timeout".into());
                stream.complete = true;
                return Poll::Ready(StreamError::Timeout);
            }
            Limit::Upstream => {
                if let Some(upstream) = &stream.upstream {
                    upstream.took_too_long();
                }
                (
                    ResponseFlag::UpstreamMaxStreamDurationReached,
                    "upstream_max_stream_duration_reached",
                    StreamError::Timeout,
                )
            }
            Limit::Deadline | Limit::Try | Limit::Request => (
                ResponseFlag::UpstreamRequestTimeout,
                "response_timeout",
                StreamError::Timeout,
            ),
        };
        stream.flag(flag);
        stream.info.response_code_details = Some(details.into());
        Poll::Ready(error)
    }

    /// A part of a long body from HTTP/1, for another socket; `None` where the next frame
    /// is to be asked for. It stands for a frame.
    pub fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, StreamError>>> {
        let Source::Http1(exchange) = &mut self.source else {
            return Poll::Ready(None);
        };
        let Poll::Ready(piped) = exchange.poll_pipe(cx) else {
            return self.poll_limits(cx).map(|error| Some(Err(error)));
        };
        let Some(piped) = piped else {
            return Poll::Ready(None);
        };
        match (&piped, &mut self.stream) {
            (Ok(pipe), Some(stream)) => {
                stream.info.bytes_sent += pipe.held() as u64;
                stream.last_moved = Instant::now();
            }
            (Err(error), Some(stream)) => error.explain(stream),
            (_, None) => {}
        }
        if self.release() {
            self.finish();
        }
        Poll::Ready(Some(piped))
    }

    /// Gives the connection back once all has been read off it; says whether it has.
    fn release(&mut self) -> bool {
        let Source::Http1(exchange) = &mut self.source else {
            return false;
        };
        if !exchange.is_complete() {
            return false;
        }
        exchange.release(self.stream.as_deref_mut());
        self.source = Source::Empty;
        true
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match &mut self.source {
            Source::Empty | Source::Tunnel(_) => Poll::Ready(None),
            Source::Full(data) => {
                let data = std::mem::take(data);
                self.source = Source::Empty;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Source::Http1(exchange) => {
                let frame = ready!(exchange.poll_frame(cx));
                self.release();
                Poll::Ready(frame)
            }
            Source::Http2(exchange) => exchange.poll_frame(cx),
            Source::Tcp(exchange) => exchange.poll_frame(cx),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        let mut frame = match this.poll_source(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let error = ready!(this.poll_limits(cx));
                return Poll::Ready(Some(Err(error)));
            }
        };
        if let Some(stream) = &mut this.stream {
            match &mut frame {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_mut() {
                        stream.filter_trailers(trailers);
                    }
                    if let Some(data) = frame.data_ref() {
                        stream.info.bytes_sent += data.len() as u64;
                    } else if let Some(trailers) = frame.trailers_ref() {
                        stream.saw_trailers(trailers);
                    }
                    if !matches!(this.source, Source::Empty) {
                        stream.last_moved = Instant::now();
                    }
                }
                Some(Err(error)) => error.explain(stream),
                None => {}
            }
        }
        let over = match &frame {
            Some(Ok(_)) => this.is_end_stream(),
            Some(Err(_)) => false,
            None => true,
        };
        if over {
            this.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty | Source::Tunnel(_) => true,
            Source::Full(data) => data.is_empty(),
            Source::Http1(exchange) => exchange.is_complete(),
            Source::Http2(exchange) => exchange.is_complete(),
            Source::Tcp(exchange) => exchange.is_complete(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, self.length) {
            (Source::Full(data), _) => SizeHint::with_exact(data.len() as u64),
            (Source::Http1(exchange), Some(_)) => exchange
                .body_left()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
            (Source::Http2(exchange), Some(_)) => exchange
                .body_left()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
            (_, Some(length)) => SizeHint::with_exact(length),
            (_, None) => SizeHint::default(),
        }
    }
}
