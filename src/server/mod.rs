//! The process: its start, its threads, its end.

pub mod process;
