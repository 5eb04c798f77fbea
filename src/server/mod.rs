//! The process: workers, the life of a connection across configurations, and
//! the way it all ends.

mod admin;
mod bootstrap;
mod chain;
mod control;
mod drain;
mod extensions;
mod ground;
pub mod lifecycle;
mod local_address;
pub mod process;
mod serve;
mod shutdown;
mod signals;
mod source;
pub mod stats;
mod validate;
mod watchdog;
mod worker;
mod workers;

pub use bootstrap::Bootstrap;
pub use chain::{Chain, ChainHandle, ChainState, Door};
pub use drain::{DrainStrategy, Draining};
pub use lifecycle::{Lifecycle, Phase};
pub use local_address::local_address;
pub use worker::{ConnectionGuard, Worker, empty_snapshot};
pub use workers::Workers;
