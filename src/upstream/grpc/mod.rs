//! gRPC calls that this proxy makes itself, to a host of one of its clusters:
//! to management servers, and to whoever else serves it.
//!
//! A call goes the way of a request: the cluster's balancing chooses the host,
//! its transport socket, timeouts, circuit breakers and stats hold. [`Upstreams`]
//! is what one thread keeps for its calls; connections are HTTP/2 and shared by
//! the calls to the same host.
//!
//! Servers that are polled are asked by plain HTTP, [`Upstreams::post`].
//!
//! Two steps, because a call is counted for as long as it lasts: [`Upstreams::open`]
//! finds a host and a connection, and [`Opened::client`] makes the call, by tonic's
//! client for any service. Dropping [`Opened`] ends the count, not the call.

mod channel;
mod channel_uri;
mod connection;
mod fetch;
mod target;

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    rc::Rc,
    sync::{Arc, Weak},
};

use http::{
    HeaderMap, Uri,
    uri::{Authority, Scheme},
};
use tokio::sync::Notify;
use tonic::{Code, Status, client::Grpc, metadata::MetadataMap};

use crate::{
    api::envoy::config::core::v3::Node,
    http::{stats::router_stats, stream::Upstream},
    model::{Snapshot, SnapshotSlot, cluster::Protocol},
    stats::{Block, Registry},
};

use super::{
    Breakers, ClusterDriver, Endpoint, LbContext, Priority, Resource, WorkerCluster,
    WorkerClusters, pool::ConnectError, stats::cluster_stats,
};

pub use channel::{Channel, Channels};
use connection::Connection;
pub use connection::Sender;
pub use fetch::Kept;
pub use target::{Backoff, DEFAULT_MAX_MESSAGE, Server, Target};

/// What those who call services from the control thread call them by.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The thread's way to its clusters.
    pub upstreams: Rc<Upstreams>,
    /// How this proxy introduces itself.
    pub node: Arc<Node>,
}

/// What one thread needs for gRPC calls to its clusters.
#[derive(Debug)]
pub struct Upstreams {
    snapshot: SnapshotSlot,
    clusters: WorkerClusters,
    /// `http.async-client.`
    stats: Arc<Block>,
    /// Clusters that are not in the snapshot.
    opened: RefCell<Vec<OpenChannel>>,
    /// By host id.
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    changed: Notify,
}

/// A channel that is called, for as long as somebody may call it.
#[derive(Debug)]
struct OpenChannel {
    channel: Weak<Channel>,
    /// Follows its name.
    driver: ClusterDriver,
    cluster: Rc<WorkerCluster>,
}

impl Upstreams {
    /// Calls to the clusters of the configuration in force.
    pub fn new(snapshot: SnapshotSlot, registry: &Registry) -> Rc<Self> {
        Rc::new(Self {
            snapshot,
            clusters: WorkerClusters::new("main_thread", registry),
            stats: registry.block("http.async-client.", &router_stats::TABLE),
            opened: RefCell::default(),
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
    pub async fn exists(&self, server: &Server) {
        match server {
            Server::Cluster { name, .. } => loop {
                let changed = self.changed.notified();
                if self.snapshot.load().clusters.contains_key(&**name) {
                    return;
                }
                changed.await;
            },
            Server::Channel(channel) => {
                let (_, warmed) = self.channel(channel);
                warmed.await;
            }
        }
    }

    /// The cluster that a channel is, and when it is warmed.
    fn channel(
        &self,
        channel: &Arc<Channel>,
    ) -> (Rc<WorkerCluster>, impl Future<Output = ()> + use<>) {
        let mut opened = self.opened.borrow_mut();
        opened.retain(|open| open.channel.strong_count() > 0);
        let is_it = |open: &&OpenChannel| open.channel.as_ptr() == Arc::as_ptr(channel);
        if let Some(open) = opened.iter().find(is_it) {
            return (open.cluster.clone(), open.driver.warmed());
        }
        let driver = ClusterDriver::start(channel.cluster.clone());
        let (cluster, warmed) = (
            WorkerCluster::new(channel.cluster.clone(), None),
            driver.warmed(),
        );
        opened.push(OpenChannel {
            channel: Arc::downgrade(channel),
            driver,
            cluster: cluster.clone(),
        });
        (cluster, warmed)
    }

    fn known(&self, server: &Server) -> Result<Rc<WorkerCluster>, Status> {
        let name = match server {
            Server::Cluster { name, .. } => name,
            Server::Channel(channel) => return Ok(self.channel(channel).0),
        };
        let snapshot = self.snapshot.load_full();
        let known = self.clusters.get(&snapshot, name);
        self.stats.inc(router_stats::rq_total);
        if known.is_none() {
            self.stats.inc(router_stats::no_cluster);
        }
        known.ok_or_else(|| Status::unavailable(format!("there is no cluster '{name}'")))
    }

    /// One that speaks HTTP/2.
    fn cluster(&self, server: &Server) -> Result<Rc<WorkerCluster>, Status> {
        let (cluster, name) = (self.known(server)?, server.name());
        match cluster.cluster.protocol {
            Protocol::Http1 => Err(Status::failed_precondition(format!(
                "cluster '{name}' speaks HTTP/1, and gRPC needs HTTP/2: give it http2_protocol_options"
            ))),
            _ => Ok(cluster),
        }
    }

    /// A host for a call, which is counted from here on.
    fn choose(
        &self,
        cluster: &Rc<WorkerCluster>,
        name: &str,
    ) -> Result<(Arc<Endpoint>, Upstream), Status> {
        let random = RandomState::new().hash_one(());
        let context = LbContext {
            random,
            ..LbContext::default()
        };
        let Some(endpoint) = cluster.choose(&context) else {
            cluster
                .cluster
                .stats
                .inc(cluster_stats::upstream_cx_none_healthy);
            return Err(Status::unavailable(format!(
                "no healthy upstream in cluster '{name}'"
            )));
        };
        let overflow =
            || Status::resource_exhausted(format!("circuit breaker of cluster '{name}'"));
        let counted = Upstream::begin(cluster.clone(), endpoint.clone(), Priority::Default)
            .ok_or_else(overflow)?;
        Ok((endpoint, counted))
    }

    /// The HTTP/2 connection to a host, made unless there is one.
    async fn connection(
        &self,
        cluster: &Rc<WorkerCluster>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<Rc<Connection>, Status> {
        let config = &cluster.cluster;
        let id = endpoint.host.id();
        let known = self.connections.borrow().get(&id).cloned();
        if let Some(connection) = known.filter(|c| c.fits(config, endpoint)) {
            return Ok(connection);
        }
        let breakers = config.breakers.clone();
        let permit = Breakers::acquire(breakers, Priority::Default, Resource::Connections);
        if permit.is_none() {
            config.stats.inc(cluster_stats::upstream_cx_overflow);
        }
        let made = Connection::make(config, endpoint, permit).await;
        let made = Rc::new(made.map_err(|error| unreachable_host(&config.name, &error))?);
        let mut connections = self.connections.borrow_mut();
        connections.retain(|_, connection| !connection.is_over());
        connections.insert(id, made.clone());
        Ok(made)
    }

    /// Chooses a host for a call and connects to it, unless there is a connection.
    ///
    /// # Errors
    /// `UNAVAILABLE` when there is no such cluster, no host, or it cannot be
    /// reached within the cluster's `connect_timeout`; `RESOURCE_EXHAUSTED` when
    /// a circuit breaker is open; `FAILED_PRECONDITION` when the cluster does not
    /// speak HTTP/2.
    pub async fn open(&self, target: &Target) -> Result<Opened, Status> {
        let channel = match &target.server {
            Server::Channel(channel) => Some(ChannelCall::begin(channel.clone())),
            Server::Cluster { .. } => None,
        };
        let opened = self.reach(&target.server).await;
        match opened {
            Ok(opened) => Ok(Opened { channel, ..opened }),
            Err(status) => {
                if let Some(channel) = channel {
                    channel.ended(status.code());
                }
                Err(status)
            }
        }
    }

    async fn reach(&self, server: &Server) -> Result<Opened, Status> {
        let cluster = self.cluster(server)?;
        let (endpoint, counted) = self.choose(&cluster, server.name())?;
        let connection = self.connection(&cluster, &endpoint).await?;
        counted.attached();
        let scheme = match endpoint.transport.tls() {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        };
        let address = endpoint.host.address().to_string().into();
        Ok(Opened {
            origin: origin(scheme, server.authority())?,
            call: connection.begin(),
            connection,
            counted,
            address,
            channel: None,
        })
    }
}

/// A connection to a host that has been chosen for one call.
#[derive(Debug)]
pub struct Opened {
    connection: Rc<Connection>,
    call: connection::Call,
    counted: Upstream,
    channel: Option<ChannelCall>,
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

    /// Notes how the call ended, for the stats.
    pub fn ended(&mut self, code: Code) {
        let succeeded = code == Code::Ok;
        self.counted.succeeded = Some(succeeded);
        self.call.succeeded(succeeded);
        if let Some(channel) = self.channel.take() {
            channel.ended(code);
        }
    }
}

/// A call by a channel; one that is dropped was cancelled.
#[derive(Debug)]
struct ChannelCall(Option<Arc<Channel>>);

impl ChannelCall {
    fn begin(channel: Arc<Channel>) -> Self {
        channel.begins();
        Self(Some(channel))
    }

    fn ended(mut self, code: Code) {
        if let Some(channel) = self.0.take() {
            channel.ended(code);
        }
    }
}

impl Drop for ChannelCall {
    fn drop(&mut self) {
        if let Some(channel) = self.0.take() {
            channel.ended(Code::Cancelled);
        }
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
