//! Access logs: what is written about a request or a TCP session when it ends.
//!
//! A worker formats an entry into its own buffer for the place it goes to
//! ([`Buffers`]); a full buffer, or one that has waited for the flush interval,
//! goes as a whole to the file's writer thread, or to the control thread, which
//! keeps the stream to the log's service ([`Sink`]). So no request waits for a
//! disk or a peer, and no line is torn by another worker's.

mod buffers;
mod files;
mod filter;
mod grpc;
mod logger;
mod sink;
mod writer;

#[cfg(test)]
mod tests;

pub use buffers::Buffers;
pub use files::{FileSink, Settings, Target, stats};
pub use filter::Filter;
pub use grpc::ServiceSink;
pub use logger::AccessLogs;
pub use sink::{Sink, Sinks};
