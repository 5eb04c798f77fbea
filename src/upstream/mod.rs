//! Everything on the far side: hosts, balancing, circuit breakers, TLS to the
//! origin, and how addresses are discovered.
//!
//! The control thread builds immutable [`HostSet`]s and swaps them in; a worker
//! reads them through its own [`LbState`] and shares nothing it writes.

pub mod balance;
pub mod breakers;
pub mod dns;
mod driver;
pub mod grpc;
pub mod host;
pub mod host_set;
pub mod original_dst;
pub mod pool;
pub mod stats;
pub mod tls;
mod worker_cluster;
pub mod zones;

pub use balance::{LbContext, LbState};
pub use breakers::{Breakers, Permit, Priority, Resource};
pub use driver::ClusterDriver;
pub use host::{Endpoint, EndpointStatus, HealthFlag, Host, HostStat, Locality};
pub use host_set::{HostSet, Hosts};
pub use tls::{Alpn, TlsError, TlsTarget, UpstreamTls};
pub use worker_cluster::{WorkerCluster, WorkerClusters};
