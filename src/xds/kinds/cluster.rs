//! Clusters: each warms until its hosts are known.

use std::{rc::Rc, sync::Arc};

use tokio::{sync::Notify, task};

use crate::{
    admin::state,
    api::envoy::config::cluster::v3::Cluster as ClusterMessage,
    config::{At, Reported},
    model::{Context, cluster::Cluster},
    stats::{self, Block},
    upstream::ClusterDriver,
    xds::{
        manager::{Event, Kind, Needs, Peers},
        stats::cluster_manager_stats as names,
        subscriptions::Subscriptions,
    },
};

/// Compiles clusters and follows their hosts.
pub struct ClusterKind {
    stats: Arc<Block>,
    warmed: Rc<Notify>,
}

impl ClusterKind {
    /// Clusters that ring `warmed` when their first hosts have come.
    pub fn new(stats: &stats::Registry, warmed: Rc<Notify>) -> Self {
        Self {
            warmed,
            stats: stats.block("cluster_manager.", &names::TABLE),
        }
    }
}

impl Kind for ClusterKind {
    type Message = ClusterMessage;
    type Built = ClusterDriver;
    const KIND: state::Kind = state::Kind::Cluster;
    const NOUN: &'static str = "cluster";
    const REMOVE_FIRST: bool = false;

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
        let previous = peers.previous().map(ClusterDriver::cluster);
        let cluster = Cluster::compile(message, previous, cx, at)?;
        let driver = ClusterDriver::start(Arc::new(cluster));
        if !driver.is_warmed() {
            let (warm, bell) = (driver.warmed(), Rc::clone(&self.warmed));
            task::spawn_local(async move {
                warm.await;
                bell.notify_one();
            });
        }
        Ok(driver)
    }

    fn is_ready(&self, driver: &Self::Built, needs: &Needs<'_>) -> bool {
        needs.waited || (driver.is_warmed() && needs.are_met())
    }

    fn activate(&mut self, driver: &Self::Built, previous: Option<&Self::Built>) {
        tracing::debug!(
            target: "upstream", "{} cluster '{}'",
            if previous.is_some() { "updating" } else { "adding" },
            driver.cluster().name
        );
        driver.cluster().activate();
    }

    fn is_in_use(&self, name: &str, subscriptions: &Subscriptions) -> bool {
        subscriptions.clusters().is_referred_to(name)
    }

    fn count(&mut self, event: Event<'_, Self::Built>) {
        let stats = &self.stats;
        match event {
            Event::Added => stats.inc(names::cluster_added),
            Event::Modified { .. } => stats.inc(names::cluster_modified),
            Event::Removed => stats.inc(names::cluster_removed),
            Event::Totals { active, warming } => {
                stats.gauge_set(names::active_clusters, active as u64);
                stats.gauge_set(names::warming_clusters, warming as u64);
            }
        }
    }
}
