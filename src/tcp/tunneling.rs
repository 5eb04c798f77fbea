//! `tunneling_config`: bytes go to the upstream inside of HTTP, by CONNECT or as
//! the body of a POST.

use std::{future::poll_fn, pin::Pin, rc::Rc};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header,
    uri::{self, Authority, Scheme},
};
use http_body_util::Empty;

use crate::{
    api::envoy::{
        data::accesslog::v3::AccessLogType,
        extensions::{
            filters::network::{
                http_connection_manager::v3::RequestIdExtension, tcp_proxy::v3::tcp_proxy as pb,
            },
            request_id::uuid::v3::UuidRequestIdConfig,
        },
    },
    codec::RequestHead,
    config::{At, Reported, unpack},
    formatter::{FormatContext, Formatter, StreamInfo},
    http::{names, request_id},
    model::route::HeaderRules,
    net::Prefixed,
    refuse,
    upstream::{
        WorkerCluster,
        pool::{
            Carrier, Connection, Lease, Pool,
            http1::{Duplex, Http1Error, Piece, RequestFraming},
            http2::{Http2Error, Http2Exchange},
        },
    },
};

use super::connect::Held;

/// How a tunnel is asked for.
#[derive(Debug)]
pub(super) struct Tunneling {
    /// `hostname`: what the tunnel leads to.
    hostname: Formatter,
    /// `use_post`, and its `post_path`; a CONNECT otherwise.
    post: Option<Uri>,
    /// `headers_to_add`.
    headers: HeaderRules,
    /// `request_id_extension`: where a new id goes.
    request_id: Option<HeaderName>,
}

impl Tunneling {
    pub(super) fn compile(message: pb::TunnelingConfig, at: &At<'_>) -> Result<Self, Reported> {
        let pb::TunnelingConfig {
            hostname,
            use_post,
            headers_to_add,
            // Both are for %FILTER_STATE% to read, which formats do not have.
            propagate_response_headers: _,
            post_path,
            propagate_response_trailers: _,
            request_id_extension,
            request_id_header,
            request_id_metadata_key,
            formatters,
        } = message;
        let refused = refuse!(at; request_id_metadata_key, formatters);
        let hostname = Formatter::parse(&hostname, &at.field("hostname"));
        let headers = HeaderRules::compile(headers_to_add, "headers_to_add", Vec::new(), "", at);
        let post = compile_post(use_post, &post_path, &at.field("post_path"));
        let request_id = compile_request_id(request_id_extension, &request_id_header, at);
        refused?;
        Ok(Self {
            hostname: hostname?,
            post: post?,
            headers: headers?,
            request_id: request_id?,
        })
    }

    /// Whether it is the body of a POST.
    fn is_post(&self) -> bool {
        self.post.is_some()
    }

    /// The request for a connection, with its authority in `host`. `random` gives
    /// random bits, for a request id.
    pub(super) fn request(
        &self,
        info: &StreamInfo,
        mut random: impl FnMut() -> u64,
    ) -> RequestHead {
        let context = FormatContext::of_connection(info, AccessLogType::NotSet);
        let mut host = Vec::new();
        self.hostname.write(&mut host, &context);
        let mut parts = RequestHead::default();
        (parts.method, parts.uri) = match &self.post {
            Some(path) => (Method::POST, path.clone()),
            None => (Method::CONNECT, Uri::default()),
        };
        // What cannot stand in a header names no host.
        if let Ok(host) = HeaderValue::from_bytes(&host) {
            parts.headers.insert(header::HOST, host);
        }
        HeaderRules::apply(self.headers.changes(&context), &mut parts.headers);
        if let Some(name) = &self.request_id {
            let id = request_id::generate(random(), random());
            parts.headers.insert(name.clone(), id);
        }
        parts
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoTunnel {
    #[error("the host answers {0}")]
    Refused(StatusCode),
    #[error("the tunnel cannot be asked for: {0}")]
    Request(#[from] http::Error),
    #[error(transparent)]
    Http1(#[from] Http1Error),
    #[error(transparent)]
    Http2(#[from] Http2Error),
}

impl Tunneling {
    /// Asks for a tunnel on a connection, with a request of [`Tunneling::request`].
    pub(super) async fn open(
        &self,
        lease: Lease,
        pool: Rc<Pool>,
        cluster: &Rc<WorkerCluster>,
        head: RequestHead,
    ) -> Result<(Carrier, Held), NoTunnel> {
        match lease {
            Lease::Http1(connection) => {
                let lent = Lent {
                    connection: Some(connection),
                    pool,
                    cluster: cluster.clone(),
                };
                self.open_http1(lent, &head).await
            }
            Lease::Http2(place) => {
                let secure = place.connection().facts.info.tls.is_some();
                let request = http2_request(head, secure)?;
                let mut exchange = Http2Exchange::start(place.connection(), request);
                let mut body = Empty::<Bytes>::new();
                let head =
                    poll_fn(|cx| exchange.poll_head(cx, Pin::new(&mut body), true, drop)).await?;
                accepted(head.status)?;
                let io = exchange.into_io();
                let io = io.expect("the head of the response has come");
                Ok((Carrier::Http2(io), Held::Stream(place)))
            }
        }
    }

    async fn open_http1(
        &self,
        mut lent: Lent,
        head: &RequestHead,
    ) -> Result<(Carrier, Held), NoTunnel> {
        let connection = lent.connection.as_deref_mut();
        let connection = connection.expect("it was just lent");
        connection.facts.begin();
        let framing = match self.is_post() {
            true => RequestFraming::Chunked,
            false => RequestFraming::Connect,
        };
        let scheme = match connection.facts.info.tls {
            Some(_) => "https",
            None => "http",
        };
        let http1 = &mut connection.http1;
        http1.start(head, scheme, framing);
        let mut piece = Piece::default();
        let answer = poll_fn(|cx| http1.poll_head(cx, Pin::new(&mut piece), drop)).await?;
        accepted(answer.status)?;
        let Connection { http1, facts, .. } = *lent.take();
        let carrier = match self.is_post() {
            true => Carrier::Post(Box::new(Duplex::new(http1))),
            false => {
                let (io, early) = http1.into_tunnel();
                Carrier::Http1(Prefixed::new(early, io))
            }
        };
        Ok((carrier, Held::Connection(facts)))
    }
}

fn accepted(status: StatusCode) -> Result<(), NoTunnel> {
    match status.is_success() {
        true => Ok(()),
        false => Err(NoTunnel::Refused(status)),
    }
}

/// The request in the form that goes over HTTP/2.
///
/// # Errors
/// When the host that it names cannot be an authority.
fn http2_request(mut head: RequestHead, secure: bool) -> Result<http::Request<()>, http::Error> {
    let mut uri = uri::Parts::default();
    let host = head.headers.remove(header::HOST);
    uri.authority = host
        .map(|host| Authority::try_from(host.as_bytes()))
        .transpose()?;
    if head.method != Method::CONNECT {
        uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
        uri.path_and_query = head.uri.path_and_query().cloned();
    }
    let mut request = http::Request::new(());
    *request.method_mut() = head.method;
    *request.uri_mut() = Uri::from_parts(uri)?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.headers.into();
    Ok(request)
}

/// A connection that does not go back to its pool.
struct Lent {
    /// Gone once it is a tunnel.
    connection: Option<Box<Connection>>,
    pool: Rc<Pool>,
    cluster: Rc<WorkerCluster>,
}

impl Lent {
    fn take(&mut self) -> Box<Connection> {
        self.connection.take().expect("it is taken once")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.facts.end();
        }
        self.pool.lost(&self.cluster);
    }
}

fn compile_post(use_post: bool, path: &str, at: &At<'_>) -> Result<Option<Uri>, Reported> {
    match (use_post, path) {
        (false, "") => Ok(None),
        (false, _) => Err(at.error("has no meaning without use_post")),
        (true, "") => Ok(Some(Uri::default())),
        (true, path) => match path.parse::<Uri>() {
            Ok(uri) if uri.authority().is_none() && path.starts_with('/') => Ok(Some(uri)),
            _ => Err(at.error(format_args!("{path:?} is not a path"))),
        },
    }
}

fn compile_request_id(
    extension: Option<RequestIdExtension>,
    name: &str,
    at: &At<'_>,
) -> Result<Option<HeaderName>, Reported> {
    let place = at.field("request_id_header");
    let name = match name {
        "" => names::X_REQUEST_ID,
        name => name
            .parse()
            .map_err(|_| place.error(format_args!("{name:?} is not a header name")))?,
    };
    let Some(RequestIdExtension { typed_config }) = extension else {
        return Ok(None);
    };
    let place = at.field("request_id_extension");
    let place = place.field("typed_config");
    let any = typed_config.ok_or_else(|| place.error("is required"))?;
    // Both only matter to tracing.
    let UuidRequestIdConfig {
        pack_trace_reason: _,
        use_request_id_for_trace_sampling: _,
    } = unpack(&any, &place)?;
    Ok(Some(name))
}
