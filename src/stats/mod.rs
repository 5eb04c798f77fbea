//! Counters, gauges, histograms and text readouts under Envoy's names.
//!
//! A stat is an index into its component's [`Block`]; each thread writes its own
//! array with a relaxed load and store, and a reader sums the arrays. Nothing on
//! the request path locks, hashes or allocates (but for the first write of a
//! thread to a block, which makes its array).

pub mod block;
pub mod codes;
pub mod histogram;
pub mod listing;
mod registry;
mod settings;
pub mod table;
pub mod tags;

pub use block::{Block, Merged};
pub use registry::Registry;
pub use settings::Settings;
pub use table::{Counter, Gauge, Histogram, Table, Text, Unit};

use std::cell::Cell;

thread_local! {
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Names the array this thread writes: 0 for the control thread, then one for
/// each worker. Called once, at the start of a thread. Two threads of one index
/// would lose counts to each other, so a helper thread counts nothing.
pub fn set_thread(index: usize) {
    THREAD.set(index);
}

/// The array this thread writes.
pub fn thread() -> usize {
    THREAD.get()
}
