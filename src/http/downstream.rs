//! A downstream connection's bytes, counted.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stats::http_stats;
use crate::{
    net::{Pipe, Prefixed, Socket},
    stats::Block,
};

/// A stream whose bytes count in `http.STAT_PREFIX.downstream_cx_…_bytes_total`.
#[derive(Debug)]
pub struct DownstreamIo<T> {
    inner: Prefixed<T>,
    stats: Arc<Block>,
}

impl<T> DownstreamIo<T> {
    /// `read` has been read from `inner` already.
    pub fn new(read: Bytes, inner: T, stats: Arc<Block>) -> Self {
        Self {
            inner: Prefixed::new(read, inner),
            stats,
        }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &T {
        self.inner.get_ref()
    }

    fn sent(&self, n: usize) {
        self.stats
            .add(http_stats::downstream_cx_tx_bytes_total, n as u64);
    }
}

impl<T: Socket> DownstreamIo<T> {
    /// Whether what a pipe holds can be written.
    pub fn takes_pipes(&self) -> bool {
        self.get_ref().socket().is_some()
    }

    /// Writes all that a pipe holds.
    ///
    /// # Errors
    /// When writing fails, or pipes are not taken.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<()>> {
        let Some(socket) = self.get_ref().socket() else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let before = pipe.held();
        let drained = pipe.poll_drain(cx, socket);
        self.sent(before - pipe.held());
        drained
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for DownstreamIo<T> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.stats
            .add(http_stats::downstream_cx_rx_bytes_total, read as u64);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for DownstreamIo<T> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.sent(n);
        Poll::Ready(Ok(n))
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        self.sent(n);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
