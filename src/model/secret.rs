//! `envoy.extensions.transport_sockets.tls.v3.Secret`, compiled.

/// A named certificate, validation context or other secret.
#[derive(Debug)]
pub struct Secret {}
