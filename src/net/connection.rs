//! An accepted connection on its way to the filter chain.

use std::{rc::Rc, time::Instant};

use super::{Address, Stream};
use crate::server::ChainHandle;

/// Facts about a downstream connection, fixed once it is established.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Unique within the process.
    pub id: u64,
    /// The address the client connected to.
    pub local: Address,
    /// The client's address, as the PROXY protocol tells it where used.
    pub remote: Address,
    /// The address of the peer of the socket.
    pub direct_remote: Address,
    /// SNI, lower case, when the client sent one.
    pub server_name: Option<Box<str>>,
    /// The protocols the client offered by ALPN, in its order.
    pub application_protocols: Box<[Box<[u8]>]>,
    /// Whether the client began a TLS handshake.
    pub offers_tls: bool,
    /// TLS facts when TLS ended here.
    pub tls: Option<TlsInfo>,
    /// When it was accepted.
    pub accepted: Instant,
}

/// Facts about an established downstream TLS session.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's OpenSSL name.
    pub cipher: String,
    /// The protocol ALPN settled on.
    pub application_protocol: Option<Box<[u8]>>,
}

/// A connection and the filter chain that was chosen for it.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub stream: Stream,
    /// Facts.
    pub info: Rc<ConnectionInfo>,
    /// The chain, which may be adopted anew at each request.
    pub chain: ChainHandle,
}
