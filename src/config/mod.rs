//! From a document to a checked API message: YAML, JSON and protobuf, rules,
//! lines and columns.

mod bootstrap;
mod check;
mod discovery;
mod document;
mod file;
mod hash;
mod json;
mod parts;
pub mod place;
mod position;
mod reader;
mod resource;
mod rules;
mod scalar;
mod strictness;
pub(crate) mod suggest;
mod tree;
mod values;
mod well_known;
mod yaml;
mod yaml_error;

pub use bootstrap::Origin;
pub use discovery::{Discovery, read_discovery};
pub use document::{Document, DocumentError, Format, read};
pub use file::{MAX_CONTENT, read_file};
pub use place::{At, ConfigError, IsSet, Position, Report, Reported};
pub use resource::{RawResource, wrapper};
pub use strictness::{Strictness, Unknown};
pub use values::{
    Fraction, duration, fraction, optional_duration, share, type_name, type_of_url, unpack,
};

#[cfg(test)]
mod tests;

#[cfg(test)]
mod property_tests;
