//! Watching over the connections of a codec that tells nothing of its frames.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    PREFACE,
    floods::{Counts, End, FrameLimits},
    frames::Frames,
};
use crate::stats::Block;

/// A connection to a host whose frames are looked at as they go by.
///
/// Reading fails with [`Flood`](super::Flood) inside of the error once a limit is exceeded.
#[derive(Debug)]
pub struct Watched<T> {
    io: T,
    incoming: Frames,
    outgoing: Frames,
    counts: Counts,
    stats: Arc<Block>,
}

impl<T> Watched<T> {
    /// Watches a connection to a host from its first byte.
    pub fn new(io: T, limits: FrameLimits, stats: Arc<Block>) -> Self {
        Self {
            io,
            incoming: Frames::after(0),
            outgoing: Frames::after(PREFACE.len()),
            counts: Counts::new(End::Client, limits),
            stats,
        }
    }

    fn sent(&mut self, bytes: &[u8]) {
        let (counts, stats) = (&mut self.counts, &self.stats);
        let walked: Result<(), std::convert::Infallible> = self.outgoing.walk(bytes, |frame| {
            counts.sent(frame, stats);
            Ok(())
        });
        let Ok(()) = walked;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let (counts, stats) = (&mut this.counts, &this.stats);
        let walked = this.incoming.walk(&buf.filled()[before..], |frame| {
            counts.received(frame, stats)
        });
        Poll::Ready(walked.map_err(io::Error::other))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.sent(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut left = n;
        for buf in bufs {
            let part = left.min(buf.len());
            self.sent(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
