//! Serving HTTP/1, with hyper's codec.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use http::{Request, Response, header};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{
    RequestBody, ResponseBody, StreamError,
    body::ClientBody,
    config::ConnectionManager,
    connection::{Session, Watch},
    downstream::DownstreamIo,
    handle::handle,
    stats::http_stats,
    upgrade::Tunnel,
};
use crate::net::{Prefixed, Stream};

/// hyper's smallest read buffer limit.
const MIN_BUFFER: usize = 8 * 1024;

/// Serves a connection to its end.
pub(super) async fn serve(
    session: &Rc<Session>,
    manager: &ConnectionManager,
    io: DownstreamIo<Stream>,
) {
    let mut builder = http1::Builder::new();
    builder
        .auto_date_header(false)
        .title_case_headers(manager.http1.proper_case)
        .max_headers(manager.common.max_headers)
        .max_header_size(manager.max_request_head)
        .max_buf_size(manager.max_request_head.max(MIN_BUFFER));
    if let Some(limit) = manager.timeouts.request_headers {
        builder.timer(TokioTimer::new()).header_read_timeout(limit);
    }
    let streams = session.clone();
    let service = service_fn(move |request| one(streams.clone(), request));
    let connection = builder.serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection.with_upgrades());
    let mut watch = pin!(Watch::new(session).run());
    let mut asked = false;
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
            if outcome.is_err_and(|error| error.is_parse()) {
                manager.stats.inc(http_stats::downstream_cx_protocol_error);
            }
            return Poll::Ready(());
        }
        if watch.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if session.is_closing() && session.is_idle() && !asked {
            asked = true;
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(cx).map(drop);
        }
        Poll::Pending
    })
    .await;
}

/// Serves one request.
async fn one(
    session: Rc<Session>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, StreamError> {
    let upgraded = request
        .headers()
        .contains_key(header::UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let (parts, incoming) = request.into_parts();
    let trailers = session.current().manager().http1.trailers;
    let body = RequestBody::new(ClientBody::Http1(incoming), trailers);
    let mut response = handle(session, parts, body).await?;
    if let (Some(upgraded), Some(tunnel)) = (upgraded, response.body_mut().take_tunnel()) {
        tokio::task::spawn_local(carry(tunnel, upgraded));
    }
    Ok(response)
}

/// Runs a tunnel once hyper lets go of the client's connection.
async fn carry(tunnel: Tunnel, upgraded: OnUpgrade) {
    // It fails when the client leaves before it sees the response.
    if let Ok(upgraded) = upgraded.await {
        tunnel.run(open(upgraded)).await;
    }
}

/// The client's own stream, out of hyper's wrapping.
fn open(upgraded: Upgraded) -> Prefixed<Box<DownstreamIo<Stream>>> {
    let parts = upgraded
        .downcast::<TokioIo<DownstreamIo<Stream>>>()
        .expect("every connection is served on this type");
    Prefixed::new(parts.read_buf, Box::new(parts.io.into_inner()))
}
