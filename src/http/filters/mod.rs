//! HTTP filters, one to a file or folder, the table that knows them, and the
//! chains they are put together to.

mod chain;
pub mod cors;
pub mod filter;
pub mod router;
pub mod table;

use crate::{
    api::envoy::extensions::filters::network::http_connection_manager::v3::{
        HttpFilter, http_filter::ConfigType,
    },
    config::{At, Reported, type_name, unpack},
};

pub use chain::{FilterChain, Passing, Resolved};
pub use filter::{Filter, FilterContext};
pub use router::Router;

use chain::Element;

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

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
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(at.field("config_discovery").unsupported());
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
                filter: (kind.compile)(&any, cx, &at_config)?,
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

fn known() -> String {
    let names: Vec<_> = table::names()
        .chain(["envoy.filters.http.router"])
        .collect();
    names.join(", ")
}
