//! Plain HTTP requests, to management servers that are polled.

use std::rc::Rc;

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST},
    uri::{PathAndQuery, Scheme},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tonic::{Status, body::Body};
use tower_service::Service;

use crate::{
    digest::Digest,
    model::cluster::Protocol,
    upstream::{
        Alpn, Breakers, Endpoint, Priority, Resource, WorkerCluster,
        pool::{ConnectionFacts, Wire, connect},
        stats::cluster_stats,
    },
};

use super::{Server, Upstreams, origin, unreachable_host};

/// A connection that is kept from one request to the next, over HTTP/1.
#[derive(Debug, Default)]
pub struct Kept(Option<Plain>);

#[derive(Debug)]
struct Plain {
    sender: SendRequest<Full<Bytes>>,
    facts: Rc<ConnectionFacts>,
    /// What it looks like on the wire: the cluster's `wire_identity`, and [`Wire`].
    wire: (Digest, Wire),
}

impl Upstreams {
    /// Posts JSON to a host of a cluster and reads the answer, of `most` bytes.
    ///
    /// Dropping it gives the request up, and its connection.
    ///
    /// # Errors
    /// As [`Upstreams::open`], and when there is no whole answer.
    pub async fn post(
        &self,
        server: &Server,
        path: &PathAndQuery,
        body: Bytes,
        most: usize,
        kept: &mut Kept,
    ) -> Result<(StatusCode, Bytes), Status> {
        let cluster = self.known(server)?;
        let (endpoint, mut counted) = self.choose(&cluster, server.name())?;
        let request = Post { server, path, body };
        let answer = match cluster.cluster.protocol {
            Protocol::Http2 => {
                let connection = self.connection(&cluster, &endpoint).await?;
                let _call = connection.begin();
                let sent = connection.sender().call(request.http2(&endpoint)?).await;
                whole(sent.map_err(broken)?, most).await
            }
            _ => {
                let (plain, response) = send(&cluster, &endpoint, &request, kept.0.take()).await?;
                let answer = whole(response, most).await;
                if answer.is_ok() && !plain.sender.is_closed() {
                    kept.0 = Some(plain);
                }
                answer
            }
        };
        counted.attached();
        counted.succeeded = Some(answer.is_ok());
        answer
    }
}

/// What is asked.
struct Post<'a> {
    server: &'a Server,
    path: &'a PathAndQuery,
    body: Bytes,
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Post<'_> {
    fn http1(&self) -> Result<Request<Full<Bytes>>, Status> {
        let request = Request::post(self.path.as_str())
            .header(HOST, self.server.authority())
            .header(CONTENT_TYPE, JSON);
        let request = request.body(Full::new(self.body.clone()));
        request.map_err(|error| Status::internal(error.to_string()))
    }

    fn http2(&self, endpoint: &Endpoint) -> Result<Request<Body>, Status> {
        let scheme = match endpoint.transport.tls() {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        };
        let mut uri = origin(scheme, self.server.authority())?.into_parts();
        uri.path_and_query = Some(self.path.clone());
        let uri = http::Uri::from_parts(uri);
        let uri = uri.map_err(|error| Status::internal(error.to_string()))?;
        let request = Request::post(uri).header(CONTENT_TYPE, JSON);
        let request = request.body(Body::new(Full::new(self.body.clone())));
        request.map_err(|error| Status::internal(error.to_string()))
    }
}

/// Sends it over the connection that was kept, or over a new one. A kept one may
/// have been closed by the host meanwhile, which shows only now.
async fn send(
    cluster: &Rc<WorkerCluster>,
    endpoint: &std::sync::Arc<Endpoint>,
    request: &Post<'_>,
    kept: Option<Plain>,
) -> Result<(Plain, Response<Incoming>), Status> {
    let fits = |plain: &Plain| {
        plain.wire == wire(cluster, endpoint) && plain.facts.host().id() == endpoint.host.id()
    };
    if let Some(mut plain) = kept.filter(fits)
        && let Ok(response) = plain.send(request).await
    {
        return Ok((plain, response));
    }
    let mut plain = Plain::connect(cluster, endpoint, request.server).await?;
    let response = plain.send(request).await?;
    Ok((plain, response))
}

fn wire(cluster: &WorkerCluster, endpoint: &Endpoint) -> (Digest, Wire) {
    let identity = cluster.cluster.wire_identity;
    (identity, Wire::new(endpoint, Alpn::Http1, None))
}

impl Plain {
    async fn connect(
        cluster: &Rc<WorkerCluster>,
        endpoint: &std::sync::Arc<Endpoint>,
        server: &Server,
    ) -> Result<Self, Status> {
        let config = &cluster.cluster;
        let breakers = config.breakers.clone();
        let permit = Breakers::acquire(breakers, Priority::Default, Resource::Connections);
        if permit.is_none() {
            config.stats.inc(cluster_stats::upstream_cx_overflow);
        }
        let wire = wire(cluster, endpoint);
        let connected = connect(config, endpoint, &wire.1).await;
        let (io, info) = connected.map_err(|error| unreachable_host(server.name(), &error))?;
        let facts = ConnectionFacts::new(config.clone(), endpoint.host.clone(), info, permit);
        let facts = Rc::new(facts);
        config.stats.inc(cluster_stats::upstream_cx_http1_total);
        let shaken = http1::handshake(TokioIo::new(io)).await;
        let (sender, connection) = shaken.map_err(broken)?;
        let counted = facts.clone();
        tokio::task::spawn_local(async move {
            // How it ends shows at its request.
            drop(connection.await);
            counted.closed_by_host();
        });
        Ok(Self {
            sender,
            facts,
            wire,
        })
    }

    async fn send(&mut self, request: &Post<'_>) -> Result<Response<Incoming>, Status> {
        self.sender.ready().await.map_err(broken)?;
        self.facts.begin();
        let sent = self.sender.send_request(request.http1()?).await;
        self.facts.end();
        sent.map_err(broken)
    }
}

async fn whole(response: Response<Incoming>, most: usize) -> Result<(StatusCode, Bytes), Status> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, most).collect().await;
    let body = body.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok((parts.status, body.to_bytes()))
}

fn broken(error: hyper::Error) -> Status {
    Status::unavailable(error.to_string())
}
