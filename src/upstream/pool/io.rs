//! The bytes of a connection to a host.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use rustls::ClientConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

/// An established connection to a host.
#[derive(Debug)]
pub enum Io {
    /// TCP in clear.
    Tcp(TcpStream),
    /// A Unix domain socket in clear.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// TLS over a Unix domain socket.
    UnixTls(Box<TlsStream<UnixStream>>),
}

impl Io {
    /// Its TLS session, where it has one.
    pub(super) fn session(&self) -> Option<&ClientConnection> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().1),
            Self::UnixTls(tls) => Some(tls.get_ref().1),
        }
    }

    /// Its end will be a reset, without what has not been sent yet.
    pub fn reset_on_close(&self) {
        let tcp = match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            // Unix sockets know no reset.
            Self::Unix(_) | Self::UnixTls(_) => return,
        };
        // At worst it ends as any other.
        let _ = tcp.set_zero_linger();
    }
}

macro_rules! each {
    ($self:expr, $io:ident => $body:expr) => {
        match $self.get_mut() {
            Io::Tcp($io) => $body,
            Io::Unix($io) => $body,
            Io::Tls($io) => $body,
            Io::UnixTls($io) => $body,
        }
    };
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Unix(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            Self::UnixTls(io) => io.is_write_vectored(),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
