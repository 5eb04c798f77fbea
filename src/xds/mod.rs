//! Who is asked for resources, how answers are applied, in what order, and what
//! is warmed first.
//!
//! - [`watcher`]: tells when a file has been replaced.
//! - [`config_source`], [`feed`], [`named`]: where resources come from: whole
//!   sets by CDS and LDS, single ones by RDS, EDS and SDS.
//! - [`manager`]: what serves, what warms, what was refused.
//! - [`runtime_layers`]: the runtime's layers by RTDS and on disk.
//! - [`subscriptions`]: what resources refer to, shared by all who do.
//! - [`configurator`]: brings it all together and publishes snapshots.
//! - [`validate`](mod@validate): reads it all without running it.

pub mod config_source;
pub mod configurator;
pub mod dependencies;
pub mod feed;
pub mod kinds;
pub mod ledger;
pub mod manager;
pub mod named;
pub mod resource;
pub mod runtime_layers;
pub mod slot;
pub mod stats;
pub mod subscriptions;
pub mod validate;
pub mod watcher;

pub use configurator::{Configurator, Setup};
pub use validate::{Checks, validate};
