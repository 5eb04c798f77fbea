//! One upstream host, and its membership in a cluster.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use arc_swap::{ArcSwap, Guard};
use prost_types::{Struct, Value, value::Kind};

use crate::{
    api::envoy::config::core::v3::Metadata,
    formatter::UpstreamHost,
    model::cluster::Transport,
    net::{Address, proxy_protocol::Tlvs},
    stats,
};

/// The addresses of one host: the one it is known by, and others that reach the
/// same host, in the order in which they are worth trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Shown to people; tried first.
    pub first: Address,
    /// Tried when those before do not answer.
    pub others: Box<[Address]>,
}

impl From<Address> for Addresses {
    fn from(first: Address) -> Self {
        Self {
            first,
            others: Box::default(),
        }
    }
}

/// What must be equal for a host to be the same host after an update, so that
/// its pools, its health and its counters go on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostKey {
    /// Known by its address.
    Address(Address),
    /// Known by a DNS name and port, whatever it resolves to: `LOGICAL_DNS`.
    Name(Arc<str>, u16),
}

/// Counters and gauges of one host, in the order of `/clusters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, non_camel_case_types)] // Named as Envoy names them.
pub enum HostStat {
    cx_active,
    cx_connect_fail,
    cx_total,
    rq_active,
    rq_error,
    rq_pending_active,
    rq_success,
    rq_timeout,
    rq_total,
}

impl HostStat {
    /// Every stat with its name; `true` marks a gauge.
    pub const ALL: [(Self, &'static str, bool); 9] = [
        (Self::cx_active, "cx_active", true),
        (Self::cx_connect_fail, "cx_connect_fail", false),
        (Self::cx_total, "cx_total", false),
        (Self::rq_active, "rq_active", true),
        (Self::rq_error, "rq_error", false),
        (Self::rq_pending_active, "rq_pending_active", true),
        (Self::rq_success, "rq_success", false),
        (Self::rq_timeout, "rq_timeout", false),
        (Self::rq_total, "rq_total", false),
    ];
}

type HostCells = [AtomicU64; HostStat::ALL.len()];

/// Why a host gets no traffic, or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HealthFlag {
    /// Active health checks fail.
    FailedActiveHealthCheck = 1,
    /// Ejected by outlier detection.
    FailedOutlierCheck = 1 << 1,
    /// Active health checks say it is degraded.
    DegradedActiveHealthCheck = 1 << 2,
    /// Its first active health check is still to come.
    PendingActiveHealthCheck = 1 << 3,
}

/// One upstream host. It outlives configuration: an update that still names its
/// address keeps it.
#[derive(Debug)]
pub struct Host {
    id: u64,
    key: HostKey,
    addresses: ArcSwap<Addresses>,
    flags: AtomicU32,
    threads: Box<[OnceLock<Box<HostCells>>]>,
}

impl Host {
    /// A host nobody has spoken to yet. `threads` counts the control thread and
    /// the workers.
    pub fn new(key: HostKey, addresses: Addresses, threads: usize) -> Arc<Self> {
        // Only tells hosts apart; nothing reads it back.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Relaxed),
            key,
            addresses: ArcSwap::from_pointee(addresses),
            flags: AtomicU32::new(0),
            threads: (0..threads).map(|_| OnceLock::new()).collect(),
        })
    }

    /// Never the same for two hosts of this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it is known by.
    pub fn key(&self) -> &HostKey {
        &self.key
    }

    /// Where to connect. Changes only for a host that is known by its name.
    pub fn addresses(&self) -> Guard<Arc<Addresses>> {
        self.addresses.load()
    }

    /// The address shown to people and logged.
    pub fn address(&self) -> Address {
        self.addresses.load().first.clone()
    }

    /// Gives a host that is known by its name its present addresses. Open
    /// connections stay where they are.
    pub fn set_addresses(&self, addresses: Addresses) {
        self.addresses.store(Arc::new(addresses));
    }

    /// Raises or clears a flag. The host set has to be built again to take effect.
    pub fn set_flag(&self, flag: HealthFlag, on: bool) {
        match on {
            true => self.flags.fetch_or(flag as u32, Relaxed),
            false => self.flags.fetch_and(!(flag as u32), Relaxed),
        };
    }

    /// Whether a flag is raised.
    pub fn has_flag(&self, flag: HealthFlag) -> bool {
        self.flags.load(Relaxed) & flag as u32 != 0
    }

    fn cell(&self, stat: HostStat) -> &AtomicU64 {
        &self.threads[stats::thread()].get_or_init(Box::default)[stat as usize]
    }

    /// Adds one to a counter or gauge of this thread.
    pub fn inc(&self, stat: HostStat) {
        let cell = self.cell(stat);
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Takes one from a gauge.
    pub fn dec(&self, stat: HostStat) {
        let cell = self.cell(stat);
        cell.store(cell.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// The sum over all threads.
    pub fn stat(&self, stat: HostStat) -> u64 {
        self.threads
            .iter()
            .filter_map(OnceLock::get)
            .fold(0, |sum, cells| {
                sum.wrapping_add(cells[stat as usize].load(Relaxed))
            })
    }

    /// Forgets what the counters (not the gauges) counted: `/reset_counters`.
    pub fn reset_counters(&self) {
        for cells in self.threads.iter().filter_map(OnceLock::get) {
            for (stat, _, gauge) in HostStat::ALL {
                if !gauge {
                    cells[stat as usize].store(0, Relaxed);
                }
            }
        }
    }
}

/// `envoy.config.core.v3.Locality`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Region.
    pub region: Box<str>,
    /// Availability zone.
    pub zone: Box<str>,
    /// Part of a zone.
    pub sub_zone: Box<str>,
}

/// What the control plane says about a host's health:
/// `envoy.config.core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointStatus {
    /// `UNKNOWN` or `HEALTHY`.
    #[default]
    Healthy,
    /// `UNHEALTHY`.
    Unhealthy,
    /// `DRAINING`: gets no new requests and counts for no threshold.
    Draining,
    /// `TIMEOUT`.
    Timeout,
    /// `DEGRADED`: used when there are not enough healthy hosts.
    Degraded,
}

/// What comes of a host's flags and its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Gets traffic.
    Healthy,
    /// Gets what the healthy hosts cannot take.
    Degraded,
    /// Gets traffic only in panic.
    Unhealthy,
}

/// One host as a member of one cluster: what the configuration says of it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The host.
    pub host: Arc<Host>,
    /// `endpoint.hostname`, or the name that was resolved; empty when there is none.
    pub hostname: Arc<str>,
    /// `load_balancing_weight`, at least 1.
    pub weight: u32,
    /// `priority`; 0 is used first.
    pub priority: u32,
    /// Where it stands.
    pub locality: Arc<Locality>,
    /// `health_status`.
    pub status: EndpointStatus,
    /// `metadata`, where given.
    pub metadata: Option<Arc<Metadata>>,
    /// What it asks to be told by the PROXY protocol.
    pub asks: Arc<Tlvs>,
    /// What carries the bytes of connections to it.
    pub transport: Arc<Transport>,
}

/// Under which key metadata is meant for balancing.
pub const LB_METADATA: &str = "envoy.lb";

/// Whether metadata has all of these values under a key.
pub fn has_labels(metadata: Option<&Metadata>, key: &str, labels: &Struct) -> bool {
    let found = metadata.and_then(|metadata| metadata.filter_metadata.get(key));
    let has = |(key, value): (&String, &Value)| {
        found.and_then(|found| found.fields.get(key)) == Some(value)
    };
    labels.fields.iter().all(has)
}

impl Endpoint {
    /// Whether its metadata has all of these values for balancing.
    pub fn has_labels(&self, labels: &Struct) -> bool {
        has_labels(self.metadata.as_deref(), LB_METADATA, labels)
    }

    /// What its metadata says for balancing under a name.
    pub fn label(&self, name: &str) -> Option<&Value> {
        let labels = self.metadata.as_ref()?.filter_metadata.get(LB_METADATA)?;
        labels.fields.get(name)
    }

    /// Whether its metadata marks it as a canary.
    pub fn is_canary(&self) -> bool {
        self.label("canary") == Some(&Value::from(true))
    }

    /// What gives it its places where hosts are chosen by a hash: `hash_key` of its
    /// metadata, its name if that is asked for, or its address.
    pub fn hash_key(&self, use_hostname: bool) -> String {
        match self.label("hash_key").and_then(|key| key.kind.as_ref()) {
            Some(Kind::StringValue(key)) if !key.is_empty() => key.clone(),
            _ if use_hostname => self.hostname.as_ref().into(),
            _ => self.host.address().to_string(),
        }
    }

    /// The host for the access log, by the address it has now.
    pub fn described(&self) -> UpstreamHost {
        UpstreamHost {
            address: self.host.address().to_string().into(),
            hostname: self.hostname.as_ref().into(),
        }
    }

    /// Its health at this moment.
    pub fn health(&self) -> Health {
        let failed = self.host.has_flag(HealthFlag::FailedActiveHealthCheck)
            || self.host.has_flag(HealthFlag::FailedOutlierCheck);
        match self.status {
            EndpointStatus::Unhealthy | EndpointStatus::Draining | EndpointStatus::Timeout => {
                Health::Unhealthy
            }
            _ if failed => Health::Unhealthy,
            EndpointStatus::Degraded => Health::Degraded,
            EndpointStatus::Healthy
                if self.host.has_flag(HealthFlag::DegradedActiveHealthCheck) =>
            {
                Health::Degraded
            }
            EndpointStatus::Healthy => Health::Healthy,
        }
    }

    /// Whether it is left out of the share of healthy hosts, rather than
    /// counted as an unhealthy one.
    pub fn is_excluded(&self) -> bool {
        self.status == EndpointStatus::Draining
            || self.host.has_flag(HealthFlag::PendingActiveHealthCheck)
    }

    /// `/clusters` shows this: `healthy`, or each reason why not after a `/`.
    pub fn health_flags(&self) -> String {
        let flags = [
            (
                self.host.has_flag(HealthFlag::FailedActiveHealthCheck),
                "/failed_active_hc",
            ),
            (
                self.host.has_flag(HealthFlag::FailedOutlierCheck),
                "/failed_outlier_check",
            ),
            (
                matches!(
                    self.status,
                    EndpointStatus::Unhealthy | EndpointStatus::Timeout
                ),
                "/failed_eds_health",
            ),
            (
                self.host.has_flag(HealthFlag::DegradedActiveHealthCheck),
                "/degraded_active_hc",
            ),
            (
                self.status == EndpointStatus::Degraded,
                "/degraded_eds_health",
            ),
            (
                self.host.has_flag(HealthFlag::PendingActiveHealthCheck),
                "/pending_active_hc",
            ),
            (
                self.status == EndpointStatus::Draining,
                "/eds_status_draining",
            ),
        ];
        let text: String = flags
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, name)| *name)
            .collect();
        match text.is_empty() {
            true => "healthy".to_owned(),
            false => text,
        }
    }
}
