//! gRPC calls that this proxy makes itself, to a host of one of its clusters:
//! to management servers, and to whoever else serves it.
//!
//! A call goes the way of a request: the cluster's balancing chooses the host,
//! its transport socket, timeouts, circuit breakers and stats hold. [`Upstreams`]
//! is what one thread keeps for its calls; connections are HTTP/2 and shared by
//! the calls to the same host.
//!
//! Two steps, because a call is counted for as long as it lasts: [`Upstreams::open`]
//! finds a host and a connection, and [`Opened::client`] makes the call, by tonic's
//! client for any service. Dropping [`Opened`] ends the count, not the call.

mod connection;
mod target;

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    rc::Rc,
    sync::Arc,
};

use http::{
    HeaderMap, Uri,
    uri::{Authority, Scheme},
};
use tokio::sync::Notify;
use tonic::{Code, Status, client::Grpc, metadata::MetadataMap};

use crate::{
    http::stream::Upstream,
    model::{Snapshot, SnapshotSlot, cluster::Protocol},
};

use super::{
    Breakers, LbContext, Priority, Resource, WorkerClusters, pool::ConnectError,
    stats::cluster_stats,
};

use connection::Connection;
pub use connection::Sender;
pub use target::{Backoff, Target};

/// What one thread needs for gRPC calls to its clusters.
#[derive(Debug)]
pub struct Upstreams {
    snapshot: SnapshotSlot,
    clusters: WorkerClusters,
    /// By host id.
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    changed: Notify,
}

impl Upstreams {
    /// Calls to the clusters of the configuration in force.
    pub fn new(snapshot: SnapshotSlot) -> Rc<Self> {
        Rc::new(Self {
            snapshot,
            clusters: WorkerClusters::new(),
            connections: RefCell::default(),
            changed: Notify::new(),
        })
    }

    /// Follows a change of the configuration: call it after each.
    pub fn snapshot_changed(&self, snapshot: &Snapshot) {
        self.clusters.snapshot_changed(snapshot);
        self.changed.notify_waiters();
    }

    /// Resolves when there is such a cluster, warmed.
    ///
    /// Cancel-safe.
    pub async fn exists(&self, cluster: &str) {
        loop {
            let changed = self.changed.notified();
            if self.snapshot.load().clusters.contains_key(cluster) {
                return;
            }
            changed.await;
        }
    }

    /// Chooses a host for a call and connects to it, unless there is a connection.
    ///
    /// # Errors
    /// `UNAVAILABLE` when there is no such cluster, no host, or it cannot be
    /// reached within the cluster's `connect_timeout`; `RESOURCE_EXHAUSTED` when
    /// a circuit breaker is open; `FAILED_PRECONDITION` when the cluster does not
    /// speak HTTP/2.
    pub async fn open(&self, target: &Target) -> Result<Opened, Status> {
        let name = &target.cluster;
        let snapshot = self.snapshot.load_full();
        let Some(cluster) = self.clusters.get(&snapshot, name) else {
            return Err(Status::unavailable(format!("there is no cluster '{name}'")));
        };
        let config = &cluster.cluster;
        if config.protocol == Protocol::Http1 {
            return Err(Status::failed_precondition(format!(
                "cluster '{name}' speaks HTTP/1, and gRPC needs HTTP/2: give it http2_protocol_options"
            )));
        }
        let random = RandomState::new().hash_one(());
        let context = LbContext {
            random,
            ..LbContext::default()
        };
        let Some(endpoint) = cluster.choose(&context) else {
            config.stats.inc(cluster_stats::upstream_cx_none_healthy);
            return Err(Status::unavailable(format!(
                "no healthy upstream in cluster '{name}'"
            )));
        };
        let overflow =
            || Status::resource_exhausted(format!("circuit breaker of cluster '{name}'"));
        let counted = Upstream::begin(cluster.clone(), endpoint.clone(), Priority::Default)
            .ok_or_else(overflow)?;
        let id = endpoint.host.id();
        let known = self.connections.borrow().get(&id).cloned();
        let connection = match known.filter(|c| c.fits(config)) {
            Some(connection) => connection,
            None => {
                let breakers = config.breakers.clone();
                let permit = Breakers::acquire(breakers, Priority::Default, Resource::Connections);
                if permit.is_none() {
                    config.stats.inc(cluster_stats::upstream_cx_overflow);
                }
                let made = Connection::make(config, &endpoint, permit).await;
                let made = Rc::new(made.map_err(|error| unreachable_host(name, &error))?);
                let mut connections = self.connections.borrow_mut();
                connections.retain(|_, connection| !connection.is_over());
                connections.insert(id, made.clone());
                made
            }
        };
        let scheme = match config.transport.tls() {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        };
        let address = endpoint.host.address().to_string().into();
        Ok(Opened {
            origin: origin(scheme, target.authority.as_deref().unwrap_or(name))?,
            call: connection.begin(),
            connection,
            counted,
            address,
        })
    }
}

/// A connection to a host that has been chosen for one call.
#[derive(Debug)]
pub struct Opened {
    connection: Rc<Connection>,
    call: connection::Call,
    counted: Upstream,
    origin: Uri,
    /// The host's address, for people.
    pub address: Arc<str>,
}

impl Opened {
    /// A client of tonic's, for one call; `max_message` bounds what it receives.
    pub fn client(&self, max_message: usize) -> Grpc<Sender> {
        let sender = self.connection.sender();
        Grpc::with_origin(sender, self.origin.clone()).max_decoding_message_size(max_message)
    }

    /// Notes how the call ended, for the host's stats.
    pub fn succeeded(&mut self, succeeded: bool) {
        self.counted.succeeded = Some(succeeded);
        self.call.succeeded(succeeded);
    }
}

fn origin(scheme: Scheme, authority: &str) -> Result<Uri, Status> {
    // A cluster's name may hold what an authority must not, which Envoy sends
    // all the same.
    let authority = Authority::try_from(authority)
        .or_else(|_| {
            let safe = |c: char| c.is_ascii_alphanumeric() || ".-_~".contains(c);
            let text: String = authority
                .chars()
                .map(|c| if safe(c) { c } else { '_' })
                .collect();
            Authority::try_from(text)
        })
        .map_err(|error| Status::internal(error.to_string()))?;
    Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query("/")
        .build()
        .map_err(|error| Status::internal(error.to_string()))
}

fn unreachable_host(cluster: &str, error: &ConnectError) -> Status {
    let reason = error.transport_failure();
    let text = match reason {
        Some(reason) => format!("cluster '{cluster}': {error}, {reason}"),
        None => format!("cluster '{cluster}': {error}"),
    };
    Status::unavailable(text)
}

/// A status for people: `14, connection refused`.
pub fn describe(status: &Status) -> String {
    let code = status.code();
    match status.message() {
        "" if code == Code::Ok => "0".to_owned(),
        "" => format!("{}, {}", code as i32, code.description()),
        text => format!("{}, {text}", code as i32),
    }
}

/// `initial_metadata` as tonic wants it.
pub fn metadata(headers: &HeaderMap) -> MetadataMap {
    MetadataMap::from_headers(headers.clone())
}
