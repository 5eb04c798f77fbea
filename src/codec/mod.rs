//! Messages as every codec gives and takes them, and HTTP/1 on the wire as far as
//! it is the same on both sides: chunks, header lines, and the buffers between a
//! connection and its socket.
//!
//! What a message means is the business of the sides: the client's in
//! `http/http1`, the host's in `upstream/pool/http1`.

mod buffer;
mod chunked;
pub mod encode;
pub mod head;
mod headers;
mod hop;
pub mod hpack;
mod message;
mod names;
mod spelling;
pub mod stats;

pub use buffer::{Inbound, Outbound, take};
pub use chunked::{ChunkedDecoder, Step};
pub use headers::{Headers, Name};
pub use hop::{Coding, HopHeaders, Length};
pub use message::{RequestHead, ResponseHead};
pub use spelling::{Case, NameFormat, Preserve, Spelling};

/// What came is not HTTP/1, or could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid HTTP/1: {0}")]
pub struct Malformed(pub &'static str);
