//! `ORIGINAL_DST`: a cluster whose hosts are the addresses that connections were
//! meant for.
//!
//! A worker that meets a new address makes the host, uses it at once and tells the
//! control thread, which puts it among the cluster's hosts. There it stays for as
//! long as it has connections, and for one more interval of cleaning up.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    str,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderName;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time,
};

use super::{
    Endpoint, EndpointStatus, Host, HostStat, Locality,
    host::HostKey,
    host_set::{LocalityEndpoints, Membership},
    stats::cluster_stats,
};
use crate::{
    model::cluster::Cluster,
    net::{Address, ConnectionInfo},
};

/// New hosts on their way to the control thread; where there are more, requests for
/// others find no host.
const FOUND: usize = 1024;

/// How such a cluster knows its hosts.
#[derive(Debug)]
pub struct OriginalDst {
    /// The request header that says it, with `use_http_header`.
    header: Option<HeaderName>,
    /// The connection's metadata that says it: namespace and key.
    metadata: Option<(Box<str>, Box<str>)>,
    /// `upstream_port_override`.
    port: Option<u16>,
    cleanup_interval: Duration,
    found: mpsc::Sender<Arc<Endpoint>>,
    /// Until somebody follows it.
    arrivals: Mutex<Option<mpsc::Receiver<Arc<Endpoint>>>>,
}

impl OriginalDst {
    /// A cluster that has met nobody yet.
    pub fn new(
        header: Option<HeaderName>,
        metadata: Option<(Box<str>, Box<str>)>,
        port: Option<u16>,
        cleanup_interval: Duration,
    ) -> Self {
        let (found, arrivals) = mpsc::channel(FOUND);
        Self {
            header,
            metadata,
            port,
            cleanup_interval,
            found,
            arrivals: Mutex::new(Some(arrivals)),
        }
    }

    /// Where a connection, or a request that came on it, was meant to go. `header`
    /// gives the value of a request's header.
    pub fn destination<'h>(
        &self,
        cluster: &Cluster,
        info: &ConnectionInfo,
        header: impl FnOnce(&HeaderName) -> Option<&'h [u8]>,
    ) -> Option<SocketAddr> {
        let invalid = || cluster.stats.inc(cluster_stats::original_dst_host_invalid);
        let read = |text: Option<&str>| {
            let address = text.and_then(|text| text.parse::<SocketAddr>().ok());
            if address.is_none() {
                invalid();
            }
            address
        };
        let by_metadata = || {
            let (namespace, key) = self.metadata.as_ref()?;
            read(Some(info.metadata(namespace, key)?))
        };
        let by_header = || {
            let value = header(self.header.as_ref()?)?;
            read(str::from_utf8(value).ok())
        };
        let restored = || info.local.ip().filter(|_| info.local_restored());
        let mut found = by_metadata().or_else(by_header).or_else(restored)?;
        if let Some(port) = self.port {
            found.set_port(port);
        }
        Some(found)
    }

    /// Makes a host of an address, and tells of it; `None` when too many are on their
    /// way already.
    pub(super) fn meet(&self, cluster: &Cluster, to: SocketAddr) -> Option<Arc<Endpoint>> {
        let told = match self.found.try_reserve() {
            Err(TrySendError::Full(())) => return None,
            // The cluster was taken away and serves for a moment yet.
            Err(TrySendError::Closed(())) => None,
            Ok(told) => Some(told),
        };
        let address = Address::from(to);
        let key = HostKey::Address(address.clone());
        let endpoint = Arc::new(Endpoint {
            host: Host::new(key, address.into(), cluster.threads()),
            hostname: format!("{}{to}", cluster.name).into(),
            weight: 1,
            priority: 0,
            locality: Arc::new(Locality::default()),
            status: EndpointStatus::Healthy,
            metadata: None,
            asks: Arc::default(),
            transport: cluster.transports.select(None, None).clone(),
        });
        if let Some(told) = told {
            told.send(endpoint.clone());
        }
        Some(endpoint)
    }
}

/// Takes new hosts in and lets go of those that nobody uses, for as long as it is
/// polled.
pub async fn follow_original(cluster: Arc<Cluster>, original: Arc<OriginalDst>) {
    let arrivals = original.arrivals.lock();
    let arrivals = arrivals.unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut arrivals) = arrivals else { return };
    let first = time::Instant::now() + original.cleanup_interval;
    let mut cleanup = time::interval_at(first, original.cleanup_interval);
    cleanup.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut used = HashMap::new();
    let mut found = Vec::new();
    loop {
        tokio::select! {
            count = arrivals.recv_many(&mut found, FOUND) => match count {
                0 => return,
                _ => take_in(&cluster, &mut found),
            },
            _ = cleanup.tick() => clean_up(&cluster, &mut used),
        }
    }
}

fn endpoints(cluster: &Cluster) -> Vec<Arc<Endpoint>> {
    cluster.hosts().load().endpoints().cloned().collect()
}

fn put(cluster: &Cluster, endpoints: Vec<Arc<Endpoint>>) {
    cluster.set_members(Membership {
        localities: vec![LocalityEndpoints {
            locality: Arc::new(Locality::default()),
            weight: 0,
            priority: 0,
            metadata: None,
            endpoints,
        }],
        ..Membership::default()
    });
}

fn take_in(cluster: &Cluster, found: &mut Vec<Arc<Endpoint>>) {
    let mut all = endpoints(cluster);
    let mut known: HashSet<HostKey> = all.iter().map(|e| e.host.key().clone()).collect();
    let before = all.len();
    // Two workers may have met the same one: the first tells who it is.
    all.extend(
        found
            .drain(..)
            .filter(|e| known.insert(e.host.key().clone())),
    );
    if all.len() > before {
        put(cluster, all);
    }
}

/// Lets go of the hosts without connections that have had none since the last time.
/// `used` is what they had done then, by id.
fn clean_up(cluster: &Cluster, used: &mut HashMap<u64, u64>) {
    let all = endpoints(cluster);
    let before = all.len();
    let mut now = HashMap::with_capacity(before);
    let mut kept = all;
    kept.retain(|endpoint| {
        let host = &endpoint.host;
        let done = [
            HostStat::cx_total,
            HostStat::rq_total,
            HostStat::cx_connect_fail,
        ];
        let done = done.map(|stat| host.stat(stat)).iter().sum::<u64>();
        let idle = host.stat(HostStat::cx_active) == 0 && used.get(&host.id()) == Some(&done);
        if !idle {
            now.insert(host.id(), done);
        }
        !idle
    });
    *used = now;
    if kept.len() < before {
        put(cluster, kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Report,
        model::testing::{World, read},
    };

    #[test]
    fn no_more_hosts_are_made_than_can_be_told_of() {
        let (world, report) = (World::new(), Report::new());
        let message = read("{name: any, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED}");
        let cluster = Cluster::compile(message, None, &world.cx(), &report.root());
        let cluster = cluster.unwrap_or_else(|_| panic!("{report}"));
        let original = cluster.original_dst().expect("it is of this kind");
        let to = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let met = (1..=2000).take_while(|port| original.meet(&cluster, to(*port)).is_some());
        assert_eq!(met.count(), FOUND);
    }
}
