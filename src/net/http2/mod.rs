//! What both sides of the proxy need of HTTP/2 beyond the codec.

mod frames;
mod io;
mod keepalive;
pub mod stats;
mod watch;

pub use io::Http2Io;
pub use keepalive::until_silent;
pub use watch::{End, Flood, FrameLimits, Watched};
