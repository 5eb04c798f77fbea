//! Bodies on their way through.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    copied_body::{CopiedBody, Copiers},
    http1::Http1Body,
    http2::Http2Body,
};

/// How a request's body came to no good end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyAborted {
    /// The client left before its end.
    #[error("the request's body ended early")]
    Left,
    /// What came is no body.
    #[error("the request's body is not valid HTTP/1")]
    Malformed,
}

/// A request's body as the codec of its connection reads it.
#[derive(Debug)]
pub enum ClientBody {
    /// Over HTTP/1.
    Http1(Http1Body),
    /// Over HTTP/2.
    Http2(Http2Body),
    /// By another request, of which this one is a copy.
    Copied(CopiedBody),
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
            Self::Copied(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Copied(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Copied(body) => body.size_hint(),
        }
    }
}

/// A request's body, from the client to the upstream.
///
/// When the request may be tried again, what has been read is kept up to a
/// limit; beyond it there is no other try.
#[derive(Debug)]
pub struct RequestBody {
    source: Option<ClientBody>,
    trailers: bool,
    kept: Option<Box<Kept>>,
    /// Who else gets it.
    copiers: Option<Box<Copiers>>,
    malformed: bool,
    /// Bytes read from the client.
    pub received: u64,
}

#[derive(Debug)]
struct Kept {
    frames: Vec<Bytes>,
    trailers: Option<http::HeaderMap>,
    bytes: usize,
    limit: usize,
    /// How many frames have been sent in this try.
    sent: usize,
    trailers_sent: bool,
    overflow: bool,
}

impl RequestBody {
    /// A body that comes from the client. Trailers pass where `trailers` says so.
    pub fn new(source: ClientBody, trailers: bool) -> Self {
        let source = (!source.is_end_stream()).then_some(source);
        Self {
            source,
            trailers,
            kept: None,
            copiers: None,
            malformed: false,
            received: 0,
        }
    }

    /// No body.
    pub fn empty() -> Self {
        Self {
            source: None,
            trailers: false,
            kept: None,
            copiers: None,
            malformed: false,
            received: 0,
        }
    }

    /// Keeps what is read, up to `limit` bytes, so that it can be sent again.
    pub fn keep(&mut self, limit: usize) {
        self.kept = Some(Box::new(Kept {
            frames: Vec::new(),
            trailers: None,
            bytes: 0,
            limit,
            sent: 0,
            trailers_sent: false,
            overflow: false,
        }));
    }

    /// A copy of what has not been read yet, which grows as that is read. What is
    /// more than `limit` bytes ahead of whoever reads it waits for a while.
    pub fn copy(&mut self, limit: usize) -> Self {
        if self.is_received() {
            return Self::empty();
        }
        let length = self
            .source
            .as_ref()
            .and_then(|body| body.size_hint().exact());
        let copiers = self.copiers.get_or_insert_default();
        let copy = copiers.copy(length, limit);
        Self::new(ClientBody::Copied(copy), self.trailers)
    }

    /// Ready when this is a copy, and is cut off.
    pub fn poll_cut_off(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.source {
            Some(ClientBody::Copied(body)) => body.poll_cut_off(cx),
            _ => Poll::Pending,
        }
    }

    fn finish_copies(&mut self) {
        if let Some(copiers) = self.copiers.take() {
            copiers.finish();
        }
    }

    /// Goes back to the beginning for another try. `false` when that is not
    /// possible: something was read and not kept.
    pub fn rewind(&mut self) -> bool {
        match &mut self.kept {
            Some(kept) if !kept.overflow => {
                kept.sent = 0;
                kept.trailers_sent = false;
                true
            }
            Some(_) => false,
            None => self.received == 0,
        }
    }

    /// Whether it failed for what came from the client.
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }

    /// Whether all of it has been read from the client.
    pub fn is_received(&self) -> bool {
        self.source.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        let this = &mut *self;
        if let Some(kept) = &mut this.kept {
            if let Some(frame) = kept.frames.get(kept.sent) {
                kept.sent += 1;
                return Poll::Ready(Some(Ok(Frame::data(frame.clone()))));
            }
            if let (Some(trailers), false) = (&kept.trailers, kept.trailers_sent) {
                kept.trailers_sent = true;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
            }
        }
        if let Some(copiers) = &mut this.copiers {
            ready!(copiers.poll_room(cx));
        }
        loop {
            let Some(source) = &mut this.source else {
                return Poll::Ready(None);
            };
            let frame = match ready!(Pin::new(source).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    this.malformed = error == BodyAborted::Malformed;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.source = None;
                    this.finish_copies();
                    return Poll::Ready(None);
                }
            };
            if let Some(data) = frame.data_ref() {
                this.received += data.len() as u64;
                if let Some(copiers) = &this.copiers {
                    copiers.data(data);
                }
                if let Some(kept) = &mut this.kept {
                    kept.bytes += data.len();
                    kept.overflow |= kept.bytes > kept.limit;
                    match kept.overflow {
                        true => kept.frames = Vec::new(),
                        false => kept.frames.push(data.clone()),
                    }
                    kept.sent = kept.frames.len();
                }
            } else if let Some(trailers) = frame.trailers_ref() {
                if !this.trailers {
                    continue;
                }
                if let Some(copiers) = &this.copiers {
                    copiers.trailers(trailers);
                }
                if let Some(kept) = &mut this.kept {
                    kept.trailers = Some(trailers.clone());
                    kept.trailers_sent = true;
                }
            }
            if this.is_received() {
                this.finish_copies();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
    }

    fn is_end_stream(&self) -> bool {
        let kept_left = self.kept.as_ref().is_some_and(|kept| {
            kept.sent < kept.frames.len() || (kept.trailers.is_some() && !kept.trailers_sent)
        });
        !kept_left && self.is_received()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, &self.kept) {
            (None, None) => SizeHint::with_exact(0),
            (Some(source), None) => source.size_hint(),
            (source, Some(kept)) => {
                let left: usize = kept.frames[kept.sent..].iter().map(Bytes::len).sum();
                let mut hint = source
                    .as_ref()
                    .map_or(SizeHint::with_exact(0), Body::size_hint);
                // First, for the lower bound may not be above it.
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper + left as u64);
                }
                hint.set_lower(hint.lower() + left as u64);
                hint
            }
        }
    }
}
