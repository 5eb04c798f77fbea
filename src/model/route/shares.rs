//! What is counted of a part of a virtual host's requests: of its
//! `virtual_clusters`, and of routes with a `stat_prefix`.

use std::sync::Arc;

use crate::{
    api::envoy::config::route::v3::VirtualCluster as Message,
    config::{At, Reported},
    formatter::RequestView,
    model::{Context, matcher::HeaderMatcher},
    stats::{Block, Registry},
};

crate::stat_table! {
    /// `vhost.NAME.vcluster.NAME.` and `vhost.NAME.route.NAME.`
    pub mod share_stats {
        counters {
            upstream_rq_retry,
            upstream_rq_retry_limit_exceeded,
            upstream_rq_retry_overflow,
            upstream_rq_retry_success,
            upstream_rq_timeout,
            upstream_rq_total,
        }
        gauges {}
        histograms { upstream_rq_time: Milliseconds }
        texts {}
        late { "upstream_rq_time" }
    }
}

/// The block of a share; `kind` is `vcluster` or `route`.
pub(super) fn share(registry: &Registry, host: &str, kind: &str, name: &str) -> Arc<Block> {
    let prefix = format!("vhost.{host}.{kind}.{name}.").replace(':', "_");
    registry.block(&prefix, &share_stats::TABLE)
}

/// The virtual clusters of a virtual host.
#[derive(Debug, Default)]
pub struct VirtualClusters {
    all: Box<[VirtualCluster]>,
}

#[derive(Debug)]
struct VirtualCluster {
    name: Box<str>,
    headers: Box<[HeaderMatcher]>,
    stats: Arc<Block>,
}

impl VirtualClusters {
    /// Compiles those of the virtual host of this name.
    ///
    /// # Errors
    /// One without conditions, and what is wrong with a condition.
    pub(super) fn compile(
        messages: Vec<Message>,
        host: &str,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        /// Where requests count that are in none of the others.
        const OTHER: &str = "other";
        let mut all = Vec::with_capacity(messages.len() + 1);
        let mut outcome = Ok(());
        let is_empty = messages.is_empty();
        let make = |name: String, headers| VirtualCluster {
            stats: share(cx.stats, host, "vcluster", &name),
            name: name.into(),
            headers,
        };
        for (index, message) in messages.into_iter().enumerate() {
            let at = at.index(index);
            let Message { name, headers } = message;
            let at_headers = at.field("headers");
            if headers.is_empty() {
                outcome = Err(at_headers.error("virtual clusters must define 'headers'"));
            }
            match HeaderMatcher::compile_all(headers, &at_headers) {
                Ok(headers) => all.push(make(name, headers)),
                Err(reported) => outcome = Err(reported),
            }
        }
        if !is_empty {
            all.push(make(OTHER.to_owned(), Box::default()));
        }
        outcome.map(|()| Self { all: all.into() })
    }

    /// The first that a request is in; `None` when there are none at all.
    pub fn find(&self, request: &RequestView<'_>) -> Option<u32> {
        let holds = |one: &VirtualCluster| one.headers.iter().all(|m| m.matches_request(request));
        let index = self.all.iter().position(holds)?;
        u32::try_from(index).ok()
    }

    /// The name of one that [`VirtualClusters::find`] gave.
    pub fn name(&self, index: u32) -> &str {
        &self.all[index as usize].name
    }

    /// The stats of one that [`VirtualClusters::find`] gave.
    pub fn stats(&self, index: u32) -> &Block {
        &self.all[index as usize].stats
    }
}

#[cfg(test)]
mod tests {
    use crate::model::route::table_tests::try_table;

    #[test]
    fn a_virtual_cluster_needs_a_condition() {
        let table = "virtual_hosts: [{name: v, domains: ['*'], virtual_clusters: [{name: c}]}]";
        assert_eq!(
            try_table(table).unwrap_err(),
            "virtual_hosts[0].virtual_clusters[0].headers: virtual clusters must define 'headers'"
        );
    }
}
