//! From a document to a checked API message: YAML, JSON and protobuf, rules,
//! lines and columns.

pub mod place;

pub use place::{At, ConfigError, IsSet, Position, Report, Reported};
