//! Listeners: bound before they are announced, one for each address.

use std::{sync::Arc, time::Duration};

use tokio::task;

use crate::{
    admin::state,
    api::envoy::config::listener::v3::Listener as ListenerMessage,
    config::{At, Reported},
    model::{Context, listener::Listener},
    net::socket::Sockets,
    stats::{self, Block},
    xds::{
        manager::{Event, Kind, Needs, Peers},
        stats::listener_manager_stats as names,
    },
};

/// Compiles and binds listeners.
pub struct ListenerKind {
    workers: usize,
    drain_time: Duration,
    /// Workers accept on what is in force.
    accepting: bool,
    stats: Arc<Block>,
}

impl ListenerKind {
    /// Listeners for this many workers, whose connections have `drain_time` to
    /// finish once they are removed.
    pub fn new(workers: usize, drain_time: Duration, stats: &stats::Registry) -> Self {
        Self {
            workers,
            drain_time,
            accepting: false,
            stats: stats.block("listener_manager.", &names::TABLE),
        }
    }

    /// The workers accept from here on, on the listeners in force.
    pub fn start_workers<'a>(&mut self, active: impl Iterator<Item = &'a Arc<Listener>>) {
        self.accepting = true;
        active.for_each(|listener| self.listen(listener));
        self.stats.gauge_set(names::workers_started, 1);
    }

    /// One whose sockets cannot listen stays out, and counts as in force, as in Envoy.
    fn listen(&self, listener: &Listener) {
        for sockets in &listener.sockets {
            if let Err(error) = sockets.listen() {
                self.stats.inc(names::listener_create_failure);
                tracing::error!(target: "config", "listener '{}': {error}", listener.name);
            }
        }
    }

    /// Counts a removed listener as draining for as long as it may be.
    fn count_draining(&self) {
        self.stats.gauge_add(names::total_listeners_draining, 1);
        let (stats, drain_time) = (Arc::clone(&self.stats), self.drain_time);
        task::spawn_local(async move {
            tokio::time::sleep(drain_time).await;
            stats.gauge_sub(names::total_listeners_draining, 1);
        });
    }
}

impl Kind for ListenerKind {
    type Message = ListenerMessage;
    type Built = Arc<Listener>;
    const KIND: state::Kind = state::Kind::Listener;
    const NOUN: &'static str = "listener";
    const REMOVE_FIRST: bool = true;

    fn name(message: &Self::Message) -> &str {
        &message.name
    }

    fn build(
        &mut self,
        message: Self::Message,
        peers: &Peers<'_, Self::Built>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Built, Reported> {
        let mut listener = Listener::compile(message, cx, at)?;
        check_addresses(&listener, peers, at)?;
        let known: Vec<&Arc<Sockets>> = peers
            .same()
            .chain(peers.leaving())
            .flat_map(|other| &other.sockets)
            .collect();
        match listener.bind(&known, self.workers) {
            Ok(()) => Ok(Arc::new(listener)),
            Err(error) => {
                self.stats.inc(names::listener_create_failure);
                // Whoever has the address may give it up.
                peers.try_again();
                Err(at.field("address").error(error))
            }
        }
    }

    fn is_ready(&self, _listener: &Self::Built, needs: &Needs<'_>) -> bool {
        needs.are_met()
    }

    fn activate(&mut self, listener: &Self::Built, _previous: Option<&Self::Built>) {
        if self.accepting {
            self.listen(listener);
        }
        self.stats
            .add(names::listener_create_success, self.workers as u64);
    }

    fn count(&mut self, event: Event<'_, Self::Built>) {
        let stats = &self.stats;
        match event {
            Event::Added => stats.inc(names::listener_added),
            Event::Modified { old, new } => {
                stats.inc(names::listener_modified);
                if old.addresses == new.addresses {
                    stats.inc(names::listener_in_place_updated);
                }
            }
            Event::Removed => {
                stats.inc(names::listener_removed);
                self.count_draining();
            }
            Event::Totals { active, warming } => {
                stats.gauge_set(names::total_listeners_active, active as u64);
                stats.gauge_set(names::total_listeners_warming, warming as u64);
            }
        }
    }
}

/// Refuses an address that another listener has, and one whose sockets would
/// have to be made anew although it stays the same.
fn check_addresses(
    listener: &Listener,
    peers: &Peers<'_, Arc<Listener>>,
    at: &At<'_>,
) -> Result<(), Reported> {
    let mut outcome = Ok(());
    for wanted in &listener.addresses {
        if wanted.address.ip().is_some_and(|ip| ip.port() == 0) {
            continue;
        }
        let has = |other: &Arc<Listener>| {
            other
                .addresses
                .iter()
                .any(|had| had.address == wanted.address)
        };
        if let Some((other, _)) = peers.others().find(|(_, other)| has(other)) {
            peers.try_again();
            outcome = Err(at.field("address").error(format_args!(
                "error adding listener: '{}' has duplicate address '{}' as existing listener '{other}'",
                listener.name, wanted.address
            )));
        }
        let same = peers.same().flat_map(|own| &own.addresses);
        let before = same.filter(|had| had.address == wanted.address).last();
        if before.is_some_and(|had| had.options.reuse_port != wanted.options.reuse_port) {
            outcome = Err(at.field("enable_reuse_port").error(format_args!(
                "reuse port cannot be changed during an update: listener '{}' keeps '{}'",
                listener.name, wanted.address
            )));
        }
    }
    outcome
}
