//! A connection's bytes, whatever carries them.

use tokio::net::{TcpStream, UnixStream};

use super::{Socket, byte_stream::byte_stream};

/// An accepted connection after its transport socket is ready.
#[derive(Debug)]
pub enum Stream {
    /// TCP in clear.
    Tcp(TcpStream),
    /// A Unix domain socket in clear.
    Unix(UnixStream),
    /// TLS over TCP, ended here.
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl Stream {
    /// Its end will be a reset, without what has not been sent yet.
    pub fn reset_on_close(&self) {
        let tcp = match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            // Unix sockets know no reset.
            Self::Unix(_) => return,
        };
        // At worst it ends as any other.
        let _ = tcp.set_zero_linger();
    }
}

impl Socket for Stream {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) | Self::Tls(_) => None,
        }
    }
}

byte_stream!(Stream: Tcp, Unix, Tls);
