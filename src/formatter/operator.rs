//! Command operators: what `%NAME%` and `%NAME(ARGUMENT)%` stand for.
//!
//! An operator without an argument is a row of [`PLAIN`]; the others are
//! variants of [`Operator`].

use std::time::{Duration, Instant};

use crate::net::Address;

use super::{
    FormatContext, TimeFormat,
    stream_info::UpstreamHost,
    value::Value,
    view::{FieldName, HeaderView},
};

type Plain = for<'a> fn(&FormatContext<'a>) -> Value<'a>;

/// One parsed command.
#[derive(Clone, Debug)]
pub enum Operator {
    /// A row of [`PLAIN`], by index.
    Plain(usize),
    /// `REQUEST_HEADER(X?Y)`: the first of two that is there.
    Request(FieldName, Option<FieldName>),
    /// `RESPONSE_HEADER(X?Y)`.
    Response(FieldName, Option<FieldName>),
    /// `RESPONSE_TRAILER(X?Y)`.
    Trailer(FieldName, Option<FieldName>),
    /// `START_TIME(FORMAT)`.
    StartTime(TimeFormat),
    /// `EMIT_TIME(FORMAT)`: the moment of printing.
    EmitTime(TimeFormat),
    /// `COMMON_DURATION(START:END:PRECISION)`, as a point, a point and the
    /// number of nanoseconds in a unit.
    Duration(TimePoint, TimePoint, u32),
    /// `QUERY_PARAM(X)`: the first of that name, as it was sent.
    QueryParam(Box<str>),
    /// `PATH(QUERY:SOURCE)`: with the query or not.
    Path { query: bool, source: PathSource },
    /// `ENVIRONMENT(X)`: read when the format is parsed.
    Constant(Box<str>),
    /// `RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)`.
    CodeDetails { spaces: bool },
    /// `GRPC_STATUS(FORMAT)`.
    GrpcStatus(GrpcStatusStyle),
}

/// Which path `%PATH%` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathSource {
    /// `PATH`: as it goes to the upstream.
    Current,
    /// `ORIG`: `x-envoy-original-path` only.
    Original,
    /// `ORIG_OR_PATH`: the original if there is one.
    OriginalOrCurrent,
}

/// How `%GRPC_STATUS%` prints a known code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcStatusStyle {
    /// `PermissionDenied`.
    Camel,
    /// `PERMISSION_DENIED`.
    Snake,
    /// `7`.
    Number,
}

/// A moment that [`Operator::Duration`] measures between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TimePoint {
    DownstreamRxBegin,
    DownstreamRxEnd,
    UpstreamConnectBegin,
    UpstreamConnectEnd,
    UpstreamHandshakeEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
}

/// Names of [`TimePoint`]s in `COMMON_DURATION`.
pub const TIME_POINTS: [(&str, TimePoint); 11] = [
    ("DS_RX_BEG", TimePoint::DownstreamRxBegin),
    ("DS_RX_END", TimePoint::DownstreamRxEnd),
    ("US_CX_BEG", TimePoint::UpstreamConnectBegin),
    ("US_CX_END", TimePoint::UpstreamConnectEnd),
    ("US_HS_END", TimePoint::UpstreamHandshakeEnd),
    ("US_TX_BEG", TimePoint::UpstreamTxBegin),
    ("US_TX_END", TimePoint::UpstreamTxEnd),
    ("US_RX_BEG", TimePoint::UpstreamRxBegin),
    ("US_RX_END", TimePoint::UpstreamRxEnd),
    ("DS_TX_BEG", TimePoint::DownstreamTxBegin),
    ("DS_TX_END", TimePoint::DownstreamTxEnd),
];

impl Operator {
    /// The operator's value for a stream.
    pub fn value<'a>(&'a self, cx: &FormatContext<'a>) -> Value<'a> {
        match self {
            Self::Plain(index) => PLAIN[*index].1(cx),
            Self::Request(name, or) => {
                let either = [Some(name), or.as_ref()];
                let mut found = either
                    .iter()
                    .flatten()
                    .filter_map(|n| n.in_request(&cx.request));
                found.next().map_or(Value::Absent, Value::Bytes)
            }
            Self::Response(name, or) => in_response(cx, cx.response, name, or.as_ref()),
            Self::Trailer(name, or) => in_response(cx, cx.trailers, name, or.as_ref()),
            Self::StartTime(format) => Value::Time(format, cx.info.start_time.into()),
            Self::EmitTime(format) => Value::Time(format, std::time::SystemTime::now().into()),
            Self::Duration(from, to, unit) => {
                let (from, to) = (from.of(cx), to.of(cx));
                let between = from.zip(to).and_then(|(a, b)| b.checked_duration_since(a));
                let units = between.map(|d| d.as_nanos() / u128::from(*unit));
                Value::number(units.and_then(|n| u64::try_from(n).ok()))
            }
            Self::QueryParam(name) => query_param(cx.request.path, name),
            Self::Path { query, source } => path(cx, *query, *source),
            Self::Constant(text) => Value::Text(text),
            Self::CodeDetails { spaces } => {
                let details = cx.info.response_code_details.as_deref();
                match (details, spaces) {
                    (None, _) => Value::Absent,
                    (Some(text), true) => Value::Text(text),
                    (Some(text), false) => with_underscores(text),
                }
            }
            Self::GrpcStatus(style) => grpc_status(cx, *style),
        }
    }
}

impl TimePoint {
    fn of(self, cx: &FormatContext<'_>) -> Option<Instant> {
        let t = &cx.info.timing;
        match self {
            Self::DownstreamRxBegin => Some(cx.info.start),
            Self::DownstreamRxEnd => t.last_downstream_rx,
            Self::UpstreamConnectBegin => t.upstream_connect_start,
            Self::UpstreamConnectEnd => t.upstream_connect_complete,
            Self::UpstreamHandshakeEnd => t.upstream_handshake_complete,
            Self::UpstreamTxBegin => t.first_upstream_tx,
            Self::UpstreamTxEnd => t.last_upstream_tx,
            Self::UpstreamRxBegin => t.first_upstream_rx,
            Self::UpstreamRxEnd => t.last_upstream_rx,
            Self::DownstreamTxBegin => t.first_downstream_tx,
            Self::DownstreamTxEnd => t.last_downstream_tx,
        }
    }
}

fn in_response<'a>(
    cx: &FormatContext<'a>,
    headers: HeaderView<'a>,
    name: &FieldName,
    or: Option<&FieldName>,
) -> Value<'a> {
    let one = |name: &FieldName| match name {
        FieldName::Status => cx
            .info
            .response_code
            .map(|code| Value::Owned(code.as_str().to_owned())),
        FieldName::Header(name) => headers.get(name).map(|v| Value::Bytes(v.as_bytes())),
        _ => None,
    };
    one(name)
        .or_else(|| or.and_then(one))
        .unwrap_or(Value::Absent)
}

fn query_param<'a>(path: &'a str, name: &str) -> Value<'a> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let mut pairs = query
        .split('&')
        .map(|p| p.split_once('=').unwrap_or((p, "")));
    pairs
        .find(|(key, _)| *key == name)
        .map_or(Value::Absent, |(_, value)| Value::Text(value))
}

fn path<'a>(cx: &FormatContext<'a>, query: bool, source: PathSource) -> Value<'a> {
    let original = || {
        const ORIGINAL: http::HeaderName = http::HeaderName::from_static("x-envoy-original-path");
        cx.request.headers.get(&ORIGINAL)?.to_str().ok()
    };
    let current = (!cx.request.path.is_empty()).then_some(cx.request.path);
    let path = match source {
        PathSource::Current => current,
        PathSource::Original => original(),
        PathSource::OriginalOrCurrent => original().or(current),
    };
    match path {
        None => Value::Absent,
        Some(path) if query => Value::Text(path),
        Some(path) => Value::Text(path.split(['?', '#']).next().unwrap_or_default()),
    }
}

const GRPC_NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

const GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");

/// The status of a gRPC response: from its trailers, its headers, or its HTTP status.
pub fn grpc_status_code(cx: &FormatContext<'_>) -> Option<u64> {
    let number = |view: HeaderView<'_>| {
        let value = view.get(&GRPC_STATUS)?;
        value.to_str().ok()?.parse::<u64>().ok()
    };
    let from_http = || {
        let code = cx.info.response_code?.as_u16();
        Some(match code {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        })
    };
    number(cx.trailers)
        .or_else(|| number(cx.response))
        .or_else(from_http)
}

fn grpc_status(cx: &FormatContext<'_>, style: GrpcStatusStyle) -> Value<'static> {
    let is_grpc = cx
        .request
        .headers
        .get(&http::header::CONTENT_TYPE)
        .is_some_and(|v| is_grpc_content_type(v.as_bytes()));
    if !is_grpc {
        return Value::Absent;
    }
    let Some(code) = grpc_status_code(cx) else {
        return Value::Absent;
    };
    let names = usize::try_from(code).ok().and_then(|i| GRPC_NAMES.get(i));
    match (style, names) {
        (GrpcStatusStyle::Number, _) => Value::Number(code),
        (GrpcStatusStyle::Camel, Some((camel, _))) => Value::Text(camel),
        (GrpcStatusStyle::Snake, Some((_, snake))) => Value::Text(snake),
        (_, None) => Value::Owned(code.to_string()),
    }
}

/// Whether a `content-type` is gRPC's: `application/grpc`, alone or followed by `+` or `;`.
pub fn is_grpc_content_type(value: &[u8]) -> bool {
    value
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn optional<'a>(text: Option<&'a str>) -> Value<'a> {
    text.map_or(Value::Absent, Value::text)
}

fn address(address: &Address) -> Value<'_> {
    match address {
        Address::Ip(ip) => Value::Owned(ip.to_string()),
        Address::Pipe(path) => Value::Owned(path.display().to_string()),
    }
}

fn without_port(address: &Address) -> Value<'_> {
    match address {
        Address::Ip(ip) => Value::Owned(ip.ip().to_string()),
        Address::Pipe(path) => Value::Owned(path.display().to_string()),
    }
}

fn port(address: &Address) -> Value<'_> {
    Value::number(address.ip().map(|ip| ip.port().into()))
}

fn millis(duration: Option<Duration>) -> Value<'static> {
    Value::number(duration.and_then(|d| u64::try_from(d.as_millis()).ok()))
}

fn since_start(cx: &FormatContext<'_>, at: Option<Instant>) -> Value<'static> {
    millis(at.map(|at| at.saturating_duration_since(cx.info.start)))
}

fn upstream_local<'a>(cx: &FormatContext<'a>) -> Option<std::net::SocketAddr> {
    cx.info.upstream_connection.as_ref()?.local
}

/// The address of a host without its port.
fn host_without_port(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, _)) if !address.starts_with(['/', '@']) => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => address,
    }
}

fn host_name(host: &UpstreamHost) -> &str {
    match host.hostname.is_empty() {
        true => &host.address,
        false => &host.hostname,
    }
}

fn attempted<'a>(cx: &FormatContext<'a>, each: fn(&UpstreamHost) -> &str) -> Value<'a> {
    let info = cx.info;
    let hosts: &[_] = match info.upstream_hosts_attempted.is_empty() {
        true => info.upstream_host.as_slice(),
        false => &info.upstream_hosts_attempted,
    };
    if hosts.is_empty() {
        return Value::Absent;
    }
    let names: Vec<_> = hosts.iter().map(|h| each(h)).collect();
    Value::Owned(names.join(","))
}

fn flags<'a>(cx: &FormatContext<'a>, long: bool) -> Value<'a> {
    let mut names = cx.info.flags.names().map(|n| if long { n.1 } else { n.0 });
    match (names.next(), names.next()) {
        (None, _) => Value::Text("-"),
        (Some(one), None) => Value::Text(one),
        (Some(one), Some(two)) => {
            let rest: String = names.flat_map(|n| [",", n]).collect();
            Value::Owned(format!("{one},{two}{rest}"))
        }
    }
}

/// Spaces would make two fields of one.
fn with_underscores(text: &str) -> Value<'_> {
    match text.contains(char::is_whitespace) {
        true => Value::Owned(text.replace(char::is_whitespace, "_")),
        false => Value::text(text),
    }
}

fn header_bytes(view: HeaderView<'_>) -> Value<'static> {
    match view {
        HeaderView::Map(map) => Value::Number(
            map.iter()
                .map(|(n, v)| (n.as_str().len() + v.len()) as u64)
                .sum(),
        ),
        HeaderView::Absent | HeaderView::Captured(..) => Value::Number(0),
    }
}

/// Operators without an argument.
pub const PLAIN: &[(&str, Plain)] = &[
    ("PROTOCOL", |cx| {
        optional(cx.info.protocol.map(|p| p.as_str()))
    }),
    ("UPSTREAM_PROTOCOL", |cx| {
        let connection = cx.info.upstream_connection.as_ref();
        optional(connection.and_then(|c| c.protocol).map(|p| p.as_str()))
    }),
    ("RESPONSE_CODE", |cx| {
        Value::Number(cx.info.response_code.map_or(0, |c| c.as_u16().into()))
    }),
    ("CONNECTION_TERMINATION_DETAILS", |cx| {
        optional(cx.info.connection_termination_details.as_deref())
    }),
    ("RESPONSE_FLAGS", |cx| flags(cx, false)),
    ("RESPONSE_FLAGS_LONG", |cx| flags(cx, true)),
    ("BYTES_RECEIVED", |cx| Value::Number(cx.info.bytes_received)),
    ("BYTES_SENT", |cx| Value::Number(cx.info.bytes_sent)),
    ("DOWNSTREAM_WIRE_BYTES_RECEIVED", |cx| {
        Value::Number(cx.info.downstream_bytes.wire_received)
    }),
    ("DOWNSTREAM_WIRE_BYTES_SENT", |cx| {
        Value::Number(cx.info.downstream_bytes.wire_sent)
    }),
    ("DOWNSTREAM_HEADER_BYTES_RECEIVED", |cx| {
        Value::Number(cx.info.downstream_bytes.header_received)
    }),
    ("DOWNSTREAM_HEADER_BYTES_SENT", |cx| {
        Value::Number(cx.info.downstream_bytes.header_sent)
    }),
    ("UPSTREAM_WIRE_BYTES_RECEIVED", |cx| {
        Value::Number(cx.info.upstream_bytes.wire_received)
    }),
    ("UPSTREAM_WIRE_BYTES_SENT", |cx| {
        Value::Number(cx.info.upstream_bytes.wire_sent)
    }),
    ("UPSTREAM_HEADER_BYTES_RECEIVED", |cx| {
        Value::Number(cx.info.upstream_bytes.header_received)
    }),
    ("UPSTREAM_HEADER_BYTES_SENT", |cx| {
        Value::Number(cx.info.upstream_bytes.header_sent)
    }),
    ("DURATION", |cx| millis(Some(cx.info.duration()))),
    ("REQUEST_DURATION", |cx| {
        since_start(cx, cx.info.timing.last_downstream_rx)
    }),
    ("REQUEST_TX_DURATION", |cx| {
        since_start(cx, cx.info.timing.last_upstream_tx)
    }),
    ("RESPONSE_DURATION", |cx| {
        since_start(cx, cx.info.timing.first_upstream_rx)
    }),
    ("RESPONSE_TX_DURATION", |cx| {
        let t = &cx.info.timing;
        let both = t.last_downstream_tx.zip(t.first_upstream_rx);
        millis(both.map(|(last, first)| last.saturating_duration_since(first)))
    }),
    ("UPSTREAM_CONNECTION_POOL_READY_DURATION", |cx| {
        millis(cx.info.timing.pool_ready)
    }),
    ("UPSTREAM_HOST", |cx| {
        optional(cx.info.upstream_host.as_ref().map(|h| &*h.address))
    }),
    ("UPSTREAM_HOST_NAME", |cx| {
        optional(cx.info.upstream_host.as_deref().map(host_name))
    }),
    ("UPSTREAM_HOST_NAME_WITHOUT_PORT", |cx| {
        let host = cx.info.upstream_host.as_deref();
        optional(host.map(|h| host_without_port(host_name(h))))
    }),
    ("UPSTREAM_REMOTE_ADDRESS", |cx| {
        optional(cx.info.upstream_host.as_ref().map(|h| &*h.address))
    }),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |cx| {
        let host = cx.info.upstream_host.as_ref();
        optional(host.map(|h| host_without_port(&h.address)))
    }),
    ("UPSTREAM_REMOTE_PORT", |cx| {
        let host = cx.info.upstream_host.as_ref();
        let port = host.and_then(|h| h.address.rsplit_once(':'));
        Value::number(port.and_then(|(_, port)| port.parse().ok()))
    }),
    ("UPSTREAM_LOCAL_ADDRESS", |cx| {
        upstream_local(cx).map_or(Value::Absent, |a| Value::Owned(a.to_string()))
    }),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |cx| {
        upstream_local(cx).map_or(Value::Absent, |a| Value::Owned(a.ip().to_string()))
    }),
    ("UPSTREAM_LOCAL_PORT", |cx| {
        Value::number(upstream_local(cx).map(|a| a.port().into()))
    }),
    ("UPSTREAM_HOSTS_ATTEMPTED", |cx| {
        attempted(cx, |h| &h.address)
    }),
    ("UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT", |cx| {
        attempted(cx, |h| host_without_port(&h.address))
    }),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED", |cx| {
        attempted(cx, host_name)
    }),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT", |cx| {
        attempted(cx, |h| host_without_port(host_name(h)))
    }),
    ("UPSTREAM_CONNECTION_ID", |cx| {
        Value::Number(cx.info.upstream_connection.as_ref().map_or(0, |c| c.id))
    }),
    ("UPSTREAM_CLUSTER", |cx| {
        optional(cx.info.upstream_cluster.as_deref())
    }),
    ("UPSTREAM_CLUSTER_RAW", |cx| {
        optional(cx.info.upstream_cluster_raw.as_deref())
    }),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", |cx| {
        let reason = cx.info.upstream_transport_failure_reason.as_deref();
        reason.map_or(Value::Absent, with_underscores)
    }),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", |cx| {
        Value::Number(cx.info.attempt_count.into())
    }),
    ("UPSTREAM_TLS_VERSION", |cx| {
        let connection = cx.info.upstream_connection.as_ref();
        optional(connection.and_then(|c| c.tls.as_ref()).map(|t| t.version))
    }),
    ("UPSTREAM_TLS_CIPHER", |cx| {
        let connection = cx.info.upstream_connection.as_ref();
        optional(connection.and_then(|c| c.tls.as_ref()).map(|t| &*t.cipher))
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS", |cx| address(cx.info.remote())),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |cx| {
        without_port(cx.info.remote())
    }),
    ("DOWNSTREAM_REMOTE_PORT", |cx| port(cx.info.remote())),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", |cx| {
        address(&cx.info.connection.direct_remote)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", |cx| {
        without_port(&cx.info.connection.direct_remote)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", |cx| {
        port(&cx.info.connection.direct_remote)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS", |cx| {
        address(&cx.info.connection.local)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |cx| {
        without_port(&cx.info.connection.local)
    }),
    ("DOWNSTREAM_LOCAL_PORT", |cx| {
        port(&cx.info.connection.local)
    }),
    ("DOWNSTREAM_TLS_VERSION", |cx| {
        optional(cx.info.connection.tls.as_ref().map(|t| t.version))
    }),
    ("DOWNSTREAM_TLS_CIPHER", |cx| {
        optional(cx.info.connection.tls.as_ref().map(|t| &*t.cipher))
    }),
    ("CUSTOM_FLAGS", |_| Value::Text("")),
    ("BYTES_RETRANSMITTED", |_| Value::Number(0)),
    ("PACKETS_RETRANSMITTED", |_| Value::Number(0)),
    ("ROUNDTRIP_DURATION", |_| Value::Absent),
    ("REQUESTED_SERVER_NAME", |cx| {
        optional(cx.info.connection.server_name.as_deref())
    }),
    ("CONNECTION_ID", |cx| Value::Number(cx.info.connection.id)),
    ("LISTENER_NAME", |cx| {
        optional(cx.info.listener_name.as_deref())
    }),
    ("FILTER_CHAIN_NAME", |cx| {
        optional(cx.info.filter_chain_name.as_deref())
    }),
    ("ROUTE_NAME", |cx| {
        optional(cx.info.route.as_ref().map(|r| r.route().name()))
    }),
    ("STREAM_ID", |cx| optional(cx.info.stream_id.as_deref())),
    ("HOSTNAME", |_| hostname()),
    ("LOCAL_REPLY_BODY", |cx| Value::text(cx.local_reply_body)),
    ("ACCESS_LOG_TYPE", |cx| {
        Value::Text(cx.log_type.as_str_name())
    }),
    ("REQUEST_HEADERS_BYTES", |cx| {
        header_bytes(cx.request.headers)
    }),
    ("RESPONSE_HEADERS_BYTES", |cx| header_bytes(cx.response)),
    ("RESPONSE_TRAILERS_BYTES", |cx| header_bytes(cx.trailers)),
    ("GRPC_STATUS_NUMBER", |cx| {
        grpc_status(cx, GrpcStatusStyle::Number)
    }),
];

fn hostname() -> Value<'static> {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) => Value::Owned(name.trim_end().to_owned()),
        Err(_) => Value::Absent,
    }
}
