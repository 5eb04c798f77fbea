//! Copies of a request for other clusters (`request_mirror_policies`), sent while
//! the request itself goes its way. Nobody waits for their answers.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body::Frame;
use tokio::time::Sleep;

use super::{
    Exchange, SharedExchange,
    attempt::{alpn, http2_request},
    failure::Failure,
};
use crate::{
    codec::{RequestHead, ResponseHead},
    formatter::RequestView,
    http::{RequestBody, Stream, StreamError, names, request::append, stream::Upstream},
    model::route::RouteHandle,
    net::ConnectionInfo,
    upstream::{
        LbContext, Priority, WorkerCluster,
        pool::{Lease, Wire},
        stats::cluster_stats,
    },
};

/// Sends a copy to every cluster that is to have one. `limit` is the time for an
/// answer, from the end of the request.
pub(super) fn mirror(
    stream: &Stream,
    body: &mut RequestBody,
    route: &RouteHandle,
    limit: Option<Duration>,
) {
    let mirrors = route.mirrors();
    if mirrors.is_empty() {
        return;
    }
    let worker = stream.session.worker();
    let random = worker.random();
    let view = stream.view();
    for mirror in mirrors {
        let Some(name) = mirror.cluster(&view, random) else {
            continue;
        };
        let found = worker.with_snapshot(|snapshot| worker.upstream.get(snapshot, name));
        let Some(cluster) = found else {
            tracing::debug!(target: "router", "shadow cluster '{name}' does not exist");
            continue;
        };
        let mut request = stream.request.clone();
        mirror.address(&mut request);
        told_by_us(&mut request, stream);
        let copy = Copy {
            random: worker.random(),
            clock: Clock {
                limit,
                running: None,
            },
            body: body.copy(cluster.cluster.buffer_limit),
            cluster,
            request,
            client: stream.session.info.clone(),
            scheme: stream.origin.scheme,
            http2: stream.session.is_http2(),
        };
        tokio::task::spawn_local(copy.send());
    }
}

/// Says that the request is this proxy's own, as Envoy does.
fn told_by_us(request: &mut RequestHead, stream: &Stream) {
    let headers = &mut request.headers;
    headers.insert(names::X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    let own = stream.manager().peer.own_address;
    let Some(own) = own.and_then(|own| HeaderValue::from_str(&own.to_string()).ok()) else {
        return;
    };
    append(headers, names::X_FORWARDED_FOR, &own, b",");
}

/// One copy on its way.
struct Copy {
    cluster: Rc<WorkerCluster>,
    request: RequestHead,
    body: RequestBody,
    client: Rc<ConnectionInfo>,
    scheme: &'static str,
    http2: bool,
    random: u64,
    clock: Clock,
}

impl Copy {
    /// Sends it and counts the answer. It ends by itself: until all of the request
    /// has come, with the request; from then on, with its time.
    async fn send(self) {
        let cluster = self.cluster.clone();
        let began = Instant::now();
        let mut upstream = None;
        let answered = self.exchange(&mut upstream).await;
        let stats = &cluster.cluster.stats;
        let status = match answered {
            Ok(status) => {
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                stats.record(cluster_stats::upstream_rq_time, took);
                stats.record(cluster_stats::internal_upstream_rq_time, took);
                status
            }
            // The client left, or this host lags too far behind.
            Err(Failure::RequestBody) => return,
            Err(failure) => {
                if matches!(failure, Failure::Timeout) {
                    stats.inc(cluster_stats::upstream_rq_timeout);
                }
                failure.status()
            }
        };
        for family in ["upstream_rq", "internal.upstream_rq"] {
            stats.count_code(family, status.as_u16());
        }
        if let Some(upstream) = &mut upstream {
            upstream.succeeded = Some(!status.is_server_error());
        }
    }

    async fn exchange(self, upstream: &mut Option<Upstream>) -> Result<StatusCode, Failure> {
        let Self {
            cluster,
            request,
            body,
            client,
            scheme,
            http2,
            random,
            mut clock,
        } = self;
        let view = RequestView::of(&request, scheme);
        let chosen = cluster.choose(&LbContext {
            random,
            hash: cluster.cluster.balancing.own_hash(&view, None),
            ..LbContext::default()
        });
        let Some(endpoint) = chosen else {
            let stats = &cluster.cluster.stats;
            stats.inc(cluster_stats::upstream_cx_none_healthy);
            return Err(Failure::NoHealthyUpstream);
        };
        let begun = Upstream::begin(cluster.clone(), endpoint.clone(), Priority::Default);
        let upstream = upstream.insert(begun.ok_or(Failure::Overflow)?);
        let wire = Wire::new(&endpoint, alpn(&cluster.cluster, http2), Some(&client));
        let wire = wire.for_request(&endpoint, &cluster.cluster.http, &request.headers);
        let pool = cluster.pool(&endpoint, wire);
        let lease = match pool.take(&cluster) {
            Some(lease) => lease,
            // Connecting has limits of its own.
            None => pool.wait(&cluster, Priority::Default).await?,
        };
        upstream.attached();
        let mut way = match lease {
            Lease::Http1(connection) => Way::Http1(Exchange::start(
                connection, pool, cluster, &request, scheme, body, None,
            )),
            Lease::Http2(place) => {
                let request = http2_request(&request, scheme, None).ok_or(Failure::Authority)?;
                let exchange = SharedExchange::start(place, request, body, false);
                Way::Http2(Box::new(exchange))
            }
        };
        let head = poll_fn(|cx| match way.poll_head(cx) {
            Poll::Ready(head) => Poll::Ready(head),
            Poll::Pending => clock.poll(cx, way.body()),
        });
        let head = head.await?;
        // Read, so that the connection can be used again.
        while !way.is_complete() {
            let over = poll_fn(|cx| match way.poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => Poll::Ready(Ok(false)),
                Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Ok(true)),
                Poll::Pending => clock.poll(cx, way.body()),
            });
            // Its status is known, whatever becomes of the rest.
            if over.await.unwrap_or(true) {
                break;
            }
        }
        way.end();
        Ok(head.status)
    }
}

/// The time for an answer, which runs once all of the request has come.
struct Clock {
    limit: Option<Duration>,
    running: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Ready when the copy has used up its time, or is cut off, of which who waits to
    /// send it would not hear.
    fn poll<T>(&mut self, cx: &mut Context<'_>, body: &RequestBody) -> Poll<Result<T, Failure>> {
        if body.poll_cut_off(cx).is_ready() {
            return Poll::Ready(Err(Failure::RequestBody));
        }
        let Some(limit) = self.limit.filter(|_| body.is_received()) else {
            return Poll::Pending;
        };
        let start = || Box::pin(tokio::time::sleep(limit));
        let running = self.running.get_or_insert_with(start);
        running.as_mut().poll(cx).map(|()| Err(Failure::Timeout))
    }
}

/// An exchange by either protocol.
enum Way {
    Http1(Exchange),
    Http2(Box<SharedExchange>),
}

impl Way {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Failure>> {
        match self {
            Self::Http1(exchange) => exchange.poll_head(cx, drop).map_err(Failure::from),
            Self::Http2(exchange) => exchange.poll_head(cx, drop).map_err(Failure::from),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match self {
            Self::Http1(exchange) => exchange.poll_frame(cx),
            Self::Http2(exchange) => exchange.poll_frame(cx),
        }
    }

    fn is_complete(&self) -> bool {
        match self {
            Self::Http1(exchange) => exchange.is_complete(),
            Self::Http2(exchange) => exchange.is_complete(),
        }
    }

    fn body(&mut self) -> &RequestBody {
        match self {
            Self::Http1(exchange) => exchange.body(),
            Self::Http2(exchange) => exchange.body(),
        }
    }

    /// Gives the connection back, where the answer has come to its end.
    fn end(self) {
        if let Self::Http1(mut exchange) = self
            && exchange.is_complete()
        {
            exchange.release(None);
        }
    }
}
