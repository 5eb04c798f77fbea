//! `envoy.filters.network.connection_limit`: so many connections of a filter chain
//! may be open.

use std::{sync::Arc, time::Duration};

use super::{Held, Passage};
use crate::{
    api::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit as Message,
    config::{At, Reported, optional_duration},
    model::Context,
    net::limits::OpenConnections,
    runtime::RuntimeFlag,
    stats::Block,
};

crate::stat_table! {
    /// `connection_limit.STAT_PREFIX.`
    pub mod connection_limit_stats {
        counters { limited_connections }
        gauges { active_connections }
        histograms {}
        texts {}
    }
}
use connection_limit_stats as names;

/// The filter's settings and its count, which a listener that is replaced hands on.
#[derive(Debug)]
pub struct ConnectionLimit {
    open: Arc<OpenConnections>,
    limit: u64,
    delay: Duration,
    enabled: Option<RuntimeFlag>,
    stats: Arc<Block>,
}

/// Counts a connection as active for as long as it lives.
#[derive(Debug)]
pub struct Active(Arc<Block>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.gauge_sub(names::active_connections, 1);
    }
}

impl ConnectionLimit {
    /// Compiles the settings; the count is that of `site`.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: Message,
        site: &str,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Message {
            stat_prefix,
            max_connections,
            delay,
            runtime_enabled,
        } = message;
        let delay = optional_duration(delay.as_ref(), &at.field("delay"));
        let enabled = runtime_enabled
            .map(|flag| RuntimeFlag::compile(flag, cx.runtime, &at.field("runtime_enabled")))
            .transpose();
        let limit = max_connections.ok_or_else(|| at.field("max_connections").error("is required"));
        let prefix = format!("connection_limit.{stat_prefix}.");
        Ok(Self {
            open: cx.shared.connections.at(site),
            limit: limit?,
            delay: delay?.unwrap_or_default(),
            enabled: enabled?,
            stats: cx.stats.block(&prefix, &names::TABLE),
        })
    }

    /// Takes a place for a new connection, if there is one.
    pub fn pass(&self) -> Passage {
        if self.enabled.as_ref().is_some_and(|flag| !flag.get()) {
            return Passage::Open(None);
        }
        match self.open.enter_below(self.limit) {
            Some(place) => {
                self.stats.gauge_add(names::active_connections, 1);
                let active = Active(self.stats.clone());
                Passage::Open(Some(Held::Limit(active, place)))
            }
            None => {
                self.stats.inc(names::limited_connections);
                Passage::Closed(self.delay)
            }
        }
    }
}
