//! Accept loops: one for each address and worker, for as long as any listener
//! of the snapshot uses the address.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::{
    Address, Connection, ConnectionInfo, Stream,
    inspect::{self, ClientHello},
    signal::Signal,
    socket::{ListenSocket, Sockets},
    tls,
};
use crate::{
    model::{
        Snapshot,
        listener::{Listener, NetworkFilter, Transport, listener_stats, worker_stats},
    },
    server::{Chain, ChainHandle, Worker},
    stats::Block,
};

/// How long a loop rests when the process has no file descriptor left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// The accept loops of one worker.
#[derive(Debug, Default)]
pub struct AcceptLoops(RefCell<Vec<AcceptLoop>>);

#[derive(Debug)]
struct AcceptLoop {
    sockets: Arc<Sockets>,
    socket: Rc<Socket>,
    listener: Rc<RefCell<Arc<str>>>,
    stop: Signal,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream, Address),
    Unix(UnixStreamPair),
}

type UnixStreamPair = (tokio::net::UnixStream, tokio::net::unix::SocketAddr);

impl Socket {
    fn adopt(socket: ListenSocket) -> io::Result<Self> {
        Ok(match socket {
            ListenSocket::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            ListenSocket::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(socket) => {
                let (stream, remote) = socket.accept().await?;
                Accepted::Tcp(stream, remote.into())
            }
            Self::Unix(socket) => Accepted::Unix(socket.accept().await?),
        })
    }
}

impl AcceptLoops {
    /// Accepts what the kernel has already queued on sockets that `next` does
    /// not use, while the configuration that serves them is still in place.
    pub fn drain_removed(&self, worker: &Rc<Worker>, next: &Snapshot) {
        for accept in self.0.borrow().iter() {
            if users(next, &accept.sockets).next().is_none() {
                accept.take_queued(worker);
            }
        }
    }

    /// Starts and ends loops so that there is one for each socket of `snapshot`,
    /// or none while the process does not accept.
    pub fn reconcile(&self, worker: &Rc<Worker>, snapshot: &Snapshot) {
        let phase = worker.phase();
        let mut loops = self.0.borrow_mut();
        loops.retain(|accept| {
            let kept = users(snapshot, &accept.sockets).any(|l| phase.accepts(l.direction));
            if !kept {
                accept.stop.raise();
            }
            kept
        });
        for listener in snapshot.listeners.values() {
            if !phase.accepts(listener.direction) {
                continue;
            }
            for sockets in &listener.sockets {
                if let Some(accept) = loops.iter().find(|a| Arc::ptr_eq(&a.sockets, sockets)) {
                    // The address may have passed to a listener of another name.
                    accept.listener.replace(listener.name.clone());
                } else if let Some(socket) = sockets.take(worker.index) {
                    match Socket::adopt(socket) {
                        Ok(socket) => {
                            loops.push(AcceptLoop::start(worker, listener, sockets, socket));
                        }
                        Err(error) => tracing::error!(
                            target: "conn_handler",
                            "{}: worker {} cannot accept on {}: {error}",
                            listener.name, worker.index, sockets.local(),
                        ),
                    }
                }
            }
        }
    }
}

fn users<'a>(
    snapshot: &'a Snapshot,
    sockets: &Arc<Sockets>,
) -> impl Iterator<Item = &'a Arc<Listener>> {
    let uses = move |l: &&Arc<Listener>| l.sockets.iter().any(|s| Arc::ptr_eq(s, sockets));
    snapshot.listeners.values().filter(uses)
}

impl AcceptLoop {
    fn start(
        worker: &Rc<Worker>,
        listener: &Arc<Listener>,
        sockets: &Arc<Sockets>,
        socket: Socket,
    ) -> Self {
        let accept = Self {
            sockets: sockets.clone(),
            socket: Rc::new(socket),
            listener: Rc::new(RefCell::new(listener.name.clone())),
            stop: Signal::new(),
        };
        let mut stop = accept.stop.wait();
        let (worker, sockets) = (worker.clone(), sockets.clone());
        let (socket, name) = (accept.socket.clone(), accept.listener.clone());
        tokio::task::spawn_local(async move {
            loop {
                let mut accepted = tokio::select! {
                    biased;
                    () = &mut stop => return,
                    accepted = socket.accept() => accepted,
                };
                let Some(listener) = worker.listener(&name.borrow()) else {
                    continue;
                };
                let mut count = 0;
                let failed = loop {
                    match accepted {
                        Ok(accepted) => admit(&worker, &listener, &sockets, accepted),
                        Err(error) if is_of_one_connection(&error) => {}
                        Err(error) => break Some(error),
                    }
                    count += 1;
                    if count == listener.max_accepts_per_event {
                        break None;
                    }
                    match socket.accept().now_or_never() {
                        Some(next) => accepted = next,
                        None => break None,
                    }
                };
                let stats = &listener.stats;
                stats.record(
                    listener_stats::connections_accepted_per_socket_event,
                    count as u64,
                );
                if let Some(error) = failed {
                    tracing::warn!(
                        target: "conn_handler", "{}: accept failed: {error}", listener.name
                    );
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        });
        accept
    }

    fn take_queued(&self, worker: &Rc<Worker>) {
        while let Some(Ok(accepted)) = self.socket.accept().now_or_never() {
            if let Some(listener) = worker.listener(&self.listener.borrow()) {
                admit(worker, &listener, &self.sockets, accepted);
            }
        }
    }
}

/// Errors of `accept` that concern a connection that is already gone.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
    )
}

/// Chooses the filter chain of a new connection, ends its TLS, and serves it.
fn admit(worker: &Rc<Worker>, listener: &Arc<Listener>, sockets: &Arc<Sockets>, new: Accepted) {
    let count = ConnectionCount::new(listener, worker);
    let (stream, remote) = match new {
        Accepted::Tcp(stream, remote) => (Stream::Tcp(stream), remote),
        Accepted::Unix((stream, remote)) => {
            let path = remote
                .as_pathname()
                .unwrap_or_else(|| std::path::Path::new(""));
            (Stream::Unix(stream), Address::Pipe(path.into()))
        }
    };
    let mut info = ConnectionInfo {
        id: count.id,
        local: local_address(&stream, sockets),
        direct_remote: remote.clone(),
        remote,
        server_name: None,
        application_protocols: Box::default(),
        offers_tls: false,
        tls: None,
        accepted: count.accepted,
    };
    tracing::debug!(
        target: "conn_handler", connection_id = info.id,
        "new connection from {}", info.direct_remote
    );
    if !listener.inspect_tls
        && let Some(chain) = worker.find_chain(&listener.name, sockets, &info)
        && matches!(chain.filter_chain.transport, Transport::Raw)
    {
        return serve(worker, chain, sockets, stream, info, count);
    }
    let (worker, listener, sockets) = (worker.clone(), listener.clone(), sockets.clone());
    tokio::task::spawn_local(async move {
        if listener.inspect_tls
            && let Stream::Tcp(tcp) = &stream
        {
            let hello = inspect_within_timeout(&listener, tcp).await;
            let Some(hello) = hello else { return };
            if let Some(ClientHello {
                server_name,
                application_protocols,
            }) = hello
            {
                info.offers_tls = true;
                info.server_name = server_name;
                info.application_protocols = application_protocols;
            }
        }
        let Some(chain) = worker.find_chain(&listener.name, &sockets, &info) else {
            listener.stats.inc(listener_stats::no_filter_chain_match);
            tracing::debug!(
                target: "conn_handler", connection_id = info.id,
                "closing connection: no filter chain of {} matches (server name {:?}, from {})",
                listener.name, info.server_name, info.remote
            );
            return;
        };
        let stream = match (&chain.filter_chain.transport, stream) {
            (Transport::Raw, stream) => stream,
            (Transport::Tls(transport), Stream::Tcp(tcp)) => match transport.accept(tcp).await {
                Ok(stream) => {
                    let (server_name, facts) = tls::facts(&stream);
                    info.offers_tls = true;
                    info.server_name = info.server_name.or(server_name);
                    info.tls = Some(facts);
                    Stream::Tls(Box::new(stream))
                }
                Err(error) => {
                    tracing::debug!(
                        target: "connection", connection_id = info.id,
                        "TLS handshake failed: {error}"
                    );
                    return;
                }
            },
            (Transport::Tls(_), _) => {
                tracing::debug!(target: "connection", "TLS is ended over TCP alone");
                return;
            }
        };
        serve(&worker, chain, &sockets, stream, info, count);
    });
}

/// What the start of the connection tells; outer `None` when it has to be closed.
async fn inspect_within_timeout(
    listener: &Listener,
    stream: &TcpStream,
) -> Option<Option<ClientHello>> {
    let limit = listener.listener_filters_timeout;
    listener
        .stats
        .gauge_add(listener_stats::downstream_pre_cx_active, 1);
    let inspected = match limit.is_zero() {
        true => Ok(inspect::client_hello(stream).await),
        false => tokio::time::timeout(limit, inspect::client_hello(stream)).await,
    };
    listener
        .stats
        .gauge_sub(listener_stats::downstream_pre_cx_active, 1);
    match inspected {
        Ok(Ok(hello)) => Some(hello),
        Ok(Err(_)) => {
            listener
                .stats
                .inc(listener_stats::downstream_listener_filter_remote_close);
            None
        }
        Err(_elapsed) => {
            listener
                .stats
                .inc(listener_stats::downstream_pre_cx_timeout);
            listener
                .continue_on_listener_filters_timeout
                .then_some(None)
        }
    }
}

fn serve(
    worker: &Rc<Worker>,
    chain: Rc<Chain>,
    sockets: &Arc<Sockets>,
    stream: Stream,
    info: ConnectionInfo,
    count: ConnectionCount,
) {
    let info = Rc::new(info);
    let filter_chain = chain.filter_chain.clone();
    let chain = ChainHandle::new(worker.clone(), info.clone(), sockets.clone(), chain);
    let connection = Connection {
        stream,
        info,
        chain,
    };
    match &filter_chain.network {
        NetworkFilter::Http(_) => {
            tokio::task::spawn_local(async move {
                crate::http::serve(connection).await;
                drop(count);
            });
        }
        NetworkFilter::Tcp(proxy) => {
            let proxy = proxy.clone();
            tokio::task::spawn_local(async move {
                crate::tcp::serve(connection, proxy).await;
                drop(count);
            });
        }
    }
}

/// The bound address, asked of the kernel only where a wildcard hides it.
fn local_address(stream: &Stream, sockets: &Sockets) -> Address {
    match (sockets.local().ip(), stream) {
        (Some(bound), Stream::Tcp(tcp)) if bound.ip().is_unspecified() => tcp
            .local_addr()
            .map_or_else(|_| sockets.local().clone(), Into::into),
        _ => sockets.local().clone(),
    }
}

/// Counts a connection in its listener's stats for as long as it lives.
#[derive(Debug)]
struct ConnectionCount {
    id: u64,
    stats: Arc<Block>,
    worker_stats: Option<Arc<Block>>,
    accepted: Instant,
    _worker: crate::server::ConnectionGuard,
}

impl ConnectionCount {
    fn new(listener: &Listener, worker: &Rc<Worker>) -> Self {
        let stats = listener.stats.clone();
        let worker_stats = listener.worker_stats.get(worker.index).cloned();
        stats.inc(listener_stats::downstream_cx_total);
        stats.gauge_add(listener_stats::downstream_cx_active, 1);
        if let Some(stats) = &worker_stats {
            stats.inc(worker_stats::downstream_cx_total);
            stats.gauge_add(worker_stats::downstream_cx_active, 1);
        }
        Self {
            id: worker.next_connection_id(),
            stats,
            worker_stats,
            accepted: Instant::now(),
            _worker: worker.connection_guard(),
        }
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.stats.inc(listener_stats::downstream_cx_destroy);
        self.stats
            .gauge_sub(listener_stats::downstream_cx_active, 1);
        if let Some(stats) = &self.worker_stats {
            stats.gauge_sub(worker_stats::downstream_cx_active, 1);
        }
        let length = self.accepted.elapsed().as_millis();
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.stats
            .record(listener_stats::downstream_cx_length_ms, length);
        tracing::debug!(
            target: "connection", connection_id = self.id, "closed after {length} ms"
        );
    }
}
