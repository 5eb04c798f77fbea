//! What the admin and signals may ask of the process, and how it is done.

use std::{cell::Cell, rc::Rc, sync::Arc};

use tokio::{sync::Notify, task, time};

use crate::{
    access_log::Sinks,
    admin::state::{self, DrainListeners, LogControl, LogLevelError, ServerState},
    log::{Component, Log},
    model::{
        SnapshotSlot,
        listener::{Listener, TrafficDirection},
    },
    stats::{Block, Registry},
    xds::stats::listener_manager_stats,
};

use super::{Lifecycle, lifecycle::Scope, stats::ServerStats};

/// The process as the control thread steers it.
#[derive(Debug)]
pub struct Control {
    lifecycle: Lifecycle,
    log: Log,
    access_logs: Arc<Sinks>,
    stats: Rc<ServerStats>,
    snapshot: SnapshotSlot,
    /// `listener_manager.`
    listener_stats: Arc<Block>,
    start: Cell<ServerState>,
    draining_listeners: Cell<bool>,
    quit: Notify,
}

impl Control {
    /// A process at the beginning of its start.
    pub fn new(
        lifecycle: Lifecycle,
        log: Log,
        access_logs: Arc<Sinks>,
        stats: Rc<ServerStats>,
        snapshot: SnapshotSlot,
        registry: &Registry,
    ) -> Rc<Self> {
        Rc::new(Self {
            lifecycle,
            log,
            access_logs,
            stats,
            snapshot,
            listener_stats: registry.block("listener_manager.", &listener_manager_stats::TABLE),
            start: Cell::new(ServerState::PreInitializing),
            draining_listeners: Cell::new(false),
            quit: Notify::new(),
        })
    }

    /// Notes how far the start has come.
    pub fn reached(&self, start: ServerState) {
        self.start.set(start);
    }

    /// Resolves when the process is to exit.
    ///
    /// Cancel-safe: a request is kept until it is heard.
    pub async fn quit_asked(&self) {
        self.quit.notified().await;
    }

    /// The state of the process, as the admin and the stats tell it.
    pub fn state(&self) -> ServerState {
        let phase = self.lifecycle.phase();
        // Draining listeners alone leaves the process ready, as in Envoy.
        match phase.health_failed || phase.ending {
            true => ServerState::Draining,
            false => self.start.get(),
        }
    }

    /// Stops accepting and asks what is open to finish within the drain time.
    pub fn shut_down(&self) {
        self.lifecycle.shut_down();
    }

    /// Opens every log file by its name again; says in the log what fails.
    pub fn reopen_log_files(&self) {
        if let Err(error) = self.log.reopen() {
            tracing::error!(target: "file", "cannot reopen the log file: {error}");
        }
        self.access_logs.reopen();
    }
}

impl state::Lifecycle for Control {
    fn state(&self) -> ServerState {
        Control::state(self)
    }

    fn fail_health_checks(&self) {
        self.lifecycle.set_health_failed(true);
    }

    fn pass_health_checks(&self) {
        self.lifecycle.set_health_failed(false);
    }

    fn drain_listeners(&self, how: DrainListeners) {
        if self.draining_listeners.replace(true) {
            return;
        }
        let scope = match how.inbound_only {
            true => Scope::Inbound,
            false => Scope::All,
        };
        let (lifecycle, stats) = (self.lifecycle.clone(), Arc::clone(&self.listener_stats));
        let snapshot = Arc::clone(&self.snapshot);
        let stop = move || {
            let phase = lifecycle.phase();
            let stops = |listener: &&Arc<Listener>| {
                let inbound = listener.direction == TrafficDirection::Inbound;
                phase.accepts(listener.direction) && (inbound || scope == Scope::All)
            };
            let stopped = snapshot.load().listeners.values().filter(stops).count();
            stats.add(listener_manager_stats::listener_stopped, stopped as u64);
            lifecycle.stop_accepting(scope);
        };
        if !how.graceful {
            return stop();
        }
        self.lifecycle.drain(scope);
        if !how.skip_exit {
            let drain_time = self.lifecycle.drain_time();
            task::spawn_local(async move {
                time::sleep(drain_time).await;
                stop();
            });
        }
    }

    fn quit(&self) {
        self.quit.notify_one();
    }

    fn reopen_logs(&self) {
        self.reopen_log_files();
    }

    fn connections(&self) -> u64 {
        self.stats.connections()
    }
}

impl LogControl for Log {
    fn levels(&self) -> Vec<(&'static str, &'static str)> {
        Log::levels(self)
            .map(|(component, level)| (component, level.name()))
            .collect()
    }

    fn set_level(&self, logger: Option<&str>, level: &str) -> Result<(), LogLevelError> {
        let level = level
            .parse()
            .map_err(|_| LogLevelError::Level(level.to_owned()))?;
        match logger {
            None => self.set_all(level),
            Some(name) => {
                let component =
                    Component::named(name).ok_or_else(|| LogLevelError::Logger(name.to_owned()))?;
                self.set(component, level);
            }
        }
        Ok(())
    }
}
