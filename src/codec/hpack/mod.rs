//! HPACK: the header blocks of HTTP/2 (RFC 7541).

mod decode;
mod encode;
mod field;
mod huffman;
#[cfg(test)]
mod peer_test;
mod table;

pub use decode::Decoder;
pub use encode::Encoder;
pub use field::{Field, Pseudo};

/// What came is no header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid header block: {0}")]
pub struct Malformed(pub &'static str);
