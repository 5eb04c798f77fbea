//! The admin server: what is in force, what was refused, and the few switches
//! an operator may throw.

pub mod state;

pub use state::State;
