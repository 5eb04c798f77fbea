//! One connection proxied to its end.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::{
    api::envoy::data::accesslog::v3::AccessLogType,
    formatter::{FormatContext, ResponseFlag, StreamInfo, UpstreamHost},
    net::{
        Connection,
        tunnel::{self, End, Traffic},
    },
    server::Worker,
    stats::Block,
    upstream::{
        Alpn, Breakers, LbContext, Priority, Resource, WorkerCluster,
        pool::{ConnectionFacts, Io, connect},
        stats::cluster_stats,
    },
};

use super::{TcpProxy, config::tcp_stats};

/// Serves one connection to its end. A tunnel stays on the settings it started
/// with; only the removal of its listener or filter chain, or the end of the
/// process, cuts it, at the end of the drain time.
pub async fn serve(connection: Connection, proxy: Arc<TcpProxy>) {
    let Connection {
        stream,
        info,
        chain,
    } = connection;
    let worker = chain.worker().clone();
    let mut log = StreamInfo::new(info, SystemTime::now(), Instant::now());
    proxy.stats.inc(tcp_stats::downstream_cx_total);

    if let Some((upstream, facts)) = reach(&worker, &proxy, &mut log).await {
        facts.begin();
        let bytes = Bytes {
            proxy: &proxy.stats,
            cluster: &facts.cluster().stats,
            seen: (0, 0),
        };
        let mut bytes = bytes;
        let tunnel = tunnel::carry(stream, upstream, proxy.idle_timeout, |traffic| {
            bytes.count(traffic)
        });
        let ended = tokio::select! {
            ended = tunnel => Some(ended),
            () = outlived(&proxy) => {
                proxy.stats.inc(tcp_stats::max_downstream_connection_duration);
                log.flags.set(ResponseFlag::DurationTimeout);
                None
            }
            () = chain.drain_deadline() => {
                proxy.stats.inc(tcp_stats::downstream_cx_drain_close);
                None
            }
        };
        (log.bytes_received, log.bytes_sent) = bytes.seen;
        match ended.map(|(end, _)| end) {
            Some(End::Idle) => {
                proxy.stats.inc(tcp_stats::idle_timeout);
                log.flags.set(ResponseFlag::StreamIdleTimeout);
            }
            Some(End::Upstream(_)) => facts.closed_by_host(),
            Some(End::Finished | End::Downstream(_)) | None => {}
        }
        facts.end();
    }
    log.end = Some(Instant::now());
    let context = FormatContext::of_connection(&log, AccessLogType::TcpConnectionEnd);
    proxy
        .access_logs
        .log(&context, &worker.access_log, worker.random());
}

/// Chooses the cluster and a host, and connects, as often as the settings allow.
async fn reach(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    log: &mut StreamInfo,
) -> Option<(Io, ConnectionFacts)> {
    let name = proxy.cluster(worker.random());
    let cluster = worker.with_snapshot(|snapshot| worker.upstream.get(snapshot, name));
    let Some(cluster) = cluster else {
        proxy.stats.inc(tcp_stats::downstream_cx_no_route);
        log.flags.set(ResponseFlag::NoClusterFound);
        return None;
    };
    log.upstream_cluster = Some(cluster.observability_name.clone());
    log.upstream_cluster_raw = Some(cluster.name.clone());
    for _ in 0..proxy.max_connect_attempts {
        match reach_host(worker, &cluster, log).await {
            Attempt::Connected(io, facts) => return Some((io, facts)),
            Attempt::Failed => {}
            Attempt::Hopeless => return None,
        }
    }
    cluster
        .cluster
        .stats
        .inc(cluster_stats::upstream_cx_connect_attempts_exceeded);
    log.flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
    None
}

enum Attempt {
    Connected(Io, ConnectionFacts),
    /// Another host may do better.
    Failed,
    /// No other try would.
    Hopeless,
}

async fn reach_host(worker: &Worker, cluster: &Rc<WorkerCluster>, log: &mut StreamInfo) -> Attempt {
    let stats = &cluster.cluster.stats;
    let breakers = cluster.cluster.breakers.clone();
    let permit = Breakers::acquire(breakers, Priority::Default, Resource::Connections);
    let Some(permit) = permit else {
        stats.inc(cluster_stats::upstream_cx_overflow);
        log.flags.set(ResponseFlag::UpstreamOverflow);
        return Attempt::Hopeless;
    };
    let choice = LbContext {
        random: worker.random(),
        ..LbContext::default()
    };
    let Some(endpoint) = cluster.choose(&choice) else {
        stats.inc(cluster_stats::upstream_cx_none_healthy);
        log.flags.set(ResponseFlag::NoHealthyUpstream);
        return Attempt::Hopeless;
    };
    let host = &endpoint.host;
    log.attempt_count += 1;
    log.upstream_host = Some(Rc::new(UpstreamHost {
        address: host.address().to_string().into(),
        hostname: endpoint.hostname.as_ref().into(),
    }));
    match connect(&cluster.cluster, &endpoint, None, Alpn::None).await {
        Ok((io, info)) => {
            let facts =
                ConnectionFacts::new(cluster.cluster.clone(), host.clone(), info, Some(permit));
            log.upstream_connection = Some(facts.info.clone());
            Attempt::Connected(io, facts)
        }
        Err(error) => {
            tracing::debug!(target: "upstream", "{}: {}: {error}", cluster.name, host.address());
            log.flags.set(ResponseFlag::UpstreamConnectionFailure);
            log.upstream_transport_failure_reason = error.transport_failure().map(Into::into);
            Attempt::Failed
        }
    }
}

async fn outlived(proxy: &TcpProxy) {
    match proxy.max_duration {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Byte counters, kept up to date while a tunnel is open.
struct Bytes<'a> {
    proxy: &'a Block,
    cluster: &'a Block,
    /// Received from downstream, sent to it.
    seen: (u64, u64),
}

impl Bytes<'_> {
    fn count(&mut self, traffic: &Traffic) {
        let received = traffic.received - self.seen.0;
        let sent = traffic.sent - self.seen.1;
        self.seen = (traffic.received, traffic.sent);
        self.proxy
            .add(tcp_stats::downstream_cx_rx_bytes_total, received);
        self.proxy
            .add(tcp_stats::downstream_cx_tx_bytes_total, sent);
        self.cluster
            .add(cluster_stats::upstream_cx_tx_bytes_total, received);
        self.cluster
            .add(cluster_stats::upstream_cx_rx_bytes_total, sent);
    }
}
