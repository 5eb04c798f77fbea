//! A management server: real gRPC, both variants, aggregated or a stream for
//! each type, and as badly behaved as a test wants it.
//!
//! By itself it is a good control plane: [`ControlPlane::set`] replaces the
//! resources of a type, and every stream that subscribed to them is told. It
//! remembers every request.

pub mod encode;
pub mod message;
mod state;

use std::convert::Infallible;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nuncio::api::envoy::service::discovery::v3::Resource;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

pub use crate::common::config::{CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET};
use crate::common::tls::{Identity, acceptor};
use crate::common::{Port, eventually, with};
pub use message::{Answer, Asked};
use message::{Delta, Dialect, Sotw};
use state::State;

/// Scopes of a connection manager.
pub const SCOPES: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";

/// Virtual hosts of a route table.
pub const HOSTS: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

/// Layers of the runtime.
pub const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";

/// HTTP filters.
pub const FILTER: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// The two variants of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Sotw,
    Delta,
}

/// How a proxy talks to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Which variant.
    pub variant: Variant,
    /// One stream for everything, or one for each type.
    pub aggregated: bool,
}

/// A management server on a loopback port. Dropping it closes everything.
pub struct ControlPlane {
    port: Port,
    state: Arc<Mutex<State>>,
    tls: Option<TlsAcceptor>,
    task: Option<JoinHandle<()>>,
}

impl ControlPlane {
    /// A server without resources.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same, over TLS with this certificate.
    pub async fn start_with_tls(identity: &Identity) -> Self {
        Self::start_with(Some(acceptor(identity, b"h2"))).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let mut plane = Self {
            port: Port::free(),
            state: Arc::default(),
            tls,
            task: None,
        };
        plane.come_back().await;
        plane
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Closes its port and every connection at once.
    pub async fn crash(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // It was cancelled.
            task.await.ok();
        }
        self.state().close_all(None);
    }

    /// Listens again after [`ControlPlane::crash`].
    pub async fn come_back(&mut self) {
        let port = self.port.number();
        let listener = eventually("the control plane's port", || async {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok()
        })
        .await;
        let (state, tls) = (Arc::clone(&self.state), self.tls.clone());
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let (state, tls) = (Arc::clone(&state), tls.clone());
                connections.spawn(async move {
                    stream.set_nodelay(true).ok();
                    match tls {
                        None => serve(stream, state).await,
                        // How a handshake ends is the client's business.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        }));
    }

    /// Replaces all resources of a type and pushes what is new.
    pub fn set(&self, type_url: &str, resources: Vec<Value>) {
        let resources = resources.iter().map(|value| resource(type_url, value));
        let resources = resources.collect();
        self.state().set(type_url, resources);
    }

    /// As [`ControlPlane::set`], with resources that are already messages.
    pub fn set_encoded(&self, type_url: &str, resources: Vec<Resource>) {
        self.state().set(type_url, resources);
    }

    /// Sends a prepared answer to whoever subscribed to `subscribed`, and returns
    /// its nonce.
    pub fn send(&self, subscribed: &str, answer: Answer) -> String {
        self.state().send(subscribed, answer)
    }

    /// Answers nothing for a type until it is told otherwise.
    pub fn mute(&self, type_url: &str) {
        self.state().mute(type_url, true);
    }

    /// Answers what was asked for meanwhile.
    pub fn unmute(&self, type_url: &str) {
        self.state().mute(type_url, false);
    }

    /// Calls itself something.
    pub fn identify(&self, identifier: &str) {
        identifier.clone_into(&mut self.state().identifier);
    }

    /// Ends every stream with a status.
    pub fn end_streams(&self, status: Status) {
        self.state().close_all(Some(status));
    }

    /// How many streams were ever opened.
    pub fn opened(&self) -> u64 {
        self.state().opened
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// Every request of a type so far.
    pub fn asked_of(&self, type_url: &str) -> Vec<Asked> {
        let all = self.asked().into_iter();
        all.filter(|asked| asked.type_url == type_url).collect()
    }

    /// Waits until the requests of a type satisfy `accept`.
    pub async fn asked_until(
        &self,
        what: &str,
        type_url: &str,
        accept: impl Fn(&[Asked]) -> bool,
    ) -> Vec<Asked> {
        let waited = eventually(what, || async {
            let asked = self.asked_of(type_url);
            accept(&asked).then_some(asked)
        });
        let _dump = Dump(self, type_url);
        waited.await
    }

    /// Waits for the answer to an answer: `None` for an acknowledgement, or why
    /// it was refused.
    pub async fn verdict(&self, type_url: &str, nonce: &str) -> Option<String> {
        let of_nonce = |asked: &Asked| asked.nonce == nonce;
        let asked = self
            .asked_until(&format!("a verdict on {nonce}"), type_url, |all| {
                all.iter().any(of_nonce)
            })
            .await;
        asked.into_iter().find(of_nonce).expect("it is there").error
    }

    /// Whether there is a verdict on an answer.
    pub fn is_answered(&self, nonce: &str) -> bool {
        let state = self.state();
        state.asked.iter().rev().any(|asked| asked.nonce == nonce)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Shows what was asked when a wait for it fails.
struct Dump<'a>(&'a ControlPlane, &'a str);

impl Drop for Dump<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("---- requests of {}", self.1);
        for asked in self.0.asked_of(self.1) {
            let Asked {
                stream,
                nonce,
                error,
                names,
                unsubscribed,
                version,
                ..
            } = asked;
            eprintln!(
                "stream {stream}: names {names:?} -{unsubscribed:?} version {version:?} \
                 nonce {nonce:?} error {error:?}"
            );
        }
    }
}

/// A resource with its name, in the wrapper that delta sends.
pub fn resource(type_url: &str, value: &Value) -> Resource {
    Resource {
        name: encode::name_of(value).to_owned(),
        resource: Some(encode::any(&with(
            json!({ "@type": type_url }),
            value.clone(),
        ))),
        ..Resource::default()
    }
}

/// Services by their name, with the type each one speaks of.
const SERVICES: &[(&str, &str)] = &[
    ("discovery.v3.AggregatedDiscoveryService", ""),
    ("listener.v3.ListenerDiscoveryService", LISTENER),
    ("cluster.v3.ClusterDiscoveryService", CLUSTER),
    ("route.v3.RouteDiscoveryService", ROUTES),
    ("endpoint.v3.EndpointDiscoveryService", ENDPOINTS),
    ("secret.v3.SecretDiscoveryService", SECRET),
    ("route.v3.ScopedRoutesDiscoveryService", SCOPES),
    ("route.v3.VirtualHostDiscoveryService", HOSTS),
    ("runtime.v3.RuntimeDiscoveryService", RUNTIME),
    ("extension.v3.ExtensionConfigDiscoveryService", FILTER),
];

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    state: Arc<Mutex<State>>,
) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(dispatch(request, state).await) }
    });
    let server = http2::Builder::new(TokioExecutor::new());
    // How a connection ends is the client's business.
    server
        .serve_connection(TokioIo::new(stream), service)
        .await
        .ok();
}

async fn dispatch(
    request: http::Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> http::Response<tonic::body::Body> {
    let path = request.uri().path().to_owned();
    let service = path.strip_prefix("/envoy.service.").unwrap_or_default();
    let (service, method) = service.split_once('/').unwrap_or_default();
    let Some((_, type_url)) = SERVICES.iter().find(|(name, _)| *name == service) else {
        return Status::unimplemented(format!("{path} is not a discovery service")).into_http();
    };
    let service = Service {
        method: path.clone(),
        metadata: request.headers().clone(),
        authority: request
            .uri()
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default(),
        type_url: (*type_url).to_owned(),
        state,
        dialect: std::marker::PhantomData,
    };
    match method.starts_with("Delta") {
        true => service.speak::<Delta>(request).await,
        false => service.speak::<Sotw>(request).await,
    }
}

/// One method, about to be called.
struct Service<D> {
    method: String,
    metadata: http::HeaderMap,
    authority: String,
    /// Empty for the aggregated service.
    type_url: String,
    state: Arc<Mutex<State>>,
    dialect: std::marker::PhantomData<D>,
}

impl Service<()> {
    async fn speak<D: Dialect>(
        self,
        request: http::Request<Incoming>,
    ) -> http::Response<tonic::body::Body> {
        let service = Service::<D> {
            method: self.method,
            metadata: self.metadata,
            authority: self.authority,
            type_url: self.type_url,
            state: self.state,
            dialect: std::marker::PhantomData,
        };
        let codec = ProstCodec::<D::Response, D::Request>::default();
        let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(usize::MAX);
        grpc.streaming(service, request).await
    }
}

type Answers<D> = Pin<Box<dyn Stream<Item = Result<<D as Dialect>::Response, Status>> + Send>>;
type Called<D> = Pin<Box<dyn Future<Output = Result<Response<Answers<D>>, Status>> + Send>>;

impl<D: Dialect> tonic::server::StreamingService<D::Request> for Service<D> {
    type Response = D::Response;
    type ResponseStream = Answers<D>;
    type Future = Called<D>;

    fn call(&mut self, request: Request<Streaming<D::Request>>) -> Called<D> {
        #[expect(
            clippy::disallowed_methods,
            reason = "a server that floods must not be slowed down here"
        )]
        let (outgoing, mut answers) = mpsc::unbounded_channel();
        let state = Arc::clone(&self.state);
        let id = state
            .lock()
            .expect("no panic while it is held")
            .open(D::VARIANT, outgoing);
        let (method, metadata) = (self.method.clone(), self.metadata.clone());
        let authority = self.authority.clone();
        let type_url = self.type_url.clone();
        let reading = tokio::spawn(async move {
            let mut requests = request.into_inner();
            while let Some(Ok(request)) = requests.next().await {
                let mut asked = D::read(request);
                asked.stream = id;
                asked.method.clone_from(&method);
                asked.metadata.clone_from(&metadata);
                asked.authority.clone_from(&authority);
                if asked.type_url.is_empty() {
                    asked.type_url.clone_from(&type_url);
                }
                let mut state = state.lock().expect("no panic while it is held");
                state.take(asked);
            }
            state.lock().expect("no panic while it is held").close(id);
        });
        let reading = AbortOnDrop(reading);
        Box::pin(async move {
            let answers = futures_util::stream::poll_fn(move |cx: &mut Context<'_>| {
                let _owned = &reading;
                match answers.poll_recv(cx) {
                    Poll::Ready(Some(Ok(answer))) => Poll::Ready(Some(Ok(D::write(answer)))),
                    Poll::Ready(Some(Err(status))) => Poll::Ready(Some(Err(status))),
                    Poll::Ready(None) => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            });
            Ok(Response::new(Box::pin(answers) as Answers<D>))
        })
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
