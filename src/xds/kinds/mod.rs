//! The kinds of resources, and how each is built.

mod cluster;
mod host;
mod listener;
mod named;
mod scope;

pub use cluster::ClusterKind;
pub use host::HostKind;
pub use listener::ListenerKind;
pub use named::{EndpointKind, ExtensionKind, RouteKind, RuntimeKind, SecretKind};
pub use scope::ScopeKind;
