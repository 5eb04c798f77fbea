//! Bytes to a host and back, by whatever means.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Io, http1::Duplex};
use crate::net::{Prefixed, http2::Http2Io};

/// A connection to a host, or a tunnel through one.
#[derive(Debug)]
pub enum Carrier {
    /// A connection.
    Connection(Io),
    /// A connection of HTTP/1 that has become a tunnel.
    Http1(Prefixed<Io>),
    /// The bodies of a request and a response over HTTP/1.
    Post(Box<Duplex<Io>>),
    /// A stream of HTTP/2.
    Http2(Http2Io),
}

impl Carrier {
    /// Its end will be a reset, without what has not been sent yet. A stream of
    /// HTTP/2 that has not ended is always reset.
    pub fn reset_on_close(&self) {
        match self {
            Self::Connection(io) => io.reset_on_close(),
            Self::Http1(io) => io.get_ref().reset_on_close(),
            Self::Post(duplex) => duplex.get_ref().reset_on_close(),
            Self::Http2(_) => {}
        }
    }
}

macro_rules! each {
    ($self:expr, $io:ident => $body:expr) => {
        match $self.get_mut() {
            Carrier::Connection($io) => $body,
            Carrier::Http1($io) => $body,
            Carrier::Post($io) => $body,
            Carrier::Http2($io) => $body,
        }
    };
}

impl AsyncRead for Carrier {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Carrier {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
