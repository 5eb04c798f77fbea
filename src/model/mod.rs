//! What the workers see: immutable runtime structures, compiled once from API
//! messages and swapped whole.

pub mod cluster;
pub mod context;
pub mod data_source;
pub mod header_mutation;
pub mod http1;
mod interned;
pub mod listener;
pub mod matcher;
mod no_sources;
pub mod route;
pub mod secret;
mod snapshot;
#[cfg(test)]
pub(crate) mod testing;

pub use context::{Context, Shared, Sources};
pub use interned::Interned;
pub use no_sources::NoSources;
pub use snapshot::{Clusters, Listeners, Snapshot, SnapshotSlot};
