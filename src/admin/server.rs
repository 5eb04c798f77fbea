//! The admin's HTTP server, on the control thread.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task, time,
};

use crate::{
    access_log::{AccessLogs, Buffers},
    api::envoy::data::accesslog::v3::AccessLogType,
    codec::{Headers, RequestHead},
    formatter::{FormatContext, HeaderView, Protocol, RequestView, StreamInfo},
    http::{
        config::{EscapedSlashes, PathOptions},
        path::{self, Normalized},
        stats::{http_stats, listener_http_stats},
    },
    model::listener::{ListenAddress, listener_stats, worker_stats},
    net::{
        Address, ConnectionInfo,
        socket::{BindError, ListenSocket, Sockets},
    },
    stats::Block,
};

use super::{
    State,
    answer::{Answer, Body},
    endpoint,
    impatient::Impatient,
    request::Request,
};

/// Largest form that is read, in bytes.
const MAX_FORM: usize = 64 * 1024;
/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to send a request's headers, to send its body, and to
/// read on.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing is accepted after the system has said no.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin's listening socket, bound before anything else is started.
#[derive(Debug)]
pub struct Listening {
    local: Address,
    socket: ListenSocket,
}

impl Listening {
    /// Binds and listens.
    ///
    /// # Errors
    /// What the kernel says, with the address.
    pub fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        let sockets = Sockets::bind(&address.address, &address.options, 1, false)?;
        sockets.listen()?;
        let socket = sockets.take(0).expect("sockets were bound for one thread");
        Ok(Self {
            local: sockets.local().clone(),
            socket,
        })
    }

    /// Where it listens, with the port the kernel chose where 0 was asked for:
    /// what `--admin-address-path` is for.
    pub fn local(&self) -> &Address {
        &self.local
    }
}

/// Answers requests until the process ends. Runs in a `LocalSet`.
pub struct Server {
    state: Rc<State>,
    access_logs: AccessLogs,
    buffers: Rc<Buffers>,
    /// `http.admin.`
    stats: Arc<Block>,
    /// `listener.admin.`
    listener: Arc<Block>,
    /// `listener.admin.main_thread.`
    main_thread: Arc<Block>,
    /// `listener.admin.http.admin.`
    listener_http: Arc<Block>,
    local: Address,
    connections: Cell<usize>,
    freed: tokio::sync::Notify,
    next_id: Cell<u64>,
}

impl Server {
    /// Accepts on the socket for as long as this is polled.
    ///
    /// # Errors
    /// When the socket cannot be handed to the event loop.
    pub async fn serve(
        state: Rc<State>,
        access_logs: AccessLogs,
        listening: Listening,
    ) -> io::Result<Infallible> {
        let registry = &state.stats;
        let stats = registry.block("http.admin.", &http_stats::TABLE);
        let listener = registry.block("listener.admin.", &listener_stats::TABLE);
        let main_thread = registry.block("listener.admin.main_thread.", &worker_stats::TABLE);
        let listener_http =
            registry.block("listener.admin.http.admin.", &listener_http_stats::TABLE);
        let server = Rc::new(Self {
            state,
            access_logs,
            buffers: Buffers::new(),
            stats,
            listener,
            main_thread,
            listener_http,
            local: listening.local,
            connections: Cell::new(0),
            freed: tokio::sync::Notify::new(),
            next_id: Cell::new(0),
        });
        match listening.socket {
            ListenSocket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                let socket = TcpListener::from_std(socket)?;
                loop {
                    server.room().await;
                    match socket.accept().await {
                        Ok((stream, peer)) => server.open(stream, peer.into()),
                        Err(error) => pause(&error).await,
                    }
                }
            }
            ListenSocket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                let socket = UnixListener::from_std(socket)?;
                loop {
                    server.room().await;
                    match socket.accept().await {
                        Ok((stream, _)) => server.open(stream, server.local.clone()),
                        Err(error) => pause(&error).await,
                    }
                }
            }
        }
    }

    /// Waits until another connection may be had.
    async fn room(&self) {
        while self.connections.get() >= MAX_CONNECTIONS {
            self.freed.notified().await;
        }
    }

    fn open<S>(self: &Rc<Self>, stream: S, remote: Address)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let info = Rc::new(ConnectionInfo::new(id, self.local.clone(), remote));
        let open = Open::new(Rc::clone(self));
        task::spawn_local(async move {
            let server = &open.server;
            let service = service_fn(|request| server.answer(Rc::clone(&info), request));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(Impatient::new(stream, PATIENCE)), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(target: "admin", "connection {id}: {error}");
            }
        });
    }

    async fn answer(
        self: &Rc<Self>,
        connection: Rc<ConnectionInfo>,
        request: http::Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let mut info = StreamInfo::new(connection, SystemTime::now(), Instant::now());
        info.protocol = Some(Protocol::Http11);
        self.stats.inc(http_stats::downstream_rq_total);
        self.stats.inc(http_stats::downstream_rq_http1_total);
        self.stats.gauge_add(http_stats::downstream_rq_active, 1);
        let (parts, body) = request.into_parts();
        let answer = match form(&parts, body).await {
            Ok(form) => {
                let target = parts
                    .uri
                    .path_and_query()
                    .map_or("/", |target| target.as_str());
                match plain(target) {
                    Normalized::Path(target) => {
                        let request = Request::new(&target, form.as_deref());
                        tracing::debug!(target: "admin", "request complete: path: {}", request.path);
                        endpoint::route(&self.state, &parts.method, &request)
                    }
                    Normalized::Redirect(_) | Normalized::Reject => Answer::bad_request(""),
                }
            }
            Err(NoForm::TooLarge) => {
                Answer::error(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large")
            }
            Err(NoForm::TooLate) => Answer::error(StatusCode::REQUEST_TIMEOUT, "Request Timeout"),
        };
        self.count(answer.status);
        let response = response(answer);
        let end = Instant::now();
        info.end = Some(end);
        self.stats.gauge_sub(http_stats::downstream_rq_active, 1);
        let took = millis(end - info.start);
        self.stats.record(http_stats::downstream_rq_time, took);
        info.response_code = Some(response.status());
        let asked = RequestHead::from(parts);
        let answered = Headers::from(response.headers().clone());
        self.access_logs.log(
            &FormatContext {
                request: RequestView::of(&asked, "http"),
                response: HeaderView::Map(&answered),
                ..FormatContext::of_connection(&info, AccessLogType::DownstreamEnd)
            },
            &self.buffers,
            // The requests of an operator are few: every share of them is all of them.
            0,
        );
        Ok(response)
    }

    fn count(&self, status: StatusCode) {
        let (class, listener_class) = match status.as_u16() / 100 {
            1 => (
                http_stats::downstream_rq_1xx,
                listener_http_stats::downstream_rq_1xx,
            ),
            2 => (
                http_stats::downstream_rq_2xx,
                listener_http_stats::downstream_rq_2xx,
            ),
            3 => (
                http_stats::downstream_rq_3xx,
                listener_http_stats::downstream_rq_3xx,
            ),
            4 => (
                http_stats::downstream_rq_4xx,
                listener_http_stats::downstream_rq_4xx,
            ),
            _ => (
                http_stats::downstream_rq_5xx,
                listener_http_stats::downstream_rq_5xx,
            ),
        };
        self.stats.inc(class);
        self.stats.inc(http_stats::downstream_rq_completed);
        self.listener_http.inc(listener_class);
        self.listener_http
            .inc(listener_http_stats::downstream_rq_completed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A connection that counts for as long as it is held.
struct Open {
    server: Rc<Server>,
    since: Instant,
}

impl Open {
    fn new(server: Rc<Server>) -> Self {
        server.connections.set(server.connections.get() + 1);
        server.stats.inc(http_stats::downstream_cx_total);
        server.stats.inc(http_stats::downstream_cx_http1_total);
        server.listener.inc(listener_stats::downstream_cx_total);
        server
            .listener
            .record(listener_stats::connections_accepted_per_socket_event, 1);
        server.main_thread.inc(worker_stats::downstream_cx_total);
        server
            .main_thread
            .gauge_add(worker_stats::downstream_cx_active, 1);
        server
            .listener
            .gauge_add(listener_stats::downstream_cx_active, 1);
        server.stats.gauge_add(http_stats::downstream_cx_active, 1);
        server
            .stats
            .gauge_add(http_stats::downstream_cx_http1_active, 1);
        Self {
            server,
            since: Instant::now(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let server = &self.server;
        let length = millis(self.since.elapsed());
        server
            .stats
            .record(http_stats::downstream_cx_length_ms, length);
        server
            .listener
            .record(listener_stats::downstream_cx_length_ms, length);
        server
            .main_thread
            .gauge_sub(worker_stats::downstream_cx_active, 1);
        server.connections.set(server.connections.get() - 1);
        server.freed.notify_one();
        server.stats.inc(http_stats::downstream_cx_destroy);
        server.listener.inc(listener_stats::downstream_cx_destroy);
        server
            .listener
            .gauge_sub(listener_stats::downstream_cx_active, 1);
        server.stats.gauge_sub(http_stats::downstream_cx_active, 1);
        server
            .stats
            .gauge_sub(http_stats::downstream_cx_http1_active, 1);
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(target: "admin", "cannot accept a connection: {error}");
    time::sleep(ACCEPT_PAUSE).await;
}

/// A target with dots and double slashes gone from its path, as Envoy has it.
fn plain(target: &str) -> Normalized<'_> {
    let options = PathOptions {
        normalize: true,
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::Keep,
    };
    path::normalize(target, options)
}

/// Why a form has not come.
#[derive(Debug, PartialEq, Eq)]
enum NoForm {
    /// It has more than [`MAX_FORM`] bytes, or was cut off.
    TooLarge,
    /// It has taken longer than [`PATIENCE`].
    TooLate,
}

/// The form that was sent; `None` when it was none.
async fn form<B>(parts: &Parts, body: B) -> Result<Option<String>, NoForm>
where
    B: http_body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let is_form = parts.method == Method::POST
        && parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/x-www-form-urlencoded"));
    let body = time::timeout(PATIENCE, Limited::new(body, MAX_FORM).collect())
        .await
        .map_err(|_| NoForm::TooLate)?
        .map_err(|_| NoForm::TooLarge)?;
    let bytes = body.to_bytes();
    Ok((is_form && !bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

fn response(answer: Answer) -> Response<Body> {
    let mut response = Response::new(answer.body);
    *response.status_mut() = answer.status;
    let fixed = HeaderValue::from_static;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, fixed(answer.content_type));
    headers.insert(header::CACHE_CONTROL, fixed("no-cache, max-age=0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert(header::SERVER, fixed("envoy"));
    response
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_form_that_does_not_come_is_not_awaited_for_ever() {
        let (parts, ()) = http::Request::post("/").body(()).unwrap().into_parts();
        let begun =
            futures_util::stream::once(async { Ok(Frame::data(Bytes::from_static(b"a="))) });
        let never = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let body = StreamBody::new(futures_util::StreamExt::chain(begun, never));
        assert_eq!(form(&parts, body).await, Err(NoForm::TooLate));
    }
}
