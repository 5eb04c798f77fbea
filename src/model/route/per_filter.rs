//! `typed_per_filter_config`: what a route says to the HTTP filters.

use std::collections::HashMap;

use prost_types::Any;

use crate::{
    api::envoy::config::route::v3::FilterConfig,
    config::{At, Reported, unpack},
};

const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";

/// Refuses a message for a filter that is not known, by the filter's name,
/// unless a `FilterConfig` says that it is optional.
///
/// No filter takes a message from a route yet.
///
/// # Errors
/// The first and every other unknown filter.
pub fn compile(messages: HashMap<String, Any>, at: &At<'_>) -> Result<(), Reported> {
    let at = at.field("typed_per_filter_config");
    let mut outcome = Ok(());
    for (name, any) in messages {
        let at = at.key(&name);
        if any.type_url.rsplit('/').next() == Some(FILTER_CONFIG) {
            let FilterConfig {
                config,
                is_optional,
                disabled,
            } = unpack(&any, &at)?;
            if is_optional {
                continue;
            }
            outcome = Err(match config {
                Some(config) => at.error(format_args!("{} is not supported yet", config.type_url)),
                None if disabled => at.field("disabled").unsupported(),
                None => at.error("says nothing: set config, disabled or is_optional"),
            });
            continue;
        }
        outcome = Err(at.error(format_args!("{} is not supported yet", any.type_url)));
    }
    outcome
}
