//! What both sides of the proxy need of HTTP/2 beyond the codec.

mod io;
mod keepalive;

pub use io::Http2Io;
pub use keepalive::until_silent;
