//! `envoy.config.listener.v3.Listener`, compiled.

mod address;
mod compile;
mod filter_chain;
mod matching;

pub use address::ListenAddress;
pub use filter_chain::{FilterChain, NetworkFilter, Transport};
pub use matching::{Facts, FilterChains};

use std::{sync::Arc, time::Duration};

use crate::{
    net::{
        Address,
        balance::Balance,
        limits::OpenConnections,
        listener_filters::ListenerFilters,
        socket::{BindError, Sockets},
    },
    overload::Overload,
    stats,
};

crate::stat_table! {
    /// `listener.ADDRESS.`
    pub mod listener_stats {
        counters {
            downstream_cx_total, downstream_cx_destroy,
            downstream_cx_overflow, downstream_cx_overload_reject,
            downstream_cx_transport_socket_connect_timeout, downstream_global_cx_overflow,
            downstream_pre_cx_timeout, downstream_listener_filter_error,
            downstream_listener_filter_remote_close, no_filter_chain_match,
        }
        gauges { downstream_cx_active, downstream_pre_cx_active }
        histograms {
            connections_accepted_per_socket_event: Unspecified,
            downstream_cx_length_ms: Milliseconds,
        }
        texts {}
    }
}

crate::stat_table! {
    /// `listener.ADDRESS.`, but for the admin's.
    pub mod discovery_stats {
        counters { extension_config_missing, network_extension_config_missing }
        gauges {}
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `listener.ADDRESS.worker_N.`
    pub mod worker_stats {
        counters { downstream_cx_total }
        gauges { downstream_cx_active }
        histograms {}
        texts {}
    }
}

/// How many connections of a listener may be open.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of this listener.
    pub own: Arc<OpenConnections>,
    /// Of all listeners.
    pub all: Arc<OpenConnections>,
    /// `ignore_global_conn_limit`: be counted among all, but not refused.
    pub ignore_all: bool,
}

/// `traffic_direction`, for `/drain_listeners?inboundonly`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficDirection {
    /// Not said.
    Unspecified,
    /// Towards this host.
    Inbound,
    /// From this host.
    Outbound,
}

/// One listener, immutable once it is in a snapshot.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens, its own address first.
    pub addresses: Vec<ListenAddress>,
    /// `bind_to_port`: without it, it serves what other listeners hand over.
    pub bind_to_port: bool,
    /// The sockets of `addresses`, in the same order, once bound.
    pub sockets: Vec<Arc<Sockets>>,
    /// Its filter chains and the rules by which one is chosen.
    pub filter_chains: FilterChains,
    /// What looks at a connection before its filter chain is chosen.
    pub filters: ListenerFilters,
    /// `use_original_dst`: a connection that was meant for another address goes to
    /// the listener of that address, if there is one.
    pub hand_over_restored: bool,
    /// How many connections may be open.
    pub limits: Limits,
    /// `exact_balance`: where its connections are counted by worker.
    pub balance: Option<Arc<Balance>>,
    /// What is in force for it of the overload manager.
    pub overload: Arc<Overload>,
    /// How long choosing a filter chain may take; zero is no limit.
    pub listener_filters_timeout: Duration,
    /// When that time runs out, go on with what is known instead of closing.
    pub continue_on_listener_filters_timeout: bool,
    /// How many bytes may be read at once from a client's connection, and wait to be
    /// written to it: `per_connection_buffer_limit_bytes`, 1 MiB unless set.
    pub per_connection_buffer_limit: usize,
    /// Connections accepted in a row before others get their turn.
    pub max_accepts_per_event: usize,
    /// `traffic_direction`.
    pub direction: TrafficDirection,
    /// `listener.ADDRESS.` stats.
    pub stats: Arc<stats::Block>,
    /// `listener.ADDRESS.` stats of filters that come by discovery: held to be listed,
    /// as Envoy lists them; nothing is counted there.
    pub discovery_stats: Arc<stats::Block>,
    /// `listener.ADDRESS.worker_N.` stats, by worker.
    pub worker_stats: Vec<Arc<stats::Block>>,
}

impl Listener {
    /// Where it listens: with the port the kernel chose where 0 was asked for.
    pub fn local_addresses(&self) -> impl Iterator<Item = &Address> {
        let bound = self.sockets.iter().map(|sockets| sockets.local());
        let unbound = self.addresses.iter().filter(|_| !self.bind_to_port);
        bound.chain(unbound.map(|listens| &listens.address))
    }

    /// Binds the addresses whose sockets are none of `known`, which another
    /// configuration of this listener, or of one that leaves, already has.
    ///
    /// # Errors
    /// The first address that cannot be bound; nothing stays bound then but
    /// what was known.
    pub fn bind(&mut self, known: &[&Arc<Sockets>], workers: usize) -> Result<(), BindError> {
        let bound = self.addresses.iter().filter(|_| self.bind_to_port);
        let sockets = bound.map(|wanted| {
            let same = |sockets: &&&Arc<Sockets>| *sockets.requested() == wanted.address;
            let mut fitting = known.iter().filter(same);
            match fitting.find(|sockets| *sockets.options() == wanted.options) {
                Some(sockets) => Ok(Arc::clone(sockets)),
                None => {
                    let ours = known.iter().any(|sockets| same(&sockets));
                    Sockets::bind(&wanted.address, &wanted.options, workers, ours).map(Arc::new)
                }
            }
        });
        self.sockets = sockets.collect::<Result<_, _>>()?;
        Ok(())
    }
}
