//! HTTP: codecs, connection manager, filters.

use crate::{
    api::envoy::extensions::filters::network::http_connection_manager::v3 as pb,
    config::{At, Reported},
    model::Context,
};

/// Compiled `HttpConnectionManager`.
#[derive(Debug)]
pub struct ConnectionManager {}

impl ConnectionManager {
    /// Compiles it.
    pub fn compile(
        _message: pb::HttpConnectionManager,
        _cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        Err(at.unsupported())
    }
    /// Codec options that an open connection cannot change.
    pub fn transport_identity(&self) -> u64 {
        0
    }
}

/// Serves one connection to its end.
pub async fn serve(_connection: crate::net::Connection) {}
