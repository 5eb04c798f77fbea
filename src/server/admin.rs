//! The admin's place in the process: bound early, so that a port in use ends the
//! start, and served once there is something to tell.

use std::{fs, rc::Rc};

use tokio::task;

use crate::{
    access_log::AccessLogs,
    admin::{AllowedPaths, Config, Listening, Server, State},
    api::envoy::config::bootstrap::v3::Admin as Message,
    cli::Options,
    config::{At, Reported},
    model::{Context, NoSources, Shared},
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
        // It serves before any resource is there.
        sources: &NoSources("the admin cannot refer to other resources"),
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
