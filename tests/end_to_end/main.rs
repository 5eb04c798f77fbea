//! End-to-end tests: the real binary, real origins, real clients.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod bad_input;
mod clusters;
mod files;
mod filters;
mod grpc;
mod hashing;
mod http;
mod http1;
mod http2;
mod interim;
mod listener;
mod local_reply;
mod long_bodies;
mod manager;
mod mirrors;
mod network_filters;
mod overload;
mod process;
mod retries;
mod routing;
mod runtime;
mod scopes;
mod shipped;
mod sockets;
mod stats;
mod subsets;
mod tcp;
mod tls;
mod topologies;
mod tunnels;
mod upstream_sockets;
mod upstream_tls;
