//! The kinds of resources, and how each is built.

mod cluster;
mod listener;
mod named;
mod scope;

pub use cluster::ClusterKind;
pub use listener::ListenerKind;
pub use named::{EndpointKind, ExtensionKind, RouteKind, RuntimeKind, SecretKind};
pub use scope::ScopeKind;
