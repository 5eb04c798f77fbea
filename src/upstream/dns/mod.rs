//! Names to addresses, again and again: `STRICT_DNS` and `LOGICAL_DNS`.

mod follow;
mod hosts;
mod resolver;

use std::{net::IpAddr, sync::Arc, time::Duration};

pub(super) use follow::{follow_logical, follow_strict};
pub use resolver::{Resolver, ResolverSettings};

/// How a cluster's names are resolved.
#[derive(Debug)]
pub struct DnsSettings {
    /// Who is asked.
    pub resolver: Arc<Resolver>,
    /// Which addresses are wanted.
    pub family: Family,
    /// `dns_refresh_rate`.
    pub refresh: Duration,
    /// `dns_failure_refresh_rate`: from the first to the second, doubling.
    pub failure_refresh: Option<(Duration, Duration)>,
    /// `respect_dns_ttl`: ask again when the answer expires.
    pub respect_ttl: bool,
    /// `dns_min_refresh_rate`: not sooner than this, whatever the answer says.
    pub min_refresh: Duration,
    /// `dns_jitter`: up to this much later.
    pub jitter: Duration,
}

/// `DnsLookupFamily`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv6, or IPv4 when there is none.
    #[default]
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, or IPv6 when there is none.
    V4Preferred,
    /// Both.
    All,
}

impl Family {
    /// Those of a name's addresses that are wanted.
    fn of(self, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
        match self {
            Self::V4Only => v4,
            Self::V6Only => v6,
            Self::Auto if v6.is_empty() => v4,
            Self::Auto => v6,
            Self::V4Preferred if v4.is_empty() => v6,
            Self::V4Preferred => v4,
            Self::All => [v6, v4].concat(),
        }
    }
}

/// What a name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The addresses, as they came.
    pub addresses: Vec<IpAddr>,
    /// For how long; `None` when nobody said.
    pub ttl: Option<Duration>,
}

/// Why a name is not resolved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DnsError {
    /// The name server says that there is no such name, or no address.
    #[error("no address")]
    NoAddress,
    /// Nobody could say.
    #[error("{0}")]
    Failed(String),
}

#[cfg(test)]
mod tests;
