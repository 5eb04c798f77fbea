//! Substitution formats: text and JSON in which `%COMMAND(ARGUMENT):LENGTH%`
//! stands for a fact about a request, for access logs, header rules and local
//! replies.
//!
//! A format is parsed once into a row of literals and operators;
//! writing it walks the row and appends to a buffer.

mod flags;
mod grpc;
mod json;
mod operator;
mod parse;
mod plain;
mod stream_info;
mod substitution;
mod time;
mod unsupported;
mod value;
mod view;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use flags::{ResponseFlag, ResponseFlags};
pub use grpc::{grpc_status_code, is_grpc_content_type};
pub use json::JsonFormatter;
pub use parse::{DEFAULT_FORMAT, Formatter};
pub use stream_info::{Bytes, Protocol, StreamInfo, Timing, UpstreamConnection, UpstreamHost};
pub use substitution::SubstitutionFormat;
pub use time::TimeFormat;
pub use view::{Captured, FieldName, HeaderView, Needs, RequestView};

use crate::api::envoy::data::accesslog::v3::AccessLogType;

/// Everything a format may refer to.
#[derive(Clone, Copy, Debug)]
pub struct FormatContext<'a> {
    /// The stream's facts.
    pub info: &'a StreamInfo,
    /// The request; for a TCP session its default, which is empty.
    pub request: RequestView<'a>,
    /// The response's headers.
    pub response: HeaderView<'a>,
    /// The response's trailers.
    pub trailers: HeaderView<'a>,
    /// The body of a local reply, for `%LOCAL_REPLY_BODY%`.
    pub local_reply_body: &'a [u8],
    /// The moment of the stream's life at which this is written.
    pub log_type: AccessLogType,
}

impl<'a> FormatContext<'a> {
    /// The facts of a connection without requests.
    pub fn of_connection(info: &'a StreamInfo, log_type: AccessLogType) -> Self {
        Self {
            info,
            request: RequestView::default(),
            response: HeaderView::Absent,
            trailers: HeaderView::Absent,
            local_reply_body: b"",
            log_type,
        }
    }
}
