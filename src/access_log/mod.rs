//! Access logs: what is written about a request or a TCP session when it ends.
//!
//! A worker formats a line into its own buffer for the file ([`Buffers`]); a
//! full buffer, or one that has waited for the flush interval, goes as a whole
//! to the file's writer thread ([`Sink`]). So no request waits for a disk, and
//! no line is torn by another worker's.

mod buffers;
mod files;
mod filter;
mod logger;
mod writer;

#[cfg(test)]
mod tests;

pub use buffers::Buffers;
pub use files::{Files, Settings, Sink, Target, stats};
pub use filter::Filter;
pub use logger::AccessLogs;
