//! Virtual hosts by VHDS: compiled by themselves, and then part of the table
//! that asks for them.

use std::sync::Arc;

use crate::{
    api::envoy::config::route::v3::{Vhds, VirtualHost as Message},
    config::{At, Reported},
    model::Context,
    xds::{demand::Demand, slot::Slot},
};

use super::{entry::Limits, table::check_clusters, virtual_host::VirtualHost};

/// For which table virtual hosts are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostsWanted {
    /// Its name.
    pub route_config: Arc<str>,
    /// `max_direct_response_body_size_bytes`
    pub max_direct_response_body: u64,
    /// `validate_clusters`
    pub validate_clusters: bool,
}

/// Where the virtual hosts of a table are.
#[derive(Debug)]
pub struct DiscoveredHosts {
    /// Those there are.
    pub hosts: Arc<Slot<HostTable>>,
    /// How others are asked for.
    pub demand: Demand,
}

/// One virtual host that came by VHDS.
#[derive(Debug)]
pub struct DiscoveredHost {
    host: Arc<VirtualHost>,
}

impl DiscoveredHost {
    /// Compiles a virtual host for a table.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: Message,
        wanted: &HostsWanted,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let limits = Limits {
            direct_response_body: wanted.max_direct_response_body,
        };
        let host = VirtualHost::compile(message, limits, cx, at)?;
        check_clusters(&host, wanted.validate_clusters, cx, at)?;
        Ok(Self {
            host: Arc::new(host),
        })
    }

    /// Its domains, in lower case.
    pub fn domains(&self) -> &[Arc<str>] {
        self.host.domains()
    }

    /// The host.
    pub fn host(&self) -> &Arc<VirtualHost> {
        &self.host
    }

    /// A domain that is another's too.
    pub fn shares_domain(&self, other: &Self) -> Option<&str> {
        let others = other.domains();
        let shared = self.domains().iter().find(|own| others.contains(own));
        shared.map(|domain| &**domain)
    }
}

/// The virtual hosts of a table that came by VHDS.
#[derive(Debug, Default)]
pub struct HostTable {
    hosts: Box<[Arc<DiscoveredHost>]>,
}

impl HostTable {
    /// These.
    pub fn new(hosts: impl Iterator<Item = Arc<DiscoveredHost>>) -> Self {
        Self {
            hosts: hosts.collect(),
        }
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<DiscoveredHost>> {
        self.hosts.iter()
    }
}

/// Subscribes to the virtual hosts of a table.
///
/// # Errors
/// What is wrong has been reported.
pub(super) fn subscribe(
    message: Vhds,
    wanted: HostsWanted,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<DiscoveredHosts, Reported> {
    let Vhds { config_source } = message;
    let at = at.field("config_source");
    let source = config_source.ok_or_else(|| at.error("is required"))?;
    cx.sources.virtual_hosts(&source, wanted, &at)
}
