//! The whole configuration at one moment.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{cluster::Cluster, listener::Listener};

/// Active listeners by name.
pub type Listeners = HashMap<Arc<str>, Arc<Listener>, foldhash::fast::RandomState>;
/// Active (warmed) clusters by name.
pub type Clusters = HashMap<Arc<str>, Arc<Cluster>, foldhash::fast::RandomState>;

/// Everything a request can meet. A part that did not change keeps its `Arc`
/// from one snapshot to the next, and with it all that is attached to it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows by one with every swap.
    pub generation: u64,
    /// Listeners that accept.
    pub listeners: Arc<Listeners>,
    /// Clusters that can be chosen.
    pub clusters: Arc<Clusters>,
}

/// Where the control thread puts the next snapshot and workers find it.
pub type SnapshotSlot = Arc<ArcSwap<Snapshot>>;
