//! One resource, as the dump of its kind shows it.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prost_reflect::DynamicMessage;
use prost_types::{Any, Timestamp};

use crate::{
    admin::{
        State, json,
        state::{Encoding, Kind, Origin, Refusal, Resource, Set, Source, Version},
    },
    api::{
        self,
        envoy::admin::v3::{self as pb, ClientResourceStatus},
    },
    model::cluster::Cluster,
};

use super::{endpoints, redact, scopes};

/// What stands in a list of the dump.
pub enum Entry {
    /// A resource of the configuration.
    Resource(Kind, Box<Resource>),
    /// The endpoints of a cluster, as its hosts are now, and what is known of the
    /// resource by which they came.
    Endpoints(Arc<Cluster>, Option<Box<Resource>>),
    /// The scopes of a connection manager, by SRDS.
    Scopes(Box<Set>),
    /// Scopes that stand in a connection manager.
    InlineScopes(
        Box<str>,
        Box<pb::scoped_routes_config_dump::InlineScopedRouteConfigs>,
    ),
    /// Routes that stand in a connection manager.
    Routes(Box<str>, Box<pb::routes_config_dump::StaticRouteConfig>),
}

/// The lists of a kind and what stands in each.
pub fn lists(state: &State, kind: Kind) -> Vec<(&'static str, Vec<Entry>)> {
    let names: [&'static str; 3] = match kind {
        Kind::Cluster => [
            "static_clusters",
            "dynamic_active_clusters",
            "dynamic_warming_clusters",
        ],
        Kind::Listener => ["static_listeners", "dynamic_listeners", "dynamic_listeners"],
        Kind::Route => [
            "static_route_configs",
            "dynamic_route_configs",
            "dynamic_route_configs",
        ],
        Kind::Endpoint => [
            "static_endpoint_configs",
            "dynamic_endpoint_configs",
            "dynamic_endpoint_configs",
        ],
        Kind::Extension => ["ecds_filters"; 3],
        Kind::Runtime | Kind::Scope | Kind::VirtualHost => return Vec::new(),
        Kind::Secret => [
            "static_secrets",
            "dynamic_active_secrets",
            "dynamic_warming_secrets",
        ],
    };
    let mut lists: Vec<(&'static str, Vec<Entry>)> = Vec::new();
    for name in names {
        if lists.last().is_none_or(|(last, _)| *last != name) {
            lists.push((name, Vec::new()));
        }
    }
    let last = lists.len() - 1;
    for resource in state.config.resources(kind) {
        let has_list_of_warming = last == 2;
        let index = match (&resource.origin, &resource.active) {
            _ if last == 0 => 0,
            (Origin::Static, _) => 0,
            (Origin::Dynamic(_), None) if has_list_of_warming => 2,
            (Origin::Dynamic(_), _) => 1,
        };
        // A cluster that serves while its next configuration warms is in both lists.
        if has_list_of_warming && index == 1 && resource.warming.is_some() {
            let warming = Resource {
                active: None,
                error: None,
                ..resource.clone()
            };
            lists[2].1.push(Entry::Resource(kind, Box::new(warming)));
        }
        lists[index]
            .1
            .push(Entry::Resource(kind, Box::new(resource)));
    }
    let lost = state.config.sources().into_iter();
    for source in lost.filter(|source| source.is_lost && source.name == kind.service()) {
        show_lost(&mut lists, kind, source);
    }
    for (_, entries) in &mut lists {
        entries.sort_by(|a, b| a.name().cmp(b.name()));
    }
    lists
}

/// Shows what is wrong with an answer of which nothing could be taken: on the
/// resource that was asked for, or else by itself, under the name of the source.
fn show_lost(lists: &mut [(&'static str, Vec<Entry>)], kind: Kind, source: Source) {
    let name = source.resource.as_ref().unwrap_or(&source.place);
    let resource =
        lists
            .iter_mut()
            .flat_map(|(_, entries)| entries)
            .find_map(|entry| match entry {
                Entry::Resource(_, resource) if resource.name == *name => Some(resource),
                _ => None,
            });
    let status = ClientResourceStatus::Nacked;
    match resource {
        Some(resource) => {
            resource.error = source.error;
            resource.status = status;
        }
        None => {
            let resource = Resource {
                name: name.clone(),
                origin: Origin::Dynamic(source.place),
                active: None,
                warming: None,
                draining: None,
                error: source.error,
                status,
            };
            if let Some((_, entries)) = lists.last_mut() {
                entries.push(Entry::Resource(kind, Box::new(resource)));
            }
        }
    }
}

impl Entry {
    /// The name that `name_regex` is held against.
    pub fn name(&self) -> &str {
        match self {
            Self::Resource(_, resource) => &resource.name,
            Self::Endpoints(cluster, _) => &cluster.name,
            Self::Scopes(set) => &set.name,
            Self::Routes(name, _) | Self::InlineScopes(name, _) => name,
        }
    }

    /// As an element of the list of this name, without secrets.
    pub fn message(&self, list: &str) -> DynamicMessage {
        let mut message = match self {
            Self::Endpoints(cluster, resource) => endpoint_message(cluster, resource, list),
            Self::Routes(_, config) => json::reflect(&**config),
            Self::InlineScopes(_, config) => json::reflect(&**config),
            Self::Scopes(set) => json::reflect(&scopes::message(set)),
            Self::Resource(kind, resource) => {
                let shown = shown(resource, list);
                let any = shown.map(|version| any(*kind, &version.message));
                resource_message(*kind, resource, shown, any)
            }
        };
        redact::redact(&mut message);
        message
    }
}

/// The version of a resource that the list of this name shows.
fn shown<'a>(resource: &'a Resource, list: &str) -> Option<&'a Version> {
    match list.contains("warming") {
        true => resource.warming.as_ref(),
        false => resource.active.as_ref().or(resource.warming.as_ref()),
    }
}

fn endpoint_message(
    cluster: &Cluster,
    resource: &Option<Box<Resource>>,
    list: &str,
) -> DynamicMessage {
    let endpoint_config = Some(endpoints::of(cluster));
    match (resource, list) {
        (_, "static_endpoint_configs") => {
            json::reflect(&pb::endpoints_config_dump::StaticEndpointConfig {
                endpoint_config,
                last_updated: None,
            })
        }
        (Some(resource), _) => {
            let shown = shown(resource, list);
            resource_message(Kind::Endpoint, resource, shown, endpoint_config)
        }
        (None, _) => json::reflect(&pb::endpoints_config_dump::DynamicEndpointConfig {
            endpoint_config,
            ..Default::default()
        }),
    }
}

/// A resource as its kind's list shows it: this version, of which `any` is the message.
fn resource_message(
    kind: Kind,
    resource: &Resource,
    shown: Option<&Version>,
    any: Option<Any>,
) -> DynamicMessage {
    let last_updated = shown.map(|version| timestamp(version.last_updated));
    let version_info = shown
        .map(|v| v.version_info.to_string())
        .unwrap_or_default();
    let error_state = resource
        .error
        .as_ref()
        .map(|error| failure(kind, &resource.name, error));
    // Envoy leaves it out; it is told where it says more than the states do.
    let client_status = match resource.status {
        ClientResourceStatus::Acked => ClientResourceStatus::Unknown,
        status => status,
    }
    .into();
    let name = resource.name.to_string();
    let is_static = resource.origin == Origin::Static;
    match (kind, is_static) {
        (Kind::Cluster, true) => json::reflect(&pb::clusters_config_dump::StaticCluster {
            cluster: any,
            last_updated,
        }),
        (Kind::Cluster, false) => json::reflect(&pb::clusters_config_dump::DynamicCluster {
            version_info,
            cluster: any,
            last_updated,
            error_state,
            client_status,
        }),
        (Kind::Listener, true) => json::reflect(&pb::listeners_config_dump::StaticListener {
            listener: any,
            last_updated,
        }),
        (Kind::Listener, false) => json::reflect(&pb::listeners_config_dump::DynamicListener {
            name,
            active_state: resource.active.as_ref().map(listener_state),
            warming_state: resource.warming.as_ref().map(listener_state),
            draining_state: resource.draining.as_ref().map(listener_state),
            error_state,
            client_status,
        }),
        (Kind::Route, true) => json::reflect(&pb::routes_config_dump::StaticRouteConfig {
            route_config: any,
            last_updated,
        }),
        (Kind::Route, false) => json::reflect(&pb::routes_config_dump::DynamicRouteConfig {
            version_info,
            route_config: any,
            last_updated,
            error_state,
            client_status,
        }),
        (Kind::Endpoint, true) => json::reflect(&pb::endpoints_config_dump::StaticEndpointConfig {
            endpoint_config: any,
            last_updated,
        }),
        (Kind::Endpoint, false) => {
            json::reflect(&pb::endpoints_config_dump::DynamicEndpointConfig {
                version_info,
                endpoint_config: any,
                last_updated,
                error_state,
                client_status,
            })
        }
        (Kind::Extension, _) => json::reflect(&pb::ecds_config_dump::EcdsFilterConfig {
            version_info,
            ecds_filter: any,
            last_updated,
            error_state,
            client_status,
        }),
        // Not in the dump, see `lists`.
        (Kind::Runtime | Kind::Scope | Kind::VirtualHost, _) => {
            json::reflect(&any.unwrap_or_default())
        }
        (Kind::Secret, true) => json::reflect(&pb::secrets_config_dump::StaticSecret {
            name,
            last_updated,
            secret: any,
        }),
        (Kind::Secret, false) => json::reflect(&pb::secrets_config_dump::DynamicSecret {
            name,
            version_info,
            last_updated,
            secret: any,
            error_state,
            client_status,
        }),
    }
}

fn listener_state(version: &Version) -> pb::listeners_config_dump::DynamicListenerState {
    pb::listeners_config_dump::DynamicListenerState {
        version_info: version.version_info.to_string(),
        listener: Some(any(Kind::Listener, &version.message)),
        last_updated: Some(timestamp(version.last_updated)),
    }
}

/// How the dump shows what was refused.
pub fn failure(kind: Kind, name: &str, error: &Refusal) -> pb::UpdateFailureState {
    let Refusal {
        message,
        version_info,
        at,
        details,
    } = error;
    // Nothing is left of what cannot be read but its name.
    let failed_configuration = message
        .as_ref()
        .map(|message| any(kind, message))
        .filter(|any| !any.value.is_empty() && json::prints(kind.message_name(), &any.value));
    let details = match failed_configuration {
        None if !details.starts_with(name) => format!("'{name}': {details}"),
        _ => details.to_string(),
    };
    pb::UpdateFailureState {
        failed_configuration,
        last_update_attempt: Some(timestamp(*at)),
        details,
        version_info: version_info.to_string(),
    }
}

/// A resource of a kind.
pub fn any(kind: Kind, message: &Encoding) -> Any {
    any_of(kind, message.bytes().into())
}

/// An encoded resource of a kind.
pub fn any_of(kind: Kind, value: Vec<u8>) -> Any {
    Any {
        type_url: format!("{}{}", api::TYPE_URL_PREFIX, kind.message_name()),
        value,
    }
}

/// A time as the API writes it, in milliseconds as Envoy keeps it.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: since.as_secs().cast_signed(),
        nanos: since.subsec_millis().cast_signed() * 1_000_000,
    }
}
