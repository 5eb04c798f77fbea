//! HTTP filters, one to a file or folder, and the table that knows them.

pub mod router;

use crate::{
    api::envoy::extensions::filters::network::http_connection_manager::v3::{
        HttpFilter, http_filter::ConfigType,
    },
    config::{At, Reported},
    model::Context,
    refuse,
};

pub use router::Router;

/// Filters by the type of their configuration: `(type, name as people know it)`.
const FILTERS: [(&str, &str); 1] = [(
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.filters.http.router",
)];

/// Compiles `http_filters`: the router, last.
///
/// # Errors
/// What is wrong has been reported: a filter that is not known, or a chain that
/// does not end in the router.
pub fn compile_chain(
    filters: Vec<HttpFilter>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Router, Reported> {
    let count = filters.len();
    let mut router = None;
    let mut outcome = Ok(());
    for (index, filter) in filters.into_iter().enumerate() {
        let at = at.index(index);
        match compile_filter(filter, cx, &at) {
            Ok(None) => {}
            Ok(Some(_)) if index + 1 < count => {
                outcome =
                    Err(at.error("the router ends the chain, so no other filter may follow it"));
            }
            Ok(Some(compiled)) => router = Some(compiled),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome?;
    router.ok_or_else(|| {
        at.error("the last filter has to be one that ends the chain: envoy.filters.http.router")
    })
}

fn compile_filter(
    filter: HttpFilter,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Option<Router>, Reported> {
    let HttpFilter {
        name,
        is_optional,
        disabled,
        config_type,
    } = filter;
    refuse!(at; disabled)?;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(at.field("config_discovery").unsupported());
        }
        None => return Err(at.error(format_args!("the filter {name:?} has no typed_config"))),
    };
    let at = at.field("typed_config");
    match crate::config::type_name(&any) {
        "envoy.extensions.filters.http.router.v3.Router" => {
            Router::compile(crate::config::unpack(&any, &at)?, cx, &at).map(Some)
        }
        // By the API's own rule an optional filter that is not known is left out.
        _ if is_optional => Ok(None),
        other => {
            let known: Vec<_> = FILTERS.iter().map(|(_, name)| *name).collect();
            Err(at.error(format_args!(
                "the HTTP filter {name:?} of type {other:?} is not supported yet; there is {}",
                known.join(", ")
            )))
        }
    }
}
