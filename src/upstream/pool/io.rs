//! The bytes of a connection to a host.

use rustls::ClientConnection;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::net::{Socket, byte_stream::byte_stream};

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

impl Socket for Io {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) | Self::Tls(_) | Self::UnixTls(_) => None,
        }
    }
}

byte_stream!(Io: Tcp, Unix, Tls, UnixTls);
