//! Listening sockets, made before a listener is announced and kept for as long
//! as any listener uses their address.
//!
//! They are bound when the listener is built, so that an address that cannot be had
//! refuses it, but listen once it comes into force: who connects to one that warms is
//! refused by the kernel, and whoever probes it sees that it is not there yet.
//!
//! A socket belongs to its address, not to a configuration: a listener that is
//! replaced hands the same [`Sockets`] to its successor, so an update never
//! closes and reopens one. With `SO_REUSEPORT` each worker has a socket of its
//! own; without, all share one.

use std::{
    fs::{self, Permissions},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Acquire, Ordering::Release},
    },
};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::{
    Address, TcpKeepalive,
    socket_option::{self, SocketMoment, SocketOptionError, SocketOptionList},
};

/// What `listen` and `setsockopt` are told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SocketOptions {
    /// One socket for each worker.
    pub reuse_port: bool,
    /// Queue of connections not yet accepted; as many as the kernel allows
    /// (`net.core.somaxconn`) when not said.
    pub backlog: Option<u32>,
    /// Bind to an address this host does not have (`IP_FREEBIND`).
    pub freebind: bool,
    /// Accept for any address (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// An address of IPv6 takes clients of IPv4 too.
    pub ipv4_compat: bool,
    /// Connections whose first data came with their SYN (`TCP_FASTOPEN`).
    pub fast_open: Option<u32>,
    /// Of the connections that are accepted.
    pub keepalive: Option<TcpKeepalive>,
    /// Permissions of the path of a Unix socket; as the process makes files when 0.
    pub mode: u32,
    /// `socket_options`. A Unix socket is told those of `STATE_BOUND` and
    /// `STATE_LISTENING`, as Envoy does.
    pub others: SocketOptionList,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            reuse_port: true,
            backlog: None,
            freebind: false,
            transparent: false,
            ipv4_compat: false,
            fast_open: None,
            keepalive: None,
            mode: 0,
            others: SocketOptionList::default(),
        }
    }
}

impl SocketOptions {
    fn backlog(&self) -> i32 {
        self.backlog
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or(i32::MAX)
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} '{address}': {cause}")]
pub struct BindError {
    doing: &'static str,
    address: Address,
    #[source]
    cause: BindCause,
}

#[derive(Debug, thiserror::Error)]
enum BindCause {
    #[error("{}", reason(.0))]
    Bind(#[from] io::Error),
    #[error(transparent)]
    Option(#[from] SocketOptionError),
}

fn reason(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "Address already in use by another process".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "Permission denied (a port below 1024 needs the capability CAP_NET_BIND_SERVICE)"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "Cannot assign requested address (no interface of this host has it)".to_owned()
        }
        _ => cause.to_string(),
    }
}

/// A socket of one worker.
#[derive(Debug)]
pub enum ListenSocket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix domain.
    Unix(UnixListener),
}

impl ListenSocket {
    fn listen(&self, options: &SocketOptions) -> Result<(), BindCause> {
        let socket = match self {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
        };
        let ipv6 = match self {
            Self::Tcp(socket) => Some(socket.local_addr()?.is_ipv6()),
            Self::Unix(_) => None,
        };
        socket.listen(options.backlog())?;
        let others = &options.others;
        Ok(others.apply(&*socket, SocketMoment::Listening, ipv6)?)
    }
}

/// The sockets of one address, one for each worker.
#[derive(Debug)]
pub struct Sockets {
    requested: Address,
    local: Address,
    options: SocketOptions,
    listening: AtomicBool,
    waiting: Mutex<Vec<Option<ListenSocket>>>,
}

impl Sockets {
    /// Binds, once for each of `workers`. `replace` takes the path of a
    /// Unix socket away from who listens there.
    ///
    /// # Errors
    /// What the kernel says, with the address.
    pub fn bind(
        address: &Address,
        options: &SocketOptions,
        workers: usize,
        replace: bool,
    ) -> Result<Self, BindError> {
        let fail = |cause| BindError {
            doing: "bind",
            address: address.clone(),
            cause,
        };
        try_listening(address, options).map_err(fail)?;
        let (local, sockets) = match address {
            Address::Ip(ip) => bind_tcp(*ip, options, workers).map_err(fail)?,
            Address::Pipe(path) => {
                let sockets = bind_pipe(path, options, workers, replace).map_err(fail)?;
                (address.clone(), sockets)
            }
        };
        Ok(Self {
            requested: address.clone(),
            local,
            options: options.clone(),
            listening: AtomicBool::new(false),
            waiting: Mutex::new(sockets.into_iter().map(Some).collect()),
        })
    }

    /// The address with the port the kernel chose where 0 was asked for.
    pub fn local(&self) -> &Address {
        &self.local
    }

    /// The address that was asked for.
    pub fn requested(&self) -> &Address {
        &self.requested
    }

    /// The options they were made with.
    pub fn options(&self) -> &SocketOptions {
        &self.options
    }

    /// Takes connections from here on, unless it does already.
    ///
    /// # Errors
    /// What the kernel says, with the address: another process may have come first.
    /// It may be tried again.
    pub fn listen(&self) -> Result<(), BindError> {
        if self.is_listening() {
            return Ok(());
        }
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sockets = waiting.iter().flatten();
        let listens = sockets.try_for_each(|socket| socket.listen(&self.options));
        self.listening.store(listens.is_ok(), Release);
        listens.map_err(|cause| BindError {
            doing: "listen on",
            address: self.requested.clone(),
            cause,
        })
    }

    /// Whether connections are taken.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Acquire)
    }

    /// A worker's own socket, the first time it asks.
    pub fn take(&self, worker: usize) -> Option<ListenSocket> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get_mut(worker).and_then(Option::take)
    }
}

/// Whether the kernel takes the options of a socket that listens: tried with another,
/// since a listener that comes into force is not refused any more.
fn try_listening(address: &Address, options: &SocketOptions) -> Result<(), BindCause> {
    if !options.others.has(SocketMoment::Listening) {
        return Ok(());
    }
    let socket = match address {
        Address::Ip(ip) => {
            let nowhere = match ip.is_ipv6() {
                true => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
                false => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            };
            ListenSocket::Tcp(std::net::TcpListener::bind(nowhere)?)
        }
        Address::Pipe(_) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // The kernel finds a name for it.
            socket.bind(&SockAddr::unix("")?)?;
            ListenSocket::Unix(socket.into())
        }
    };
    socket.listen(options)
}

fn bind_tcp(
    ip: SocketAddr,
    options: &SocketOptions,
    workers: usize,
) -> Result<(Address, Vec<ListenSocket>), BindCause> {
    let first = bind(ip, options)?;
    let local = first.local_addr()?;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        sockets.push(ListenSocket::Tcp(match options.reuse_port {
            true => bind(local, options)?,
            false => first.try_clone()?,
        }));
    }
    sockets.push(ListenSocket::Tcp(first));
    Ok((local.into(), sockets))
}

fn bind(ip: SocketAddr, options: &SocketOptions) -> Result<std::net::TcpListener, BindCause> {
    let socket = Socket::new(Domain::for_address(ip), Type::STREAM, Some(Protocol::TCP))?;
    let tell = |moment| options.others.apply(&socket, moment, Some(ip.is_ipv6()));
    socket.set_nonblocking(true)?;
    if ip.is_ipv6() {
        socket.set_only_v6(!options.ipv4_compat)?;
    }
    socket.set_reuse_address(true)?;
    if options.transparent {
        match ip.is_ipv6() {
            true => socket.set_ip_transparent_v6(true)?,
            false => socket.set_ip_transparent_v4(true)?,
        }
    }
    if options.freebind {
        match ip.is_ipv6() {
            true => socket.set_freebind_v6(true)?,
            false => socket.set_freebind_v4(true)?,
        }
    }
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    // Those that are accepted have it from here.
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = &options.keepalive {
        keepalive.apply(&socket)?;
    }
    tell(SocketMoment::Prebind)?;
    socket.bind(&ip.into())?;
    tell(SocketMoment::Bound)?;
    if let Some(queue) = options.fast_open {
        socket_option::set_fast_open(&socket, queue)?;
    }
    Ok(socket.into())
}

fn bind_pipe(
    path: &Path,
    options: &SocketOptions,
    workers: usize,
    replace: bool,
) -> Result<Vec<ListenSocket>, BindCause> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match path.to_str().and_then(|p| p.strip_prefix('@')) {
        Some(name) => socket.bind(&SockAddr::unix(format!("\0{name}"))?)?,
        None => {
            // A path left over by a process that is gone would refuse the bind.
            let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            let is_left = || Ok::<_, io::Error>(probe.connect(&SockAddr::unix(path)?).is_err());
            if path.exists() && (replace || is_left()?) {
                fs::remove_file(path)?;
            }
            socket.bind(&SockAddr::unix(path)?)?;
            if options.mode != 0 {
                fs::set_permissions(path, Permissions::from_mode(options.mode))?;
            }
        }
    }
    options.others.apply(&socket, SocketMoment::Bound, None)?;
    let listener: UnixListener = socket.into();
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        let copy: OwnedFd = listener.try_clone()?.into();
        sockets.push(ListenSocket::Unix(copy.into()));
    }
    sockets.push(ListenSocket::Unix(listener));
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(port: u16) -> Address {
        SocketAddr::from(([127, 0, 0, 1], port)).into()
    }

    #[test]
    fn each_worker_takes_its_socket_once() {
        let sockets = Sockets::bind(&loopback(0), &SocketOptions::default(), 2, false).unwrap();
        assert_ne!(sockets.local().ip().unwrap().port(), 0);
        assert!(sockets.take(0).is_some());
        assert!(sockets.take(1).is_some());
        assert!(sockets.take(0).is_none());
        assert!(sockets.take(2).is_none());
    }

    #[test]
    fn who_connects_before_it_listens_is_refused() {
        let sockets = Sockets::bind(&loopback(0), &SocketOptions::default(), 2, false).unwrap();
        let connect = || std::net::TcpStream::connect(sockets.local().ip().unwrap());
        assert_eq!(
            connect().unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(!sockets.is_listening());
        sockets.listen().unwrap();
        assert!(sockets.is_listening());
        assert!(connect().is_ok());
    }

    #[test]
    fn a_port_in_use_is_said_with_its_address() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = loopback(other.local_addr().unwrap().port());
        let error = Sockets::bind(&address, &SocketOptions::default(), 1, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot bind '{address}': Address already in use by another process")
        );
    }
}
