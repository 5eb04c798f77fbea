//! Command operators: what `%NAME%` and `%NAME(ARGUMENT)%` stand for.
//!
//! An operator without an argument is a row of [`PLAIN`](super::plain::PLAIN); the others are
//! variants of [`Operator`].

use std::time::Instant;

use super::{
    FormatContext, TimeFormat,
    grpc::{GrpcStatusStyle, grpc_status},
    plain::{PLAIN, downstream_tls, upstream_tls, with_underscores},
    value::Value,
    view::{FieldName, HeaderView},
};

/// One parsed command.
#[derive(Clone, Debug)]
pub enum Operator {
    /// A row of [`PLAIN`](super::plain::PLAIN), by index.
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
    /// `DOWNSTREAM_PEER_CERT_V_START(FORMAT)` and its like: upstream's, or the end.
    PeerValidity {
        upstream: bool,
        end: bool,
        format: TimeFormat,
    },
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

/// A moment that [`Operator::Duration`] measures between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TimePoint {
    DownstreamRxBegin,
    UpstreamRxBegin,
    DownstreamTxEnd,
}

/// Names of [`TimePoint`]s in `COMMON_DURATION`.
pub const TIME_POINTS: [(&str, TimePoint); 3] = [
    ("DS_RX_BEG", TimePoint::DownstreamRxBegin),
    ("US_RX_BEG", TimePoint::UpstreamRxBegin),
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
            Self::PeerValidity {
                upstream,
                end,
                format,
            } => {
                let tls = match upstream {
                    true => upstream_tls(cx),
                    false => downstream_tls(cx),
                };
                let text = tls.and_then(|tls| tls.peer.as_ref()?.text());
                text.map_or(Value::Absent, |text| {
                    let time = match end {
                        true => text.expiration,
                        false => text.valid_from,
                    };
                    Value::Time(format, time.into())
                })
            }
            Self::Duration(from, to, unit) => {
                let (from, to) = (from.of(cx), to.of(cx));
                let between = from.zip(to).and_then(|(a, b)| b.checked_duration_since(a));
                let units = between.map(|d| d.as_nanos() / u128::from(*unit));
                Value::number(units.and_then(|n| u64::try_from(n).ok()))
            }
            Self::QueryParam(name) => {
                let value = cx.request.query_parameter(name);
                value.map_or(Value::Absent, Value::Text)
            }
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
            Self::UpstreamRxBegin => t.first_upstream_rx,
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
