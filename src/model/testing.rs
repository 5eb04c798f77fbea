//! What tests of `compile` functions share.

use std::{cell::RefCell, path::Path, path::PathBuf, sync::Arc};

use prost::{Message, Name};

use super::{
    Context, Shared, Sources,
    cluster::EndpointSet,
    context::{Extension, FilterWanted, Meanwhile, ServerInfo},
    route::{DiscoveredHosts, HostsWanted, RouteTable, ScopeRoutes, ScopeTable},
    secret::{Secret, SecretWanted},
};
use crate::{
    api::envoy::config::core::v3::{ConfigSource, GrpcService},
    config::{At, Document, Format, Report, Reported, Strictness},
    runtime::Runtime,
    stats,
    upstream::grpc::{Caller, Channels, Target},
    xds::{demand::Demand, slot::Slot},
};

/// Everything a [`Context`] refers to, with two workers and no runtime layers.
pub(crate) struct World {
    pub(crate) stats: Arc<stats::Registry>,
    pub(crate) server: ServerInfo,
    pub(crate) shared: Shared,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) sources: Given,
}

/// Subscriptions that a test answers.
#[derive(Default)]
pub(crate) struct Given {
    pub(crate) endpoints: RefCell<Vec<Arc<Slot<EndpointSet>>>>,
    pub(crate) secrets: RefCell<Vec<Arc<Slot<Secret>>>>,
    pub(crate) files: RefCell<Vec<PathBuf>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let stats = stats::Registry::new(2);
        Self {
            runtime: Runtime::empty(&stats),
            stats,
            server: ServerInfo {
                concurrency: 2,
                ..ServerInfo::default()
            },
            shared: Shared::default(),
            sources: Given::default(),
        }
    }

    pub(crate) fn cx(&self) -> Context<'_> {
        Context {
            stats: &self.stats,
            sources: &self.sources,
            server: &self.server,
            shared: &self.shared,
            runtime: &self.runtime,
        }
    }
}

/// A message written as YAML.
pub(crate) fn read<M: Message + Name + Default>(yaml: &str) -> M {
    let report = Report::new();
    let document = Document::new("test.yaml", Format::Yaml, yaml.as_bytes().to_vec());
    let message = document
        .expect("a document")
        .read(&Strictness::default(), &report);
    message.unwrap_or_else(|_| panic!("{report}"))
}

fn slot<T>(slots: &RefCell<Vec<Arc<Slot<T>>>>, name: &str) -> Arc<Slot<T>> {
    let mut slots = slots.borrow_mut();
    match slots.iter().find(|slot| **slot.name() == *name) {
        Some(slot) => Arc::clone(slot),
        None => {
            slots.push(Arc::new(Slot::new(name)));
            Arc::clone(&slots[slots.len() - 1])
        }
    }
}

impl Sources for Given {
    fn asked(&self) -> Option<u64> {
        let files = self.files.borrow().len();
        Some((self.endpoints.borrow().len() + self.secrets.borrow().len() + files) as u64)
    }

    fn target(&self, service: &GrpcService, at: &At<'_>) -> Result<Target, Reported> {
        Target::compile(service, &Channels::default(), at)
    }

    fn caller(&self) -> Option<Caller> {
        None
    }

    fn routes(
        &self,
        _source: &ConfigSource,
        name: &str,
        _stat_prefix: &str,
        _at: &At<'_>,
    ) -> Result<Arc<Slot<RouteTable>>, Reported> {
        Ok(Arc::new(Slot::new(name)))
    }

    fn scopes(
        &self,
        _source: &ConfigSource,
        name: &str,
        _routes: ScopeRoutes<'_>,
        _at: &At<'_>,
    ) -> Result<(Arc<Slot<ScopeTable>>, Demand), Reported> {
        Ok((Arc::new(Slot::new(name)), Demand::deaf()))
    }

    fn virtual_hosts(
        &self,
        _source: &ConfigSource,
        wanted: HostsWanted,
        _at: &At<'_>,
    ) -> Result<DiscoveredHosts, Reported> {
        Ok(DiscoveredHosts {
            hosts: Arc::new(Slot::new(wanted.route_config)),
            demand: Demand::deaf(),
        })
    }

    fn secret(
        &self,
        _source: Option<&ConfigSource>,
        name: &str,
        _wanted: SecretWanted,
        _at: &At<'_>,
    ) -> Result<Arc<Slot<Secret>>, Reported> {
        Ok(slot(&self.secrets, name))
    }

    fn endpoints(
        &self,
        _source: &ConfigSource,
        name: &str,
        _stat_prefix: &str,
        _at: &At<'_>,
    ) -> Result<Arc<Slot<EndpointSet>>, Reported> {
        Ok(slot(&self.endpoints, name))
    }

    fn filter(
        &self,
        _source: &ConfigSource,
        name: &str,
        _want: FilterWanted,
        _meanwhile: Meanwhile,
        _at: &At<'_>,
    ) -> Result<Arc<Slot<Extension>>, Reported> {
        Ok(Arc::new(Slot::new(name)))
    }

    fn cluster(&self, _name: &str, _must_exist: bool, _at: &At<'_>) -> Result<(), Reported> {
        Ok(())
    }

    fn depends_on_file(&self, path: &Path) {
        self.files.borrow_mut().push(path.to_owned());
    }
}
