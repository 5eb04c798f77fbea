//! From a document to a checked API message: YAML, JSON and protobuf, rules,
//! lines and columns.

pub mod place;

pub use place::{At, ConfigError, IsSet, Position, Report, Reported};
pub fn type_name(any: &prost_types::Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or("")
}
pub fn unpack<M: prost::Message + prost::Name + Default>(
    any: &prost_types::Any,
    at: &At<'_>,
) -> Result<M, Reported> {
    M::decode(any.value.as_slice()).map_err(|e| at.error(e))
}
pub fn duration(d: &prost_types::Duration, at: &At<'_>) -> Result<std::time::Duration, Reported> {
    (*d).try_into().map_err(|e| at.error(e))
}
