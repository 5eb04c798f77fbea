//! Bytes to a host and back, by whatever means.

use tokio::net::TcpStream;

use super::{Io, http1::Duplex};
use crate::net::{Prefixed, Socket, byte_stream::byte_stream, http2::Http2Io};

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

impl Socket for Carrier {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Connection(io) => io.socket(),
            Self::Http1(io) => io.socket(),
            Self::Post(_) | Self::Http2(_) => None,
        }
    }
}

byte_stream!(Carrier: Connection, Http1, Post, Http2);
