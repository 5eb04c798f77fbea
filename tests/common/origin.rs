//! Servers to put behind the proxy.

use std::convert::Infallible;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::{WebSocketStream, tungstenite};

use super::client::Seen;
use super::tls::{Identity, acceptor};

/// A server on a loopback port. Dropping it closes the port and all its
/// connections.
///
/// The HTTP origins answer every request with a JSON description of it (see
/// [`super::Seen`]). Request headers ask for something else:
/// `x-origin-status` for a status, `x-origin-delay-ms` for a delay before the
/// response headers, `x-origin-size` for a body of that many bytes, and
/// `x-origin-header: name=value` for a response header.
#[derive(Debug)]
pub struct Origin {
    port: u16,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    requests: AtomicU64,
    /// The requests that came whole.
    seen: Mutex<Vec<Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

impl Origin {
    /// An HTTP/1 echo.
    pub async fn http(name: &str) -> Self {
        Self::plain(name, Protocol::Http1).await
    }

    /// An HTTP/2 echo, prior knowledge.
    pub async fn http2(name: &str) -> Self {
        Self::plain(name, Protocol::Http2).await
    }

    async fn plain(name: &str, protocol: Protocol) -> Self {
        let name: Arc<str> = name.into();
        Self::listen(move |stream, number, counts| {
            let name = Arc::clone(&name);
            async move { serve(stream, protocol, name, number, counts, None).await }
        })
        .await
    }

    /// An HTTP/1 echo behind TLS.
    pub async fn https(name: &str, identity: &Identity) -> Self {
        Self::secure(name, identity, Protocol::Http1).await
    }

    /// An HTTP/2 echo behind TLS, negotiated by ALPN.
    pub async fn https2(name: &str, identity: &Identity) -> Self {
        Self::secure(name, identity, Protocol::Http2).await
    }

    async fn secure(name: &str, identity: &Identity, protocol: Protocol) -> Self {
        let name: Arc<str> = name.into();
        let acceptor = acceptor(
            identity,
            match protocol {
                Protocol::Http1 => b"http/1.1",
                Protocol::Http2 => b"h2",
            },
        );
        Self::listen(move |stream, number, counts| {
            let (name, acceptor) = (Arc::clone(&name), acceptor.clone());
            async move {
                // A client that breaks off is the test's business.
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let server_name = stream.get_ref().1.server_name().map(str::to_owned);
                serve(stream, protocol, name, number, counts, server_name).await;
            }
        })
        .await
    }

    /// Says its name to whoever connects, then waits for the other to close.
    pub async fn says(name: &str) -> Self {
        let name: Arc<str> = name.into();
        Self::listen(move |mut stream: TcpStream, _, _| {
            let name = Arc::clone(&name);
            async move {
                stream.write_all(name.as_bytes()).await.ok();
                tokio::io::copy(&mut stream, &mut tokio::io::sink())
                    .await
                    .ok();
            }
        })
        .await
    }

    /// Sends back every byte it gets.
    pub async fn tcp_echo() -> Self {
        Self::listen(|mut stream: TcpStream, _, _| async move {
            let (mut read, mut write) = stream.split();
            // It ends when the peer does, however that happens.
            tokio::io::copy(&mut read, &mut write).await.ok();
            write.shutdown().await.ok();
        })
        .await
    }

    /// Sends back every WebSocket message it gets.
    pub async fn websocket_echo() -> Self {
        Self::listen(|stream: TcpStream, _, _| async move {
            if let Ok(socket) = tokio_tungstenite::accept_async(stream).await {
                websocket_echo(socket).await;
            }
        })
        .await
    }

    /// Accepts CONNECT and sends back every byte that comes through the tunnel, or in
    /// the body of a POST; over HTTP/2 accepts WebSockets too and sends back every message (RFC 8441).
    pub async fn tunnels(version: Version) -> Self {
        Self::listen(move |stream: TcpStream, _, counts| async move {
            let service = service_fn(move |request| {
                counts.requests.fetch_add(1, Ordering::Relaxed);
                async move { Ok::<_, Infallible>(tunnel(request)) }
            });
            let io = TokioIo::new(stream);
            // How a connection ends is the test's business.
            if version == Version::HTTP_2 {
                let mut server = http2::Builder::new(TokioExecutor::new());
                server.enable_connect_protocol();
                server.serve_connection(io, service).await.ok();
            } else {
                let server = http1::Builder::new().serve_connection(io, service);
                server.with_upgrades().await.ok();
            }
        })
        .await
    }

    /// Reads one request head, then sends these bytes and closes.
    pub async fn canned(answer: &'static [u8]) -> Self {
        Self::listen(move |mut stream: TcpStream, _, _| async move {
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read_buf(&mut head).await {
                    Ok(read) if read > 0 => {}
                    _ => return,
                }
            }
            stream.write_all(answer).await.ok();
        })
        .await
    }

    async fn listen<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream, u64, Arc<Counts>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port for an origin");
        let port = listener.local_addr().expect("bound").port();
        let counts = Arc::new(Counts::default());
        let counting = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                stream.set_nodelay(true).ok();
                let number = counting.connections.fetch_add(1, Ordering::Relaxed) + 1;
                connections.spawn(serve(stream, number, Arc::clone(&counting)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, counts, task }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// How many requests it has read.
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// The requests that came whole, for an echo.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.counts.seen.lock().expect("no test panics there");
        let read = |seen: &Value| serde_json::from_value(seen.clone());
        let all = seen
            .iter()
            .map(|seen| read(seen).expect("as it was written"));
        all.collect()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(
    stream: S,
    protocol: Protocol,
    name: Arc<str>,
    connection: u64,
    counts: Arc<Counts>,
    server_name: Option<String>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let seen = json!({
            "origin": &*name,
            "connection": connection,
            "server_name": server_name,
        });
        let counts = Arc::clone(&counts);
        async move { Ok::<_, Infallible>(echo(request, seen, &counts).await) }
    });
    let io = TokioIo::new(stream);
    // How a connection ends is the test's business.
    match protocol {
        Protocol::Http1 => {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new());
            server.serve_connection(io, service).await.ok();
        }
        Protocol::Http2 => {
            let server = http2::Builder::new(TokioExecutor::new());
            server.serve_connection(io, service).await.ok();
        }
    }
}

fn tunnel(request: Request<Incoming>) -> Response<Either<Full<Bytes>, Incoming>> {
    if request.method() != Method::CONNECT {
        return Response::new(Either::Right(request.into_body()));
    }
    let protocol = request.extensions().get::<hyper::ext::Protocol>();
    let websocket = protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
    tokio::spawn(async move {
        let Ok(stream) = hyper::upgrade::on(request).await else {
            return;
        };
        let stream = TokioIo::new(stream);
        if websocket {
            let role = tungstenite::protocol::Role::Server;
            let socket = WebSocketStream::from_raw_socket(stream, role, None).await;
            websocket_echo(socket).await;
        } else {
            let (mut read, mut write) = tokio::io::split(stream);
            // It ends when the peer does, however that happens.
            tokio::io::copy(&mut read, &mut write).await.ok();
            write.shutdown().await.ok();
        }
    });
    Response::new(Either::Left(Full::default()))
}

async fn websocket_echo<S>(mut socket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() || socket.send(message).await.is_err() {
            break;
        }
    }
}

async fn echo(
    request: Request<Incoming>,
    mut seen: Value,
    counts: &Counts,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return failed(&error.to_string()),
    };
    let mut headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    if let Some(authority) = parts.uri.authority() {
        headers.push(("host".to_owned(), authority.to_string()));
    }
    seen["version"] = json!(format!("{:?}", parts.version));
    seen["method"] = json!(parts.method.as_str());
    seen["target"] = json!(parts.uri.path_and_query().map_or("", |path| path.as_str()));
    seen["headers"] = json!(headers);
    seen["body"] = json!(String::from_utf8_lossy(&body));
    counts
        .seen
        .lock()
        .expect("no test panics there")
        .push(seen.clone());

    let wish = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let number = |name: &str| wish(name).and_then(|value| value.parse::<u64>().ok());
    if let Some(delay) = number("x-origin-delay-ms") {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let content = match number("x-origin-size") {
        Some(size) => vec![b'x'; usize::try_from(size).expect("a size")].into(),
        None => Bytes::from(seen.to_string()),
    };
    let mut response = Response::new(Full::new(content));
    if let Some(status) = number("x-origin-status") {
        *response.status_mut() = u16::try_from(status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .expect("a status");
    }
    for wanted in parts.headers.get_all("x-origin-header") {
        let text = wanted.to_str().expect("visible ASCII");
        let (name, value) = text.split_once('=').expect("name=value");
        response.headers_mut().append(
            name.parse::<HeaderName>().expect("a header name"),
            HeaderValue::from_str(value).expect("a header value"),
        );
    }
    response
}

fn failed(reason: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reason.to_owned())));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}
