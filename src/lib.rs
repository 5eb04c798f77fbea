//! nuncio: a dynamically configured edge and service proxy that takes Envoy's
//! place without a change.
//!
//! Configuration flows down, traffic flows across; see `ARCHITECTURE.md`.

#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod cli;
pub mod config;
pub mod log;
pub mod model;
pub mod server;
pub mod stats;
pub mod xds;
