//! What the requests of one downstream connection share, and what ends it.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    alarm::{Alarm, Alarms},
    coalesced,
    config::ConnectionManager,
    filters::Resolved,
    request::PeerHeaders,
    stats::http_stats,
};
use crate::{
    formatter::{Protocol, RequestView},
    model::{
        listener::NetworkFilter,
        route::{Routes, WorkerTable},
    },
    net::{ConnectionInfo, Quietly},
    overload::Timer,
    server::{Chain, ChainHandle, Worker},
    stats::Counter,
    xds::demand::What,
};
use http::Version;
use tokio::sync::oneshot;

/// How long after a response a connection that drains counts as being between two
/// requests, not as idle: an end without a word might meet a request on its way.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(100);

/// `overload.premature_reset_total_stream_count`: on fewer streams than so many, as
/// many resets are needed as would be half of them.
const PREMATURE_RESET_STREAMS: u32 = 500;

/// A filter chain that is known to end in a connection manager.
#[derive(Clone, Debug)]
pub struct Managed(Rc<Chain>);

impl Managed {
    /// `None` when the chain ends in another filter.
    pub(super) fn new(chain: Rc<Chain>) -> Option<Self> {
        matches!(chain.filter_chain.network, NetworkFilter::Http(_)).then_some(Self(chain))
    }

    /// The connection manager.
    pub fn manager(&self) -> &Arc<ConnectionManager> {
        match &self.0.filter_chain.network {
            NetworkFilter::Http(manager) => manager,
            _ => unreachable!("it was looked at in Managed::new"),
        }
    }

    /// The chain.
    pub fn chain(&self) -> &Rc<Chain> {
        &self.0
    }
}

/// A downstream connection, shared by its streams.
#[derive(Debug)]
pub struct Session {
    pub(super) chain: ChainHandle,
    /// Facts.
    pub info: Rc<ConnectionInfo>,
    /// What every request is told about the client.
    pub peer: PeerHeaders,
    http2: bool,
    managed: RefCell<Managed>,
    table: RefCell<Option<WorkerTable>>,
    filters: RefCell<Option<Rc<Resolved>>>,
    /// Who serves another name than the connection's.
    pub(super) coalesced: RefCell<Option<Box<coalesced::Found>>>,
    alarm: Alarm,
    alarms: Alarms,
    active: Cell<u32>,
    /// Streams of HTTP/2 that have ended, and those that the client reset too soon.
    ended: Cell<u32>,
    premature: Cell<u32>,
    /// Of the active, the ones that have become tunnels.
    tunnels: Cell<u32>,
    requests: Cell<u32>,
    last_active: Cell<Instant>,
    closing: Cell<bool>,
    /// It closes with the next response: `http1_safe_max_connection_duration`.
    pub(super) one_more: Cell<bool>,
    /// When it closes if it stays idle, once it has been idle or open too long.
    idle_end: Cell<Option<Instant>>,
    task: RefCell<Option<Waker>>,
}

impl Session {
    /// A connection that has just come, over HTTP/2 or HTTP/1, and the chain that
    /// serves it.
    pub(super) fn new(
        info: Rc<ConnectionInfo>,
        chain: ChainHandle,
        managed: Managed,
        http2: bool,
    ) -> Self {
        let accepted = info.accepted;
        Self {
            peer: PeerHeaders::new(&info, managed.manager().peer.own_address),
            info,
            http2,
            managed: RefCell::new(managed),
            table: RefCell::default(),
            filters: RefCell::default(),
            coalesced: RefCell::default(),
            alarm: Alarm::default(),
            alarms: Alarms::default(),
            active: Cell::new(0),
            ended: Cell::new(0),
            premature: Cell::new(0),
            tunnels: Cell::new(0),
            requests: Cell::new(0),
            last_active: Cell::new(accepted),
            closing: Cell::new(false),
            one_more: Cell::new(false),
            idle_end: Cell::new(None),
            task: RefCell::default(),
            chain,
        }
    }

    /// The worker it belongs to.
    pub fn worker(&self) -> &Rc<Worker> {
        self.chain.worker()
    }

    /// The connection manager for the next request, by the configuration in force.
    pub fn current(&self) -> Managed {
        let state = self.chain.current();
        let chain = state.chain();
        let mut managed = self.managed.borrow_mut();
        if !Rc::ptr_eq(&managed.0, chain) {
            // One of another kind has another transport identity, so it is not adopted.
            if let Some(new) = Managed::new(chain.clone()) {
                *managed = new;
            }
        }
        managed.clone()
    }

    /// The route table in force for a request; `None` while RDS has not given one,
    /// or where no scope takes the request.
    pub fn routes<'r>(
        &self,
        manager: &ConnectionManager,
        request: impl FnOnce() -> RequestView<'r>,
    ) -> Option<WorkerTable> {
        let now = manager.routes.of(request);
        let now = now.as_ref()?;
        let mut table = self.table.borrow_mut();
        match &*table {
            Some(table) if Arc::ptr_eq(table, now) => Some(table.clone()),
            _ => Some(table.insert(Rc::new(now.clone())).clone()),
        }
    }

    /// Asks for what would give a request a route: the routes of its scope, or its
    /// virtual host. Ready when there is no more to wait for; `None` when nothing
    /// can be asked for.
    pub(super) fn demand(
        &self,
        manager: &ConnectionManager,
        request: &RequestView<'_>,
    ) -> Option<oneshot::Receiver<()>> {
        if let Routes::Scoped(scoped) = &manager.routes
            && let Some(answered) = scoped.ask(request)
        {
            return Some(answered);
        }
        let table = self.routes(manager, || *request)?;
        let host = request.authority.to_ascii_lowercase();
        table.demand()?.ask(What::Host(host.into()))
    }

    /// The filters in force.
    pub(super) fn filters(&self, manager: &Arc<ConnectionManager>) -> Rc<Resolved> {
        let mut filters = self.filters.borrow_mut();
        match &*filters {
            Some(filters) if filters.is_current(manager) => filters.clone(),
            _ => filters
                .insert(Rc::new(Resolved::new(manager, None)))
                .clone(),
        }
    }

    /// The counter of requests of this codec.
    pub fn codec_requests(&self) -> Counter {
        match self.http2 {
            true => http_stats::downstream_rq_http2_total,
            false => http_stats::downstream_rq_http1_total,
        }
    }

    /// The protocol of a request.
    pub fn protocol(&self, version: Version) -> Protocol {
        match version {
            _ if self.http2 => Protocol::Http2,
            Version::HTTP_10 => Protocol::Http10,
            _ => Protocol::Http11,
        }
    }

    /// Whether it is HTTP/2, whose streams are independent.
    pub fn is_http2(&self) -> bool {
        self.http2
    }

    pub(super) fn stream_began(&self, now: Instant) {
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get() + 1);
        self.last_active.set(now);
    }

    /// Counts a stream that has ended. `premature`: its client did not wait for an
    /// answer.
    pub(super) fn stream_ended(&self, now: Instant, premature: bool) {
        self.active.set(self.active.get() - 1);
        self.last_active.set(now);
        if !self.http2 {
            return;
        }
        self.ended.set(self.ended.get().saturating_add(1));
        if premature {
            self.premature.set(self.premature.get().saturating_add(1));
        }
        if self.closing.get() || self.is_abused() {
            self.wake();
        }
    }

    /// Whether its client resets half of its streams, or of so many as it would take
    /// to tell, before they are answered (CVE-2023-44487).
    pub(super) fn is_abused(&self) -> bool {
        let all = self.ended.get().max(PREMATURE_RESET_STREAMS);
        self.premature.get() >= all.div_ceil(2)
    }

    pub(super) fn tunnel_began(&self) {
        self.tunnels.set(self.tunnels.get() + 1);
    }

    pub(super) fn tunnel_ended(&self) {
        self.tunnels.set(self.tunnels.get() - 1);
        if self.http2 {
            self.wake();
        }
    }

    /// Whether any of its streams is a tunnel.
    pub(super) fn has_tunnels(&self) -> bool {
        self.tunnels.get() > 0
    }

    /// The timer of the connection and of HTTP/1's one stream at a time, which the
    /// task of the connection polls.
    pub(super) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// The timer of HTTP/2's streams.
    pub(super) fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Whether the response about to be sent is the last of this connection.
    pub(super) fn should_close(&self, manager: &ConnectionManager) -> bool {
        if self.closing.get() {
            return true;
        }
        let common = &manager.common;
        let enough = common
            .max_requests_per_connection
            .is_some_and(|n| self.requests.get() >= n);
        if enough {
            manager
                .stats
                .inc(http_stats::downstream_cx_max_requests_reached);
        }
        let drained = self.chain.should_close();
        if drained {
            manager.stats.inc(http_stats::downstream_cx_drain_close);
        }
        let overloaded = {
            let managed = self.managed.borrow();
            let overload = &managed.chain().listener.overload;
            let random = || self.worker().random();
            overload.disable_http_keepalive.happens(random)
        };
        if overloaded {
            let counter = http_stats::downstream_cx_overload_disable_keepalive;
            manager.stats.inc(counter);
        }
        let close = enough || drained || overloaded || self.one_more.get();
        if close {
            self.close();
        }
        close
    }

    /// Takes no more requests than those under way.
    pub(super) fn close(&self) {
        self.closing.set(true);
        if self.http2 {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// How far timeouts are reduced.
    pub(super) fn hurry(&self) -> f64 {
        let managed = self.managed.borrow();
        managed.chain().listener.overload.reduce_timeouts.share()
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }
    /// Whether it takes no more requests than those under way.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Resolves when whatever is left on it is cut: at the end of the drain time,
    /// once its listener or filter chain was removed or the process ends.
    ///
    /// Cancel-safe.
    pub(super) async fn drained(&self) {
        self.chain.drain_deadline().await;
    }

    /// When it closes if no request comes, now that it takes no more than one.
    pub(super) fn idle_end(&self) -> Instant {
        let drained = self.idle_end.get();
        drained.unwrap_or_else(|| self.last_active.get() + BETWEEN_REQUESTS)
    }

    /// Names the task to wake when that changes, or when a stream ends after it has.
    pub(super) fn served_by(&self, task: &Waker) {
        match &mut *self.task.borrow_mut() {
            Some(known) if known.will_wake(task) => {}
            slot => *slot = Some(task.clone()),
        }
    }
}

/// What ends a connection that does nothing wrong: idleness, age, a drain.
pub(super) struct Watch<'a> {
    session: &'a Session,
}

impl<'a> Watch<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        Self { session }
    }

    /// Asks the connection to close where that is time; ends when it has to be cut.
    pub(super) async fn run(self) {
        let session = self.session;
        let drain = pin!(session.chain.idle_drain());
        let mut drain = Quietly::new(drain);
        poll_fn(|cx| {
            while !session.closing.get() && self.poll_age(cx).is_ready() {}
            Pin::new(&mut drain).poll(cx)
        })
        .await;
        session.close();
        session.chain.drain_deadline().await;
    }

    /// Ready when it has been idle too long or open too long, of which note is taken.
    fn poll_age(&self, cx: &mut Context<'_>) -> Poll<()> {
        let session = self.session;
        let managed = session.managed.borrow();
        let (manager, common) = (managed.manager(), &managed.manager().common);
        let timers = &managed.chain().listener.overload.reduce_timeouts;
        let old = common
            .max_connection_duration
            .filter(|_| !session.one_more.get())
            .map(|limit| session.info.accepted + timers.scale(Timer::ConnectionMax, limit));
        let idle = match session.is_idle() {
            true => common.idle_timeout.map(|limit| {
                session.last_active.get() + timers.scale(Timer::ConnectionIdle, limit)
            }),
            false => None,
        };
        let Some(deadline) = [old, idle].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if session.alarm.poll(cx, deadline).is_pending() {
            return Poll::Pending;
        }
        let is_idle = idle == Some(deadline);
        manager.stats.inc(match is_idle {
            true => http_stats::downstream_cx_idle_timeout,
            false => http_stats::downstream_cx_max_duration_reached,
        });
        if !is_idle && !session.http2 && manager.http1_safe_max_duration {
            session.one_more.set(true);
            let soft = http_stats::downstream_cx_http1_soft_drain;
            manager.stats.gauge_add(soft, 1);
        } else {
            session.closing.set(true);
            let end = Instant::now() + manager.timeouts.drain;
            session.idle_end.set(Some(end));
        }
        Poll::Ready(())
    }
}
