//! `envoy.config.route.v3.RouteConfiguration`, compiled: which route a request
//! takes, and what the route does to it.
//!
//! A request's host picks a [`VirtualHost`] by hash (`hosts`); its path picks
//! the routes that can match (`paths`); the first of them, in the order of the
//! configuration, whose other `condition`s hold is the route. With `scoped` routes
//! there is a table for each scope, which the request's headers pick.

mod avoid;
mod cluster;
mod condition;
mod discovered;
mod entry;
mod forward;
mod handle;
mod hash;
mod headers;
mod hosts;
mod mirror;
mod mutate;
mod paths;
mod per_filter;
mod redirect;
mod retry;
mod rewrite;
mod scoped;
mod shares;
mod table;
mod told_wait;
mod tree;
mod virtual_host;

#[cfg(test)]
mod mutate_tests;
#[cfg(test)]
mod table_tests;

pub use avoid::AvoidedHosts;
pub use cluster::{Chosen, ChosenName, ClusterChoice, ClusterName, WeightedEntry};
pub use discovered::{DiscoveredHost, DiscoveredHosts, HostTable, HostsWanted};
pub use entry::{Action, DirectResponse, Route};
pub use forward::{ConnectConfig, DEFAULT_TIMEOUT, Forward, StreamDuration};
pub use handle::{RouteHandle, WorkerTable};
pub use hash::{HashCookie, HashPolicy, hash, hash_of_address};
pub use headers::{HeaderRules, header_name};
pub use mirror::Mirror;
pub use mutate::set_host;
pub use per_filter::RouteConfig;
pub use redirect::{Redirect, https_location};
pub use retry::{RequestRetry, RetryOn, RetryPolicy};
pub use rewrite::{HostRewrite, PathRewrite};
pub use scoped::{
    Routes, Scope, ScopeKey, ScopeKeyBuilder, ScopeRoutes, ScopeTable, ScopedRoutes, ScopedTable,
    TableGuard,
};
pub use shares::{VirtualClusters, share_stats};
pub use table::{Outcome, RouteIndex, RouteTable};
pub use told_wait::ToldWait;
pub use virtual_host::VirtualHost;
