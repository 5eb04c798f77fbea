//! One request to the route's cluster, and again where the policy says so.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode, header, response};
use smallvec::SmallVec;

use super::{
    Exchange, SharedExchange,
    failure::Failure,
    timeout::{self, Timeouts},
};
use crate::{
    formatter::{FormatContext, HeaderView, RequestView, ResponseFlag},
    http::{
        LocalReply, RequestBody, Stream, names,
        response_body::Source,
        stats::http_stats as downstream,
        stream::{Limit, Upstream},
    },
    model::{
        cluster::Protocol,
        route::{
            Action, Forward, HostRewrite, RequestRetry, RetryPolicy, RouteHandle, WeightedEntry,
            set_host,
        },
    },
    stats::Block,
    upstream::{
        Breakers, Endpoint, HostStat, LbContext, Priority, Resource, WorkerCluster,
        pool::{Lease, http1::Http1Error, http2::SharedBody},
        stats::cluster_stats,
    },
};

/// A response's head and where its body comes from.
pub type Forwarded = (response::Parts, Source);

/// How many stale connections are passed over before that counts as a failure.
const MAX_STALE: u32 = 3;

/// What stays the same over the tries of one request.
struct Attempt<'a> {
    route: &'a RouteHandle,
    forward: &'a Forward,
    cluster: &'a Rc<WorkerCluster>,
    timeouts: Timeouts,
    priority: Priority,
    hash: Option<u64>,
    upgrade: bool,
    /// Hosts that were tried, where the policy says to stay away from them.
    tried: RefCell<SmallVec<[u64; 4]>>,
}

/// Sends the request and waits for the head of the response.
///
/// # Errors
/// The answer to give where there is no response to pass on.
pub async fn forward(
    stream: &mut Stream,
    mut body: RequestBody,
    upgrade: bool,
    envoy: bool,
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
    let hash = action.hash(&view, stream.info.remote());
    let chosen = action.cluster.choose(&view, worker.random(), hash);
    let entry = chosen.entry;
    let found =
        worker.with_snapshot(|snapshot| worker.upstream.get(snapshot, chosen.name.as_str()));
    let manager = stream.managed.manager().clone();
    let Some(cluster) = found else {
        manager.stats.inc(downstream::no_cluster);
        return Err(
            LocalReply::empty(action.cluster_not_found, "cluster_not_found")
                .flag(ResponseFlag::NoClusterFound),
        );
    };
    let router = &manager.router;

    // The retry headers are read before they are removed below.
    let retry = match action.retry.is_some() || envoy {
        true => RetryPolicy::for_request(action.retry.as_ref(), &view).map(Box::new),
        false => None,
    };
    stream.info.upstream_cluster = Some(cluster.observability_name.clone());
    stream.info.upstream_cluster_raw = Some(cluster.name.clone());
    let per_try = retry.as_ref().and_then(|r| r.per_try_timeout);
    let timeouts = timeout::settle(&mut stream.request.headers, envoy, action, router, per_try);
    if envoy {
        for name in [
            names::X_ENVOY_RETRY_ON,
            names::X_ENVOY_RETRY_GRPC_ON,
            names::X_ENVOY_MAX_RETRIES,
            names::X_ENVOY_RETRIABLE_STATUS_CODES,
        ] {
            stream.request.headers.remove(name);
        }
    }
    rewrite(stream, &route, entry, !router.suppress_envoy_headers);
    if let Some(limit) = action.idle_timeout {
        stream.idle_timeout = (!limit.is_zero()).then_some(limit);
    }
    if let Some(limit) = action.max_stream_duration {
        stream.deadline = (!limit.is_zero()).then(|| stream.info.start + limit);
    }
    let policy = action.retry.as_ref();
    stream.try_idle_timeout = policy.and_then(|policy| policy.per_try_idle_timeout);
    if retry.is_some() {
        let limit = route
            .route()
            .body_buffer_limit
            .or(route.virtual_host().body_buffer_limit);
        let limit = limit.map_or(cluster.cluster.buffer_limit, |n| n as usize);
        body.keep(limit);
    }
    let attempt = Attempt {
        route: &route,
        forward: action,
        cluster: &cluster,
        timeouts,
        priority: if action.high_priority {
            Priority::High
        } else {
            Priority::Default
        },
        hash,
        upgrade,
        tried: RefCell::default(),
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
        local_reply_body: "",
        log_type: crate::api::envoy::data::accesslog::v3::AccessLogType::NotSet,
    };
    route.rewrite_request(&mut stream.request, entry, &context, keep_original);
}

/// A response as it came back from one try.
struct Answered {
    head: response::Parts,
    source: Source,
    /// The request's body, where the exchange is over already.
    body: Option<RequestBody>,
}

impl Answered {
    /// Gives the response up, for the request's body.
    fn give_up(self) -> RequestBody {
        match (self.source, self.body) {
            (Source::Http1(exchange), _) => exchange.fail(false),
            (Source::Http2(_, exchange), _) => exchange.body.replace(RequestBody::empty()),
            (_, body) => body.unwrap_or_else(RequestBody::empty),
        }
    }

    fn request_body_may_rewind(&mut self) -> bool {
        match (&mut self.source, &mut self.body) {
            (Source::Http1(exchange), _) => exchange.body().rewind(),
            (Source::Http2(_, exchange), _) => exchange.body.borrow_mut().rewind(),
            (_, Some(body)) => body.rewind(),
            (_, None) => false,
        }
    }
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
            }
            let per_try = self.timeouts.per_try.map(|limit| Instant::now() + limit);
            let failure = match self.once(stream, body, per_try).await {
                Ok(mut answered) => {
                    let head = &answered.head;
                    let policy = self.forward.retry.as_ref();
                    let again = retry.as_ref().is_some_and(|retry| {
                        retry.wants_response(policy, head.status, &head.headers)
                    });
                    if !again
                        || !answered.request_body_may_rewind()
                        || !self.may_retry(stream, retry.as_deref_mut())
                    {
                        return Ok((answered.head, answered.source));
                    }
                    let failure = Failure::Response(answered.head.status);
                    body = answered.give_up();
                    failure
                }
                Err((failure, back)) => {
                    body = back;
                    if let (Failure::Stale, true) = (&failure, stale < MAX_STALE) {
                        stale += 1;
                        stream.info.attempt_count -= 1;
                        stream.upstream = None;
                        continue;
                    }
                    let again = retry
                        .as_ref()
                        .is_some_and(|r| failure.is_retriable(r.retry_on));
                    if !again || !body.rewind() || !self.may_retry(stream, retry.as_deref_mut()) {
                        return Err(failure);
                    }
                    failure
                }
            };
            self.charge(stream, failure.status());
            stream.upstream = None;
            Box::pin(self.back_off(stream)).await?;
        }
    }

    /// A retry has what its predecessors left of the time.
    fn tell_time_left(&self, stream: &mut Stream) {
        let router = &stream.managed.manager().router;
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

    /// Whether a retry is left and the circuit breaker lets it pass.
    fn may_retry(&self, stream: &mut Stream, retry: Option<&mut RequestRetry>) -> bool {
        let Some(retry) = retry else { return false };
        let (stats, breakers) = (&self.cluster.cluster.stats, &self.cluster.cluster.breakers);
        if retry.remaining == 0 {
            stats.inc(cluster_stats::upstream_rq_retry_limit_exceeded);
            stream.flag(ResponseFlag::UpstreamRetryLimitExceeded);
            return false;
        }
        if breakers.is_open(self.priority, Resource::Retries) {
            stats.inc(cluster_stats::upstream_rq_retry_overflow);
            return false;
        }
        retry.remaining -= 1;
        stats.inc(cluster_stats::upstream_rq_retry);
        true
    }

    /// Waits before another try: a random part of an interval that doubles.
    async fn back_off(&self, stream: &mut Stream) -> Result<(), Failure> {
        let default = RetryPolicy::default();
        let policy = self.forward.retry.as_ref().unwrap_or(&default);
        let tries = stream.info.attempt_count.min(16);
        let most = policy
            .base_interval
            .saturating_mul((1 << tries) - 1)
            .min(policy.max_interval);
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        let wait = Duration::from_micros(stream.session.worker().random() % most);
        self.cluster
            .cluster
            .stats
            .inc(cluster_stats::upstream_rq_retry_backoff_exponential);
        let breakers = self.cluster.cluster.breakers.clone();
        let _permit = Breakers::acquire(breakers, self.priority, Resource::Retries);
        self.limited(stream, None, tokio::time::sleep(wait)).await
    }

    /// Waits for a future within the stream's time limits.
    async fn limited<F: Future>(
        &self,
        stream: &mut Stream,
        per_try: Option<Instant>,
        future: F,
    ) -> Result<F::Output, Failure> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            stream
                .poll_limits(cx, per_try)
                .map(|limit| Err(self.exceeded(stream, limit)))
        })
        .await
    }

    fn exceeded(&self, stream: &Stream, limit: Limit) -> Failure {
        let stats = &self.cluster.cluster.stats;
        match limit {
            Limit::Try => {
                stats.inc(cluster_stats::upstream_rq_per_try_timeout);
                Failure::PerTryTimeout
            }
            Limit::TryIdle => {
                stats.inc(cluster_stats::upstream_rq_per_try_idle_timeout);
                Failure::PerTryIdle
            }
            Limit::Idle => {
                http_stats(stream).inc(downstream::downstream_rq_idle_timeout);
                Failure::Idle {
                    received: stream.request_received,
                }
            }
            Limit::Request => {
                http_stats(stream).inc(downstream::downstream_rq_timeout);
                Failure::Request
            }
            Limit::Deadline if stream.route_deadline => {
                stats.inc(cluster_stats::upstream_rq_timeout);
                if let Some(upstream) = &stream.upstream {
                    upstream.endpoint.host.inc(HostStat::rq_timeout);
                }
                Failure::Timeout
            }
            Limit::Deadline => {
                http_stats(stream).inc(downstream::downstream_rq_max_duration_reached);
                Failure::Duration {
                    received: stream.request_received,
                }
            }
        }
    }

    /// One try.
    async fn once(
        &self,
        stream: &mut Stream,
        body: RequestBody,
        per_try: Option<Instant>,
    ) -> Result<Answered, (Failure, RequestBody)> {
        let endpoint = match self.choose(stream) {
            Ok(endpoint) => endpoint,
            Err(failure) => return Err((failure, body)),
        };
        let protocol = match self.cluster.cluster.protocol {
            Protocol::UseDownstream if stream.session.is_http2() => Protocol::Http2,
            Protocol::UseDownstream => Protocol::Http1,
            fixed => fixed,
        };
        let pool = self
            .cluster
            .pool(&endpoint, protocol, self.server_name(stream));
        if body.is_received() {
            self.start_clock(stream);
        }
        stream.info.upstream_host = Some(pool.described());
        let lease = match pool.take() {
            Some(lease) => lease,
            None => {
                let waited = self
                    .limited(
                        stream,
                        per_try,
                        Box::pin(pool.wait(self.cluster, self.priority)),
                    )
                    .await;
                match waited {
                    Ok(Ok(lease)) => lease,
                    Ok(Err(error)) => return Err((error.into(), body)),
                    Err(failure) => return Err((failure, body)),
                }
            }
        };
        match lease {
            Lease::Http1(connection) => {
                stream.info.upstream_connection = Some(connection.facts.info.clone());
                let exchange = Exchange::start(
                    connection,
                    pool,
                    self.cluster.clone(),
                    &stream.request,
                    body,
                    self.upgrade,
                );
                self.exchange(stream, exchange, per_try).await
            }
            Lease::Http2(connection) => {
                stream.info.upstream_connection = Some(connection.facts.info.clone());
                let exchange = SharedExchange::begin(connection, pool, self.cluster.clone(), body);
                Box::pin(self.shared_exchange(stream, exchange, per_try)).await
            }
        }
    }

    fn choose(&self, stream: &mut Stream) -> Result<Arc<Endpoint>, Failure> {
        let mut context = LbContext {
            random: stream.session.worker().random(),
            hash: self.hash,
            ..LbContext::default()
        };
        let was_tried = |endpoint: &Endpoint| self.tried.borrow().contains(&endpoint.host.id());
        let policy = self
            .forward
            .retry
            .as_ref()
            .filter(|p| p.avoid_previous_hosts);
        if let Some(policy) = policy {
            context.avoid = Some(&was_tried);
            context.attempts = policy.host_selection_attempts;
        }
        let stats = &self.cluster.cluster.stats;
        let Some(endpoint) = self.cluster.choose(&context) else {
            stats.inc(cluster_stats::upstream_cx_none_healthy);
            return Err(Failure::NoHealthyUpstream);
        };
        if policy.is_some() {
            self.tried.borrow_mut().push(endpoint.host.id());
        }
        let upstream = Upstream::begin(self.cluster.clone(), endpoint.clone(), self.priority);
        stream.upstream = Some(upstream.ok_or(Failure::Overflow)?);
        if matches!(self.forward.host, HostRewrite::Auto) && !endpoint.hostname.is_empty() {
            set_host(
                &mut stream.request,
                &endpoint.hostname,
                self.forward.append_x_forwarded_host,
                !stream.managed.manager().router.suppress_envoy_headers,
            );
        }
        Ok(endpoint)
    }

    /// `auto_sni`: the server name that the request gives.
    fn server_name(&self, stream: &Stream) -> Option<Rc<str>> {
        let options = &self.cluster.cluster.http;
        if !options.auto_sni || self.cluster.cluster.transport.tls().is_none() {
            return None;
        }
        let header = options.auto_sni_header.as_ref().unwrap_or(&header::HOST);
        let value = stream.request.headers.get(header)?.to_str().ok()?;
        let authority = value.parse::<http::uri::Authority>().ok()?;
        // An address is not a server name.
        let host = authority.host();
        (host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[')).then(|| host.into())
    }

    /// The route's timeout runs from the end of the request.
    fn start_clock(&self, stream: &mut Stream) {
        stream.request_deadline = None;
        stream.request_received = true;
        let Some(limit) = self.timeouts.global else {
            return;
        };
        if stream.route_deadline {
            return;
        }
        // When the last of the request came: at its start, for most.
        let deadline = stream.last_moved + limit;
        if stream.deadline.is_none_or(|other| deadline < other) {
            stream.deadline = Some(deadline);
            stream.route_deadline = true;
        }
    }

    async fn exchange(
        &self,
        stream: &mut Stream,
        mut exchange: Exchange,
        per_try: Option<Instant>,
    ) -> Result<Answered, (Failure, RequestBody)> {
        let outcome = poll_fn(|cx| {
            match exchange.poll_head(cx) {
                Poll::Ready(Ok(head)) => {
                    let body = small_body(cx, &mut exchange);
                    return Poll::Ready(Ok((head, body)));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Ok(error))),
                Poll::Pending => {}
            }
            stream.received(exchange.body().received);
            if exchange.body().is_received() {
                self.start_clock(stream);
            }
            stream
                .poll_limits(cx, per_try)
                .map(|limit| Err(Err(self.exceeded(stream, limit))))
        })
        .await;
        match outcome {
            Ok((head, Some(whole))) => {
                exchange.release(Some(stream));
                let body = exchange.fail(false);
                let source = if whole.is_empty() {
                    Source::Empty
                } else {
                    Source::Full(whole)
                };
                Ok(Answered {
                    head,
                    source,
                    body: Some(body),
                })
            }
            Ok((head, None)) => Ok(Answered {
                head,
                source: Source::Http1(exchange),
                body: None,
            }),
            Err(Err(failure)) => Err((failure, exchange.fail(false))),
            Err(Ok(error)) => {
                let unseen = matches!(error, Http1Error::Closed | Http1Error::Io(_));
                let reused = exchange.requests_on_connection() > 1;
                let mut body = exchange.fail(true);
                let safe = is_idempotent(&stream.request.method) && body.rewind();
                match unseen && reused && safe {
                    true => Err((Failure::Stale, body)),
                    false => Err((error.into(), body)),
                }
            }
        }
    }

    async fn shared_exchange(
        &self,
        stream: &mut Stream,
        exchange: SharedExchange,
        per_try: Option<Instant>,
    ) -> Result<Answered, (Failure, RequestBody)> {
        let body = exchange.body.clone();
        let request = http2_request(stream, SharedBody(body.clone()));
        let mut sender = exchange.connection().sender();
        let mut response = pin!(sender.send_request(request));
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(outcome) = response.as_mut().poll(cx) {
                return Poll::Ready(outcome.map_err(Failure::from));
            }
            stream.received(body.borrow().received);
            if body.borrow().is_received() {
                self.start_clock(stream);
            }
            stream
                .poll_limits(cx, per_try)
                .map(|limit| Err(self.exceeded(stream, limit)))
        })
        .await;
        match outcome {
            Ok(response) => {
                let (head, incoming) = response.into_parts();
                Ok(Answered {
                    head,
                    source: Source::Http2(incoming, exchange),
                    body: None,
                })
            }
            Err(failure) => Err((failure, body.replace(RequestBody::empty()))),
        }
    }

    /// Counts a response or what stands for one.
    fn charge(&self, stream: &mut Stream, status: StatusCode) {
        let stats = &self.cluster.cluster.stats;
        let family = match stream.origin.internal {
            true => "internal.upstream_rq",
            false => "external.upstream_rq",
        };
        stats.count_code("upstream_rq", status.as_u16());
        stats.count_code(family, status.as_u16());
        if let Some(upstream) = &mut stream.upstream {
            upstream.succeeded = Some(!status.is_server_error());
        }
    }

    /// What the router does to a response that is passed on.
    fn finish(
        &self,
        stream: &mut Stream,
        entry: Option<&WeightedEntry>,
        head: &mut response::Parts,
    ) {
        let now = Instant::now();
        self.charge(stream, head.status);
        let took = now.saturating_duration_since(stream.info.start);
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.cluster
            .cluster
            .stats
            .record(cluster_stats::upstream_rq_time, took);
        stream.info.timing.first_upstream_rx = Some(now);
        stream.info.response_code_details = Some("via_upstream".into());
        if stream.info.attempt_count > 1 {
            self.cluster
                .cluster
                .stats
                .inc(cluster_stats::upstream_rq_retry_success);
        }
        let router = &stream.managed.manager().router;
        if !router.suppress_envoy_headers && head.status != StatusCode::SWITCHING_PROTOCOLS {
            let took = timeout::number(took);
            head.headers
                .insert(names::X_ENVOY_UPSTREAM_SERVICE_TIME, took);
        }
        if self.route.virtual_host().include_attempt_count_in_response {
            let count = timeout::number(stream.info.attempt_count.into());
            head.headers.insert(names::X_ENVOY_ATTEMPT_COUNT, count);
        }
        if self.route.rewrites_responses(entry) {
            stream.info.response_code = Some(head.status);
            let context = stream.context(HeaderView::Absent);
            self.route
                .rewrite_response(head.status, &mut head.headers, entry, &context);
        }
    }

    fn reply(&self, stream: &mut Stream, failure: Failure) -> LocalReply {
        if failure.blames_host()
            || matches!(failure, Failure::NoHealthyUpstream | Failure::Overflow)
        {
            self.charge(stream, failure.status());
        }
        if let Some(reason) = failure.transport_failure() {
            stream.info.upstream_transport_failure_reason = Some(reason.into());
        }
        let mut reply = failure.reply(stream.info.attempt_count > 1);
        if self.route.virtual_host().include_attempt_count_in_response {
            let count = timeout::number(stream.info.attempt_count.into());
            reply = reply.header(names::X_ENVOY_ATTEMPT_COUNT, count);
        }
        reply
    }
}

fn http_stats(stream: &Stream) -> &Block {
    &stream.managed.manager().stats
}

/// Whether sending it twice is as good as sending it once (RFC 9110, 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The request in the form that goes over HTTP/2.
fn http2_request(stream: &Stream, body: SharedBody) -> http::Request<SharedBody> {
    let parts = &stream.request;
    let mut request = http::Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(match stream.origin.scheme {
        "https" => http::uri::Scheme::HTTPS,
        _ => http::uri::Scheme::HTTP,
    });
    uri.authority = parts
        .headers
        .get(header::HOST)
        .and_then(|host| http::uri::Authority::from_maybe_shared(host.as_bytes().to_vec()).ok());
    uri.path_and_query = parts.uri.path_and_query().cloned();
    if let Ok(uri) = http::Uri::from_parts(uri) {
        *request.uri_mut() = uri;
    }
    let mut headers = parts.headers.clone();
    headers.remove(header::HOST);
    *request.headers_mut() = headers;
    request
}

/// The whole body, when it came along with the head.
fn small_body(cx: &mut Context<'_>, exchange: &mut Exchange) -> Option<Bytes> {
    if exchange.is_complete() {
        return Some(Bytes::new());
    }
    if !exchange.has_whole_body() {
        return None;
    }
    match exchange.poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        _ => None,
    }
}
