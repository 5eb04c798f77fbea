//! Who is asked for resources, how answers are applied, in what order, and what
//! is warmed first.

pub mod slot;
pub mod watcher;
