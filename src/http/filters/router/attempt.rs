//! One try of a request: a host, a connection, an exchange.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, uri::Authority};
use tokio::io::AsyncWriteExt;

use super::{Exchange, SharedExchange, TcpExchange, failure::Failure, forward::Attempt};
use crate::{
    codec::{RequestHead, ResponseHead},
    http::{
        RequestBody, Stream,
        response_body::Source,
        stats::http_stats as downstream,
        stream::{Limit, Upstream},
        upgrade::{self, Kind},
    },
    model::{
        cluster::{Cluster, Protocol},
        route::{HashCookie, HostRewrite, hash, set_host, share_stats},
    },
    stats::Block,
    upstream::{
        Alpn, Endpoint, HostStat, LbContext,
        pool::{ConnectError, Lease, PoolError, TcpConnection, Wire, http1::Http1Error},
        stats::cluster_stats,
    },
};

/// A response as it came back from one try.
pub(super) struct Answered {
    pub head: ResponseHead,
    pub source: Source,
    /// The request's body, where the exchange is over already.
    body: Option<RequestBody>,
}

impl Answered {
    /// Gives the response up, for the request's body.
    pub fn give_up(self) -> RequestBody {
        match (self.source, self.body) {
            (Source::Http1(exchange), _) => exchange.fail(false),
            (Source::Http2(exchange), _) => exchange.fail(false),
            (Source::Tcp(exchange), _) => exchange.fail(),
            (_, body) => body.unwrap_or_else(RequestBody::empty),
        }
    }

    pub fn request_body_may_rewind(&mut self) -> bool {
        match (&mut self.source, &mut self.body) {
            (Source::Http1(exchange), _) => exchange.body().rewind(),
            (Source::Http2(exchange), _) => exchange.body().rewind(),
            (Source::Tcp(exchange), _) => exchange.body().rewind(),
            (_, Some(body)) => body.rewind(),
            (_, None) => false,
        }
    }
}

impl Attempt<'_> {
    /// Waits for a future within the stream's time limits.
    pub(super) async fn limited<F: Future>(
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
            Limit::Upstream => {
                if let Some(upstream) = &stream.upstream {
                    upstream.took_too_long();
                }
                Failure::UpstreamDuration {
                    received: stream.request_received,
                }
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
                self.share(|stats| stats.inc(share_stats::upstream_rq_timeout));
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
    pub(super) async fn once(
        &self,
        stream: &mut Stream,
        body: RequestBody,
        per_try: Option<Instant>,
    ) -> Result<Answered, (Failure, RequestBody)> {
        let upstream = match self.choose(stream) {
            Ok(upstream) => upstream,
            Err(failure) => return Err((failure, body)),
        };
        if self.ends_here.is_some() {
            let endpoint = upstream.endpoint.clone();
            stream.upstream = Some(upstream);
            return Box::pin(self.tcp(stream, &endpoint, body, per_try)).await;
        }
        let endpoint = &upstream.endpoint;
        let alpn = alpn(&self.cluster.cluster, stream.session.is_http2());
        let options = &self.cluster.cluster.http;
        let client = &stream.info.connection;
        let client = stream.manager().tells_of_client.then_some(&**client);
        let wire = Wire::new(endpoint, alpn, client);
        let wire = wire.for_request(endpoint, options, &stream.request.headers);
        let pool = self.cluster.pool(endpoint, wire);
        stream.upstream = Some(upstream);
        if body.is_received() {
            self.start_clock(stream);
        }
        stream.info.upstream_host = Some(pool.described());
        let lease = match pool.take(self.cluster) {
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
        self.attached(stream);
        if let Some(now) = stream.moment() {
            let timing = &mut stream.info.timing;
            timing.first_upstream_tx = Some(now);
            timing.last_upstream_tx = body.is_received().then_some(now);
        }
        match lease {
            Lease::Http1(connection) => {
                stream.info.upstream_connection = Some(connection.facts.info.clone());
                if self.tunnel == Some(Kind::Upgrade) {
                    let worker = stream.session.worker().clone();
                    upgrade::complete_request(&mut stream.request.headers, || worker.random());
                }
                let exchange = Exchange::start(
                    connection,
                    pool,
                    self.cluster.clone(),
                    &stream.request,
                    stream.origin.scheme,
                    body,
                    self.tunnel,
                );
                self.exchange(stream, exchange, per_try).await
            }
            Lease::Http2(place) => {
                let info = place.connection().facts.info.clone();
                stream.info.upstream_connection = Some(info);
                let scheme = stream.origin.scheme;
                let Some(request) = http2_request(&stream.request, scheme, self.tunnel) else {
                    return Err((Failure::Authority, body));
                };
                let exchange = SharedExchange::start(place, request, body, self.tunnel.is_some());
                self.shared_exchange(stream, Box::new(exchange), per_try)
                    .await
            }
        }
    }

    /// Counts a try that has a connection, and what time it has.
    fn attached(&self, stream: &mut Stream) {
        if let Some(upstream) = &mut stream.upstream {
            upstream.attached();
            upstream.deadline = self.timeouts.upstream.map(|limit| Instant::now() + limit);
        }
        self.share(|stats| stats.inc(share_stats::upstream_rq_total));
    }

    /// What ties the request to a host, where the cluster's balancer goes by that: its
    /// own policies, or else the route's.
    fn hash(&self, stream: &Stream) -> Option<u64> {
        let hashing = self.cluster.cluster.balancing.hashing()?;
        let (connection, client) = (&stream.session.info, stream.info.remote());
        let own = hashing.policies.as_deref();
        // A balancer sees the client behind trusted proxies, a route who is connected.
        let remote = own.map_or(&connection.remote, |_| client);
        let policies = own.unwrap_or(&self.forward.hash);
        hash(policies, &stream.view(), Some(client), |cookie| {
            let value = HashCookie::value(remote, &connection.local);
            let mut cookies = self.cookies.borrow_mut();
            if own.is_some() {
                cookies.clear();
            }
            cookies.extend(cookie.set(&value));
            Some(value)
        })
    }

    fn choose(&self, stream: &mut Stream) -> Result<Upstream, Failure> {
        let mut context = LbContext {
            random: stream.session.worker().random(),
            metadata_match: self.metadata_match,
            ..LbContext::default()
        };
        context.hash = self.hash(stream);
        let cluster = &self.cluster.cluster;
        if let Some(original) = cluster.original_dst() {
            let (headers, info) = (&stream.request.headers, &stream.session.info);
            let header = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
            context.destination = original.destination(cluster, info, header);
        }
        let policy = self.forward.retry.as_ref();
        let policy = policy.filter(|policy| !policy.avoided.is_empty());
        let avoid = |endpoint: &Endpoint| {
            let was_tried = || self.tried.borrow().contains(&endpoint.host.id());
            policy.is_some_and(|policy| policy.avoided.has(endpoint, was_tried))
        };
        // The first try goes where it is led.
        if let Some(policy) = policy.filter(|_| stream.info.attempt_count > 1) {
            context.avoid = Some(&avoid);
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
        let upstream = Upstream::begin(self.cluster.clone(), endpoint, self.priority);
        let upstream = upstream.ok_or(Failure::Overflow)?;
        let endpoint = &upstream.endpoint;
        if matches!(self.forward.host, HostRewrite::Auto) && !endpoint.hostname.is_empty() {
            let keep_original = !stream.router().suppress_envoy_headers;
            set_host(
                &mut stream.request,
                &endpoint.hostname,
                self.forward.append_x_forwarded_host,
                keep_original,
            );
        }
        Ok(upstream)
    }

    /// The route's timeout runs from the end of the request.
    fn start_clock(&self, stream: &mut Stream) {
        stream.request_deadline = None;
        stream.request_received = true;
        stream.info.timing.last_downstream_rx = Some(stream.last_moved);
        let timing = &stream.info.timing;
        if timing.first_upstream_tx.is_some() && timing.last_upstream_tx.is_none() {
            stream.info.timing.last_upstream_tx = stream.moment();
        }
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
            match exchange.poll_head(cx, |head| self.interim(stream, head)) {
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
                .poll_limits(cx, per_try.filter(|_| !self.began.get()))
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
                let invalid = matches!(error, Http1Error::Protocol(_) | Http1Error::HeadTooLarge);
                if invalid {
                    let stats = &self.cluster.cluster.stats;
                    stats.inc(cluster_stats::upstream_cx_protocol_error);
                }
                let mut body = exchange.fail(!invalid && !matches!(error, Http1Error::RequestBody));
                let safe = is_idempotent(&stream.request.method) && body.rewind();
                match unseen && reused && safe {
                    true => Err((Failure::Stale, body)),
                    false => Err((error.into(), body)),
                }
            }
        }
    }

    /// A connection of its own for what the request carries; that there is one is
    /// the answer.
    async fn tcp(
        &self,
        stream: &mut Stream,
        endpoint: &Arc<Endpoint>,
        body: RequestBody,
        per_try: Option<Instant>,
    ) -> Result<Answered, (Failure, RequestBody)> {
        stream.info.upstream_host = Some(Rc::new(endpoint.described()));
        let header = self
            .ends_here
            .and_then(|config| config.proxy_protocol.as_ref());
        let header = header.map(|protocol| protocol.header(&stream.session.info, &[]));
        let wire = Wire::new(endpoint, Alpn::None, Some(&stream.session.info));
        let opening = async {
            let opened = TcpConnection::open(self.cluster, endpoint, &wire, self.priority);
            let mut connection = opened.await?;
            if let Some(header) = header {
                let written = connection.io.write_all(&header).await;
                written.map_err(ConnectError::of)?;
            }
            Ok::<_, PoolError>(connection)
        };
        let connection = match self.limited(stream, per_try, opening).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err((error.into(), body)),
            Err(failure) => return Err((failure, body)),
        };
        self.attached(stream);
        stream.info.upstream_connection = Some(connection.facts.info.clone());
        Ok(Answered {
            head: ResponseHead::default(),
            source: Source::Tcp(Box::new(TcpExchange::new(connection, body))),
            body: None,
        })
    }

    async fn shared_exchange(
        &self,
        stream: &mut Stream,
        mut exchange: Box<SharedExchange>,
        per_try: Option<Instant>,
    ) -> Result<Answered, (Failure, RequestBody)> {
        let outcome = poll_fn(|cx| {
            let outcome = exchange.poll_head(cx, |head| self.interim(stream, head));
            if let Poll::Ready(outcome) = outcome {
                return Poll::Ready(outcome.map_err(Ok));
            }
            stream.received(exchange.body().received);
            if exchange.body().is_received() {
                self.start_clock(stream);
            }
            stream
                .poll_limits(cx, per_try.filter(|_| !self.began.get()))
                .map(|limit| Err(Err(self.exceeded(stream, limit))))
        })
        .await;
        match outcome {
            Ok(mut head) => {
                if self.tunnel == Some(Kind::Upgrade) {
                    let asked = stream.request.headers.get(header::UPGRADE);
                    upgrade::from_accepted(&mut head, asked);
                }
                Ok(Answered {
                    head,
                    source: Source::Http2(exchange),
                    body: None,
                })
            }
            Err(Err(failure)) => Err((failure, exchange.fail(false))),
            Err(Ok(error)) => {
                let not_processed = error.was_not_processed();
                let went_away = error.went_away();
                let reused = exchange.requests_on_connection() > 1;
                let failure = Failure::from(error);
                let mut body = exchange.fail(went_away);
                let unseen = matches!(failure, Failure::Terminated) && reused;
                let safe = not_processed || (unseen && is_idempotent(&stream.request.method));
                match safe && !self.began.get() && body.rewind() {
                    true => Err((Failure::Stale, body)),
                    false => Err((failure, body)),
                }
            }
        }
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

/// What is spoken with a cluster for a client that speaks HTTP/2, or does not.
pub(super) fn alpn(cluster: &Cluster, http2: bool) -> Alpn {
    match cluster.protocol {
        Protocol::UseDownstream if http2 => Alpn::Http2,
        Protocol::UseDownstream | Protocol::Http1 => Alpn::Http1,
        Protocol::Http2 => Alpn::Http2,
        Protocol::Auto => Alpn::Either,
    }
}

/// The request in the form that goes over HTTP/2, which has to have a host.
pub(super) fn http2_request(
    parts: &RequestHead,
    scheme: &str,
    tunnel: Option<Kind>,
) -> Option<http::Request<()>> {
    let mut request = http::Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    let host = parts.headers.get(header::HOST)?;
    uri.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
    // A CONNECT has neither path nor scheme.
    if tunnel != Some(Kind::Connect) {
        uri.path_and_query = parts.uri.path_and_query().cloned();
        uri.scheme = Some(match scheme {
            "https" => http::uri::Scheme::HTTPS,
            _ => http::uri::Scheme::HTTP,
        });
    }
    *request.uri_mut() = http::Uri::from_parts(uri).ok()?;
    let mut headers = HeaderMap::with_capacity(parts.headers.len());
    for (name, value) in parts
        .headers
        .iter()
        .filter(|(name, _)| **name != header::HOST)
    {
        headers.append(name, value.clone());
    }
    *request.headers_mut() = headers;
    if tunnel == Some(Kind::Upgrade) {
        upgrade::into_extended_connect(&mut request);
    }
    Some(request)
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
