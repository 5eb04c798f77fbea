//! A stream of HTTP/2 as a stream of bytes: one end of a tunnel.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Socket;

/// The DATA frames of a stream, both ways. A reset by the peer reads as
/// [`io::ErrorKind::ConnectionReset`], unless its reason is NO_ERROR.
#[derive(Debug)]
pub struct Http2Io {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Read from the stream, not yet by the owner.
    read: Bytes,
    /// END_STREAM has been sent.
    shut: bool,
}

impl Http2Io {
    /// Both halves of a stream.
    pub fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self {
            send,
            recv,
            read: Bytes::new(),
            shut: false,
        }
    }

    /// Ends the stream at once, both ways.
    pub fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }
}

fn reset(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Http2Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => self.read = data,
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(reset(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..taken]);
        self.read.advance(taken);
        if self.read.is_empty() {
            self.read = Bytes::new();
        }
        let window = self.recv.flow_control();
        Poll::Ready(window.release_capacity(taken).map_err(reset))
    }
}

impl Socket for Http2Io {}

impl AsyncWrite for Http2Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(buf.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(reset(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let taken = self.send.capacity().min(buf.len());
        let data = Bytes::copy_from_slice(&buf[..taken]);
        self.send.send_data(data, false).map_err(reset)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes as soon as it can.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.shut, true) {
            // A stream that is gone needs no end.
            drop(self.send.send_data(Bytes::new(), true));
        }
        Poll::Ready(Ok(()))
    }
}
