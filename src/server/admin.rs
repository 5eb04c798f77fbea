//! The admin's place in the process: bound early, so that a port in use ends the
//! start, and served once there is something to tell.

use std::{fs, path::Path, rc::Rc, sync::Arc};

use tokio::task;

use crate::{
    access_log::AccessLogs,
    admin::{AllowedPaths, Config, Listening, Server, State},
    api::envoy::config::{
        bootstrap::v3::Admin as Message,
        core::v3::{ConfigSource, GrpcService},
    },
    cli::Options,
    config::{At, Reported},
    model::{
        Context, Shared, Sources,
        cluster::EndpointSet,
        context::{Extension, FilterWanted, Meanwhile},
        route::{DiscoveredHosts, HostsWanted, RouteTable, ScopeRoutes, ScopeTable},
        secret::Secret,
    },
    upstream::grpc::{Caller, Target},
    xds::{demand::Demand, slot::Slot},
};

use super::{ground::Ground, process::StartError};

/// An admin that is bound and not served yet.
#[derive(Debug)]
pub struct Admin {
    listening: Listening,
    access_logs: AccessLogs,
}

/// Checks the admin's settings.
///
/// # Errors
/// Reports what is wrong with them.
pub fn check(message: Option<Message>, ground: &Ground, at: &At<'_>) -> Result<Config, Reported> {
    let cx = Context {
        stats: &ground.stats,
        sources: &NoSources,
        server: &ground.info,
        shared: &Shared::default(),
        runtime: &ground.runtime,
    };
    Config::compile(message.unwrap_or_default(), &cx, at)
}

/// Binds the admin; `None` when it has no address.
///
/// # Errors
/// Reports an address that cannot be bound.
pub fn open(config: Config, at: &At<'_>) -> Result<(Option<Admin>, AllowedPaths), Reported> {
    let Config {
        address,
        access_logs,
        paths,
    } = config;
    let Some(address) = address else {
        tracing::warn!(target: "main", "No admin address given, so no admin HTTP server started.");
        return Ok((None, paths));
    };
    let listening = Listening::bind(&address).map_err(|error| at.field("address").error(error))?;
    tracing::info!(target: "main", "Starting admin HTTP server at {}", listening.local());
    let admin = Admin {
        listening,
        access_logs,
    };
    Ok((Some(admin), paths))
}

impl Admin {
    /// Writes the address to the file of `--admin-address-path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn tell_address(&self, options: &Options) -> Result<(), StartError> {
        let Some(path) = &options.admin_address_path else {
            return Ok(());
        };
        fs::write(path, self.listening.local().to_string()).map_err(|source| StartError::Write {
            flag: "admin-address-path",
            path: path.clone(),
            source,
        })
    }

    /// Serves from here on, until the process ends.
    pub fn serve(self, state: Rc<State>) {
        tracing::info!(target: "admin", "admin address: {}", self.listening.local());
        task::spawn_local(async move {
            let Err(error) = Server::serve(state, self.access_logs, self.listening).await;
            tracing::error!(target: "admin", "the admin server ended: {error}");
        });
    }
}

/// The admin serves before any resource is there, so it can refer to none.
struct NoSources;

const NONE: &str = "the admin cannot refer to other resources";

impl Sources for NoSources {
    fn target(&self, _: &GrpcService, at: &At<'_>) -> Result<Target, Reported> {
        Err(at.error(NONE))
    }

    fn caller(&self) -> Option<Caller> {
        None
    }

    fn routes(
        &self,
        _: &ConfigSource,
        _: &str,
        _: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<RouteTable>>, Reported> {
        Err(at.error(NONE))
    }

    fn scopes(
        &self,
        _: &ConfigSource,
        _: &str,
        _: ScopeRoutes<'_>,
        at: &At<'_>,
    ) -> Result<(Arc<Slot<ScopeTable>>, Demand), Reported> {
        Err(at.error(NONE))
    }

    fn virtual_hosts(
        &self,
        _: &ConfigSource,
        _: HostsWanted,
        at: &At<'_>,
    ) -> Result<DiscoveredHosts, Reported> {
        Err(at.error(NONE))
    }

    fn secret(
        &self,
        _: Option<&ConfigSource>,
        _: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Secret>>, Reported> {
        Err(at.error(NONE))
    }

    fn endpoints(
        &self,
        _: &ConfigSource,
        _: &str,
        _: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<EndpointSet>>, Reported> {
        Err(at.error(NONE))
    }

    fn filter(
        &self,
        _: &ConfigSource,
        _: &str,
        _: FilterWanted,
        _: Meanwhile,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Extension>>, Reported> {
        Err(at.error(NONE))
    }

    fn cluster(&self, _: &str, _: bool, at: &At<'_>) -> Result<(), Reported> {
        Err(at.error(NONE))
    }

    // Its settings are those of the bootstrap, which is read once.
    fn depends_on_file(&self, _: &Path) {}
}
