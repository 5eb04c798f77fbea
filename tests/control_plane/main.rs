//! The proxy under a control plane: a real management server pushes to it, well
//! behaved and badly, with traffic running.
//!
//! With `NUNCIO_TEST_BINARY` naming Envoy, the tests that do not say otherwise
//! show that what they expect is what Envoy does.

#[path = "../common/mod.rs"]
mod common;

mod access_logs;
mod bad_input;
mod channels;
mod goldens;
mod last_known_good;
mod on_demand;
mod protocol;
mod reconnect;
mod rest;
mod scale;
mod scene;
mod scopes;
mod server;
mod sources;
mod traffic;
mod ttl;
mod warming;
