//! Accept loops: one for each address and worker, for as long as any listener
//! of the snapshot uses the address.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::net::{TcpListener, UnixListener};

use super::{
    Address, Connection, ConnectionInfo, Plain, Stream, filters,
    limits::Place,
    listener_filters::Stop,
    signal::Signal,
    socket::{ListenSocket, Sockets},
};
use crate::{
    model::{
        Snapshot,
        listener::{Facts, Listener, NetworkFilter, Transport, listener_stats, worker_stats},
    },
    server::{Chain, ChainHandle, Door, Worker},
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

/// A connection and the address of its peer.
type Accepted = (Plain, Address);

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
                (Plain::Tcp(stream), canonical(remote).into())
            }
            Self::Unix(socket) => {
                let (stream, remote) = socket.accept().await?;
                let path = remote.as_pathname().unwrap_or(Path::new(""));
                (Plain::Unix(stream), Address::Pipe(path.into()))
            }
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

/// An IPv4 client of a socket of both families by its own address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Takes a new connection in, unless there are too many.
fn admit(worker: &Rc<Worker>, listener: &Arc<Listener>, sockets: &Arc<Sockets>, new: Accepted) {
    let Some(place) = enter(listener) else { return };
    let (stream, remote) = new;
    let local = local_address(&stream, sockets);
    let new = NewConnection {
        info: ConnectionInfo::new(worker.next_connection_id(), local, remote),
        stream,
        door: Door::Sockets(sockets.clone()),
        place,
        guard: worker.connection_guard(),
    };
    tracing::debug!(
        target: "conn_handler", connection_id = new.info.id,
        "new connection from {}", new.info.direct_remote
    );
    if listener.filters.is_empty()
        && let Some(chain) = worker.find_chain(&listener.name, &new.door, &Facts::found(&new.info))
        && matches!(chain.filter_chain.transport, Transport::Raw)
    {
        return new.serve(worker, chain);
    }
    tokio::task::spawn_local(new.settle(worker.clone(), listener.clone()));
}

/// A place among the open connections of the listener and of all listeners.
fn enter(listener: &Listener) -> Option<(Place, Place)> {
    let limits = &listener.limits;
    let all = match limits.ignore_all {
        true => Some(limits.all.enter_anyway()),
        false => limits.all.enter(),
    };
    let Some(all) = all else {
        listener
            .stats
            .inc(listener_stats::downstream_global_cx_overflow);
        return None;
    };
    let Some(own) = limits.own.enter() else {
        listener.stats.inc(listener_stats::downstream_cx_overflow);
        return None;
    };
    Some((own, all))
}

/// A connection that has no filter chain yet.
struct NewConnection {
    stream: Plain,
    info: ConnectionInfo,
    door: Door,
    place: (Place, Place),
    guard: crate::server::ConnectionGuard,
}

impl NewConnection {
    /// Runs the listener filters, chooses the filter chain and ends its TLS.
    async fn settle(mut self, worker: Rc<Worker>, mut listener: Arc<Listener>) {
        loop {
            if !self.filter(&listener).await {
                return;
            }
            let handed_over = matches!(self.door, Door::HandedOver);
            if !listener.hand_over_restored || handed_over || !self.info.local_restored() {
                break;
            }
            // Once, to the listener the connection was meant for, if there is one.
            match worker.listener_at(&self.info.local) {
                Some(other) if other.name != listener.name => {
                    let Some(own) = other.limits.own.enter() else {
                        other.stats.inc(listener_stats::downstream_cx_overflow);
                        return;
                    };
                    self.place.0 = own;
                    self.door = Door::HandedOver;
                    listener = other;
                }
                _ => break,
            }
        }
        let facts = Facts::found(&self.info);
        let Some(chain) = worker.find_chain(&listener.name, &self.door, &facts) else {
            listener.stats.inc(listener_stats::no_filter_chain_match);
            tracing::debug!(
                target: "conn_handler", connection_id = self.info.id,
                "closing connection: no filter chain of {} matches (server name {:?}, from {})",
                listener.name, self.info.server_name, self.info.remote
            );
            return;
        };
        self.serve(&worker, chain);
    }

    /// Runs the listener filters; whether the connection goes on.
    async fn filter(&mut self, listener: &Listener) -> bool {
        if listener.filters.is_empty() {
            return true;
        }
        let (stats, limit) = (&listener.stats, listener.listener_filters_timeout);
        stats.gauge_add(listener_stats::downstream_pre_cx_active, 1);
        let running = listener.filters.run(&self.stream, &mut self.info);
        let ran = match limit.is_zero() {
            true => Ok(running.await),
            false => tokio::time::timeout(limit, running).await,
        };
        stats.gauge_sub(listener_stats::downstream_pre_cx_active, 1);
        let stop = match ran {
            Ok(Ok(())) => return true,
            Ok(Err(stop)) => stop,
            Err(_elapsed) => {
                stats.inc(listener_stats::downstream_pre_cx_timeout);
                tracing::debug!(
                    target: "conn_handler", connection_id = self.info.id,
                    "listener filter times out after {} ms", limit.as_millis()
                );
                return listener.continue_on_listener_filters_timeout && self.watch_anew();
            }
        };
        match &stop {
            Stop::Refused(_) => {}
            stop if stop.is_remote_close() => {
                stats.inc(listener_stats::downstream_listener_filter_remote_close);
            }
            _ => stats.inc(listener_stats::downstream_listener_filter_error),
        }
        tracing::debug!(
            target: "conn_handler", connection_id = self.info.id,
            "closing connection: {stop}"
        );
        false
    }

    /// Lets whoever reads next find what the filters have looked at.
    fn watch_anew(&mut self) -> bool {
        match self.stream.watch_anew() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(target: "conn_handler", "{}: {error}", self.info.direct_remote);
                false
            }
        }
    }

    /// Serves the connection by a chain, in a task of its own.
    fn serve(self, worker: &Rc<Worker>, chain: Rc<Chain>) {
        let Self {
            stream,
            mut info,
            door,
            place,
            guard,
        } = self;
        let mut count = ConnectionCount::new(&info, &chain.listener, worker, place, guard);
        let filter_chain = chain.filter_chain.clone();
        match filters::pass(&filter_chain.gates, &mut info) {
            Ok(held) => count.held = held,
            Err(delay) => {
                tracing::debug!(
                    target: "conn_handler", connection_id = info.id,
                    "closing connection: a network filter of the chain refuses it"
                );
                if !delay.is_zero() {
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(delay).await;
                        drop((stream, count));
                    });
                }
                return;
            }
        }
        let worker = worker.clone();
        match &filter_chain.transport {
            Transport::Raw => serve(worker, chain, door, stream.into(), info, count),
            Transport::Tls(_) => {
                tokio::task::spawn_local(async move {
                    if let Some(stream) = end_tls(stream, &mut info, &chain).await {
                        serve(worker, chain, door, stream, info, count);
                    }
                });
            }
        }
    }
}

/// Does the handshake; `None` when it fails.
async fn end_tls(stream: Plain, info: &mut ConnectionInfo, chain: &Chain) -> Option<Stream> {
    let filter_chain = &chain.filter_chain;
    let Transport::Tls(transport) = &filter_chain.transport else {
        return Some(stream.into());
    };
    let Plain::Tcp(tcp) = stream else {
        tracing::debug!(target: "connection", "TLS is ended over TCP alone");
        return None;
    };
    let handshake = transport.accept(tcp);
    let ended = match filter_chain.transport_connect_timeout {
        None => handshake.await,
        Some(limit) => match tokio::time::timeout(limit, handshake).await {
            Ok(ended) => ended,
            Err(_elapsed) => {
                let counter = listener_stats::downstream_cx_transport_socket_connect_timeout;
                chain.listener.stats.inc(counter);
                return None;
            }
        },
    };
    match ended {
        Ok((stream, facts, server_name)) => {
            if !info.offers_tls {
                // What a listener that looks would have found.
                info.offers_tls = true;
                info.server_name = server_name;
                let protocol = facts.application_protocol.clone();
                info.application_protocols = protocol.into_iter().collect();
            }
            info.tls = Some(facts);
            Some(Stream::Tls(Box::new(stream)))
        }
        Err(error) => {
            tracing::debug!(
                target: "connection", connection_id = info.id,
                "TLS handshake failed: {error}"
            );
            None
        }
    }
}

fn serve(
    worker: Rc<Worker>,
    chain: Rc<Chain>,
    door: Door,
    stream: Stream,
    info: ConnectionInfo,
    count: ConnectionCount,
) {
    let info = Rc::new(info);
    let filter_chain = chain.filter_chain.clone();
    let chain = ChainHandle::new(worker, info.clone(), door, chain);
    let connection = Connection {
        stream,
        info,
        chain,
    };
    // Boxed, for what is spawned is moved several times into its task and out of it.
    match &filter_chain.network {
        NetworkFilter::Http(_) => {
            tokio::task::spawn_local(Box::pin(async move {
                crate::http::serve(connection).await;
                drop(count);
            }));
        }
        NetworkFilter::Echo => {
            tokio::task::spawn_local(async move {
                filters::echo::serve(connection).await;
                drop(count);
            });
        }
        NetworkFilter::DirectResponse(response) => {
            let response = response.clone();
            tokio::task::spawn_local(async move {
                filters::direct_response::serve(connection, response).await;
                drop(count);
            });
        }
        NetworkFilter::Tcp(proxy) => {
            let proxy = proxy.clone();
            tokio::task::spawn_local(Box::pin(async move {
                crate::tcp::serve(connection, proxy).await;
                drop(count);
            }));
        }
    }
}

/// The bound address, asked of the kernel only where a wildcard hides it.
fn local_address(stream: &Plain, sockets: &Sockets) -> Address {
    match (sockets.local().ip(), stream) {
        (Some(bound), Plain::Tcp(tcp))
            if sockets.options().transparent || bound.ip().is_unspecified() =>
        {
            tcp.local_addr()
                .map_or_else(|_| sockets.local().clone(), |local| canonical(local).into())
        }
        _ => sockets.local().clone(),
    }
}

/// Counts a connection in its listener's stats for as long as it lives.
#[derive(Debug)]
struct ConnectionCount {
    id: u64,
    stats: Arc<Block>,
    worker_stats: Option<Arc<Block>>,
    since: Instant,
    /// Of the network filters it has passed.
    held: Vec<filters::Held>,
    _place: (Place, Place),
    _worker: crate::server::ConnectionGuard,
}

impl ConnectionCount {
    fn new(
        info: &ConnectionInfo,
        listener: &Listener,
        worker: &Rc<Worker>,
        place: (Place, Place),
        guard: crate::server::ConnectionGuard,
    ) -> Self {
        let stats = listener.stats.clone();
        let worker_stats = listener.worker_stats.get(worker.index).cloned();
        stats.inc(listener_stats::downstream_cx_total);
        stats.gauge_add(listener_stats::downstream_cx_active, 1);
        if let Some(stats) = &worker_stats {
            stats.inc(worker_stats::downstream_cx_total);
            stats.gauge_add(worker_stats::downstream_cx_active, 1);
        }
        Self {
            id: info.id,
            stats,
            worker_stats,
            since: info.accepted,
            held: Vec::new(),
            _place: place,
            _worker: guard,
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
        let length = self.since.elapsed().as_millis();
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.stats
            .record(listener_stats::downstream_cx_length_ms, length);
        tracing::debug!(
            target: "connection", connection_id = self.id, "closed after {length} ms"
        );
    }
}
