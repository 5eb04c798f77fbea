//! A connection to a host for one stream of bytes, whatever they mean.

use std::{rc::Rc, sync::Arc};

use super::{
    super::{Breakers, Endpoint, Priority, Resource, WorkerCluster, stats::cluster_stats},
    ConnectionFacts, Io, Pending, PoolError, Wire, connect,
};

/// A connection that no other request will use.
#[derive(Debug)]
pub struct TcpConnection {
    /// Its bytes.
    pub io: Io,
    /// What is known and counted.
    pub facts: ConnectionFacts,
}

impl TcpConnection {
    /// Connects to a host like this, within the circuit breakers.
    ///
    /// # Errors
    /// When a circuit breaker is open or the host cannot be reached.
    pub async fn open(
        cluster: &Rc<WorkerCluster>,
        endpoint: &Arc<Endpoint>,
        wire: &Wire,
        priority: Priority,
    ) -> Result<Self, PoolError> {
        let stats = &cluster.cluster.stats;
        let breakers = cluster.cluster.breakers.clone();
        let Some(permit) = Breakers::acquire(breakers, priority, Resource::Connections) else {
            stats.inc(cluster_stats::upstream_cx_overflow);
            return Err(PoolError::Overflow);
        };
        let Some(_pending) = Pending::begin(cluster, &endpoint.host, priority) else {
            return Err(PoolError::Overflow);
        };
        let (io, info) = connect(&cluster.cluster, endpoint, wire).await?;
        let host = endpoint.host.clone();
        let facts = ConnectionFacts::new(cluster.cluster.clone(), host, info, Some(permit));
        facts.begin();
        Ok(Self { io, facts })
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.facts.end();
    }
}
