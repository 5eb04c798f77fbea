//! `envoy.config.listener.v3.Listener`, compiled.

use std::sync::Arc;

/// One listener.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
}
