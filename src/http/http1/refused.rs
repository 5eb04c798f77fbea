//! Why there is no request to handle, and what its client is told.

use http::StatusCode;

use super::head::BadHead;
use crate::{
    formatter::ResponseFlag,
    http::{LocalReply, reply::DEADLINE_EXCEEDED, stats::http_stats},
    stats::Counter,
};

/// Why there is no request to handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// What came is none.
    Bad(BadHead),
    /// `request_headers_timeout`.
    HeadersTimeout,
    /// `request_timeout`.
    Timeout,
    /// `stream_idle_timeout`.
    Idle,
    /// `max_stream_duration`.
    Duration,
}

impl Refused {
    /// What the client is told, after which its connection closes.
    pub fn reply(self) -> LocalReply {
        let timeout = |details, text| LocalReply::text(StatusCode::REQUEST_TIMEOUT, details, text);
        let reply = match self {
            Self::Bad(BadHead::Fragment) => {
                LocalReply::empty(StatusCode::BAD_REQUEST, "path_normalization_failed")
            }
            Self::Bad(bad) => bad_head(bad).flag(ResponseFlag::DownstreamProtocolError),
            Self::HeadersTimeout => timeout("request_header_timeout", "request header timeout"),
            Self::Timeout => timeout("request_overall_timeout", "request timeout"),
            Self::Idle => timeout("stream_idle_timeout", "stream timeout")
                .flag(ResponseFlag::StreamIdleTimeout),
            Self::Duration => timeout("max_duration_timeout", "downstream duration timeout")
                .grpc_status(DEADLINE_EXCEEDED),
        };
        reply.closing()
    }

    /// What it is counted as, besides an error of the protocol.
    pub fn counter(self) -> Option<Counter> {
        match self {
            Self::Bad(BadHead::Fragment) => {
                Some(http_stats::downstream_rq_failed_path_normalization)
            }
            Self::Bad(_) => None,
            Self::HeadersTimeout => Some(http_stats::downstream_rq_header_timeout),
            Self::Timeout => Some(http_stats::downstream_rq_timeout),
            Self::Idle => Some(http_stats::downstream_rq_idle_timeout),
            Self::Duration => Some(http_stats::downstream_rq_max_duration_reached),
        }
    }
}

fn bad_head(bad: BadHead) -> LocalReply {
    let (status, details, text) = match bad {
        BadHead::Malformed | BadHead::Fragment => {
            (StatusCode::BAD_REQUEST, "http1.codec_error", "Bad Request")
        }
        BadHead::Both => (
            StatusCode::BAD_REQUEST,
            "http1.content_length_and_chunked_not_allowed",
            "Bad Request",
        ),
        BadHead::Version => (
            StatusCode::UPGRADE_REQUIRED,
            "low_version",
            "Upgrade Required",
        ),
        BadHead::Coding => (
            StatusCode::NOT_IMPLEMENTED,
            "http1.invalid_transfer_encoding",
            "Not Implemented",
        ),
        BadHead::TooLarge => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "http1.headers_too_large",
            "Request Header Fields Too Large",
        ),
        BadHead::TooMany => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "http1.too_many_headers",
            "Request Header Fields Too Large",
        ),
    };
    LocalReply::text(status, details, text)
}
