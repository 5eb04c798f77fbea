//! What both sides of the proxy need of HTTP/2 beyond the codec.

mod floods;
pub mod frames;
mod io;
mod keepalive;
pub mod stats;
mod watch;

pub use floods::{Counts, End, Flood, FrameLimits};
pub use io::Http2Io;
pub use keepalive::until_silent;
pub use watch::Watched;
