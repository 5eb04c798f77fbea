//! TLS that ends here, and what both sides of TLS share.

mod downstream;

pub use downstream::{DownstreamTls, facts};
