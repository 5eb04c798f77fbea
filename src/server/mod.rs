//! The process: workers, the life of a connection across configurations, and
//! the way it all ends.

mod chain;
mod drain;
pub mod lifecycle;
pub mod process;
mod worker;
mod workers;

pub use chain::{Chain, ChainHandle, ChainState};
pub use drain::{DrainStrategy, Draining};
pub use lifecycle::{Lifecycle, Phase};
pub use worker::{ConnectionGuard, Worker, empty_snapshot};
pub use workers::Workers;
