//! The control thread's side of a cluster: keeps its hosts up to date.

use std::{future::Future, sync::Arc};

use tokio::{sync::watch, task::AbortHandle};

use super::{
    dns::{follow_logical, follow_strict},
    original_dst::follow_original,
};
use crate::{
    model::cluster::{Cluster, Discovery, Duplicates, EndpointSet, ResolvedNames},
    xds::slot::Slot,
};

/// Follows a cluster's discovery for as long as it lives.
///
/// Made on the control thread's `LocalSet` by whoever owns the cluster; dropping
/// it ends its task. The cluster's hosts stay as they are then.
#[derive(Debug)]
pub struct ClusterDriver {
    cluster: Arc<Cluster>,
    task: Option<AbortHandle>,
    warmed: watch::Receiver<bool>,
}

impl ClusterDriver {
    /// Starts to follow the cluster's discovery.
    ///
    /// # Panics
    /// Outside a `LocalSet`, unless the cluster is static.
    pub fn start(cluster: Arc<Cluster>) -> Self {
        let (warm, warmed) = watch::channel(false);
        let task = match &cluster.discovery {
            Discovery::Static => {
                warm.send_replace(true);
                None
            }
            Discovery::StrictDns(dns, assignment) => {
                let (dns, assignment) = (Arc::clone(dns), Arc::clone(assignment));
                Some(spawn(follow_strict(
                    Arc::clone(&cluster),
                    dns,
                    assignment,
                    warm,
                )))
            }
            Discovery::LogicalDns(dns, assignment) => {
                let (dns, assignment) = (Arc::clone(dns), Arc::clone(assignment));
                Some(spawn(follow_logical(
                    Arc::clone(&cluster),
                    dns,
                    assignment,
                    warm,
                )))
            }
            Discovery::OriginalDst(original) => {
                warm.send_replace(true);
                let task = follow_original(Arc::clone(&cluster), Arc::clone(original));
                Some(spawn(task))
            }
            Discovery::Eds(slot) => {
                let task = follow_endpoints(Arc::clone(&cluster), Arc::clone(slot), warm);
                Some(spawn(task))
            }
        };
        Self {
            cluster,
            task,
            warmed,
        }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Whether the first answer has come, good or bad.
    pub fn is_warmed(&self) -> bool {
        *self.warmed.borrow()
    }

    /// Resolves when the first answer has come, good or bad: at once when it is
    /// static. Can be dropped and asked for again.
    pub fn warmed(&self) -> impl Future<Output = ()> + use<> {
        let mut warmed = self.warmed.clone();
        async move {
            // An error means that the driver is gone, and nobody cares.
            let _ended = warmed.wait_for(|warm| *warm).await;
        }
    }
}

impl Drop for ClusterDriver {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn spawn(task: impl Future<Output = ()> + 'static) -> AbortHandle {
    tokio::task::spawn_local(task).abort_handle()
}

async fn follow_endpoints(
    cluster: Arc<Cluster>,
    slot: Arc<Slot<EndpointSet>>,
    warm: watch::Sender<bool>,
) {
    let mut changes = slot.subscribe();
    loop {
        changes.borrow_and_update();
        if let Some(endpoints) = slot.get().as_ref() {
            let known = cluster.hosts().load();
            let members = endpoints.membership(
                Some(&known),
                &cluster.transports,
                &ResolvedNames::new(),
                cluster.threads(),
                Duplicates::Dropped,
            );
            cluster.set_members(members);
        }
        if slot.is_answered() {
            warm.send_replace(true);
        }
        // The slot is held here, so its sender outlives the wait.
        if changes.changed().await.is_err() {
            return;
        }
    }
}
