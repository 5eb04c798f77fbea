//! gRPC in its four kinds of call, with clients and servers that others wrote.

use std::{
    convert::Infallible,
    future::Future,
    net::Ipv4Addr,
    pin::Pin,
    process::Command,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use hyper::{
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Code, Request, Response, Status, Streaming, body::Body, client, server};
use tonic_prost::ProstCodec;

use crate::common::client::dial;
use crate::common::config::{cluster, http2_upstream, route, with};
use crate::common::{Site, Value, json};

/// A message is a `google.protobuf.StringValue`.
type Codec = ProstCodec<String, String>;
type Answers = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;
type Called<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// The service behind the proxy, one kind of call for each method.
#[derive(Clone, Copy)]
struct Service;

impl server::UnaryService<String> for Service {
    type Response = String;
    type Future = Called<String>;

    /// Says the same again; knows nobody, and may be slow.
    fn call(&mut self, request: Request<String>) -> Self::Future {
        Box::pin(async move {
            let timeout = request.metadata().get("grpc-timeout").cloned();
            match request.into_inner().as_str() {
                "nobody" => Err(Status::not_found("there is nobody: 100%")),
                "slow" => {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    Err(Status::internal("nobody waits so long"))
                }
                "timeout" => {
                    Ok(Response::new(timeout.map_or(String::new(), |t| {
                        t.to_str().expect("text").to_owned()
                    })))
                }
                said => Ok(Response::new(said.to_owned())),
            }
        })
    }
}

impl server::ServerStreamingService<String> for Service {
    type Response = String;
    type ResponseStream = Answers;
    type Future = Called<Answers>;

    /// Says it three times, and then that this is too much.
    fn call(&mut self, request: Request<String>) -> Self::Future {
        let said = request.into_inner();
        Box::pin(async move {
            let all = (0..3).map(move |number| Ok(format!("{said} {number}")));
            let end = Err(Status::resource_exhausted("three is enough"));
            let answers: Answers = Box::pin(stream::iter(all.chain([end])));
            Ok(Response::new(answers))
        })
    }
}

impl server::ClientStreamingService<String> for Service {
    type Response = String;
    type Future = Called<String>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async move {
            let said: Vec<_> = request.into_inner().collect().await;
            let said: Result<Vec<String>, Status> = said.into_iter().collect();
            Ok(Response::new(said?.join(" ")))
        })
    }
}

impl server::StreamingService<String> for Service {
    type Response = String;
    type ResponseStream = Answers;
    type Future = Called<Answers>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(Box::pin(request.into_inner()) as Answers)) })
    }
}

async fn dispatch(request: http::Request<Incoming>) -> http::Response<Body> {
    let mut grpc = server::Grpc::new(Codec::default());
    match request.uri().path() {
        "/test.Echo/Unary" => grpc.unary(Service, request).await,
        "/test.Echo/Server" => grpc.server_streaming(Service, request).await,
        "/test.Echo/Client" => grpc.client_streaming(Service, request).await,
        "/test.Echo/Both" => grpc.streaming(Service, request).await,
        other => Status::unimplemented(other).into_http(),
    }
}

/// The server, for as long as it is held.
struct Served(JoinHandle<()>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve() -> (u16, Served) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                service_fn(|request| async { Ok::<_, Infallible>(dispatch(request).await) });
            let server = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    (port, Served(serving))
}

/// A connection of a client.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A proxy in front of the server, whose route has these settings.
struct Echo {
    site: Site,
    client: client::Grpc<Channel>,
    _served: Served,
}

impl Echo {
    async fn start(settings: Value) -> Self {
        let (port, served) = serve().await;
        let clusters = vec![with(cluster("grpc", &[port]), http2_upstream())];
        let routes = vec![with(route("/", "grpc"), json!({ "route": settings }))];
        let site = Site::routes(routes, clusters).await;
        let io = TokioIo::new(dial(site.port.number()).await.expect("a connection"));
        let (sender, connection) = handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
        // Its errors reach the sender.
        tokio::spawn(connection);
        let origin = "http://grpc.example.com".parse().expect("an origin");
        Self {
            site,
            client: client::Grpc::with_origin(Channel(sender), origin),
            _served: served,
        }
    }

    async fn unary(&mut self, request: Request<String>) -> Result<String, Status> {
        self.client.ready().await.expect("a connection");
        let path = PathAndQuery::from_static("/test.Echo/Unary");
        let answer = self.client.unary(request, path, Codec::default()).await?;
        Ok(answer.into_inner())
    }
}

fn within(said: &str, timeout: Duration) -> Request<String> {
    let mut request = Request::new(said.to_owned());
    request.set_timeout(timeout);
    request
}

#[tokio::test]
async fn every_kind_of_call_passes() {
    let mut echo = Echo::start(json!({})).await;
    let said = echo.unary(Request::new("one".to_owned())).await;
    assert_eq!(said.expect("an answer"), "one");
    let long = "long".repeat(100_000);
    let said = echo.unary(Request::new(long.clone())).await;
    assert_eq!(said.expect("an answer"), long);
    let status = echo.unary(Request::new("nobody".to_owned())).await;
    let status = status.expect_err("a status");
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "there is nobody: 100%")
    );

    let client = &mut echo.client;
    let words = || stream::iter(["one", "two", "three"].map(str::to_owned));
    let path = PathAndQuery::from_static("/test.Echo/Client");
    let all = client
        .client_streaming(Request::new(words()), path, Codec::default())
        .await;
    assert_eq!(all.expect("an answer").into_inner(), "one two three");

    let path = PathAndQuery::from_static("/test.Echo/Server");
    let request = Request::new("say".to_owned());
    let answers = client.server_streaming(request, path, Codec::default());
    let answers = answers.await.expect("answers").into_inner();
    let mut answers: Vec<_> = answers.collect().await;
    let status = answers.pop().expect("a status").expect_err("a status");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let answers: Vec<_> = answers.into_iter().map(|a| a.expect("a word")).collect();
    assert_eq!(answers, ["say 0", "say 1", "say 2"]);

    // Each word is answered before the next is said.
    let (say, said) = tokio::sync::mpsc::channel::<String>(1);
    let said = stream::unfold(said, |mut said| async {
        said.recv().await.map(|word| (word, said))
    });
    let path = PathAndQuery::from_static("/test.Echo/Both");
    let said = Request::new(Box::pin(said));
    let answers = client.streaming(said, path, Codec::default());
    let mut answers = answers.await.expect("answers").into_inner();
    for word in ["one", "two", "three"] {
        say.send(word.to_owned()).await.expect("it listens");
        let answer = answers.next().await.expect("an answer");
        assert_eq!(answer.expect("an answer"), word);
    }
    drop(say);
    assert!(answers.next().await.is_none());
    let active = "cluster.grpc.upstream_rq_active";
    echo.site
        .admin()
        .stat_until(active, |value| value == 0)
        .await;
}

#[tokio::test]
async fn a_client_says_how_long_it_waits() {
    let longest = json!({ "max_stream_duration": {
        "grpc_timeout_header_max": "0.2s", "grpc_timeout_header_offset": "0.05s",
    } });
    let mut echo = Echo::start(longest).await;
    // The server is told what is left.
    let told = echo.unary(within("timeout", Duration::from_secs(5))).await;
    assert_eq!(told.expect("an answer"), "150m");
    let status = echo.unary(within("slow", Duration::from_secs(5))).await;
    let status = status.expect_err("a status");
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "downstream duration timeout")
    );

    let mut echo = Echo::start(json!({ "max_grpc_timeout": "0.1s" })).await;
    let told = echo.unary(within("timeout", Duration::from_secs(5))).await;
    assert_eq!(told.expect("an answer"), "100m");
    let status = echo.unary(within("slow", Duration::from_secs(5))).await;
    let status = status.expect_err("a status");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "upstream request timeout")
    );
    // One that does not say waits no longer.
    let status = echo.unary(Request::new("slow".to_owned())).await;
    assert_eq!(status.expect_err("a status").code(), Code::Unavailable);
}

/// Each kind of call with grpcio; a message is an encoded StringValue.
const PYTHON: &str = r#"
import sys, grpc
same = lambda message: message
say = lambda text: b"\x0a" + bytes([len(text)]) + text
channel = grpc.insecure_channel(sys.argv[1])
kind = lambda how, name: how("/test.Echo/" + name, request_serializer=same, response_deserializer=same)
words = [say(b"one"), say(b"two")]
assert kind(channel.unary_unary, "Unary")(words[0], timeout=10) == words[0]
assert kind(channel.stream_unary, "Client")(iter(words), timeout=10) == say(b"one two")
assert list(kind(channel.stream_stream, "Both")(iter(words), timeout=10)) == words
answers = []
try:
    for answer in kind(channel.unary_stream, "Server")(say(b"x"), timeout=10):
        answers.append(answer)
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
assert answers == [say(b"x %d" % n) for n in range(3)], answers
try:
    kind(channel.unary_unary, "Unary")(say(b"nobody"), timeout=10)
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    assert error.details() == "there is nobody: 100%", error
print("passed")
"#;

#[tokio::test]
async fn every_kind_of_call_passes_with_grpcio() {
    let python = std::env::var("NUNCIO_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let known = Command::new(&python).args(["-c", "import grpc"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no grpcio; NUNCIO_TEST_PYTHON names one that has");
        return;
    }
    let echo = Echo::start(json!({})).await;
    let target = format!("127.0.0.1:{}", echo.site.port.number());
    // The server runs on this thread.
    let client = move || Command::new(&python).args(["-c", PYTHON, &target]).output();
    let output = tokio::task::spawn_blocking(client).await.expect("no panic");
    let output = output.expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"passed\n", "{errors}");
}
