//! A stream as the client's end of a tunnel.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{shared::Shared, state::State};

/// The DATA frames of a stream, both ways. A reset by the client reads as
/// [`io::ErrorKind::ConnectionReset`], unless its reason is NO_ERROR. Only to be
/// polled by its stream.
#[derive(Debug)]
pub(super) struct StreamIo {
    shared: Rc<Shared>,
    state: Rc<State>,
}

impl StreamIo {
    pub(super) fn new(shared: Rc<Shared>, state: Rc<State>) -> Self {
        state.tunnel.set(true);
        Self { shared, state }
    }

    /// Ends the stream at once, both ways.
    pub(super) fn reset(&self, reason: Reason) {
        self.shared.reset(&self.state, reason);
    }

    fn failed(&self) -> Option<io::Error> {
        let reason = self.state.reset.get()?;
        let reason = reason.description();
        Some(io::Error::new(io::ErrorKind::ConnectionReset, reason))
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut unread = self.state.unread.borrow_mut();
        let Some(data) = unread.data.front_mut() else {
            return match self.state.reset.get() {
                Some(Reason::NO_ERROR) => Poll::Ready(Ok(())),
                None if self.state.received.get() => Poll::Ready(Ok(())),
                None => Poll::Pending,
                Some(_) => Poll::Ready(self.failed().map_or(Ok(()), Err)),
            };
        };
        let taken = data.len().min(buf.remaining());
        buf.put_slice(&data[..taken]);
        data.advance(taken);
        if data.is_empty() {
            unread.data.pop_front();
        }
        self.shared.consumed(&self.state, taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed() {
            return Poll::Ready(Err(error));
        }
        if self.state.sent.get() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let taken = ready!(self.shared.poll_room(&self.state)).min(buf.len());
        let data = Bytes::copy_from_slice(&buf[..taken]);
        self.shared.data(&self.state, data, false);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection writes when its streams have been polled.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.data(&self.state, Bytes::new(), true);
        Poll::Ready(Ok(()))
    }
}
