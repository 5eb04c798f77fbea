//! Every filter there is beside the router. A new one takes its folder and a
//! line here.

use super::{cors, filter::FilterKind, on_demand};

static TABLE: [&FilterKind; 2] = [&cors::KIND, &on_demand::KIND];

/// The kind of filter that this message configures.
pub fn of_message(name: &str) -> Option<&'static FilterKind> {
    TABLE.into_iter().find(|kind| kind.message == name)
}

/// The kind of filter that a route configures by this message.
pub fn of_route_message(name: &str) -> Option<&'static FilterKind> {
    TABLE
        .into_iter()
        .find(|kind| kind.route.is_some_and(|(message, _)| message == name))
}

/// The name of each, and the messages that configure it.
pub fn types() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    TABLE.into_iter().map(|kind| {
        let route = kind.route.map(|(message, _)| message);
        let types = [kind.message].into_iter().chain(route);
        (kind.name, types.collect())
    })
}

/// The names of all, as people know them.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.into_iter().map(|kind| kind.name)
}
