//! The body of a request over HTTP/2.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};

use super::{shared::Shared, state::State};
use crate::http::{body::BodyAborted, interim::Continue};

/// A request's body. What is read from it opens the client's window again. Only to be
/// polled by its stream, which is polled when more has come.
#[derive(Debug)]
pub struct Http2Body {
    shared: Rc<Shared>,
    state: Rc<State>,
    /// What `content-length` says is still to be read.
    left: Option<u64>,
}

impl Http2Body {
    /// The body of a stream.
    pub(super) fn new(shared: Rc<Shared>, state: Rc<State>) -> Self {
        let left = state.left.get();
        Self {
            shared,
            state,
            left,
        }
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        let this = &mut *self;
        if this.state.reset.get().is_some() {
            return Poll::Ready(Some(Err(BodyAborted::Left)));
        }
        let mut unread = this.state.unread.borrow_mut();
        if let Some(data) = unread.data.pop_front() {
            this.shared.consumed(&this.state, data.len());
            this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match unread.trailers.take() {
            Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None if this.state.received.get() => Poll::Ready(None),
            None => {
                if this.state.told.get() == Continue::Awaited {
                    this.state.told.set(Continue::Told);
                    this.shared
                        .head(&this.state, StatusCode::CONTINUE, [], false);
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let unread = self.state.unread.borrow();
        self.state.received.get() && unread.data.is_empty() && unread.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        self.shared.ignore(&self.state);
    }
}
