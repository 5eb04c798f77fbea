//! A connection's hold on the filter chain that serves it, across swaps.
//!
//! At each request the connection asks whether the configuration has changed.
//! If matching it again leads to a chain with the same transport identity, the
//! next request is served by that one: a changed route or filter is in force at
//! once on connections that are already open. If there is no such chain any
//! more, the connection drains on the one it has.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use crate::{
    model::listener::{Facts, FilterChain, Listener},
    net::{Address, ConnectionInfo, signal::Signal, socket::Sockets},
};

use super::{Draining, Worker};

/// A filter chain in force on this worker.
#[derive(Debug)]
pub struct Chain {
    /// Its listener.
    pub listener: Arc<Listener>,
    /// The chain itself.
    pub filter_chain: Arc<FilterChain>,
    /// Raised when this chain is no longer the one in force: its connections
    /// find out by [`ChainHandle::current`] whether there is another for them.
    pub(super) superseded: Signal,
}

/// How a connection came to its listener.
#[derive(Clone, Debug)]
pub enum Door {
    /// Through one of its sockets.
    Sockets(Arc<Sockets>),
    /// From another listener, for the address it was meant for.
    HandedOver,
}

impl Door {
    /// Whether it leads to a listener for a connection of this local address.
    pub(super) fn leads_to(&self, listener: &Listener, local: &Address) -> bool {
        match self {
            Self::Sockets(sockets) => listener.sockets.iter().any(|s| Arc::ptr_eq(s, sockets)),
            Self::HandedOver => (listener.addresses.iter()).any(|a| a.is(local) || a.is_any(local)),
        }
    }
}

/// What [`ChainHandle::current`] found.
#[derive(Clone, Debug)]
pub enum ChainState {
    /// Serve by this chain.
    InForce(Rc<Chain>),
    /// There is no chain for this connection any more: serve by the last one,
    /// and drain.
    Gone(Rc<Chain>),
}

impl ChainState {
    /// The chain to serve by, in force or the last one.
    pub fn chain(&self) -> &Rc<Chain> {
        match self {
            Self::InForce(chain) | Self::Gone(chain) => chain,
        }
    }
}

/// One connection's hold on its chain.
#[derive(Debug)]
pub struct ChainHandle {
    worker: Rc<Worker>,
    info: Rc<ConnectionInfo>,
    door: Door,
    chain: RefCell<Rc<Chain>>,
    generation: Cell<u64>,
    gone: Cell<Option<Instant>>,
}

impl ChainHandle {
    /// Begins with the chain that matched at accept.
    pub(crate) fn new(
        worker: Rc<Worker>,
        info: Rc<ConnectionInfo>,
        door: Door,
        chain: Rc<Chain>,
    ) -> Self {
        let generation = worker.generation();
        Self {
            worker,
            info,
            door,
            chain: RefCell::new(chain),
            generation: Cell::new(generation),
            gone: Cell::new(None),
        }
    }

    /// The worker this connection belongs to.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The chain that serves the next request, adopting a changed configuration.
    pub fn current(&self) -> ChainState {
        let generation = self.worker.refresh();
        if generation != self.generation.get() {
            self.generation.set(generation);
            self.adopt();
        }
        let chain = self.chain.borrow().clone();
        match self.gone.get() {
            None => ChainState::InForce(chain),
            Some(_) => ChainState::Gone(chain),
        }
    }

    /// The chain a tunnel started on: it stays on it until it ends.
    pub fn last(&self) -> Rc<Chain> {
        self.chain.borrow().clone()
    }

    /// The chain that connections for this server name get, where it is another one
    /// than this connection's and is there for the name: who asks for no name does
    /// not get it.
    pub fn for_server_name(&self, name: &str) -> Option<Rc<Chain>> {
        let own = self.chain.borrow().clone();
        let listener = self.worker.listener(&own.listener.name)?;
        let facts = Facts::would_find(&listener.filters, &self.info);
        if facts.server_name.is_empty() {
            return None;
        }
        let find = |server_name| {
            let facts = Facts {
                server_name,
                ..facts
            };
            self.worker.find_chain(&listener.name, &self.door, &facts)
        };
        let found = find(name)?;
        let of_nobody = find("");
        let is = |chain: &Rc<Chain>| Arc::ptr_eq(&chain.filter_chain, &found.filter_chain);
        (!is(&own) && !of_nobody.as_ref().is_some_and(is)).then_some(found)
    }

    fn adopt(&self) {
        let name = self.chain.borrow().listener.name.clone();
        let next = self.worker.listener(&name).and_then(|listener| {
            let facts = Facts::would_find(&listener.filters, &self.info);
            self.worker.find_chain(&name, &self.door, &facts)
        });
        let identity = self.chain.borrow().filter_chain.transport_identity;
        match next {
            Some(next) if next.filter_chain.transport_identity == identity => {
                // A chain that comes back takes its connections back.
                self.gone.set(None);
                self.chain.replace(next);
            }
            _ => {
                if self.gone.get().is_none() {
                    self.gone.set(Some(Instant::now()));
                }
            }
        }
    }

    /// The drain this connection is under, if any: its own chain's or the process's.
    pub fn draining(&self) -> Option<Draining> {
        let direction = self.chain.borrow().listener.direction;
        let process = self.worker.draining(direction);
        match self.gone.get() {
            Some(since) => Some(self.worker.drain_from(since).and(process)),
            None => process,
        }
    }

    /// Whether the response about to be sent asks the client to go.
    pub fn should_close(&self) -> bool {
        self.worker.phase().health_failed
            || self
                .draining()
                .is_some_and(|d| d.should_close(Instant::now(), self.worker.random()))
    }

    /// Resolves when this connection, being idle, has to go.
    ///
    /// Cancel-safe: the moment is drawn anew, within what is left of the drain.
    pub async fn idle_drain(&self) {
        self.drain_moment(|draining| draining.idle_deadline(self.worker.random()))
            .await;
    }

    /// Resolves when this connection is cut, whatever it does: the end of the drain time.
    ///
    /// Cancel-safe.
    pub async fn drain_deadline(&self) {
        self.drain_moment(|draining| draining.deadline()).await;
    }

    /// Resolves at a moment of the drain, which is chosen again when the process
    /// goes from one drain to another that is more urgent, and does not come when
    /// the chain comes back before it.
    async fn drain_moment(&self, moment: impl Fn(Draining) -> Instant) {
        loop {
            let draining = self.wait_for_drain().await;
            let phase = self.worker.phase_changed().wait();
            tokio::select! {
                () = tokio::time::sleep_until(moment(draining).into()) => {
                    self.current();
                    if self.draining() == Some(draining) {
                        return;
                    }
                }
                () = phase => {}
            }
        }
    }

    async fn wait_for_drain(&self) -> Draining {
        loop {
            // First, for what is waited on has to be what was adopted: the chain
            // before it has been superseded for the last time.
            self.current();
            let superseded = self.chain.borrow().superseded.wait();
            let phase = self.worker.phase_changed().wait();
            if let Some(draining) = self.draining() {
                return draining;
            }
            tokio::select! { () = superseded => {}, () = phase => {} }
        }
    }
}
