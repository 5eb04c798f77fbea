//! Clients that never reconnect by themselves, so that a test notices when a
//! proxy closes a connection.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;

use super::{DEADLINE, eventually};

/// Why a request or a tunnel did not work, as text for a report.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A request with a complete body.
pub type Outgoing = Request<Full<Bytes>>;

/// A complete response.
#[derive(Clone, Debug)]
pub struct Reply {
    pub version: Version,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a response header; empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("visible ASCII"))
    }

    /// What the echo origin says it saw.
    ///
    /// # Panics
    /// When the response is not the origin's.
    pub fn seen(&self) -> Seen {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!(
                "{}: not the origin's ({error}): {}",
                self.status,
                self.text()
            )
        })
    }
}

/// A request as it arrived at the echo origin.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    pub origin: String,
    pub connection: u64,
    pub version: String,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub server_name: Option<String>,
}

impl Seen {
    /// The value of a request header; empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value)
    }

    /// All values of a request header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The host it was asked for: `:authority` or `host`.
    pub fn host(&self) -> &str {
        self.header("host")
    }
}

/// A request without a body.
pub fn request(method: &str, host: &str, path: &str) -> Outgoing {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .body(Full::default())
        .expect("a valid request")
}

/// The same request with one more header.
pub fn header(mut request: Outgoing, name: &str, value: &str) -> Outgoing {
    request.headers_mut().append(
        name.parse::<HeaderName>().expect("a header name"),
        HeaderValue::from_str(value).expect("a header value"),
    );
    request
}

/// The same request with a body.
pub fn body(request: Outgoing, body: impl Into<Bytes>) -> Outgoing {
    request.map(|_| Full::new(body.into()))
}

/// A GET of `path` on a connection of its own, which must be answered.
pub async fn get(port: u16, path: &str) -> Reply {
    get_from(port, "example.com", path).await
}

/// As [`get`], for a named host.
pub async fn get_from(port: u16, host: &str, path: &str) -> Reply {
    once(port, request("GET", host, path))
        .await
        .unwrap_or_else(|error| panic!("{host}{path}: {error}"))
}

/// Repeats a GET until the reply is accepted, and returns it.
pub async fn get_until(port: u16, path: &str, accept: impl Fn(&Reply) -> bool) -> Reply {
    eventually(path, || async {
        let reply = once(port, request("GET", "example.com", path)).await.ok()?;
        accept(&reply).then_some(reply)
    })
    .await
}

/// One HTTP/1 request on a connection of its own.
pub async fn once(port: u16, request: Outgoing) -> Result<Reply, Failure> {
    H1::connect(port).await?.send(request).await
}

/// One HTTP/1 connection.
#[derive(Debug)]
pub struct H1 {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl H1 {
    /// Opens it.
    pub async fn connect(port: u16) -> Result<Self, Failure> {
        let (sender, connection) = http1::handshake(TokioIo::new(dial(port).await?)).await?;
        // Its errors reach the sender.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends one request and reads the whole response.
    pub async fn send(&mut self, request: Outgoing) -> Result<Reply, Failure> {
        timeout(DEADLINE, async {
            self.sender.ready().await?;
            collect(self.sender.send_request(request).await?).await
        })
        .await?
    }

    /// Whether the other side has closed it.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// One HTTP/2 connection with prior knowledge; clones share it.
#[derive(Clone, Debug)]
pub struct H2 {
    sender: http2::SendRequest<Full<Bytes>>,
}

impl H2 {
    /// Opens it.
    pub async fn connect(port: u16) -> Result<Self, Failure> {
        Self::over(dial(port).await?).await
    }

    /// Opens it over a stream.
    pub async fn over<S>(stream: S) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        // Its errors reach the sender.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends one request and reads the whole response. The `host` header
    /// becomes `:authority`.
    pub async fn send(&self, mut request: Outgoing) -> Result<Reply, Failure> {
        if let Some(host) = request.headers_mut().remove("host") {
            let path = request
                .uri()
                .path_and_query()
                .map_or("/", |path| path.as_str());
            *request.uri_mut() = format!("http://{}{path}", host.to_str()?).parse()?;
        }
        let mut sender = self.sender.clone();
        timeout(DEADLINE, async {
            sender.ready().await?;
            collect(sender.send_request(request).await?).await
        })
        .await?
    }

    /// Asks for a tunnel on a stream, by CONNECT or the extended CONNECT, and gives
    /// both its ends.
    pub async fn tunnel(&self, request: Outgoing) -> Result<TokioIo<Upgraded>, Failure> {
        let mut sender = self.sender.clone();
        timeout(DEADLINE, async {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            match response.status() {
                StatusCode::OK => Ok(TokioIo::new(hyper::upgrade::on(response).await?)),
                other => Err(other.to_string().into()),
            }
        })
        .await?
    }

    /// A WebSocket on a stream (RFC 8441).
    pub async fn websocket(
        &self,
        path: &str,
    ) -> Result<WebSocketStream<TokioIo<Upgraded>>, Failure> {
        let mut request = request("CONNECT", "example.com", path);
        *request.uri_mut() = format!("http://example.com{path}").parse()?;
        request.headers_mut().clear();
        let protocol = hyper::ext::Protocol::from_static("websocket");
        request.extensions_mut().insert(protocol);
        let request = header(request, "sec-websocket-version", "13");
        let stream = self.tunnel(request).await?;
        let role = tungstenite::protocol::Role::Client;
        Ok(WebSocketStream::from_raw_socket(stream, role, None).await)
    }

    /// Whether the other side has closed it or is about to.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// A CONNECT to `authority`.
pub fn connect(authority: &str) -> Outgoing {
    Request::builder()
        .method("CONNECT")
        .uri(authority)
        .body(Full::default())
        .expect("a valid request")
}

/// A CONNECT over HTTP/1: the status, and what it has become.
pub async fn connect_http1(port: u16, authority: &str) -> Result<(u16, TcpStream), Failure> {
    let mut stream = dial(port).await?;
    let request = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    timeout(DEADLINE, async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        Ok::<_, Failure>(())
    })
    .await??;
    let head = String::from_utf8(head)?;
    let status = head.split(' ').nth(1).ok_or("no status")?;
    Ok((status.parse()?, stream))
}

async fn collect(response: hyper::Response<hyper::body::Incoming>) -> Result<Reply, Failure> {
    let (parts, body) = response.into_parts();
    Ok(Reply {
        version: parts.version,
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await?.to_bytes(),
    })
}

/// A TCP connection to a loopback port.
pub async fn dial(port: u16) -> Result<TcpStream, Failure> {
    let stream = timeout(DEADLINE, TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A WebSocket through a loopback port.
pub async fn websocket(port: u16, path: &str) -> Result<WebSocketStream<TcpStream>, Failure> {
    let stream = dial(port).await?;
    let url = format!("ws://example.com{path}");
    let handshake = tokio_tungstenite::client_async(url, stream);
    let (socket, _response) = timeout(DEADLINE, handshake).await??;
    Ok(socket)
}

/// Sends a message through a WebSocket and awaits its echo.
pub async fn websocket_echo<S>(socket: &mut WebSocketStream<S>, text: &str) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    use futures_util::{SinkExt, StreamExt};
    timeout(DEADLINE, async {
        socket.send(tungstenite::Message::text(text)).await?;
        let echo = socket.next().await.ok_or("closed")??;
        if echo.to_text()? == text {
            Ok(())
        } else {
            Err(format!("sent {text:?}, got {echo:?}").into())
        }
    })
    .await?
}

/// Sends bytes through a stream and awaits their echo.
pub async fn tcp_echo<S>(stream: &mut S, data: &[u8]) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    timeout(DEADLINE, async {
        stream.write_all(data).await?;
        let mut echo = vec![0; data.len()];
        stream.read_exact(&mut echo).await?;
        if echo == data {
            Ok(())
        } else {
            Err("the echo differs".into())
        }
    })
    .await?
}

/// Writes raw bytes to a port and returns all that comes back until the other
/// side closes or is silent for `silence`.
pub async fn raw(port: u16, data: &[u8], silence: Duration) -> Result<Vec<u8>, Failure> {
    let mut stream = dial(port).await?;
    stream.write_all(data).await?;
    let mut received = Vec::new();
    while let Ok(read) = timeout(silence, stream.read_buf(&mut received)).await {
        if read? == 0 {
            break;
        }
    }
    Ok(received)
}
