//! What is compiled where no resource may refer to another.

use std::{path::Path, sync::Arc};

use crate::{
    api::envoy::config::core::v3::{ConfigSource, GrpcService},
    config::{At, Reported},
    upstream::grpc::{Caller, Target},
    xds::{demand::Demand, slot::Slot},
};

use super::{
    Sources,
    cluster::EndpointSet,
    context::{Extension, FilterWanted, Meanwhile},
    route::{DiscoveredHosts, HostsWanted, RouteTable, ScopeRoutes, ScopeTable},
    secret::{Secret, SecretWanted},
};

/// Refuses every reference, for the reason given.
#[derive(Clone, Copy, Debug)]
pub struct NoSources(pub &'static str);

impl NoSources {
    fn refuse<T>(self, at: &At<'_>) -> Result<T, Reported> {
        Err(at.error(self.0))
    }
}

impl Sources for NoSources {
    fn routes(
        &self,
        _: &ConfigSource,
        _: &str,
        _: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<RouteTable>>, Reported> {
        self.refuse(at)
    }

    fn scopes(
        &self,
        _: &ConfigSource,
        _: &str,
        _: ScopeRoutes<'_>,
        at: &At<'_>,
    ) -> Result<(Arc<Slot<ScopeTable>>, Demand), Reported> {
        self.refuse(at)
    }

    fn virtual_hosts(
        &self,
        _: &ConfigSource,
        _: HostsWanted,
        at: &At<'_>,
    ) -> Result<DiscoveredHosts, Reported> {
        self.refuse(at)
    }

    fn secret(
        &self,
        _: Option<&ConfigSource>,
        _: &str,
        _: SecretWanted,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Secret>>, Reported> {
        self.refuse(at)
    }

    fn endpoints(
        &self,
        _: &ConfigSource,
        _: &str,
        _: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<EndpointSet>>, Reported> {
        self.refuse(at)
    }

    fn filter(
        &self,
        _: &ConfigSource,
        _: &str,
        _: FilterWanted,
        _: Meanwhile,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Extension>>, Reported> {
        self.refuse(at)
    }

    fn cluster(&self, _: &str, _: bool, at: &At<'_>) -> Result<(), Reported> {
        self.refuse(at)
    }

    fn target(&self, _: &GrpcService, at: &At<'_>) -> Result<Target, Reported> {
        self.refuse(at)
    }

    fn caller(&self) -> Option<Caller> {
        None
    }

    /// What is compiled here is read once, as in Envoy.
    fn depends_on_file(&self, _: &Path) {}
}
