//! A new connection on its way to its filter chain: limits, the worker that takes
//! it, listener filters, the choice of the chain, TLS.

use std::{rc::Rc, sync::Arc};

use super::{Accepted, canonical, count::ConnectionCount, handed::Handed};
use crate::{
    model::listener::{Facts, Listener, NetworkFilter, Transport, listener_stats},
    net::{
        Address, Connection, ConnectionInfo, Plain, Stream, balance::Share, filters, limits::Place,
        listener_filters::Stop, socket::Sockets,
    },
    overload::Timer,
    server::{Chain, ChainHandle, ConnectionGuard, Door, Worker},
};

/// Takes a new connection in, unless there are too many.
pub(super) fn admit(
    worker: &Rc<Worker>,
    listener: &Arc<Listener>,
    sockets: &Arc<Sockets>,
    new: Accepted,
) {
    let Some(places) = Places::enter(worker, listener) else {
        return;
    };
    let (stream, remote) = new;
    let local = local_address(&stream, sockets);
    let new = NewConnection {
        info: ConnectionInfo::new(worker.next_connection_id(), local, remote),
        stream,
        door: Door::Sockets(sockets.clone()),
        places,
        guard: worker.connection_guard(),
    };
    tracing::debug!(
        target: "conn_handler", connection_id = new.info.id,
        "new connection from {}", new.info.direct_remote
    );
    if let Some(new) = new.balance(worker, listener) {
        new.begin(worker, listener);
    }
}

/// What a connection takes of what there is only so much of.
#[derive(Debug)]
pub(super) struct Places {
    /// Among those of its listener, and of all.
    _own: Place,
    _all: Place,
    /// Among those of its worker.
    share: Option<Share>,
}

impl Places {
    fn enter(worker: &Worker, listener: &Listener) -> Option<Self> {
        let overload = &listener.overload;
        let limits = &listener.limits;
        let all = match limits.ignore_all {
            true => Some(limits.all.enter_anyway()),
            false => limits.all.enter(),
        };
        let Some(all) = all else {
            listener
                .stats
                .inc(listener_stats::downstream_global_cx_overflow);
            if let Some(connections) = &overload.connections {
                connections.refused();
            }
            return None;
        };
        let random = || worker.random();
        if overload.tcp_listener_accept.sheds(random)
            || overload.reject_incoming_connections.happens(random)
        {
            listener
                .stats
                .inc(listener_stats::downstream_cx_overload_reject);
            return None;
        }
        Some(Self {
            _own: own_place(listener)?,
            _all: all,
            share: None,
        })
    }

    /// Goes over to another listener, if it has a place.
    fn change(&mut self, listener: &Listener) -> bool {
        match own_place(listener) {
            Some(own) => {
                self._own = own;
                self.share = None;
                true
            }
            None => false,
        }
    }
}

fn own_place(listener: &Listener) -> Option<Place> {
    let own = listener.limits.own.enter();
    if own.is_none() {
        listener.stats.inc(listener_stats::downstream_cx_overflow);
    }
    own
}

/// A connection that has no filter chain yet.
pub(super) struct NewConnection {
    pub(super) stream: Plain,
    pub(super) info: ConnectionInfo,
    pub(super) door: Door,
    pub(super) places: Places,
    pub(super) guard: ConnectionGuard,
}

impl NewConnection {
    /// Gives it to the worker whose turn it is, if its listener asks for that and
    /// it is another one; it comes back where it stays here.
    fn balance(mut self, worker: &Worker, listener: &Arc<Listener>) -> Option<Self> {
        let Some(balance) = &listener.balance else {
            return Some(self);
        };
        let share = balance.give();
        let turn = share.worker();
        self.places.share = Some(share);
        if turn == worker.index {
            return Some(self);
        }
        let Some(room) = worker.room_at(turn) else {
            if let Some(share) = &mut self.places.share {
                share.keep(worker.index);
            }
            return Some(self);
        };
        match Handed::new(self, listener.clone()) {
            Ok(handed) => room.send(handed),
            Err(error) => tracing::warn!(
                target: "conn_handler", "{}: a connection cannot change its worker: {error}",
                listener.name
            ),
        }
        None
    }

    /// Serves it at once where nothing has to be waited for.
    pub(super) fn begin(self, worker: &Rc<Worker>, listener: &Arc<Listener>) {
        if listener.filters.is_empty()
            && let Some(chain) =
                worker.find_chain(&listener.name, &self.door, &Facts::found(&self.info))
            && matches!(chain.filter_chain.transport, Transport::Raw)
        {
            return self.serve(worker, chain);
        }
        tokio::task::spawn_local(self.settle(worker.clone(), listener.clone()));
    }

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
                    if !self.places.change(&other) {
                        return;
                    }
                    self.door = Door::HandedOver;
                    listener = other;
                    match self.balance(&worker, &listener) {
                        Some(kept) => self = kept,
                        None => return,
                    }
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
            places,
            guard,
        } = self;
        let mut count = ConnectionCount::new(&info, &chain.listener, worker, places, guard);
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
    let handshake = transport.accept(tcp, [&info.local, &info.remote]);
    let timers = &chain.listener.overload.reduce_timeouts;
    let scaled = |limit| timers.scale(Timer::TransportConnect, limit);
    let ended = match filter_chain.transport_connect_timeout {
        None => handshake.await,
        Some(limit) => match tokio::time::timeout(scaled(limit), handshake).await {
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
