//! An accepted connection on its way to the filter chain.

use std::{rc::Rc, sync::Arc, time::Instant};

use super::{Address, Stream, TlsInfo};
use crate::server::ChainHandle;

/// Facts about a downstream connection, fixed once it is established.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Unique within the process.
    pub id: u64,
    /// The address the client connected to, as the PROXY protocol or the packet
    /// filter tells it where used.
    pub local: Address,
    /// The client's address, as the PROXY protocol tells it where used.
    pub remote: Address,
    /// The address of the peer of the socket.
    pub direct_remote: Address,
    /// SNI, lower case, when the client sent one.
    pub server_name: Option<Box<str>>,
    /// The protocols the client offered by ALPN, in its order; in clear, the one
    /// it was found to speak.
    pub application_protocols: Box<[Box<[u8]>]>,
    /// Whether the client began a TLS handshake.
    pub offers_tls: bool,
    /// TLS facts when TLS ended here.
    pub tls: Option<TlsInfo>,
    /// When it was accepted.
    pub accepted: Instant,
    /// The cluster that `sni_cluster` leads it to.
    pub tcp_cluster: Option<Arc<str>>,
    /// The socket's own address, where `local` is another.
    direct_local: Option<Address>,
    noted: Option<Box<Noted>>,
}

/// What few connections have.
#[derive(Clone, Debug)]
struct Noted {
    metadata: ConnectionMetadata,
    tlvs: Box<[Tlv]>,
}

/// A type and value of a PROXY protocol header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlv {
    /// Its type.
    pub kind: u8,
    /// Its value.
    pub value: Box<[u8]>,
}

/// Dynamic metadata of a connection: texts by namespace and key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionMetadata(Vec<(Arc<str>, Arc<str>, Box<str>)>);

impl ConnectionMetadata {
    /// Sets a value, in place of one that has the same name.
    pub fn set(&mut self, namespace: &Arc<str>, key: &Arc<str>, value: Box<str>) {
        let same = |(n, k, _): &&mut (Arc<str>, Arc<str>, _)| n == namespace && k == key;
        match self.0.iter_mut().find(same) {
            Some((_, _, old)) => *old = value,
            None => self.0.push((namespace.clone(), key.clone(), value)),
        }
    }

    /// A value by its name.
    pub fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        let mut all = self.0.iter();
        all.find_map(|(n, k, value)| (&**n == namespace && &**k == key).then_some(&**value))
    }
}

impl ConnectionInfo {
    /// A connection that is accepted now, of which its addresses alone are known.
    pub fn new(id: u64, local: Address, remote: Address) -> Self {
        Self {
            id,
            local,
            direct_remote: remote.clone(),
            remote,
            server_name: None,
            application_protocols: Box::default(),
            offers_tls: false,
            tls: None,
            accepted: Instant::now(),
            tcp_cluster: None,
            direct_local: None,
            noted: None,
        }
    }

    /// The address of this end of the socket.
    pub fn direct_local(&self) -> &Address {
        self.direct_local.as_ref().unwrap_or(&self.local)
    }

    /// Notes that the connection was meant for this address.
    pub fn restore_local(&mut self, address: Address) {
        if self.local != address {
            let before = std::mem::replace(&mut self.local, address);
            self.direct_local.get_or_insert(before);
        }
    }

    /// Whether it was meant for another address than the socket's.
    pub fn local_restored(&self) -> bool {
        self.direct_local.is_some()
    }

    /// Notes what the PROXY protocol tells besides addresses.
    pub fn noted(&mut self, metadata: ConnectionMetadata, tlvs: Box<[Tlv]>) {
        if metadata != ConnectionMetadata::default() || !tlvs.is_empty() {
            self.noted = Some(Box::new(Noted { metadata, tlvs }));
        }
    }

    /// A value of its dynamic metadata.
    pub fn metadata(&self, namespace: &str, key: &str) -> Option<&str> {
        self.noted.as_ref()?.metadata.get(namespace, key)
    }

    /// The types and values that its PROXY protocol header passes through.
    pub fn tlvs(&self) -> &[Tlv] {
        self.noted.as_ref().map_or(&[], |noted| &noted.tlvs)
    }
}

/// A [`ConnectionInfo`] before TLS, as it goes from one worker to another.
#[derive(Debug)]
pub struct Travelling {
    id: u64,
    local: Address,
    remote: Address,
    direct_remote: Address,
    server_name: Option<Box<str>>,
    application_protocols: Box<[Box<[u8]>]>,
    offers_tls: bool,
    accepted: Instant,
    direct_local: Option<Address>,
    noted: Option<Box<Noted>>,
}

impl From<ConnectionInfo> for Travelling {
    fn from(info: ConnectionInfo) -> Self {
        let ConnectionInfo {
            id,
            local,
            remote,
            direct_remote,
            server_name,
            application_protocols,
            offers_tls,
            // Both come after the choice of a filter chain.
            tls: _,
            tcp_cluster: _,
            accepted,
            direct_local,
            noted,
        } = info;
        Self {
            id,
            local,
            remote,
            direct_remote,
            server_name,
            application_protocols,
            offers_tls,
            accepted,
            direct_local,
            noted,
        }
    }
}

impl From<Travelling> for ConnectionInfo {
    fn from(info: Travelling) -> Self {
        Self {
            direct_remote: info.direct_remote,
            server_name: info.server_name,
            application_protocols: info.application_protocols,
            offers_tls: info.offers_tls,
            accepted: info.accepted,
            direct_local: info.direct_local,
            noted: info.noted,
            ..Self::new(info.id, info.local, info.remote)
        }
    }
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
