//! Who is asked for resources, how answers are applied, in what order, and what
//! is warmed first.
//!
//! - [`watcher`]: tells when a file has been replaced.
//! - [`mux`], [`stream`]: what is said to management servers, and saying it.
//! - [`config_source`], [`feed`], [`named`]: where resources come from: whole
//!   sets by CDS and LDS, single ones by RDS, EDS and SDS.
//! - [`set`]: the scopes of a connection manager, by SRDS; the virtual hosts of a
//!   route table, by VHDS.
//! - [`demand`]: how requests ask for what nobody has asked for yet.
//! - [`manager`]: what serves, what warms, what was refused.
//! - [`runtime_layers`]: the runtime's layers by RTDS and on disk.
//! - [`subscriptions`]: what resources refer to, shared by all who do.
//! - [`configurator`]: brings it all together and publishes snapshots.
//! - [`validate`](mod@validate): reads it all without running it.

pub mod api_source;
pub mod cluster_names;
pub mod config_source;
pub mod configurator;
pub mod demand;
pub mod dependencies;
pub mod feed;
pub mod kinds;
pub mod ledger;
pub mod manager;
pub mod mux;
pub mod named;
pub mod resource;
pub mod runtime_layers;
pub mod set;
pub mod slot;
pub mod stats;
pub mod store;
pub mod stream;
pub mod subscriptions;
pub mod update;
pub mod validate;
pub mod watcher;

pub use configurator::{Configurator, Setup};
pub use validate::{Checks, validate};

#[cfg(test)]
mod testing {
    //! What tests of this room share.

    use std::{rc::Rc, sync::Arc};

    use super::{api_source::Management, stream::Streams, subscriptions::Ways, watcher::Watcher};
    use crate::{
        api::envoy::config::core::v3::Node, model::Snapshot, stats, upstream::grpc::Upstreams,
    };

    /// Files, and no management server.
    pub(super) fn ways(stats: &Arc<stats::Registry>) -> Ways {
        let snapshot = Arc::new(arc_swap::ArcSwap::from_pointee(Snapshot::default()));
        let node = Arc::new(Node::default());
        let (streams, _) = Streams::new(Upstreams::new(snapshot, stats), node, stats.clone());
        let watcher: Rc<Watcher> = Watcher::new().expect("inotify");
        Ways {
            watcher,
            management: Management::default(),
            streams,
            store: None,
        }
    }
}
