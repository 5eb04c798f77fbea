//! `envoy.filters.network.tcp_proxy`: bytes from a connection to a cluster and back.

mod clusters;
mod config;
mod connect;
mod proxy;
mod tunneling;

pub use config::TcpProxy;
pub use proxy::serve;
