//! One downstream connection: which codec serves it, and what of it is counted.

use std::{future::Future, rc::Rc, sync::Arc, time::Duration};

use super::{
    config::{Codec, ConnectionManager},
    downstream::DownstreamIo,
    http1, http2,
    session::{Managed, Session},
    sniff,
    stats::http_stats,
};
use crate::{
    net::Connection,
    stats::{Counter, Gauge},
};
use bytes::Bytes;

/// Serves one connection to its end.
pub async fn serve(connection: Connection) {
    let Connection {
        mut stream,
        info,
        chain,
    } = connection;
    let Some(managed) = Managed::new(chain.current().chain().clone()) else {
        return;
    };
    let manager = managed.manager().clone();
    let negotiated = info
        .tls
        .as_ref()
        .and_then(|tls| tls.application_protocol.as_deref());
    let known = match (manager.codec, negotiated) {
        (Codec::Http2, _) | (Codec::Auto, Some(b"h2")) => Some(true),
        (Codec::Http1, _) | (Codec::Auto, Some(b"http/1.1")) => Some(false),
        (Codec::Auto, _) => None,
    };
    let overload = &managed.chain().listener.overload;
    let shedding = overload.hcm_ondata_creating_codec.is_configured();
    let (http2, read) = match known.filter(|_| !shedding) {
        Some(http2) => (http2, Bytes::new()),
        None => {
            let sniffed = sniff::speaks_http2(&mut stream);
            let common = &manager.common;
            let limits = [common.idle_timeout, common.max_connection_duration];
            match within(limits.into_iter().flatten().min(), sniffed).await {
                Some(Ok((http2, read))) => (known.unwrap_or(http2), read),
                // It failed or said nothing: there is nobody to answer.
                Some(Err(_)) | None => return,
            }
        }
    };
    let point = &overload.hcm_ondata_creating_codec;
    if shedding && point.sheds(|| chain.worker().random()) {
        manager.stats.inc(http_stats::downstream_rq_overload_close);
        return;
    }
    let session = Rc::new(Session::new(info, chain, managed, http2));
    let counted = Counted::new(session.clone(), manager.clone());
    let io = DownstreamIo::new(read, stream, manager.stats.clone());
    match http2 {
        false => http1::serve(&session, &manager, io).await,
        // Apart, so that a connection of HTTP/1 does not hold a place for it.
        true => Box::pin(http2::serve(&session, &manager, io)).await,
    }
    drop(counted);
}

async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// A connection in the stats, for as long as it lives.
struct Counted {
    session: Rc<Session>,
    manager: Arc<ConnectionManager>,
}

impl Counted {
    fn new(session: Rc<Session>, manager: Arc<ConnectionManager>) -> Self {
        let stats = &manager.stats;
        stats.inc(http_stats::downstream_cx_total);
        stats.gauge_add(http_stats::downstream_cx_active, 1);
        let (total, active) = codec_stats(session.is_http2());
        stats.inc(total);
        stats.gauge_add(active, 1);
        if session.info.tls.is_some() {
            stats.inc(http_stats::downstream_cx_ssl_total);
            stats.gauge_add(http_stats::downstream_cx_ssl_active, 1);
        }
        Self { session, manager }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let stats = &self.manager.stats;
        stats.inc(http_stats::downstream_cx_destroy);
        let local = self.session.is_closing();
        let (side, side_active) = match local {
            true => (
                http_stats::downstream_cx_destroy_local,
                http_stats::downstream_cx_destroy_local_active_rq,
            ),
            false => (
                http_stats::downstream_cx_destroy_remote,
                http_stats::downstream_cx_destroy_remote_active_rq,
            ),
        };
        stats.inc(side);
        if !self.session.is_idle() {
            stats.inc(http_stats::downstream_cx_destroy_active_rq);
            stats.inc(side_active);
        }
        if self.session.one_more.get() {
            stats.gauge_sub(http_stats::downstream_cx_http1_soft_drain, 1);
        }
        stats.gauge_sub(http_stats::downstream_cx_active, 1);
        stats.gauge_sub(codec_stats(self.session.is_http2()).1, 1);
        if self.session.info.tls.is_some() {
            stats.gauge_sub(http_stats::downstream_cx_ssl_active, 1);
        }
        let length = self.session.info.accepted.elapsed().as_millis();
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        stats.record(http_stats::downstream_cx_length_ms, length);
    }
}

fn codec_stats(http2: bool) -> (Counter, Gauge) {
    match http2 {
        true => (
            http_stats::downstream_cx_http2_total,
            http_stats::downstream_cx_http2_active,
        ),
        false => (
            http_stats::downstream_cx_http1_total,
            http_stats::downstream_cx_http1_active,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F: Future>(_: fn(Connection) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_is_small_while_it_waits() {
        let size = size_of_future(serve);
        assert!(size <= 4096, "the future of a connection has {size} bytes");
    }
}
