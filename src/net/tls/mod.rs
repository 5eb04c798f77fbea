//! TLS that ends here, and what both sides of TLS share.

mod cache;
mod downstream;

pub use cache::{Cache, Interned};
pub use downstream::{DownstreamTls, facts};
