//! What both sides of the proxy need of HTTP/2 beyond the codec.

mod floods;
pub mod frames;
mod io;
mod keepalive;
pub mod stats;
mod watch;

/// What a client begins with (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub use floods::{Counts, End, Flood, FrameLimits};
pub use io::Http2Io;
pub use keepalive::until_silent;
pub use watch::Watched;
