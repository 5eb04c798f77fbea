//! Routes: those that stand in connection managers, and those that came by RDS.

use prost::{Message, Name};

use crate::{
    admin::{
        State,
        state::{Kind, Resource},
    },
    api::envoy::{
        admin::v3 as pb,
        config::listener::v3::{Listener, filter},
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager, http_connection_manager::RouteSpecifier,
        },
    },
};

use super::{
    entry::{self, Entry, any_of, timestamp},
    scopes,
};

/// What there is of routes.
pub struct Lists {
    /// The lists of route tables.
    pub routes: Vec<(&'static str, Vec<Entry>)>,
    /// Scopes that stand in connection managers.
    pub scopes: Vec<Entry>,
}

/// What stands in connection managers.
#[derive(Default)]
struct Inline {
    routes: Vec<Entry>,
    scopes: Vec<Entry>,
}

/// The lists; `None` when there is no connection manager.
pub fn lists(state: &State) -> Option<Lists> {
    let listeners = state.config.resources(Kind::Listener);
    let mut found = false;
    let mut inline = Inline::default();
    for listener in &listeners {
        found |= add_inline(listener, &mut inline);
    }
    let Inline {
        routes: mut inline,
        scopes,
    } = inline;
    let mut lists = entry::lists(state, Kind::Route);
    found |= lists.iter().any(|(_, entries)| !entries.is_empty());
    for (field, entries) in &mut lists {
        if *field == "static_route_configs" {
            entries.append(&mut inline);
        }
    }
    found.then_some(Lists {
        routes: lists,
        scopes,
    })
}

/// Adds the route tables and scopes that stand in a listener, and says whether it
/// has any connection manager.
fn add_inline(listener: &Resource, out: &mut Inline) -> bool {
    let Some(active) = &listener.active else {
        return false;
    };
    let Ok(message) = Listener::decode(active.message.bytes()) else {
        return false;
    };
    let chains = message
        .filter_chains
        .iter()
        .chain(&message.default_filter_chain);
    let mut found = false;
    for filter in chains.flat_map(|chain| &chain.filters) {
        let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            continue;
        };
        if !any.type_url.ends_with(&HttpConnectionManager::full_name()) {
            continue;
        }
        found = true;
        let Ok(manager) = HttpConnectionManager::decode(&*any.value) else {
            continue;
        };
        if let Some(RouteSpecifier::ScopedRoutes(scoped)) = manager.route_specifier {
            out.scopes
                .extend(scopes::inline(scoped, active.last_updated));
        } else if let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier {
            let config = pb::routes_config_dump::StaticRouteConfig {
                route_config: Some(any_of(Kind::Route, routes.encode_to_vec())),
                last_updated: Some(timestamp(active.last_updated)),
            };
            out.routes
                .push(Entry::Routes(routes.name.into(), Box::new(config)));
        }
    }
    found
}
