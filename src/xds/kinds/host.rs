//! Virtual hosts that come by themselves, by VHDS.

use std::sync::Arc;

use crate::{
    admin::state,
    api::envoy::config::route::v3::VirtualHost as Message,
    config::{At, Reported},
    model::{
        Context,
        route::{DiscoveredHost, HostTable, HostsWanted},
    },
    stats::{self, Block},
    xds::{
        demand::What,
        manager::{Event, Kind, Needs, Peers},
        set::{SetKind, Wanted},
        stats::empty_stats,
        update::Received,
    },
};

/// Compiles the virtual hosts of one route table.
pub struct HostKind {
    /// The table's name and a slash, with which their names begin.
    namespace: Box<str>,
    wanted: HostsWanted,
    /// Only there to be seen.
    _stats: Arc<Block>,
}

impl HostKind {
    /// Hosts for this table, whose stats stand under `prefix`.
    pub fn new(wanted: HostsWanted, prefix: &str, stats: &stats::Registry) -> Self {
        Self {
            namespace: format!("{}/", wanted.route_config).into(),
            wanted,
            _stats: stats.block(prefix, &empty_stats::TABLE),
        }
    }
}

impl Kind for HostKind {
    type Message = Message;
    type Built = Arc<DiscoveredHost>;
    const KIND: state::Kind = state::Kind::VirtualHost;
    const NOUN: &'static str = "virtual host";
    // A domain that one host gives up is another's in the same answer.
    const REMOVE_FIRST: bool = true;

    fn name(message: &Message) -> &str {
        &message.name
    }

    /// They are known as `TABLE/HOST`, which is not what they call themselves.
    fn key(received: &Received) -> &str {
        &received.name
    }

    fn concerns(&self, name: &str) -> bool {
        let host = name.strip_prefix(&*self.namespace);
        host.is_some_and(|host| !host.contains('/'))
    }

    fn build(
        &mut self,
        message: Message,
        peers: &Peers<'_, Self::Built>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Built, Reported> {
        let host = DiscoveredHost::compile(message, &self.wanted, cx, at)?;
        for (other, built) in peers.others() {
            if let Some(domain) = host.shares_domain(built) {
                peers.try_again();
                return Err(at.field("domains").error(format_args!(
                    "the domain {domain:?} is that of the virtual host {other:?} already"
                )));
            }
        }
        Ok(Arc::new(host))
    }

    fn is_ready(&self, _host: &Self::Built, needs: &Needs<'_>) -> bool {
        needs.are_met()
    }

    fn activate(&mut self, _host: &Self::Built, _previous: Option<&Self::Built>) {}

    fn count(&mut self, event: Event<'_, Self::Built>) {
        match event {
            // Envoy counts answers, and nothing of what is in them.
            Event::Added | Event::Modified { .. } | Event::Removed | Event::Totals { .. } => {}
        }
    }
}

impl SetKind for HostKind {
    type Whole = HostTable;
    const SHORT: &'static str = "vhds";
    const TARGET: &'static str = "VhdsConfigSubscription";

    fn whole<'a>(&self, active: impl Iterator<Item = &'a Self::Built>) -> HostTable {
        HostTable::new(active.cloned())
    }

    fn part_of(&self) -> Option<&str> {
        Some(&self.wanted.route_config)
    }

    fn wants<'a>(
        &mut self,
        what: &What,
        _active: impl Iterator<Item = (&'a Arc<str>, &'a Self::Built)>,
    ) -> Wanted {
        match what {
            What::Host(host) => Wanted::Subscription(format!("{}{host}", self.namespace).into()),
            What::Scope(_) => Wanted::Nothing,
        }
    }
}
