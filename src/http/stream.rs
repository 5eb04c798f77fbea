//! One request and its response, from the connection manager's view.

use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    config::ConnectionManager,
    filters::{FilterChain, Passing, Router},
    names,
    request::Origin,
    session::{Managed, Session},
    stats::{http_stats, listener_http_stats, route_resolution_stats},
};
use crate::{
    api::envoy::data::accesslog::v3::AccessLogType,
    codec::{Headers, RequestHead, ResponseHead},
    formatter::{Captured, FormatContext, HeaderView, RequestView, ResponseFlag, StreamInfo},
    model::route::{Action, RouteHandle},
    overload::Timer,
    upstream::{Endpoint, HostStat, Priority, Resource, WorkerCluster, stats::cluster_stats},
};

/// `overload.premature_reset_min_stream_lifetime_seconds`: a stream that its client
/// resets later was not reset too soon.
const PREMATURE_RESET_LIFETIME: Duration = Duration::from_secs(2);

/// The upstream side of a stream: counted from the choice of a host until the
/// response has ended.
#[derive(Debug)]
pub struct Upstream {
    /// Its cluster.
    pub cluster: Rc<WorkerCluster>,
    /// Its host.
    pub endpoint: Arc<Endpoint>,
    /// Which circuit breakers count.
    pub priority: Priority,
    /// A response has come whose status tells how the host does.
    pub succeeded: Option<bool>,
    /// It has to be over by then: `max_stream_duration` of the cluster, or what the
    /// request asks for.
    pub deadline: Option<Instant>,
}

impl Upstream {
    /// Counts a request towards a host, unless the circuit breaker is open.
    pub fn begin(
        cluster: Rc<WorkerCluster>,
        endpoint: Arc<Endpoint>,
        priority: Priority,
    ) -> Option<Self> {
        let stats = &cluster.cluster.stats;
        if !cluster
            .cluster
            .breakers
            .try_acquire(priority, Resource::Requests)
        {
            stats.inc(cluster_stats::upstream_rq_pending_overflow);
            stats.inc(cluster_stats::upstream_rq_active_overflow);
            return None;
        }
        stats.gauge_add(cluster_stats::upstream_rq_active, 1);
        endpoint.host.inc(HostStat::rq_active);
        Some(Self {
            cluster,
            endpoint,
            priority,
            succeeded: None,
            deadline: None,
        })
    }

    /// Counts that it has a connection.
    pub fn attached(&self) {
        let stats = &self.cluster.cluster.stats;
        stats.inc(cluster_stats::upstream_rq_total);
        self.endpoint.host.inc(HostStat::rq_total);
    }

    /// Counts that it has taken as long as it may.
    pub fn took_too_long(&self) {
        let stats = &self.cluster.cluster.stats;
        stats.inc(cluster_stats::upstream_rq_max_duration_reached);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let host = &self.endpoint.host;
        host.dec(HostStat::rq_active);
        match self.succeeded {
            Some(true) => host.inc(HostStat::rq_success),
            Some(false) => host.inc(HostStat::rq_error),
            None => {}
        }
        let cluster = &self.cluster.cluster;
        cluster
            .stats
            .gauge_sub(cluster_stats::upstream_rq_active, 1);
        cluster.breakers.release(self.priority, Resource::Requests);
    }
}

/// One request and its response.
#[derive(Debug)]
pub struct Stream {
    /// Its connection.
    pub session: Rc<Session>,
    /// The connection manager in force when it began.
    pub managed: Managed,
    /// The request, in the form in which it is sent on.
    pub request: RequestHead,
    /// What was settled about its client.
    pub origin: Origin,
    /// What the access log prints.
    pub info: StreamInfo,
    /// Its route.
    pub route: Option<RouteHandle>,
    /// Its upstream, once chosen.
    pub upstream: Option<Upstream>,
    /// Response headers the access log asks for.
    response: Option<Box<Captured>>,
    /// Trailers the access log asks for.
    trailers: Option<Box<Captured>>,
    /// The whole of it has to be over by then.
    pub deadline: Option<Instant>,
    /// All of the request has come.
    pub request_received: bool,
    /// That moment is the route's timeout.
    pub route_deadline: bool,
    /// Without a byte for so long it is given up.
    pub idle_timeout: Option<Duration>,
    /// The same for one try, `per_try_idle_timeout`.
    pub try_idle_timeout: Option<Duration>,
    /// The whole request has to have come by then.
    pub request_deadline: Option<Instant>,
    /// When a byte last moved.
    pub last_moved: Instant,
    /// No head came that could be read.
    pub headless: bool,
    /// It may become a tunnel.
    pub upgraded: bool,
    /// The response has been handed over to the end.
    pub complete: bool,
    /// Its route was asked for on demand, and is to be looked for again.
    pub rerouted: bool,
    /// How often its route was looked for, and how long that took in all; only where
    /// that is recorded.
    pub(super) resolution: (u32, Duration),
    /// Which upgrade's filters it passes, see [`ConnectionManager::chain`].
    pub(super) upgrade_filters: Option<u16>,
    /// When it is logged next although it goes on.
    next_log: Option<Instant>,
    /// Its way through the filters, once it is there.
    pub(super) passing: Option<Box<Passing>>,
}

impl Stream {
    /// The configuration it is served by.
    pub fn manager(&self) -> &ConnectionManager {
        self.managed.manager()
    }

    /// The filters before the router that it passes.
    pub(super) fn filters(&self) -> &FilterChain {
        self.manager().chain(self.upgrade_filters).0
    }

    /// The router that it comes to.
    pub(super) fn router(&self) -> &Router {
        self.manager().chain(self.upgrade_filters).1
    }

    pub(super) fn begin(session: Rc<Session>, managed: Managed, request: RequestHead) -> Box<Self> {
        let now = Instant::now();
        let manager = managed.manager();
        let stats = &manager.stats;
        stats.inc(http_stats::downstream_rq_total);
        stats.inc(session.codec_requests());
        stats.gauge_add(http_stats::downstream_rq_active, 1);
        let mut info = StreamInfo::new(session.info.clone(), session.worker().clock.wall(now), now);
        info.protocol = Some(session.protocol(request.version));
        let idle_timeout = manager.timeouts.stream_idle;
        let deadline = manager.common.max_stream_duration.map(|limit| now + limit);
        let request_deadline = manager.timeouts.request.map(|limit| now + limit);
        let next_log = manager.log_options.interval.map(|interval| now + interval);
        let origin = Origin {
            remote: None,
            internal: false,
            scheme: session.peer.scheme,
        };
        session.stream_began(now);
        Box::new(Self {
            session,
            managed,
            request,
            origin,
            info,
            route: None,
            upstream: None,
            response: None,
            trailers: None,
            deadline,
            request_received: false,
            route_deadline: false,
            idle_timeout,
            try_idle_timeout: None,
            request_deadline,
            last_moved: now,
            headless: false,
            upgraded: false,
            complete: false,
            rerouted: false,
            resolution: (0, Duration::ZERO),
            next_log,
            upgrade_filters: None,
            passing: None,
        })
    }

    /// The request as routes and formats see it.
    pub fn view(&self) -> RequestView<'_> {
        match self.headless {
            true => RequestView::default(),
            false => RequestView::of(&self.request, self.origin.scheme),
        }
    }

    /// So many bytes of the request's body have come by now.
    pub fn received(&mut self, bytes: u64) {
        if bytes != self.info.bytes_received {
            self.info.bytes_received = bytes;
            self.last_moved = Instant::now();
        }
    }

    /// Now, where a log asks for moments; elsewhere the clock need not be read.
    pub(super) fn moment(&self) -> Option<Instant> {
        let needs = self.manager().access_logs.needs();
        needs.moments.then(Instant::now)
    }

    /// What formats may refer to.
    pub fn context<'a>(&'a self, response: HeaderView<'a>) -> FormatContext<'a> {
        FormatContext {
            info: &self.info,
            request: self.view(),
            response,
            trailers: HeaderView::Absent,
            local_reply_body: b"",
            log_type: AccessLogType::DownstreamEnd,
        }
    }

    /// Counts a stream that may become a tunnel.
    pub(super) fn upgrades(&mut self) {
        self.upgraded = true;
        let stats = &self.manager().stats;
        stats.inc(http_stats::downstream_cx_upgrades_total);
        stats.gauge_add(http_stats::downstream_cx_upgrades_active, 1);
    }

    /// Adds a response flag.
    pub fn flag(&mut self, flag: ResponseFlag) {
        self.info.flags.set(flag);
    }

    /// Ready when the stream has used up a time limit; otherwise wakes by then. Writes it
    /// down when that is due.
    pub fn poll_limits(&mut self, cx: &mut Context<'_>, extra: Option<Instant>) -> Poll<Limit> {
        loop {
            let (at, limit) = match (self.first_limit(extra), self.next_log) {
                (Some((at, limit)), log) if log.is_none_or(|log| at <= log) => (at, Some(limit)),
                (_, Some(log)) => (log, None),
                (_, None) => return Poll::Pending,
            };
            ready!(match self.session.is_http2() {
                true => self.session.alarms().ask(at),
                false => self.session.alarm().poll(cx, at),
            });
            match limit {
                Some(limit) => return Poll::Ready(limit),
                None => self.log_periodically(),
            }
        }
    }

    /// The limit that is used up first, and when.
    fn first_limit(&self, extra: Option<Instant>) -> Option<(Instant, Limit)> {
        let after = |limit: Duration| self.last_moved + limit;
        let upstream = self.upstream.as_ref().and_then(|u| u.deadline);
        let limits = [
            (extra, Limit::Try),
            (upstream, Limit::Upstream),
            (self.try_idle_timeout.map(after), Limit::TryIdle),
            (self.deadline, Limit::Deadline),
            (self.request_deadline, Limit::Request),
            (self.idle_timeout().map(after), Limit::Idle),
        ];
        let set = limits
            .iter()
            .filter_map(|(at, limit)| at.map(|at| (at, *limit)));
        set.min_by_key(|(at, _)| *at)
    }

    /// Without a byte for so long it is given up, as things are.
    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        let timers = &self.managed.chain().listener.overload.reduce_timeouts;
        let scaled = |limit| timers.scale(Timer::StreamIdle, limit);
        self.idle_timeout.map(scaled)
    }

    /// How long its client may take nothing of a response that is all here, over HTTP/2.
    pub(super) fn flush_timeout(&self) -> Option<Duration> {
        let route = self.route.as_ref().map(|route| &route.route().action);
        let own = match route {
            Some(Action::Forward(forward)) => forward.flush_timeout,
            _ => None,
        };
        match own {
            Some(limit) => (!limit.is_zero()).then_some(limit),
            None => self.manager().timeouts.stream_flush,
        }
    }

    /// Writes down what there is to say of it while it goes on.
    pub(super) fn log_periodically(&mut self) {
        self.log(AccessLogType::DownstreamPeriodic);
        let interval = self.manager().log_options.interval;
        self.next_log = interval.map(|interval| Instant::now() + interval);
    }

    /// Writes down what there is to say of it at this moment of its life.
    pub(super) fn log(&self, moment: AccessLogType) {
        let manager = self.managed.manager();
        if manager.access_logs.is_empty() {
            return;
        }
        let needs = manager.access_logs.needs();
        let mut context = self.context(kept(&needs.response, &self.response));
        context.trailers = kept(&needs.trailers, &self.trailers);
        context.log_type = moment;
        let worker = self.session.worker();
        manager
            .access_logs
            .log(&context, &worker.access_log, worker.random());
    }

    /// Counts a response that begins, and keeps what the log will ask for.
    pub(super) fn responds(&mut self, status: StatusCode, headers: &Headers) {
        let manager = self.managed.manager();
        self.info.response_code = Some(status);
        count(&self.managed, status);
        let needs = manager.access_logs.needs();
        if !needs.response.is_empty() {
            self.response = Some(Box::new(Captured::take(&needs.response, |name| {
                headers.get_all(name)
            })));
        }
    }

    /// Leads the head of a response past the filters.
    pub(super) fn filter_response(&mut self, head: &mut ResponseHead) {
        if self.filters().is_empty() {
            return;
        }
        // An answer from before the request came to the filters passes all of them.
        let mut passing = match self.passing.take() {
            Some(passing) => passing,
            None => Box::new(Passing::new(self)),
        };
        passing.response(self, head);
        self.passing = Some(passing);
    }

    /// Leads the trailers of a response past the filters.
    pub(super) fn filter_trailers(&mut self, trailers: &mut HeaderMap) {
        if let Some(mut passing) = self.passing.take() {
            passing.response_trailers(self, trailers);
            self.passing = Some(passing);
        }
    }

    pub(super) fn saw_trailers(&mut self, trailers: &HeaderMap) {
        let needs = self.managed.manager().access_logs.needs();
        if !needs.trailers.is_empty() {
            self.trailers = Some(Box::new(Captured::take(&needs.trailers, |name| {
                trailers.get_all(name).iter()
            })));
        }
    }

    /// `x-request-id`, where responses carry it.
    pub(super) fn response_request_id(&self) -> Option<&HeaderValue> {
        match self.manager().request_id.in_response {
            true => self.request.headers.get(names::X_REQUEST_ID),
            false => None,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let now = self.info.end.unwrap_or_else(Instant::now);
        self.info.end = Some(now);
        let timing = &mut self.info.timing;
        timing.last_downstream_tx = Some(now);
        if self.complete && timing.first_upstream_rx.is_some() {
            // The last of it was passed on as it came.
            timing.last_upstream_rx = Some(now);
        }
        let premature = !self.complete
            && self.info.response_code.is_none()
            && now.saturating_duration_since(self.info.start) < PREMATURE_RESET_LIFETIME;
        self.session.stream_ended(now, premature);
        let manager = self.managed.manager();
        manager.stats.gauge_sub(http_stats::downstream_rq_active, 1);
        if self.upgraded {
            let active = http_stats::downstream_cx_upgrades_active;
            manager.stats.gauge_sub(active, 1);
        }
        let took = u64::try_from((now - self.info.start).as_millis()).unwrap_or(u64::MAX);
        manager.stats.record(http_stats::downstream_rq_time, took);
        if let Some(stats) = &manager.route_resolution {
            let (times, took) = self.resolution;
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            use route_resolution_stats as names;
            stats.record(names::downstream_rq_route_resolutions, times.into());
            stats.record(names::downstream_rq_route_resolution_time_us, took);
        }
        if !self.complete {
            manager.stats.inc(http_stats::downstream_rq_rx_reset);
            if self.info.flags.is_empty() {
                self.info
                    .flags
                    .set(ResponseFlag::DownstreamConnectionTermination);
                self.info.response_code_details = Some("downstream_remote_disconnect".into());
            }
            if let Some(upstream) = &self.upstream {
                upstream
                    .cluster
                    .cluster
                    .stats
                    .inc(cluster_stats::upstream_rq_cancelled);
            }
        }
        self.log(AccessLogType::DownstreamEnd);
    }
}

/// Which time limit was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The stream's own, [`Stream::deadline`].
    Deadline,
    /// Nothing moved.
    Idle,
    /// One try's, `per_try_timeout`.
    Try,
    /// Nothing moved in one try.
    TryIdle,
    /// The request has not come in time.
    Request,
    /// The time for an answer from the upstream, [`Upstream::deadline`].
    Upstream,
}

fn kept<'a>(names: &'a [HeaderName], captured: &'a Option<Box<Captured>>) -> HeaderView<'a> {
    match captured {
        Some(captured) => HeaderView::Captured(names, captured),
        None => HeaderView::Absent,
    }
}

/// Counts a response, or one before it.
pub(super) fn count(managed: &Managed, status: StatusCode) {
    let manager = managed.manager();
    manager.stats.inc(http_class(status));
    manager.stats.inc(http_stats::downstream_rq_completed);
    let listener = manager.listener_stats(&managed.chain().listener);
    listener.inc(listener_class(status));
    listener.inc(listener_http_stats::downstream_rq_completed);
}

fn http_class(status: StatusCode) -> crate::stats::Counter {
    match status.as_u16() / 100 {
        1 => http_stats::downstream_rq_1xx,
        2 => http_stats::downstream_rq_2xx,
        3 => http_stats::downstream_rq_3xx,
        4 => http_stats::downstream_rq_4xx,
        _ => http_stats::downstream_rq_5xx,
    }
}

fn listener_class(status: StatusCode) -> crate::stats::Counter {
    match status.as_u16() / 100 {
        1 => listener_http_stats::downstream_rq_1xx,
        2 => listener_http_stats::downstream_rq_2xx,
        3 => listener_http_stats::downstream_rq_3xx,
        4 => listener_http_stats::downstream_rq_4xx,
        _ => listener_http_stats::downstream_rq_5xx,
    }
}
