//! nuncio: a dynamically configured edge and service proxy that takes Envoy's
//! place without a change.
//!
//! Configuration flows down, traffic flows across; see `ARCHITECTURE.md`.

#![forbid(unsafe_code)]
// What the API deprecates is still part of it: each such field is used or refused.
#![allow(deprecated)]

pub mod access_log;
pub mod admin;
pub mod api;
pub mod cli;
pub mod codec;
pub mod config;
mod digest;
pub mod formatter;
pub mod http;
pub mod log;
pub mod matcher;
pub mod model;
pub mod net;
pub mod overload;
pub mod runtime;
pub mod server;
pub mod stats;
pub mod tcp;
pub mod upstream;
pub mod xds;
