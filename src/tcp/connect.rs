//! The way to a host for one connection, with as many tries as it may have.

use std::{rc::Rc, sync::Arc};

use crate::{
    formatter::{RequestView, ResponseFlag, StreamInfo},
    model::{cluster::Protocol, route::hash_of_address},
    net::Address,
    server::Worker,
    stats::Block,
    upstream::{
        Alpn, Breakers, Endpoint, Host, HostStat, LbContext, Priority, Resource, WorkerCluster,
        balance::{Balancing, MetadataMatch},
        pool::{
            Carrier, ConnectError, ConnectionFacts, Pending, PoolError, Wire, connect, http2::Place,
        },
        stats::cluster_stats,
    },
};

use super::{
    TcpProxy,
    config::tcp_stats,
    tunneling::{NoTunnel, Tunneling},
};

/// A way to a host, counted as the one request it carries.
#[derive(Debug)]
pub(super) struct Upstream {
    pub io: Carrier,
    held: Held,
    _request: Request,
}

impl Upstream {
    /// What is known and counted of its connection.
    pub fn facts(&self) -> &ConnectionFacts {
        self.held.facts()
    }
}

/// What is held of a connection while its bytes are carried.
#[derive(Debug)]
pub(super) enum Held {
    Connection(ConnectionFacts),
    Stream(Place),
}

impl Held {
    pub fn facts(&self) -> &ConnectionFacts {
        match self {
            Self::Connection(facts) => facts,
            Self::Stream(place) => &place.connection().facts,
        }
    }
}

/// Chooses the cluster and a host, and connects, as often as the settings allow.
/// `None` when there is no connection; `log` then says why.
pub(super) async fn reach(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    log: &mut StreamInfo,
) -> Option<Upstream> {
    let led = log.connection.tcp_cluster.clone();
    let (name, asked) = match &led {
        Some(name) => (name, proxy.metadata_match.as_ref()),
        None => {
            let route = proxy.route(worker.random());
            (&route.cluster, route.metadata_match.as_ref())
        }
    };
    let cluster = worker.with_snapshot(|snapshot| worker.upstream.get(snapshot, name));
    let Some(cluster) = cluster else {
        proxy.stats.inc(tcp_stats::downstream_cx_no_route);
        log.flags.set(ResponseFlag::NoClusterFound);
        return None;
    };
    log.upstream_cluster = Some(cluster.observability_name.clone());
    log.upstream_cluster_raw = Some(cluster.name.clone());
    for failed in 0..proxy.max_connect_attempts {
        if failed > 0
            && let Some(wait) = proxy.backoff(failed, worker.random())
        {
            tokio::time::sleep(wait).await;
        }
        match reach_host(worker, proxy, &cluster, asked, log).await {
            Attempt::Connected(upstream) => return Some(upstream),
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
    Connected(Upstream),
    /// Another host may do better.
    Failed,
    /// No other try would.
    Hopeless,
}

async fn reach_host(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    cluster: &Rc<WorkerCluster>,
    asked: Option<&MetadataMatch>,
    log: &mut StreamInfo,
) -> Attempt {
    if let Some(tunneling) = &proxy.tunneling {
        return tunnel(worker, proxy, tunneling, cluster, asked, log).await;
    }
    let stats = &cluster.cluster.stats;
    let breakers = cluster.cluster.breakers.clone();
    let permit = Breakers::acquire(breakers, Priority::Default, Resource::Connections);
    let Some(permit) = permit else {
        stats.inc(cluster_stats::upstream_cx_overflow);
        log.flags.set(ResponseFlag::UpstreamOverflow);
        return Attempt::Hopeless;
    };
    let Some(endpoint) = choose(worker, proxy, cluster, asked, log) else {
        return Attempt::Hopeless;
    };
    let Some(_pending) = Pending::begin(cluster, &endpoint.host, Priority::Default) else {
        log.flags.set(ResponseFlag::UpstreamOverflow);
        return Attempt::Hopeless;
    };
    let host = &endpoint.host;
    log.attempt_count += 1;
    log.upstream_host = Some(Rc::new(endpoint.described()));
    let unless_cancelled = Cancelled(Some(stats));
    let wire = Wire::new(&endpoint, Alpn::None, Some(&log.connection));
    let outcome = connect(&cluster.cluster, &endpoint, &wire).await;
    unless_cancelled.disarm();
    match outcome {
        Ok((io, info)) => {
            let facts =
                ConnectionFacts::new(cluster.cluster.clone(), host.clone(), info, Some(permit));
            facts.begin();
            log.upstream_connection = Some(facts.info.clone());
            Attempt::Connected(Upstream {
                io: Carrier::Connection(io),
                held: Held::Connection(facts),
                _request: Request::new(cluster.clone(), host.clone()),
            })
        }
        Err(error) => {
            stats.inc(cluster_stats::upstream_rq_pending_failure_eject);
            failed_to_connect(cluster, host, &error, log);
            Attempt::Failed
        }
    }
}

/// A tunnel through a connection of the host's pool.
async fn tunnel(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    tunneling: &Tunneling,
    cluster: &Rc<WorkerCluster>,
    asked: Option<&MetadataMatch>,
    log: &mut StreamInfo,
) -> Attempt {
    let Some(endpoint) = choose(worker, proxy, cluster, asked, log) else {
        return Attempt::Hopeless;
    };
    let host = &endpoint.host;
    log.attempt_count += 1;
    log.upstream_host = Some(Rc::new(endpoint.described()));
    let alpn = match cluster.cluster.protocol {
        Protocol::Http2 => Alpn::Http2,
        // The client speaks none.
        Protocol::Http1 | Protocol::UseDownstream => Alpn::Http1,
        Protocol::Auto => Alpn::Either,
    };
    let pool = cluster.pool(&endpoint, Wire::new(&endpoint, alpn, Some(&log.connection)));
    let stats = &cluster.cluster.stats;
    let unless_cancelled = Cancelled(Some(stats));
    let lease = match pool.take(cluster) {
        Some(lease) => Ok(lease),
        None => pool.wait(cluster, Priority::Default).await,
    };
    let lease = match lease {
        Ok(lease) => lease,
        Err(error) => {
            unless_cancelled.disarm();
            return match error {
                PoolError::Overflow => {
                    log.flags.set(ResponseFlag::UpstreamOverflow);
                    Attempt::Hopeless
                }
                PoolError::Connect(error) => {
                    failed_to_connect(cluster, host, &error, log);
                    Attempt::Failed
                }
            };
        }
    };
    let request = Request::new(cluster.clone(), host.clone());
    let head = tunneling.request(log, || worker.random());
    let opened = tunneling.open(lease, pool, cluster, head).await;
    unless_cancelled.disarm();
    match opened {
        Ok((io, held)) => {
            log.upstream_connection = Some(held.facts().info.clone());
            Attempt::Connected(Upstream {
                io,
                held,
                _request: request,
            })
        }
        Err(error) => {
            tracing::debug!(target: "upstream", "{}: {}: {error}", cluster.name, host.address());
            log.flags.set(ResponseFlag::UpstreamConnectionFailure);
            if let NoTunnel::Refused(status) = error {
                let reason = format!("tunnel_response:{}", status.as_u16());
                log.upstream_transport_failure_reason = Some(reason.into());
            }
            Attempt::Failed
        }
    }
}

fn failed_to_connect(
    cluster: &WorkerCluster,
    host: &Host,
    error: &ConnectError,
    log: &mut StreamInfo,
) {
    tracing::debug!(target: "upstream", "{}: {}: {error}", cluster.name, host.address());
    log.flags.set(ResponseFlag::UpstreamConnectionFailure);
    log.upstream_transport_failure_reason = error.transport_failure().map(Into::into);
}

fn choose(
    worker: &Worker,
    proxy: &TcpProxy,
    cluster: &WorkerCluster,
    asked: Option<&MetadataMatch>,
    log: &mut StreamInfo,
) -> Option<Arc<Endpoint>> {
    let original = cluster.cluster.original_dst();
    let endpoint = cluster.choose(&LbContext {
        destination: original
            .and_then(|original| original.destination(&cluster.cluster, &log.connection, |_| None)),
        random: worker.random(),
        hash: hash(&cluster.cluster.balancing, proxy, &log.connection.remote),
        metadata_match: asked,
        ..LbContext::default()
    });
    if endpoint.is_none() {
        let stats = &cluster.cluster.stats;
        stats.inc(cluster_stats::upstream_cx_none_healthy);
        log.flags.set(ResponseFlag::NoHealthyUpstream);
    }
    endpoint
}

/// What ties the client to a host, where the cluster's balancer goes by that.
fn hash(balancing: &Balancing, proxy: &TcpProxy, client: &Address) -> Option<u64> {
    match balancing.hashing()?.policies {
        Some(_) => balancing.own_hash(&RequestView::default(), Some(client)),
        None if proxy.hash_source_ip => hash_of_address(client),
        None => None,
    }
}

/// What a connection carries, as the stats see it.
#[derive(Debug)]
struct Request {
    cluster: Rc<WorkerCluster>,
    host: Arc<Host>,
}

impl Request {
    fn new(cluster: Rc<WorkerCluster>, host: Arc<Host>) -> Self {
        let stats = &cluster.cluster.stats;
        stats.inc(cluster_stats::upstream_rq_total);
        stats.gauge_add(cluster_stats::upstream_rq_active, 1);
        host.inc(HostStat::rq_total);
        host.inc(HostStat::rq_active);
        Self { cluster, host }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.cluster
            .cluster
            .stats
            .gauge_sub(cluster_stats::upstream_rq_active, 1);
        self.host.dec(HostStat::rq_active);
    }
}

/// Counts a wait for a connection that is given up.
struct Cancelled<'a>(Option<&'a Block>);

impl Cancelled<'_> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if let Some(stats) = self.0 {
            stats.inc(cluster_stats::upstream_rq_cancelled);
        }
    }
}
