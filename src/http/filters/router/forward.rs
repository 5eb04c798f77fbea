//! One request to the route's cluster, and again where the policy says so.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderValue, Method, StatusCode, header};
use smallvec::SmallVec;

use super::{
    failure::Failure,
    mirror,
    timeout::{self, Life, Timeouts},
};
use crate::{
    codec::ResponseHead,
    formatter::{FormatContext, HeaderView, RequestView, ResponseFlag},
    http::{
        LocalReply, RequestBody, Stream, interim::Interim, names, response_body::Source,
        stats::router_stats, upgrade::Kind,
    },
    model::route::{
        Action, ConnectConfig, Forward, RequestRetry, RetryPolicy, RouteHandle, WeightedEntry,
        hash, share_stats,
    },
    stats::Block,
    upstream::{
        Breakers, Permit, Priority, Resource, WorkerCluster, balance::MetadataMatch,
        stats::cluster_stats, zones::zone_stats,
    },
};

/// A response's head and where its body comes from.
pub type Forwarded = (ResponseHead, Source);

/// How many stale connections are passed over before that counts as a failure.
const MAX_STALE: u32 = 3;

/// What stays the same over the tries of one request.
pub(super) struct Attempt<'a> {
    pub route: &'a RouteHandle,
    pub forward: &'a Forward,
    pub cluster: &'a Rc<WorkerCluster>,
    /// Where it is counted besides: with its virtual cluster, and with its route.
    pub shares: [Option<&'a Block>; 2],
    pub timeouts: Timeouts,
    pub priority: Priority,
    /// The request asks for a tunnel.
    pub tunnel: Option<Kind>,
    /// What it carries is for the upstream as it is.
    pub ends_here: Option<&'a ConnectConfig>,
    /// What is asked of the host's metadata.
    pub metadata_match: Option<&'a MetadataMatch>,
    /// Hosts that were tried, where the policy says to stay away from them.
    pub tried: RefCell<SmallVec<[u64; 4]>>,
    /// `set-cookie` of the cookies by which hosts were chosen: the last one of the
    /// balancer's own, or one of the route's for each try.
    pub cookies: RefCell<Vec<HeaderValue>>,
    /// Who hears of interim responses.
    client: &'a Interim<'a>,
    /// An interim response has come, and with it the response has begun, as in Envoy:
    /// there is no other try, nor is there one to be counted.
    pub began: Cell<bool>,
}

/// Sends the request and waits for the head of the response.
///
/// # Errors
/// The answer to give where there is no response to pass on.
pub async fn forward(
    stream: &mut Stream,
    mut body: RequestBody,
    tunnel: Option<Kind>,
    envoy: bool,
    client: &Interim<'_>,
) -> Result<Forwarded, LocalReply> {
    let route = stream
        .route
        .clone()
        .expect("the request was matched before it is forwarded");
    let Action::Forward(action) = &route.route().action else {
        return Err(LocalReply::empty(StatusCode::NOT_FOUND, "route_not_found")
            .flag(ResponseFlag::NoRouteFound));
    };
    let worker = stream.session.worker().clone();
    let view = stream.view();
    // A cookie that is missing is given only to be balanced by.
    let hash = || hash(&action.hash, &view, Some(stream.info.remote()), |_| None);
    let chosen = action.cluster.choose(&view, worker.random(), hash);
    let virtual_clusters = &route.virtual_host().virtual_clusters;
    let virtual_cluster = virtual_clusters.find(&view);
    let entry = chosen.entry;
    let found =
        worker.with_snapshot(|snapshot| worker.upstream.get(snapshot, chosen.name.as_str()));
    let managed = stream.managed.clone();
    let manager = managed.manager();
    let Some(cluster) = found else {
        manager.router_stats.inc(router_stats::no_cluster);
        return Err(
            LocalReply::empty(action.cluster_not_found, "cluster_not_found")
                .flag(ResponseFlag::NoClusterFound),
        );
    };
    let router = *stream.router();

    // The retry headers are read before they are removed below.
    let retry = match action.retry.is_some() || envoy {
        true => RetryPolicy::for_request(action.retry.as_ref(), &view).map(Box::new),
        false => None,
    };
    stream.info.virtual_cluster = virtual_cluster;
    stream.info.upstream_cluster = Some(cluster.observability_name.clone());
    stream.info.upstream_cluster_raw = Some(cluster.name.clone());
    let per_try = retry.as_ref().and_then(|r| r.per_try_timeout);
    let life = cluster.cluster.http.max_stream_duration;
    let headers = &mut stream.request.headers;
    let timeouts = timeout::settle(headers, envoy, action, &router, per_try, life);
    if envoy {
        for name in [
            names::X_ENVOY_RETRY_ON,
            names::X_ENVOY_RETRY_GRPC_ON,
            names::X_ENVOY_MAX_RETRIES,
            names::X_ENVOY_RETRIABLE_STATUS_CODES,
            names::X_ENVOY_RETRIABLE_HEADER_NAMES,
            // There is no hedging, and no stats by another name.
            names::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
            names::X_ENVOY_UPSTREAM_ALT_STAT_NAME,
        ] {
            stream.request.headers.remove(name);
        }
    }
    rewrite(stream, &route, entry, !router.suppress_envoy_headers);
    if let Some(limit) = action.idle_timeout {
        stream.idle_timeout = (!limit.is_zero()).then_some(limit);
    }
    if let Some(rule) = action.stream_duration {
        let managed = manager.common.max_stream_duration;
        match timeout::life(&mut stream.request.headers, rule, managed) {
            Life::Managed => {}
            Life::Unlimited => stream.deadline = None,
            Life::Limited(limit) => stream.deadline = Some(stream.info.start + limit),
        }
    }
    let policy = action.retry.as_ref();
    stream.try_idle_timeout = policy.and_then(|policy| policy.per_try_idle_timeout);
    if tunnel.is_none() {
        mirror::mirror(stream, &mut body, &route, timeouts.global);
    }
    if retry.is_some() {
        let limit = route
            .route()
            .body_buffer_limit
            .or(route.virtual_host().body_buffer_limit);
        let limit = limit.map_or(cluster.cluster.buffer_limit, |n| n as usize);
        body.keep(limit);
    }
    let ends_here = action.connect.as_deref().filter(|config| {
        tunnel == Some(Kind::Connect)
            || (config.allow_post && stream.request.method == Method::POST)
    });
    let attempt = Attempt {
        route: &route,
        forward: action,
        cluster: &cluster,
        shares: [
            virtual_cluster.map(|index| virtual_clusters.stats(index)),
            route.route().stats.as_deref(),
        ],
        timeouts,
        priority: if action.high_priority {
            Priority::High
        } else {
            Priority::Default
        },
        tunnel,
        ends_here,
        metadata_match: match entry {
            Some(entry) => entry.metadata_match.as_ref(),
            None => action.metadata_match.as_ref(),
        },
        tried: RefCell::default(),
        cookies: RefCell::default(),
        client,
        began: Cell::new(false),
    };
    let outcome = attempt.run(stream, body, retry).await;
    match outcome {
        Ok((mut head, source)) => {
            attempt.finish(stream, entry, &mut head);
            Ok((head, source))
        }
        Err(failure) => Err(attempt.reply(stream, failure)),
    }
}

fn rewrite(
    stream: &mut Stream,
    route: &RouteHandle,
    entry: Option<&WeightedEntry>,
    keep_original: bool,
) {
    let context = FormatContext {
        info: &stream.info,
        request: RequestView {
            scheme: stream.origin.scheme,
            ..RequestView::default()
        },
        response: HeaderView::Absent,
        trailers: HeaderView::Absent,
        local_reply_body: b"",
        log_type: crate::api::envoy::data::accesslog::v3::AccessLogType::NotSet,
    };
    route.rewrite_request(&mut stream.request, entry, &context, keep_original);
}

impl Attempt<'_> {
    /// Tries until there is a response to pass on, or no other try.
    async fn run(
        &self,
        stream: &mut Stream,
        mut body: RequestBody,
        mut retry: Option<Box<RequestRetry>>,
    ) -> Result<Forwarded, Failure> {
        let mut stale = 0;
        let mut for_timeout = false;
        // Held from the decision for a retry until it has been answered.
        let mut permit = None;
        loop {
            stream.info.attempt_count += 1;
            if self.route.virtual_host().include_request_attempt_count {
                let count = timeout::number(stream.info.attempt_count.into());
                stream
                    .request
                    .headers
                    .insert(names::X_ENVOY_ATTEMPT_COUNT, count);
            }
            if stream.info.attempt_count > 1 {
                self.tell_time_left(stream);
                if self.route.virtual_host().include_is_timeout_retry {
                    let told = if for_timeout { "true" } else { "false" };
                    let told = HeaderValue::from_static(told);
                    let headers = &mut stream.request.headers;
                    headers.insert(names::X_ENVOY_IS_TIMEOUT_RETRY, told);
                }
                // What did not move in the last try is not held against this one.
                stream.last_moved = Instant::now();
            }
            let per_try = self.timeouts.per_try.map(|limit| Instant::now() + limit);
            let mut told = None;
            match self.once(stream, body, per_try).await {
                Ok(mut answered) => {
                    let head = &answered.head;
                    let policy = self.forward.retry.as_ref();
                    let retry_now = retry.as_ref().filter(|_| !self.began.get());
                    let again = retry_now.is_some_and(|retry| {
                        retry.wants_response(policy, head.status, &head.headers)
                    });
                    if !again && stream.info.attempt_count > 1 {
                        let stats = &self.cluster.cluster.stats;
                        stats.inc(cluster_stats::upstream_rq_retry_success);
                        self.share(|stats| stats.inc(share_stats::upstream_rq_retry_success));
                    }
                    if !again
                        || !answered.request_body_may_rewind()
                        || !self.may_retry(stream, retry.as_deref_mut(), &mut permit)
                    {
                        return Ok((answered.head, answered.source));
                    }
                    let wait = policy.and_then(|policy| policy.told_wait.as_ref());
                    let headers = &answered.head.headers;
                    for_timeout = false;
                    told = wait.and_then(|wait| wait.of(headers, SystemTime::now()));
                    let status = answered.head.status;
                    let stats = &self.cluster.cluster.stats;
                    stats.count_code("retry.upstream_rq", status.as_u16());
                    body = answered.give_up();
                }
                Err((Failure::RequestBody, back)) if back.is_malformed() => {
                    return Err(Failure::MalformedBody);
                }
                Err((failure, back)) => {
                    body = back;
                    if let (Failure::Stale, true) = (&failure, stale < MAX_STALE) {
                        stale += 1;
                        stream.info.attempt_count -= 1;
                        stream.upstream = None;
                        continue;
                    }
                    let retry_now = retry.as_ref().filter(|_| !self.began.get());
                    let again = retry_now.is_some_and(|r| failure.is_retriable(r.retry_on));
                    if !again
                        || !body.rewind()
                        || !self.may_retry(stream, retry.as_deref_mut(), &mut permit)
                    {
                        return Err(failure);
                    }
                    for_timeout = matches!(failure, Failure::PerTryTimeout | Failure::PerTryIdle);
                }
            }
            // What is tried again counts for its host, but is no answer.
            if let Some(upstream) = &mut stream.upstream {
                upstream.succeeded = Some(false);
            }
            stream.upstream = None;
            Box::pin(self.back_off(stream, told)).await?;
        }
    }

    /// A retry has what its predecessors left of the time.
    fn tell_time_left(&self, stream: &mut Stream) {
        let router = *stream.router();
        if self.timeouts.per_try.is_some() || router.suppress_envoy_headers {
            return;
        }
        if let (Some(deadline), true) = (stream.deadline, stream.route_deadline) {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let headers = &mut stream.request.headers;
            headers.insert(names::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, timeout::number(left));
        }
    }

    /// Whether a retry is left and the circuit breaker lets it pass, for which it gives
    /// a permit in place of the last one.
    fn may_retry(
        &self,
        stream: &mut Stream,
        retry: Option<&mut RequestRetry>,
        permit: &mut Option<Permit<Arc<Breakers>>>,
    ) -> bool {
        *permit = None;
        let Some(retry) = retry else { return false };
        let stats = &self.cluster.cluster.stats;
        if retry.remaining == 0 {
            stats.inc(cluster_stats::upstream_rq_retry_limit_exceeded);
            self.share(|stats| stats.inc(share_stats::upstream_rq_retry_limit_exceeded));
            stream.flag(ResponseFlag::UpstreamRetryLimitExceeded);
            return false;
        }
        let breakers = self.cluster.cluster.breakers.clone();
        *permit = Breakers::acquire(breakers, self.priority, Resource::Retries);
        if permit.is_none() {
            stats.inc(cluster_stats::upstream_rq_retry_overflow);
            self.share(|stats| stats.inc(share_stats::upstream_rq_retry_overflow));
            return false;
        }
        retry.remaining -= 1;
        stats.inc(cluster_stats::upstream_rq_retry);
        self.share(|stats| stats.inc(share_stats::upstream_rq_retry));
        true
    }

    /// Waits before another try: as long as the host has told, and up to half of that
    /// more, or else a random part of an interval that doubles.
    async fn back_off(&self, stream: &mut Stream, told: Option<Duration>) -> Result<(), Failure> {
        let default = RetryPolicy::default();
        let policy = self.forward.retry.as_ref().unwrap_or(&default);
        let tries = stream.info.attempt_count.min(16);
        let most = policy
            .base_interval
            .saturating_mul((1 << tries) - 1)
            .min(policy.max_interval);
        let (least, most, counter) = match told {
            Some(told) => (
                told,
                told / 2,
                cluster_stats::upstream_rq_retry_backoff_ratelimited,
            ),
            None => (
                Duration::ZERO,
                most,
                cluster_stats::upstream_rq_retry_backoff_exponential,
            ),
        };
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        let wait = least + Duration::from_micros(stream.session.worker().random() % most);
        self.cluster.cluster.stats.inc(counter);
        // No try is under way that could idle.
        let idle = stream.try_idle_timeout.take();
        let waited = self.limited(stream, None, tokio::time::sleep(wait)).await;
        stream.try_idle_timeout = idle;
        waited
    }

    /// Writes to the stats of the shares that the request belongs to.
    pub(super) fn share(&self, write: impl Fn(&Block)) {
        self.shares.iter().flatten().for_each(|stats| write(stats));
    }

    /// Writes to the stats of the zones between which the request goes.
    fn zone(&self, stream: &Stream, write: impl Fn(&Block)) {
        if let Some(upstream) = &stream.upstream {
            let (cluster, to) = (&self.cluster.cluster, &upstream.endpoint.locality);
            self.cluster.zones.count(cluster, to, write);
        }
    }

    /// Takes an interim response, of which the client gets the first.
    pub(super) fn interim(&self, stream: &Stream, head: ResponseHead) {
        if !self.began.replace(true) {
            self.count(stream, head.status);
            self.client.pass(stream, head);
        }
    }

    /// Counts a response or what stands for one.
    fn charge(&self, stream: &mut Stream, status: StatusCode) {
        self.count(stream, status);
        if let Some(upstream) = &mut stream.upstream {
            upstream.succeeded = Some(!status.is_server_error());
        }
    }

    fn count(&self, stream: &Stream, status: StatusCode) {
        let stats = &self.cluster.cluster.stats;
        let family = match stream.origin.internal {
            true => "internal.upstream_rq",
            false => "external.upstream_rq",
        };
        stats.count_code("upstream_rq", status.as_u16());
        stats.count_code(family, status.as_u16());
        self.share(|stats| stats.count_code("upstream_rq", status.as_u16()));
        self.zone(stream, |stats| {
            stats.count_code("upstream_rq", status.as_u16())
        });
    }

    /// What the router does to a response that is passed on.
    fn finish(&self, stream: &mut Stream, entry: Option<&WeightedEntry>, head: &mut ResponseHead) {
        let now = Instant::now();
        self.charge(stream, head.status);
        let took = now.saturating_duration_since(stream.info.start);
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let stats = &self.cluster.cluster.stats;
        stats.record(cluster_stats::upstream_rq_time, took);
        stats.record(
            match stream.origin.internal {
                true => cluster_stats::internal_upstream_rq_time,
                false => cluster_stats::external_upstream_rq_time,
            },
            took,
        );
        self.share(|stats| stats.record(share_stats::upstream_rq_time, took));
        self.zone(stream, |stats| {
            stats.record(zone_stats::upstream_rq_time, took)
        });
        stream.info.timing.first_upstream_rx = Some(now);
        stream.info.response_code_details = Some("via_upstream".into());
        let router = *stream.router();
        // It counts from the end of the request, and a tunnel has none.
        let ended = stream.request_received && self.tunnel.is_none();
        if !router.suppress_envoy_headers && ended {
            let took = timeout::number(took);
            head.headers
                .insert(names::X_ENVOY_UPSTREAM_SERVICE_TIME, took);
        }
        if self.route.virtual_host().include_attempt_count_in_response {
            let count = timeout::number(stream.info.attempt_count.into());
            head.headers.insert(names::X_ENVOY_ATTEMPT_COUNT, count);
        }
        for cookie in self.cookies.take() {
            head.headers.append(header::SET_COOKIE, cookie);
        }
        if self.route.rewrites_responses(entry) {
            stream.info.response_code = Some(head.status);
            let context = stream.context(HeaderView::Absent);
            self.route
                .rewrite_response(head.status, &mut head.headers, entry, &context);
        }
    }

    fn reply(&self, stream: &mut Stream, failure: Failure) -> LocalReply {
        let late = failure.is_late().then_some(self.timeouts.late);
        let counts = failure.blames_host()
            || matches!(failure, Failure::NoHealthyUpstream | Failure::Overflow);
        if counts && !self.began.get() {
            self.charge(stream, late.unwrap_or_else(|| failure.status()));
        }
        if let Some(reason) = failure.transport_failure() {
            stream.info.upstream_transport_failure_reason = Some(reason.into());
        }
        let mut reply = failure.reply(stream.info.attempt_count > 1);
        if let Some(late) = late.filter(|late| *late != reply.status) {
            reply.status = late;
            reply.body = "".into();
        }
        if self.route.virtual_host().include_attempt_count_in_response {
            let count = timeout::number(stream.info.attempt_count.into());
            reply = reply.header(names::X_ENVOY_ATTEMPT_COUNT, count);
        }
        if self.cluster.cluster.balancing.has_own_hash() {
            for cookie in self.cookies.take() {
                reply = reply.header(header::SET_COOKIE, cookie);
            }
        }
        reply
    }
}
