//! `typed_per_filter_config`: what a route says to the HTTP filters.

use std::collections::HashMap;

use prost_types::Any;

use crate::{
    api::envoy::config::route::v3::FilterConfig,
    config::{At, Reported, type_name, unpack},
};

const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";

/// Refuses a message for a filter, by the filter's name. No filter takes a
/// message from a route yet, so what a `FilterConfig` says about a filter that is
/// not there is harmless when it says that the filter is disabled or optional.
///
/// # Errors
/// One for each filter with a message.
pub fn compile(messages: HashMap<String, Any>, at: &At<'_>) -> Result<(), Reported> {
    let at = at.field("typed_per_filter_config");
    let mut outcome = Ok(());
    for (name, any) in messages {
        let at = at.key(&name);
        let message = match type_name(&any) {
            FILTER_CONFIG => {
                let FilterConfig {
                    config,
                    is_optional,
                    disabled,
                } = unpack(&any, &at)?;
                config.filter(|any| !(is_optional || disabled || any.type_url.is_empty()))
            }
            _ => Some(any),
        };
        if let Some(message) = message {
            outcome = Err(at.error(format_args!("{} is not supported yet", type_name(&message))));
        }
    }
    outcome
}
