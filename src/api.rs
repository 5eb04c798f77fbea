//! The API description: generated message types and the descriptors from which
//! documents are read, checked and printed.

mod lazy;

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

#[allow(clippy::all, rustdoc::all, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}

pub use generated::{envoy, google, validate, xds};
pub use lazy::Lazy;

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));

/// Descriptors of every message of the API, with their constraint options.
///
/// Immutable, built at the first call.
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(DESCRIPTORS).expect("the build compiled these descriptors")
    });
    &POOL
}

/// The prefix of every type URL of the API.
pub const TYPE_URL_PREFIX: &str = "type.googleapis.com/";
