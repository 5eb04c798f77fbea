//! HTTP filters, one to a file or folder, the table that knows them, and the
//! chains they are put together to.

mod chain;
pub mod cors;
pub mod filter;
mod on_demand;
pub mod router;
pub mod table;

use std::sync::Arc;

use prost_types::Any;

use crate::{
    api::envoy::{
        config::core::v3::ExtensionConfigSource,
        extensions::filters::network::http_connection_manager::v3::{
            HttpFilter, http_filter::ConfigType,
        },
    },
    config::{At, Reported, type_name, type_of_url, unpack},
    model::{
        Context,
        context::{FilterWanted, Meanwhile},
    },
};

pub use chain::{FilterChain, Passing, Resolved};
pub use filter::{Filter, FilterContext};
pub use router::Router;

use chain::{Element, Source};

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// The name of every filter, and the messages that configure it.
pub fn extensions() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    let router = ("envoy.filters.http.router", vec![ROUTER]);
    table::types().chain([router])
}

/// One of `http_filters`, compiled.
enum Compiled {
    Filter(Element),
    Router(Router),
    /// It is optional, and not known.
    Nothing,
}

/// Compiles `http_filters`: any filters, then the router.
///
/// # Errors
/// What is wrong has been reported: a filter that is not known, or a chain that
/// does not end in the router.
pub fn compile_chain(
    filters: Vec<HttpFilter>,
    cx: FilterContext<'_>,
    at: &At<'_>,
) -> Result<(FilterChain, Router), Reported> {
    let count = filters.len();
    let (mut elements, mut router) = (Vec::with_capacity(count), None);
    let mut outcome = Ok(());
    for (index, filter) in filters.into_iter().enumerate() {
        let at = at.index(index);
        match compile_filter(filter, cx, &at) {
            Ok(Compiled::Nothing) => {}
            Ok(Compiled::Router(_)) if index + 1 < count => {
                outcome =
                    Err(at.error("the router ends the chain, so no other filter may follow it"));
            }
            Ok(Compiled::Router(compiled)) => router = Some(compiled),
            Ok(Compiled::Filter(element)) => elements.push(element),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome?;
    match router {
        Some(router) => Ok((FilterChain::new(elements), router)),
        None => Err(at
            .error("the last filter has to be one that ends the chain: envoy.filters.http.router")),
    }
}

fn compile_filter(
    filter: HttpFilter,
    cx: FilterContext<'_>,
    at: &At<'_>,
) -> Result<Compiled, Reported> {
    let HttpFilter {
        name,
        is_optional,
        disabled,
        config_type,
    } = filter;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(source)) => {
            let at = at.field("config_discovery");
            return Ok(Compiled::Filter(Element {
                filter: compile_source(&name, source, cx, &at)?,
                name: name.into(),
                disabled,
            }));
        }
        None => return Err(at.error(format_args!("the filter {name:?} has no typed_config"))),
    };
    let at_config = at.field("typed_config");
    match type_name(&any) {
        ROUTER if disabled => Err(at
            .field("disabled")
            .error("the router ends the chain and cannot be disabled")),
        ROUTER => {
            Router::compile(unpack(&any, &at_config)?, cx.cx, &at_config).map(Compiled::Router)
        }
        message => match table::of_message(message) {
            Some(kind) => Ok(Compiled::Filter(Element {
                filter: Source::Fixed((kind.compile)(&any, cx, &at_config)?),
                name: name.into(),
                disabled,
            })),
            // By the API's own rule an optional filter that is not known is left out.
            None if is_optional => Ok(Compiled::Nothing),
            None => Err(at_config.error(format_args!(
                "the HTTP filter {name:?} of type {message:?} is not supported yet; there is {}",
                known()
            ))),
        },
    }
}

/// A filter that comes by ECDS.
fn compile_source(
    name: &str,
    message: ExtensionConfigSource,
    cx: FilterContext<'_>,
    at: &At<'_>,
) -> Result<Source, Reported> {
    let ExtensionConfigSource {
        config_source,
        default_config,
        apply_default_config_without_warming,
        type_urls,
    } = message;
    let mut outcome = Ok(());
    let at_types = at.field("type_urls");
    for (index, url) in type_urls.iter().enumerate() {
        let at = at_types.index(index);
        match type_of_url(url) {
            ROUTER => {
                outcome = Err(at.error("the router ends the chain and cannot be discovered"));
            }
            name if table::of_message(name).is_none() => {
                outcome = Err(at.error(format_args!(
                    "Error: no factory found for a required type URL {name}.; there is {}",
                    known()
                )));
            }
            _ => {}
        }
    }
    let types = type_urls.iter().map(|url| type_of_url(url).into());
    let want = FilterWanted {
        stat_prefix: cx.stat_prefix.into(),
        types: types.collect(),
    };
    let at_default = at.field("default_config");
    let default = match default_config {
        Some(any) => compile_discovered(&any, &want, cx.cx, &at_default).map(Some),
        None if apply_default_config_without_warming => {
            let at = at.field("apply_default_config_without_warming");
            Err(at.error(format_args!(
                "Error: filter config {name} applied without warming but has no default config."
            )))
        }
        None => Ok(None),
    };
    let at_source = at.field("config_source");
    let source = config_source.ok_or_else(|| at_source.error("is required"));
    outcome?;
    let (default, source) = (default?, source?);
    let meanwhile = match default {
        None => Meanwhile::Nothing,
        Some(_) => Meanwhile::Default {
            at_once: apply_default_config_without_warming,
        },
    };
    let sources = cx.cx.sources;
    let slot = sources.filter(&source, name, want, meanwhile, &at_source)?;
    Ok(Source::Discovered { slot, default })
}

/// Compiles the configuration of a filter that came by ECDS, or its default.
///
/// # Errors
/// When it is not of one of the types that are wanted, or not valid; reported.
pub fn compile_discovered(
    any: &Any,
    want: &FilterWanted,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Arc<dyn Filter>, Reported> {
    let FilterWanted { stat_prefix, types } = want;
    let message = type_name(any);
    match table::of_message(message) {
        Some(kind) if types.iter().any(|wanted| **wanted == *message) => {
            (kind.compile)(any, FilterContext { cx, stat_prefix }, at)
        }
        _ => Err(at.error(format_args!(
            "Error: filter config has type URL {message} but expect {}.",
            types.join(", ")
        ))),
    }
}

fn known() -> String {
    let names: Vec<_> = table::names()
        .chain(["envoy.filters.http.router"])
        .collect();
    names.join(", ")
}
