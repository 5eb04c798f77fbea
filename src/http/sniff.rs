//! HTTP/1 or HTTP/2, by what the client says first.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What a client begins HTTP/2 with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes read at once: the first request of most clients fits.
const FIRST_READ: usize = 4 * 1024;

/// Whether the client speaks HTTP/2, and what was read to find out.
///
/// # Errors
/// When reading fails. A client that says nothing and closes speaks HTTP/1.
pub async fn speaks_http2<T>(io: &mut T) -> io::Result<(bool, Bytes)>
where
    T: AsyncRead + Unpin,
{
    let mut read = BytesMut::with_capacity(FIRST_READ);
    loop {
        let seen = read.len().min(PREFACE.len());
        if read[..seen] != PREFACE[..seen] {
            return Ok((false, read.freeze()));
        }
        if seen == PREFACE.len() {
            return Ok((true, read.freeze()));
        }
        if io.read_buf(&mut read).await? == 0 {
            return Ok((false, read.freeze()));
        }
    }
}

/// A stream of which the beginning has been read already.
#[derive(Debug)]
pub struct Prefixed<T> {
    prefix: Bytes,
    inner: T,
}

impl<T> Prefixed<T> {
    /// Puts `prefix` back in front of `inner`.
    pub fn new(prefix: Bytes, inner: T) -> Self {
        Self { prefix, inner }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn sniff(pieces: &[&[u8]]) -> (bool, Bytes) {
        let mut mock = tokio::io::join(pieces.concat().leak() as &[u8], tokio::io::sink());
        speaks_http2(&mut mock).await.unwrap()
    }

    #[tokio::test]
    async fn only_the_whole_preface_is_http2() {
        assert!(sniff(&[PREFACE, b"more"]).await.0);
        assert!(!sniff(&[b"PRI * HTTP/1.1\r\n"]).await.0);
        assert!(!sniff(&[b"PUT / HTTP/1.1\r\n\r\n"]).await.0);
        assert!(!sniff(&[b"PR"]).await.0);
        assert!(!sniff(&[]).await.0);
    }

    #[tokio::test]
    async fn what_was_read_is_read_again() {
        let (_, prefix) = sniff(&[b"GET / "]).await;
        let mut io = Prefixed::new(prefix, &b"HTTP/1.1"[..]);
        let mut all = String::new();
        io.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "GET / HTTP/1.1");
    }
}
