//! One connection proxied to its end.

use std::{
    cell::Cell,
    future::{Future, pending},
    io,
    ops::ControlFlow,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use tokio::{io::AsyncReadExt, time};

use crate::{
    api::envoy::data::accesslog::v3::AccessLogType,
    formatter::{FormatContext, ResponseFlag, StreamInfo},
    net::{
        Connection, Prefixed, Stream,
        tunnel::{self, End, Side, Traffic},
    },
    server::ChainHandle,
    stats::Block,
    upstream::stats::cluster_stats,
};

use super::{
    TcpProxy,
    config::{ConnectWhen, tcp_stats},
    connect::{Upstream, reach},
};

/// Bytes read at a time before there is a connection for them.
const EARLY_READ: usize = 16 * 1024;

/// Serves one connection to its end. A tunnel stays on the settings it started
/// with; only the removal of its listener or filter chain, or the end of the
/// process, cuts it, at the end of the drain time.
pub async fn serve(connection: Connection, proxy: Arc<TcpProxy>) {
    let Connection {
        stream,
        info,
        chain,
    } = connection;
    let mut session = Session {
        proxy: &proxy,
        chain: &chain,
        log: StreamInfo::new(info, SystemTime::now(), Instant::now()),
        traffic: Cell::new((0, 0)),
    };
    proxy.stats.inc(tcp_stats::downstream_cx_total);
    if proxy.log_options.on_start {
        session.write_log(AccessLogType::TcpConnectionStart);
    }
    let limit = proxy.max_duration(chain.worker().random());
    let cut = tokio::select! {
        () = session.run(stream) => None,
        cut = cut(&chain, limit) => Some(cut),
    };
    match cut {
        Some(Cut::Duration) => {
            proxy
                .stats
                .inc(tcp_stats::max_downstream_connection_duration);
            session.log.flags.set(ResponseFlag::DurationTimeout);
        }
        Some(Cut::Drain) => proxy.stats.inc(tcp_stats::downstream_cx_drain_close),
        None => {}
    }
    session.log.end = Some(Instant::now());
    session.write_log(AccessLogType::TcpConnectionEnd);
}

/// What ends a connection that neither side wants to end.
enum Cut {
    Duration,
    Drain,
}

async fn cut(chain: &ChainHandle, limit: Option<Duration>) -> Cut {
    tokio::select! {
        () = after(limit) => Cut::Duration,
        () = chain.drain_deadline() => Cut::Drain,
    }
}

async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => time::sleep(limit).await,
        None => pending().await,
    }
}

struct Session<'a> {
    proxy: &'a TcpProxy,
    chain: &'a ChainHandle,
    log: StreamInfo,
    /// Received from downstream, sent to it.
    traffic: Cell<(u64, u64)>,
}

impl Session<'_> {
    async fn run(&mut self, mut stream: Stream) {
        let proxy = self.proxy;
        let mut early = BytesMut::new();
        let (received, reached) = {
            let reaching = self.reach(&mut stream, &mut early);
            let Some(reached) = within(proxy.idle_timeout, reaching).await else {
                return proxy.stats.inc(tcp_stats::idle_timeout);
            };
            (early.len(), reached)
        };
        let Some(upstream) = reached else {
            // Bytes that were never sent on have been received all the same.
            return self.traffic.set((received as u64, 0));
        };
        if proxy.log_options.on_connected {
            self.write_log(AccessLogType::TcpUpstreamConnected);
        }
        self.carry(stream, early.freeze(), upstream).await;
    }

    /// A connection to a host, and meanwhile what the client says, as far as
    /// that is read already.
    async fn reach(&mut self, stream: &mut Stream, early: &mut BytesMut) -> Option<Upstream> {
        let (proxy, worker) = (self.proxy, self.chain.worker());
        let stats = &proxy.stats;
        if proxy.connect == ConnectWhen::OnData
            && !matches!(read_early(stream, early, stats).await, Ok(1..))
        {
            // It left without a word.
            return None;
        }
        let Some(limit) = proxy.early_data else {
            return reach(worker, proxy, &mut self.log).await;
        };
        let reading = async {
            while early.len() < limit {
                match read_early(stream, early, stats).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
            pending().await
        };
        tokio::select! {
            reached = reach(worker, proxy, &mut self.log) => reached,
            () = reading => None,
        }
    }

    async fn carry(&mut self, stream: Stream, early: Bytes, mut upstream: Upstream) {
        let proxy = self.proxy;
        let mut downstream = Prefixed::new(early, stream);
        let of_client = self.chain.last().listener.per_connection_buffer_limit;
        let buffer = of_client.min(upstream.facts().cluster().buffered());
        let counted = Counted {
            proxy: &proxy.stats,
            cluster: &upstream.facts().cluster().clone().stats,
            traffic: &self.traffic,
            drain: proxy.check_drain.then_some(self.chain),
        };
        let ended = {
            let mut tunnel = pin!(tunnel::carry(
                &mut downstream,
                &mut upstream.io,
                buffer,
                || proxy.idle_timeout,
                |traffic| counted.count(traffic),
            ));
            let mut flush = proxy.log_options.interval.map(periodic);
            loop {
                tokio::select! {
                    (ended, _) = &mut tunnel => break ended,
                    () = tick(&mut flush) => write_log(
                        proxy, self.chain, &mut self.log, &self.traffic,
                        AccessLogType::TcpPeriodic,
                    ),
                }
            }
        };
        match ended {
            End::Idle => proxy.stats.inc(tcp_stats::idle_timeout),
            End::Asked => proxy.stats.inc(tcp_stats::downstream_cx_drain_close),
            End::Finished {
                last: Side::Upstream,
            } => upstream.facts().closed_by_host(),
            End::Finished {
                last: Side::Downstream,
            } => {}
            // A reset is passed on as one: an end of the stream would pass for
            // the end of what was to be said.
            End::Failed(Side::Upstream, error) => {
                upstream.facts().closed_by_host();
                if is_reset(&error) {
                    self.log.flags.set(ResponseFlag::UpstreamRemoteReset);
                    downstream.get_ref().reset_on_close();
                }
            }
            End::Failed(Side::Downstream, error) => {
                if is_reset(&error) {
                    upstream.io.reset_on_close();
                }
            }
        }
    }

    fn write_log(&mut self, log_type: AccessLogType) {
        write_log(
            self.proxy,
            self.chain,
            &mut self.log,
            &self.traffic,
            log_type,
        );
    }
}

fn write_log(
    proxy: &TcpProxy,
    chain: &ChainHandle,
    log: &mut StreamInfo,
    traffic: &Cell<(u64, u64)>,
    log_type: AccessLogType,
) {
    let (received, sent) = traffic.get();
    (log.bytes_received, log.bytes_sent) = (received, sent);
    if log.upstream_connection.is_some() {
        // Nothing is added on the way.
        log.upstream_bytes.wire_sent = received;
        log.upstream_bytes.wire_received = sent;
    }
    let worker = chain.worker();
    let context = FormatContext::of_connection(log, log_type);
    let logs = &proxy.access_logs;
    logs.log(&context, &worker.access_log, worker.random());
}

fn periodic(every: Duration) -> time::Interval {
    let mut timer = time::interval_at(time::Instant::now() + every, every);
    timer.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    timer
}

async fn tick(timer: &mut Option<time::Interval>) {
    match timer {
        Some(timer) => drop(timer.tick().await),
        None => pending().await,
    }
}

async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// Reads a piece of what the client says before there is a connection for it.
async fn read_early(stream: &mut Stream, early: &mut BytesMut, stats: &Block) -> io::Result<usize> {
    early.reserve(EARLY_READ);
    let read = stream.read_buf(early).await?;
    stats.inc(tcp_stats::early_data_received_count_total);
    Ok(read)
}

fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

/// Byte counters, kept up to date while a tunnel is open.
struct Counted<'a> {
    proxy: &'a Block,
    cluster: &'a Block,
    traffic: &'a Cell<(u64, u64)>,
    /// Asked at each step whether the connection has to go.
    drain: Option<&'a ChainHandle>,
}

impl Counted<'_> {
    fn count(&self, traffic: &Traffic) -> ControlFlow<()> {
        let (received, sent) = self.traffic.get();
        self.traffic.set((traffic.received, traffic.sent));
        let received = traffic.received - received;
        let sent = traffic.sent - sent;
        let (proxy, cluster) = (self.proxy, self.cluster);
        proxy.add(tcp_stats::downstream_cx_rx_bytes_total, received);
        proxy.add(tcp_stats::downstream_cx_tx_bytes_total, sent);
        cluster.add(cluster_stats::upstream_cx_tx_bytes_total, received);
        cluster.add(cluster_stats::upstream_cx_rx_bytes_total, sent);
        match self.drain.is_some_and(ChainHandle::should_close) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}
