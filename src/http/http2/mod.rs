//! Serving HTTP/2.
//!
//! The connection's task reads frames and writes what its streams have queued;
//! each stream is a task of its own. A connection that is woken once by many
//! responses writes them all at once.

mod body;
mod stream;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::server::Builder;

pub use self::body::Http2Body;
use super::{
    config::{ConnectionManager, protocol::Http2Options},
    connection::{PREMATURE_RESET_STREAMS, Session, Watch},
    downstream::DownstreamIo,
    stats::http_stats,
};
use crate::net::{
    Stream,
    http2::{End, Watched, stats::http2_stats, until_silent},
};

/// Bytes of a stream's response that may wait for the connection to write them.
const SEND_BUFFER: usize = 400 * 1024;

/// Serves a connection to its end.
pub(super) async fn serve(
    session: &Rc<Session>,
    manager: &ConnectionManager,
    io: DownstreamIo<Stream>,
) {
    let cut = async {
        Watch::new(session).run().await;
        // Tunnels stay on what they began with. The end of one wakes the connection.
        poll_fn(|_| match session.has_tunnels() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    };
    tokio::select! {
        () = run(session, manager, io) => {}
        () = cut => {}
    }
}

async fn run(session: &Rc<Session>, manager: &ConnectionManager, io: DownstreamIo<Stream>) {
    let options = &manager.http2;
    let stats = manager.http2_stats();
    let io = Watched::new(io, End::Server, options.limits.clone(), stats.clone());
    let builder = builder(options, manager.max_request_head);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else {
        return manager.stats.inc(http_stats::downstream_cx_protocol_error);
    };
    let pings = connection.ping_pong();
    let keepalive = options.keepalive;
    let mut silent = pin!(until_silent(
        pings,
        keepalive.map(|k| k.interval),
        keepalive.map_or(Duration::ZERO, |k| k.timeout),
    ));
    let mut asked = false;
    poll_fn(|cx| {
        session.served_by(cx.waker());
        if session.is_abused() {
            let stats = &manager.stats;
            stats.inc(http_stats::downstream_rq_too_many_premature_resets);
            stats.inc(http_stats::downstream_cx_protocol_error);
            return Poll::Ready(());
        }
        loop {
            if session.is_closing() && !asked {
                asked = true;
                connection.graceful_shutdown();
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let serving = stream::serve(session.clone(), request, respond);
                    tokio::task::spawn_local(serving);
                }
                Poll::Ready(Some(Err(error))) => {
                    if error.is_go_away() && error.is_library() {
                        manager.stats.inc(http_stats::downstream_cx_protocol_error);
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        silent
            .as_mut()
            .poll(cx)
            .map(|()| stats.inc(http2_stats::keepalive_timeout))
    })
    .await;
}

fn builder(options: &Http2Options, max_head: usize) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_concurrent_streams(options.concurrent_streams)
        .header_table_size(options.header_table)
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        // Resets are limited by how many of the streams they are: see the session.
        .max_pending_accept_reset_streams(PREMATURE_RESET_STREAMS as usize);
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    builder
}
