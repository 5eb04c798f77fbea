//! `scoped_routes`: inline, or by SRDS.

use std::sync::Arc;

use crate::{
    api::envoy::{
        config::core::v3::ConfigSource,
        extensions::filters::network::http_connection_manager::v3::{
            ScopedRds, ScopedRouteConfigurationsList, ScopedRoutes as Message,
            scoped_routes::ConfigSpecifier,
        },
    },
    config::{At, Reported},
    model::{
        Context,
        route::{Scope, ScopeKeyBuilder, ScopeRoutes, ScopeTable, ScopedRoutes},
    },
    refuse,
    xds::{demand::Demand, slot::Slot},
};

/// Compiles the scopes of a connection manager whose stats stand under `stat_prefix`.
///
/// # Errors
/// What is wrong has been reported.
pub fn compile(
    message: Message,
    stat_prefix: &str,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<ScopedRoutes, Reported> {
    let Message {
        name,
        scope_key_builder,
        rds_config_source,
        config_specifier,
    } = message;
    let at_key = at.field("scope_key_builder");
    let key = match scope_key_builder {
        Some(builder) => ScopeKeyBuilder::compile(builder, &at_key),
        None => Err(at_key.error("is required")),
    };
    let routes = ScopeRoutes {
        source: rds_config_source.as_ref(),
        stat_prefix,
    };
    let scopes = match config_specifier {
        Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) => {
            let at = at.field("scoped_route_configurations_list");
            inline(&name, list, stat_prefix, cx, &at).map(|scopes| (scopes, None))
        }
        Some(ConfigSpecifier::ScopedRds(scoped)) => {
            let at = at.field("scoped_rds");
            discovered(&name, scoped, routes, cx, &at).map(|(scopes, d)| (scopes, Some(d)))
        }
        None => Err(at.error("one of scoped_route_configurations_list, scoped_rds is required")),
    };
    let (scopes, demand) = scopes?;
    Ok(ScopedRoutes {
        key: key?,
        scopes,
        demand,
    })
}

/// Scopes that stand in the listener, as do their routes.
fn inline(
    name: &str,
    list: ScopedRouteConfigurationsList,
    stat_prefix: &str,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Arc<Slot<ScopeTable>>, Reported> {
    let ScopedRouteConfigurationsList {
        scoped_route_configurations,
    } = list;
    let at = at.field("scoped_route_configurations");
    let (mut scopes, mut outcome) = (Vec::new(), Ok(()));
    for (index, message) in scoped_route_configurations.into_iter().enumerate() {
        let at = at.index(index);
        if !message.route_configuration_name.is_empty() {
            outcome = Err(at.field("route_configuration_name").error(
                "Fetching routes via RDS (route_configuration_name) is not supported with inline \
                 scoped routes.",
            ));
        } else if message.route_configuration.is_none() {
            outcome = Err(at
                .field("route_configuration")
                .error("You must specify a route_configuration with inline scoped routes."));
        } else {
            let routes = ScopeRoutes {
                source: None,
                stat_prefix,
            };
            match Scope::compile(message, routes, false, cx, &at) {
                Ok(scope) => scopes.push(scope),
                Err(reported) => outcome = Err(reported),
            }
        }
    }
    outcome?;
    let table = ScopeTable::new(&scopes);
    Ok(Arc::new(Slot::fixed(name, Arc::new(table))))
}

/// Scopes by SRDS.
fn discovered(
    name: &str,
    message: ScopedRds,
    routes: ScopeRoutes<'_>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(Arc<Slot<ScopeTable>>, Demand), Reported> {
    let ScopedRds {
        scoped_rds_config_source,
        srds_resources_locator,
    } = message;
    let refused = refuse!(at; srds_resources_locator);
    let at_source = at.field("scoped_rds_config_source");
    let source: ConfigSource =
        scoped_rds_config_source.ok_or_else(|| at_source.error("is required"))?;
    refused?;
    cx.sources.scopes(&source, name, routes, &at_source)
}
