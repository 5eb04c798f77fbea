//! Making a connection to a host.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use nix::sys::socket::sockopt;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, UnixStream},
};

use super::{
    Made, Wire,
    connection::{Connection, ConnectionFacts, ConnectionPermit},
    http2::Http2Connection,
    io::Io,
};
use crate::{
    formatter::{Protocol as Spoken, UpstreamConnection},
    model::cluster::{Cluster, SocketOptions},
    net::{Address, TlsInfo, socket_option::SocketMoment},
    stats::Block,
    upstream::{
        Alpn, Endpoint, Host, HostStat, TlsError, TlsTarget, UpstreamTls, WorkerCluster,
        stats::cluster_stats,
    },
};

/// Why a host cannot be reached.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not within `connect_timeout`.
    #[error("connection timeout")]
    Timeout,
    /// The host refused, or the network did.
    #[error("remote connection failure")]
    Remote(Arc<io::Error>),
    /// This machine could not try.
    #[error("local connection failure")]
    Local(Arc<io::Error>),
    /// The TLS or HTTP/2 handshake failed.
    #[error("remote connection failure")]
    Handshake(Arc<str>),
}

impl ConnectError {
    /// What an error of the operating system means.
    pub fn of(error: io::Error) -> Self {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
        match error.kind() {
            AddrInUse | AddrNotAvailable | PermissionDenied => Self::Local(Arc::new(error)),
            _ => Self::Remote(Arc::new(error)),
        }
    }

    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`: what is known beyond the kind.
    pub fn transport_failure(&self) -> Option<String> {
        match self {
            Self::Remote(error) | Self::Local(error) => {
                let text = error.to_string();
                // Rust adds the number; Envoy has the text alone.
                let text = text.split(" (os error").next().unwrap_or_default();
                Some(format!("delayed connect error: {text}"))
            }
            Self::Handshake(reason) => Some(reason.to_string()),
            Self::Timeout => None,
        }
    }
}

/// Connects to a host, and through its transport socket: bytes, and what is
/// known of them.
///
/// # Errors
/// When it cannot be reached within the cluster's `connect_timeout`.
pub async fn connect(
    cluster: &Cluster,
    endpoint: &Endpoint,
    wire: &Wire,
) -> Result<(Io, UpstreamConnection), ConnectError> {
    let stats = &cluster.stats;
    let started = Instant::now();
    tracing::debug!(
        target: "pool", "creating a new connection to {} of cluster '{}'",
        endpoint.host.address(), cluster.name
    );
    let mut failed = Opening {
        stats,
        alpn: wire.alpn,
        host: &endpoint.host,
        by_host: false,
    };
    let opening = open(cluster, endpoint, wire);
    let outcome = tokio::time::timeout(cluster.connect_timeout, opening).await;
    let outcome = outcome.unwrap_or_else(|_| {
        stats.inc(cluster_stats::upstream_cx_connect_timeout);
        Err(ConnectError::Timeout)
    });
    match &outcome {
        Ok((_, info)) => {
            // It counts itself from here on.
            std::mem::forget(failed);
            let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            stats.record(cluster_stats::upstream_cx_connect_ms, took);
            tracing::debug!(
                target: "connection", connection_id = info.id,
                "connected to {} in {took} ms", endpoint.host.address()
            );
        }
        Err(error) => {
            tracing::debug!(
                target: "connection", "cannot connect to {}: {}", endpoint.host.address(),
                error.transport_failure().as_deref().unwrap_or("connect timeout"),
            );
            stats.inc(cluster_stats::upstream_cx_connect_fail);
            endpoint.host.inc(HostStat::cx_connect_fail);
            failed.by_host = !matches!(error, ConnectError::Timeout);
        }
    }
    outcome
}

/// A connection that is not established yet. If it never is, it has been one
/// all the same in the stats.
struct Opening<'a> {
    stats: &'a Block,
    host: &'a Host,
    alpn: Alpn,
    by_host: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let stats = self.stats;
        stats.inc(cluster_stats::upstream_cx_total);
        stats.inc(cluster_stats::upstream_cx_destroy);
        stats.inc(match self.by_host {
            true => cluster_stats::upstream_cx_destroy_remote,
            false => cluster_stats::upstream_cx_destroy_local,
        });
        self.host.inc(HostStat::cx_total);
        match self.alpn {
            Alpn::Http1 => stats.inc(cluster_stats::upstream_cx_http1_total),
            Alpn::Http2 => stats.inc(cluster_stats::upstream_cx_http2_total),
            Alpn::None | Alpn::Either => {}
        }
    }
}

async fn open(
    cluster: &Cluster,
    endpoint: &Endpoint,
    wire: &Wire,
) -> Result<(Io, UpstreamConnection), ConnectError> {
    // Only numbers connections for people; nothing is decided by it.
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let addresses = endpoint.host.addresses().clone();
    let mut address = &addresses.first;
    let mut outcome = open_address(cluster, address).await;
    for other in &addresses.others {
        if outcome.is_ok() {
            break;
        }
        address = other;
        outcome = open_address(cluster, address).await;
    }
    let mut io = outcome?;
    let mut info = UpstreamConnection {
        id: NEXT_ID.fetch_add(1, Relaxed),
        ..UpstreamConnection::default()
    };
    if let Io::Tcp(tcp) = &io {
        info.local = tcp.local_addr().ok();
    }
    if let Some(protocol) = endpoint.transport.proxy_protocol() {
        let header = wire.header.clone();
        let own = || protocol.own_header(info.local.zip(address.ip())).into();
        let header = header.unwrap_or_else(own);
        io.write_all(&header).await.map_err(ConnectError::of)?;
    }
    let Some(tls) = endpoint.transport.tls() else {
        return Ok((io, info));
    };
    let target = TlsTarget {
        address,
        local: info.local.map(|local| local.ip()),
        server_name: wire.server_name.as_deref(),
        subject: wire.subject.as_deref(),
        alpn: wire.alpn,
    };
    let io = secure(io, tls, &target).await;
    let io = io.map_err(|error| ConnectError::Handshake(error.to_string().into()))?;
    let local = tls.certificate();
    info.tls = io.session().map(|session| TlsInfo::new(session, local));
    Ok((io, info))
}

async fn secure(io: Io, tls: &UpstreamTls, target: &TlsTarget<'_>) -> Result<Io, TlsError> {
    Ok(match io {
        Io::Tcp(tcp) => Io::Tls(Box::new(tls.connect(tcp, target).await?)),
        Io::Unix(unix) => Io::UnixTls(Box::new(tls.connect(unix, target).await?)),
        secured @ (Io::Tls(_) | Io::UnixTls(_)) => secured,
    })
}

async fn open_address(cluster: &Cluster, address: &Address) -> Result<Io, ConnectError> {
    match address {
        Address::Ip(address) => {
            let socket = prepare(&cluster.socket, *address);
            let socket = socket.map_err(|error| ConnectError::Local(Arc::new(error)))?;
            let tcp = socket.connect(*address).await.map_err(ConnectError::of)?;
            Ok(Io::Tcp(tcp))
        }
        Address::Pipe(path) => {
            let unix = match path.to_str().and_then(|path| path.strip_prefix('@')) {
                // In the abstract namespace.
                Some(name) => UnixStream::connect(format!("\0{name}")).await,
                None => UnixStream::connect(path).await,
            };
            let unix = unix.map_err(ConnectError::of)?;
            Ok(Io::Unix(unix))
        }
    }
}

/// A socket that is told everything before it connects.
fn prepare(options: &SocketOptions, to: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    let source = options.bind.source(to);
    if options.bind.freebind && source.is_some() {
        let socket = socket2::SockRef::from(&socket);
        match to {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    if let Some(keepalive) = &options.keepalive {
        keepalive.apply(&socket)?;
    }
    if let Some(source) = source {
        let told = source
            .options
            .apply(&socket, SocketMoment::Prebind, Some(to.is_ipv6()));
        if let Err(error) = told {
            tracing::warn!(target: "connection", "{error}");
            return Err(error.cause);
        }
        if let Some(address) = source.address {
            if address.port() == 0 {
                // The port is chosen when it is known to where, so that it need not be
                // free towards everybody.
                nix::sys::socket::setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            }
            socket.bind(address)?;
        }
    }
    Ok(socket)
}

/// Makes a connection that a pool can use.
pub(super) async fn establish(
    endpoint: Arc<Endpoint>,
    wire: Wire,
    cluster: Rc<WorkerCluster>,
    permit: ConnectionPermit,
) -> Result<Made, ConnectError> {
    let cluster = &cluster.cluster;
    let (io, mut info) = connect(cluster, &endpoint, &wire).await?;
    let http2 = match wire.alpn {
        Alpn::Http2 => true,
        // Without an answer it is what everybody understands.
        Alpn::Either => io
            .session()
            .is_some_and(|tls| tls.alpn_protocol() == Some(b"h2")),
        Alpn::None | Alpn::Http1 => false,
    };
    info.protocol = Some(match http2 {
        true => Spoken::Http2,
        false => Spoken::Http11,
    });
    let facts = ConnectionFacts::new(cluster.clone(), endpoint.host.clone(), info, permit);
    match http2 {
        true => Http2Connection::handshake(io, facts).await.map(Made::Http2),
        false => Ok(Made::Http1(Box::new(Connection::new(io, facts)))),
    }
}
