//! The body of a request over HTTP/2.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::header;
use http_body::{Body, Frame, SizeHint};

use crate::{codec::Headers, http::body::BodyAborted};

/// A request's body. What is read from it opens the client's window again.
#[derive(Debug)]
pub struct Http2Body {
    stream: RecvStream,
    /// What `content-length` says is still to come.
    left: Option<u64>,
    /// There are no bytes any more; trailers may follow.
    data_over: bool,
}

impl Http2Body {
    /// The body of the request with these headers.
    pub(super) fn new(stream: RecvStream, headers: &Headers) -> Self {
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            stream,
            left: length,
            data_over: false,
        }
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        let this = &mut *self;
        if !this.data_over {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let window = this.stream.flow_control();
                    window
                        .release_capacity(data.len())
                        .map_err(|_| BodyAborted)?;
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(BodyAborted))),
                None => this.data_over = true,
            }
        }
        let trailers = ready!(this.stream.poll_trailers(cx)).map_err(|_| BodyAborted)?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
