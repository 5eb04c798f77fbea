//! Serving HTTP/2, with hyper's codec.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{
    RequestBody,
    body::ClientBody,
    config::ConnectionManager,
    connection::{Session, Watch},
    downstream::DownstreamIo,
    handle::handle,
};
use crate::net::{LocalExecutor, Stream};

/// Serves a connection to its end.
pub(super) async fn serve(
    session: &Rc<Session>,
    manager: &ConnectionManager,
    io: DownstreamIo<Stream>,
) {
    let options = &manager.http2;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_concurrent_streams(options.concurrent_streams)
        .header_table_size(options.header_table)
        .max_header_list_size(u32::try_from(manager.max_request_head).unwrap_or(u32::MAX));
    if let Some(keepalive) = options.keepalive {
        builder
            .keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout);
    }
    let streams = session.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, incoming) = request.into_parts();
        let body = RequestBody::new(ClientBody::Http2(incoming), true);
        handle(streams.clone(), parts, body)
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut watch = pin!(Watch::new(session).run());
    let mut asked = false;
    poll_fn(|cx| {
        session.served_by(cx.waker());
        if session.is_closing() && !asked {
            asked = true;
            connection.as_mut().graceful_shutdown();
        }
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if watch.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if session.is_closing() && !asked {
            asked = true;
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(cx).map(drop);
        }
        Poll::Pending
    })
    .await;
}
