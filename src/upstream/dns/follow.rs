//! Asks for a cluster's names again and again, and keeps its hosts up to date.
//!
//! A failure, or an answer without addresses, leaves the last addresses in force.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::{
    model::cluster::{Cluster, Duplicates, EndpointSet, ResolvedNames, Target},
    net::Address,
    upstream::{
        Host,
        host::{Addresses, HostKey},
        stats::cluster_stats,
    },
};

use super::{DnsError, DnsSettings, Family, Resolved};

/// Follows every name of a `STRICT_DNS` cluster: each address is a host.
pub(in crate::upstream) async fn follow_strict(
    cluster: Arc<Cluster>,
    dns: Arc<DnsSettings>,
    assignment: Arc<EndpointSet>,
    warm: watch::Sender<bool>,
) {
    let names: Vec<_> = names(&assignment).collect();
    let strict = Strict {
        found: RefCell::new(known_addresses(&cluster, &assignment)),
        awaited: Cell::new(names.len()),
        cluster,
        assignment,
    };
    if names.is_empty() {
        strict.rebuild();
        warm.send_replace(true);
    }
    let (strict, warm) = (&strict, &warm);
    join_all(names.into_iter().map(|(place, name, port)| {
        let dns = Arc::clone(&dns);
        async move {
            let mut first = true;
            follow(&strict.cluster, &dns, &name, |resolved| {
                if let Some(resolved) = resolved {
                    strict.answer(place, &name, port, resolved, dns.family);
                }
                if std::mem::take(&mut first) {
                    strict.awaited.set(strict.awaited.get() - 1);
                    if strict.awaited.get() == 0 {
                        warm.send_replace(true);
                    }
                }
            })
            .await;
        }
    }))
    .await;
}

struct Strict {
    cluster: Arc<Cluster>,
    assignment: Arc<EndpointSet>,
    found: RefCell<ResolvedNames>,
    /// Names whose first answer has not come.
    awaited: Cell<usize>,
}

impl Strict {
    fn answer(
        &self,
        place: (usize, usize),
        name: &str,
        port: u16,
        resolved: &Resolved,
        family: Family,
    ) {
        let mut addresses = Vec::with_capacity(resolved.addresses.len());
        for ip in &resolved.addresses {
            let address = Addresses {
                first: Address::Ip(SocketAddr::new(*ip, port)),
                others: other_loopback(name, *ip, port, family),
            };
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let same = self.found.borrow().get(&place).is_some_and(|old| {
            old.len() == addresses.len() && old.iter().all(|a| addresses.contains(a))
        });
        if same && self.cluster.is_initialized() {
            self.cluster.stats.inc(cluster_stats::update_no_rebuild);
            return;
        }
        self.found.borrow_mut().insert(place, addresses);
        self.rebuild();
    }

    fn rebuild(&self) {
        let known = self.cluster.hosts().load();
        let members = self.assignment.membership(
            Some(&known),
            &self.cluster.transports,
            &self.found.borrow(),
            self.cluster.threads(),
            Duplicates::Dropped,
        );
        self.cluster.set_members(members);
    }
}

/// Follows the one name of a `LOGICAL_DNS` cluster: it is one host, whatever
/// its addresses.
pub(in crate::upstream) async fn follow_logical(
    cluster: Arc<Cluster>,
    dns: Arc<DnsSettings>,
    assignment: Arc<EndpointSet>,
    warm: watch::Sender<bool>,
) {
    let Some((place, name, port)) = names(&assignment).next() else {
        warm.send_replace(true);
        return;
    };
    let key = HostKey::Name(Arc::clone(&name), port);
    follow(&cluster, &dns, &name, |resolved| {
        if let Some(resolved) = resolved {
            let addresses = in_turn(&name, &resolved.addresses, port, dns.family);
            let known = cluster.hosts().load();
            let host = known.by_key().get(&key).map(|host| Arc::clone(host));
            let listed = host.is_some();
            let host = host
                .unwrap_or_else(|| Host::new(key.clone(), addresses.clone(), cluster.threads()));
            if **host.addresses() != addresses {
                host.set_addresses(addresses);
            } else if listed && cluster.is_initialized() {
                cluster.stats.inc(cluster_stats::update_no_rebuild);
            }
            if !listed || !cluster.is_initialized() {
                let locality = &assignment.localities[place.0];
                let spec = &locality.endpoints[place.1];
                let member = locality.member(spec, host, &cluster.transports);
                let members = locality.with(vec![Arc::new(member)]);
                cluster.set_members(assignment.arrange(vec![members]));
            }
        }
        warm.send_replace(true);
    })
    .await;
}

/// Every name of an assignment, with where it stands.
fn names(
    assignment: &EndpointSet,
) -> impl Iterator<Item = ((usize, usize), Arc<str>, u16)> + use<'_> {
    let localities = assignment.localities.iter().enumerate();
    localities.flat_map(|(l, locality)| {
        let endpoints = locality.endpoints.iter().enumerate();
        endpoints.filter_map(move |(e, endpoint)| match &endpoint.target {
            Target::Name(name, port) => Some(((l, e), Arc::clone(name), *port)),
            Target::Address(_) => None,
        })
    })
}

/// What the names resolved to under the configuration that was replaced, so
/// that a failure now does not lose it.
fn known_addresses(cluster: &Cluster, assignment: &EndpointSet) -> ResolvedNames {
    let known = cluster.hosts().load();
    let mut found: ResolvedNames = HashMap::new();
    for ((l, e), name, port) in names(assignment) {
        let hostname = &assignment.localities[l].endpoints[e].hostname;
        let hostname = match hostname.is_empty() {
            true => &name,
            false => hostname,
        };
        for endpoint in known
            .endpoints()
            .filter(|known| known.hostname == *hostname)
        {
            let addresses = Addresses::clone(&endpoint.host.addresses());
            if addresses.first.ip().is_some_and(|ip| ip.port() == port) {
                found.entry((l, e)).or_default().push(addresses);
            }
        }
    }
    found
}

/// Resolves a name, tells, waits, and again, for ever.
async fn follow(
    cluster: &Cluster,
    dns: &DnsSettings,
    name: &str,
    mut tell: impl FnMut(Option<&Resolved>),
) {
    let stats = &cluster.stats;
    let mut failures = 0;
    loop {
        stats.inc(cluster_stats::update_attempt);
        let outcome = dns.resolver.resolve(name).await;
        let wait = match &outcome {
            Ok(resolved) => {
                failures = 0;
                stats.inc(cluster_stats::update_success);
                tell(Some(resolved));
                dns.until_next(resolved.ttl)
            }
            Err(error) => {
                let stat = match error {
                    DnsError::NoAddress => cluster_stats::update_empty,
                    DnsError::Failed(_) => cluster_stats::update_failure,
                };
                stats.inc(stat);
                // The first says that something has changed; those after it repeat it.
                if failures == 0 {
                    warn!(target: "upstream", "cluster '{}': DNS resolution of '{name}' failed: {error}", cluster.name);
                } else {
                    debug!(target: "upstream", "cluster '{}': DNS resolution of '{name}' failed again: {error}", cluster.name);
                }
                tell(None);
                failures += 1;
                dns.after_failure(failures)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

impl DnsSettings {
    fn until_next(&self, ttl: Option<Duration>) -> Duration {
        let base = match ttl.filter(|ttl| self.respect_ttl && *ttl > Duration::ZERO) {
            Some(ttl) => ttl.max(self.min_refresh),
            None => self.refresh,
        };
        base + up_to(self.jitter)
    }

    /// Doubles from the first failure on, and is spread over the second half of
    /// the interval.
    fn after_failure(&self, failures: u32) -> Duration {
        let Some((base, max)) = self.failure_refresh else {
            return self.refresh;
        };
        let doubled = base.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let limit = doubled.min(max);
        limit / 2 + up_to(limit / 2)
    }
}

/// A random time up to this one.
fn up_to(limit: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    limit.mul_f64(random as f64 / u64::MAX as f64)
}

/// Both families in turn, beginning with the first address's: the order in
/// which they are worth trying.
fn in_turn(name: &str, ips: &[IpAddr], port: u16, family: Family) -> Addresses {
    let first_is_v4 = ips.first().is_some_and(IpAddr::is_ipv4);
    let (mut one, mut other): (VecDeque<IpAddr>, VecDeque<IpAddr>) = ips
        .iter()
        .copied()
        .partition(|ip| ip.is_ipv4() == first_is_v4);
    let mut turns = Vec::with_capacity(ips.len());
    while !one.is_empty() || !other.is_empty() {
        turns.extend(one.pop_front());
        turns.extend(other.pop_front());
    }
    let mut addresses = turns
        .into_iter()
        .map(|ip| Address::Ip(SocketAddr::new(ip, port)));
    let first = addresses.next().expect("an answer has an address");
    let others: Box<[_]> = addresses.collect();
    let others = match (&first, others.is_empty()) {
        (Address::Ip(ip), true) => other_loopback(name, ip.ip(), port, family),
        _ => others,
    };
    Addresses { first, others }
}

/// `localhost` is both loopback addresses wherever a family is only preferred:
/// an origin that listens on one of them is found.
fn other_loopback(name: &str, ip: IpAddr, port: u16, family: Family) -> Box<[Address]> {
    let local = name.trim_end_matches('.').eq_ignore_ascii_case("localhost");
    if local && family == Family::Auto && ip.is_ipv6() {
        let v4 = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        return Box::new([Address::Ip(v4)]);
    }
    Box::default()
}
