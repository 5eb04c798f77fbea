//! Every filter there is beside the router. A new one takes its folder and a
//! line here.

use super::{cors, filter::FilterKind};

static TABLE: [&FilterKind; 1] = [&cors::KIND];

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

/// The names of all, as people know them.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.into_iter().map(|kind| kind.name)
}
