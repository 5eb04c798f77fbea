//! Connections to one host, kept by one worker.
//!
//! HTTP/1 connections are a stack: the one used last is used next, so that the
//! rest go idle and are closed. A request that finds none waits in a queue while
//! a connection is made for it, and takes whichever is free first. HTTP/2
//! connections are shared up to their limit of streams.
//!
//! A pool belongs to a host and to what is on the wire, not to a configuration:
//! a changed cluster goes on with the pools of the one it replaces. When its
//! host is removed or what is on the wire changes, a pool drains: idle
//! connections close, and those in use close after their request.

mod carrier;
mod connect;
mod connection;
pub mod http1;
pub mod http2;
mod io;
mod tcp;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::http2::{Http2Connection, Place};
pub use self::{
    carrier::Carrier,
    connect::{ConnectError, connect},
    connection::{Connection, ConnectionFacts, ConnectionPermit},
    io::Io,
    tcp::TcpConnection,
    wire::Wire,
};
use super::{
    Alpn, Breakers, Endpoint, Host, HostStat, Permit, Priority, Resource, WorkerCluster,
    stats::cluster_stats,
};
use crate::{formatter::UpstreamHost, stats::Block};

/// How often the idle connections of a pool are looked over at least.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Why there is no connection for a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// A circuit breaker is open.
    #[error("overflow")]
    Overflow,
    /// The host cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// What a request gets to be sent on.
#[derive(Debug)]
pub enum Lease {
    /// A connection of its own.
    Http1(Box<Connection>),
    /// A place on one that is shared.
    Http2(Place),
}

/// A connection that has just been made.
enum Made {
    Http1(Box<Connection>),
    Http2(Rc<Http2Connection>),
}

type Waiter = oneshot::Sender<Result<Lease, PoolError>>;

/// A worker's connections to one host that are alike on the wire.
#[derive(Debug)]
pub struct Pool {
    endpoint: Arc<Endpoint>,
    wire: Wire,
    /// Its connections are shared: HTTP/2. Where the host chooses, it may be until
    /// the host has.
    shares: Cell<bool>,
    #[expect(
        clippy::vec_box,
        reason = "a connection is large and moves for each request"
    )]
    idle: RefCell<Vec<Box<Connection>>>,
    shared: RefCell<Vec<Rc<Http2Connection>>>,
    waiting: RefCell<VecDeque<Waiter>>,
    connecting: Cell<u32>,
    busy: Cell<u32>,
    sweeping: Cell<bool>,
    drained: Cell<bool>,
    /// The host for the access log, by the address it has now.
    described: RefCell<Option<Rc<UpstreamHost>>>,
    /// Knows whether the host is still one of the cluster's.
    owner: RefCell<Weak<WorkerCluster>>,
}

impl Pool {
    /// An empty pool.
    pub fn new(endpoint: Arc<Endpoint>, wire: Wire) -> Rc<Self> {
        Rc::new(Self {
            endpoint,
            shares: Cell::new(matches!(wire.alpn, Alpn::Http2 | Alpn::Either)),
            wire,
            idle: RefCell::default(),
            shared: RefCell::default(),
            waiting: RefCell::default(),
            connecting: Cell::new(0),
            busy: Cell::new(0),
            sweeping: Cell::new(false),
            drained: Cell::new(false),
            described: RefCell::default(),
            owner: RefCell::default(),
        })
    }

    /// Names the cluster the pool is for, as it is configured now.
    pub(super) fn set_owner(&self, owner: Weak<WorkerCluster>) {
        self.owner.replace(owner);
    }

    /// The host, for the access log.
    pub fn described(&self) -> Rc<UpstreamHost> {
        let mut described = self.described.borrow_mut();
        let host = described.get_or_insert_with(|| Rc::new(self.endpoint.described()));
        host.clone()
    }

    /// A connection that is ready now. Costs no system call, unless its host has spoken.
    pub fn take(self: &Rc<Self>, cluster: &Rc<WorkerCluster>) -> Option<Lease> {
        if self.wire.alpn != Alpn::Http1 {
            let now = Instant::now();
            let mut shared = self.shared.borrow_mut();
            shared.retain(|c| c.takes_more(now));
            let found = shared.iter().find(|c| c.has_room()).cloned();
            if let Some(connection) = found {
                let place = Place::new(connection, self.clone(), cluster.clone());
                return Some(Lease::Http2(place));
            }
        }
        let mut idle = self.idle.borrow_mut();
        while let Some(mut connection) = idle.pop() {
            if connection.is_quiet() {
                self.busy.set(self.busy.get() + 1);
                return Some(Lease::Http1(connection));
            }
            connection.closed_by_host();
        }
        None
    }

    /// Waits for a connection, making one where that is allowed.
    ///
    /// Cancel-safe: who stops waiting leaves the connection to the others.
    ///
    /// # Errors
    /// When a circuit breaker is open or the host cannot be reached.
    pub async fn wait(
        self: &Rc<Self>,
        cluster: &Rc<WorkerCluster>,
        priority: Priority,
    ) -> Result<Lease, PoolError> {
        let pending = Pending::begin(cluster, &self.endpoint.host, priority);
        let Some(_pending) = pending else {
            return Err(PoolError::Overflow);
        };
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().push_back(sender);
        let mut waiting = Waiting {
            receiver,
            pool: self.clone(),
            cluster: cluster.clone(),
        };
        self.grow(cluster, priority);
        match (&mut waiting.receiver).await {
            Ok(outcome) => outcome,
            // The pool was dropped with its cluster.
            Err(_) => Err(PoolError::Overflow),
        }
    }

    /// Who has waited longest and waits still: it takes what it is given, for nothing
    /// else runs on this thread meanwhile.
    fn next_waiting(&self) -> Option<Waiter> {
        let mut waiting = self.waiting.borrow_mut();
        std::iter::from_fn(|| waiting.pop_front()).find(|waiter| !waiter.is_closed())
    }

    /// Makes one more connection if those who wait need it and may have it.
    fn grow(self: &Rc<Self>, cluster: &Rc<WorkerCluster>, priority: Priority) {
        let wanted = match self.shares.get() {
            true => u32::from(!self.waiting.borrow().is_empty()),
            false => u32::try_from(self.waiting.borrow().len()).unwrap_or(u32::MAX),
        };
        if self.connecting.get() >= wanted {
            return;
        }
        let stats = &cluster.cluster.stats;
        let permit = Breakers::acquire(
            cluster.cluster.breakers.clone(),
            priority,
            Resource::Connections,
        );
        if permit.is_none() {
            stats.inc(cluster_stats::upstream_cx_overflow);
            // A pool without any connection gets one all the same, or those who
            // wait would do so for ever.
            let any = self.connecting.get() + self.busy.get() > 0
                || !self.idle.borrow().is_empty()
                || !self.shared.borrow().is_empty();
            if any {
                return;
            }
        }
        self.connecting.set(self.connecting.get() + 1);
        // A host that is known by its name may have moved.
        self.described.take();
        let connecting = connect::establish(
            self.endpoint.clone(),
            self.wire.clone(),
            cluster.clone(),
            permit,
        );
        let (pool, cluster) = (self.clone(), cluster.clone());
        tokio::task::spawn_local(async move {
            let outcome = connecting.await;
            pool.connecting.set(pool.connecting.get() - 1);
            match outcome {
                Ok(Made::Http1(connection)) => {
                    pool.busy.set(pool.busy.get() + 1);
                    let shared = pool.shares.replace(false);
                    pool.put(connection, &cluster);
                    if shared {
                        pool.grow_for_each(&cluster);
                    }
                }
                Ok(Made::Http2(connection)) => {
                    pool.shares.set(true);
                    pool.shared.borrow_mut().push(connection);
                    pool.serve_waiting(&cluster);
                    match pool.drained.get() {
                        true => pool.drain(),
                        false => pool.watch(),
                    }
                }
                Err(error) => {
                    pool.fail_waiting(&error.into(), &cluster.cluster.stats);
                    pool.leave_if_unused();
                }
            }
        });
    }

    /// Makes connections for all who counted on a share of one.
    fn grow_for_each(self: &Rc<Self>, cluster: &Rc<WorkerCluster>) {
        let mut before = None;
        while before != Some(self.connecting.get()) {
            before = Some(self.connecting.get());
            self.grow(cluster, Priority::Default);
        }
    }

    /// Is forgotten by its cluster when it holds nothing, if there is no end to how
    /// many pools like it there may be.
    fn leave_if_unused(self: &Rc<Self>) {
        self.waiting.borrow_mut().retain(|w| !w.is_closed());
        let used = self.connecting.get() + self.busy.get() > 0
            || !self.waiting.borrow().is_empty()
            || !self.idle.borrow().is_empty()
            || !self.shared.borrow().is_empty();
        let owner = self.owner.borrow().upgrade();
        let endless = self.wire.is_particular() && !self.drained.get();
        if let (false, true, Some(owner)) = (used, endless, owner) {
            owner.forget(self.endpoint.host.id(), &self.wire);
        }
    }

    /// Takes a connection back after its exchange, or closes it.
    pub fn put(self: &Rc<Self>, connection: Box<Connection>, cluster: &Rc<WorkerCluster>) {
        self.busy.set(self.busy.get() - 1);
        let mut connection = connection;
        let now = Instant::now();
        if !connection.may_go_on(now) {
            drop(connection);
            return self.replace(cluster);
        }
        if !self.waiting.borrow().is_empty() {
            // What the host has said already would be taken for its next response.
            if !connection.is_quiet() {
                connection.closed_by_host();
                drop(connection);
                return self.replace(cluster);
            }
            if let Some(waiter) = self.next_waiting() {
                self.busy.set(self.busy.get() + 1);
                drop(waiter.send(Ok(Lease::Http1(connection))));
                return;
            }
        }
        if self.drained.get() {
            return;
        }
        connection.rest(now);
        self.idle.borrow_mut().push(connection);
        self.watch();
    }

    /// Looks over what rests here, as long as anything does.
    fn watch(self: &Rc<Self>) {
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// Tells that a connection that was in use is gone.
    pub fn lost(self: &Rc<Self>, cluster: &Rc<WorkerCluster>) {
        self.busy.set(self.busy.get() - 1);
        self.replace(cluster);
    }

    fn replace(self: &Rc<Self>, cluster: &Rc<WorkerCluster>) {
        if !self.waiting.borrow().is_empty() {
            self.grow(cluster, Priority::Default);
        }
    }

    /// Gives shares of HTTP/2 connections to those who wait.
    pub fn serve_waiting(self: &Rc<Self>, cluster: &Rc<WorkerCluster>) {
        while let Some(waiter) = self.next_waiting() {
            let Some(lease) = self.take(cluster) else {
                self.waiting.borrow_mut().push_front(waiter);
                return self.grow(cluster, Priority::Default);
            };
            drop(waiter.send(Ok(lease)));
        }
    }

    fn fail_waiting(&self, error: &PoolError, stats: &Block) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waiter in waiting {
            stats.inc(cluster_stats::upstream_rq_pending_failure_eject);
            // One who has left need not be told.
            drop(waiter.send(Err(error.clone())));
        }
    }

    /// Closes what is idle, and what is in use as soon as it is free.
    pub fn drain(&self) {
        self.drained.set(true);
        self.idle.borrow_mut().clear();
        for connection in self.shared.borrow_mut().drain(..) {
            connection.close_when_idle();
        }
    }

    /// How long none of the idle connections has to be closed; a second at most, which
    /// is how late a shared one may be.
    fn rest(&self) -> Duration {
        let now = Instant::now();
        let idle = self.idle.borrow();
        let first = idle.iter().filter_map(|connection| connection.ends_at());
        first.min().map_or(SWEEP_INTERVAL, |end| {
            let left = end.saturating_duration_since(now);
            left.clamp(Duration::from_millis(1), SWEEP_INTERVAL)
        })
    }

    /// Closes idle connections that the host has closed or that have been idle
    /// or open too long. Registers `cx` with the rest.
    fn look_over(&self, cx: &mut Context<'_>) {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|connection| {
            if connection.poll_idle(cx).is_ready() {
                connection.closed_by_host();
                return false;
            }
            !connection.has_rested_enough(now)
        });
        self.shared
            .borrow_mut()
            .retain(|c| c.takes_more(now) && !c.has_rested_enough(now));
    }
}

/// Looks over a pool's idle connections now and then, and at once when one of
/// those that were idle already is closed by the host.
async fn sweep(pool: Weak<Pool>) {
    loop {
        let interval = pool.upgrade().map_or(SWEEP_INTERVAL, |pool| pool.rest());
        let mut rest = std::pin::pin!(tokio::time::sleep(interval));
        poll_fn(|cx| {
            if let Some(pool) = pool.upgrade() {
                pool.look_over(cx);
            }
            match rest.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending if pool.strong_count() == 0 => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        let Some(pool) = pool.upgrade() else { return };
        let owner = pool.owner.borrow().upgrade();
        if let Some(owner) = owner {
            // Hosts come and go without a request that would notice.
            owner.refresh();
        }
        if pool.idle.borrow().is_empty() && pool.shared.borrow().is_empty() {
            pool.sweeping.set(false);
            pool.leave_if_unused();
            return;
        }
    }
}

/// One who waits for a connection. What comes when they have left is for the next.
struct Waiting {
    receiver: oneshot::Receiver<Result<Lease, PoolError>>,
    pool: Rc<Pool>,
    cluster: Rc<WorkerCluster>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Ok(Ok(Lease::Http1(connection))) = self.receiver.try_recv() {
            self.pool.put(connection, &self.cluster);
        }
    }
}

/// A request that waits for a connection, as the stats see it.
#[derive(Debug)]
pub struct Pending {
    cluster: Rc<WorkerCluster>,
    host: Arc<Host>,
    _permit: Permit<Arc<Breakers>>,
}

impl Pending {
    /// Counts one more, unless the circuit breaker is open.
    pub fn begin(
        cluster: &Rc<WorkerCluster>,
        host: &Arc<Host>,
        priority: Priority,
    ) -> Option<Self> {
        let stats = &cluster.cluster.stats;
        let permit = Breakers::acquire(
            cluster.cluster.breakers.clone(),
            priority,
            Resource::PendingRequests,
        );
        let Some(permit) = permit else {
            stats.inc(cluster_stats::upstream_rq_pending_overflow);
            return None;
        };
        stats.inc(cluster_stats::upstream_rq_pending_total);
        stats.gauge_add(cluster_stats::upstream_rq_pending_active, 1);
        host.inc(HostStat::rq_pending_active);
        Some(Self {
            cluster: cluster.clone(),
            host: host.clone(),
            _permit: permit,
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.cluster
            .cluster
            .stats
            .gauge_sub(cluster_stats::upstream_rq_pending_active, 1);
        self.host.dec(HostStat::rq_pending_active);
    }
}
