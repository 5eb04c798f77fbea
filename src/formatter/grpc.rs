//! The status of a gRPC response.

use super::{FormatContext, HeaderView, value::Value};

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

/// What `%GRPC_STATUS%` prints; nothing when the request was not gRPC.
pub fn grpc_status(cx: &FormatContext<'_>, style: GrpcStatusStyle) -> Value<'static> {
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
