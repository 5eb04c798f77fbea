//! Scopes: those that stand in connection managers, and those that came by SRDS.

use std::time::SystemTime;

use prost::Message;

use crate::{
    admin::{
        State,
        state::{Kind, Resource, Set},
    },
    api::envoy::{
        admin::v3::{self as pb, ClientResourceStatus, scoped_routes_config_dump as dump},
        extensions::filters::network::http_connection_manager::v3::{
            ScopedRoutes, scoped_routes::ConfigSpecifier,
        },
    },
};

use super::entry::{Entry, any, any_of, failure, timestamp};

/// The lists: `inline` first.
pub fn lists(state: &State, mut inline: Vec<Entry>) -> Vec<(&'static str, Vec<Entry>)> {
    let sets = state.config.scopes().into_iter();
    let mut dynamic: Vec<_> = sets.map(|set| Entry::Scopes(Box::new(set))).collect();
    for entries in [&mut inline, &mut dynamic] {
        entries.sort_by(|a, b| a.name().cmp(b.name()));
    }
    vec![
        ("inline_scoped_route_configs", inline),
        ("dynamic_scoped_route_configs", dynamic),
    ]
}

/// The scopes that stand in a connection manager, accepted at `updated`.
pub fn inline(message: ScopedRoutes, updated: SystemTime) -> Option<Entry> {
    let Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) = message.config_specifier
    else {
        return None;
    };
    let scopes = list.scoped_route_configurations.into_iter();
    let config = dump::InlineScopedRouteConfigs {
        name: message.name.clone(),
        scoped_route_configs: scopes
            .map(|scope| any_of(Kind::Scope, scope.encode_to_vec()))
            .collect(),
        last_updated: Some(timestamp(updated)),
    };
    Some(Entry::InlineScopes(message.name.into(), Box::new(config)))
}

/// The scopes of one subscription. Of those that were refused the first is shown,
/// and what is wrong with each is said.
pub fn message(set: &Set) -> dump::DynamicScopedRouteConfigs {
    let Set {
        name,
        source,
        resources,
    } = set;
    let shown = resources.iter().filter_map(|scope| {
        let version = scope.active.as_ref().or(scope.warming.as_ref())?;
        Some(any(Kind::Scope, &version.message))
    });
    let mut refused = resources.iter().filter_map(|scope| {
        let error = scope.error.as_ref()?;
        Some(failure(Kind::Scope, &scope.name, error))
    });
    let mut error_state: Option<pb::UpdateFailureState> = refused.next();
    for other in refused {
        if let Some(first) = &mut error_state {
            first.details.push('\n');
            first.details.push_str(&other.details);
        }
    }
    if error_state.is_none() {
        error_state = source
            .error
            .as_ref()
            .map(|error| failure(Kind::Scope, name, error));
    }
    let is = |status| {
        resources
            .iter()
            .any(|scope: &Resource| scope.status == status)
    };
    let client_status = match () {
        () if error_state.is_some() => ClientResourceStatus::Nacked,
        () if is(ClientResourceStatus::Requested) || source.last_updated.is_none() => {
            ClientResourceStatus::Requested
        }
        () => ClientResourceStatus::Unknown,
    };
    dump::DynamicScopedRouteConfigs {
        name: name.to_string(),
        version_info: source.version_info.to_string(),
        scoped_route_configs: shown.collect(),
        last_updated: source.last_updated.map(timestamp),
        error_state,
        client_status: client_status.into(),
    }
}
