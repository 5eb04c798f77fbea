//! The admin server: what is in force, what was refused, and the few switches
//! an operator may throw.
//!
//! It runs on the control thread. Short answers are written at once; long ones
//! (`/stats`, `/clusters`, `/config_dump`) part by part, with everything else on
//! the thread getting its turn in between, so that `/ready` never waits for them.

mod answer;
mod certs;
mod clusters;
mod config;
mod config_dump;
mod control;
mod endpoint;
mod home;
mod impatient;
mod info;
pub(crate) mod json;
mod listeners;
mod logging;
mod request;
mod server;
pub mod state;
mod stats;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use certs::first_expiry;
pub use config::{AllowedPaths, Config};
pub use server::{Listening, Server};
pub use state::State;
