//! HTTP: codecs, connection manager, filters.
//!
//! A connection (`connection`) is served by one of two codecs (`http1`, `http2`);
//! what its requests share is its `session`. Each request becomes a
//! [`stream::Stream`], is prepared and routed (`handle`), and is forwarded by the
//! router ([`filters::router`]) from the same task: nothing is spawned or locked
//! for a request on HTTP/1. The stream lives on in the
//! response's body and is counted and logged when that ends.

mod admit;
mod alarm;
mod body;
mod client_cert;
mod clock;
mod coalesced;
pub mod config;
mod connection;
mod copied_body;
mod downstream;
pub mod filters;
mod handle;
mod http1;
mod http2;
mod interim;
pub mod names;
pub mod path;
mod reply;
mod request;
pub mod request_id;
mod response;
mod response_body;
mod session;
mod sniff;
pub mod stats;
pub mod stream;
mod strict;
mod target;
mod upgrade;

pub use body::{BodyAborted, RequestBody};
pub use clock::Clock;
pub use config::ConnectionManager;
pub use connection::serve;
pub use reply::LocalReply;
pub use response_body::ResponseBody;
pub use stream::Stream;

use crate::{
    formatter::ResponseFlag,
    upstream::pool::{http1::Http1Error, http2::Http2Error},
};

/// Why a stream is cut in the middle of its response.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The upstream failed, over HTTP/1.
    #[error(transparent)]
    Upstream(#[from] Http1Error),
    /// The upstream failed, over HTTP/2.
    #[error("the upstream's HTTP/2 stream failed: {0}")]
    Http2(Http2Error),
    /// Nothing moved for `stream_idle_timeout`.
    #[error("nothing moved within the stream idle timeout")]
    Idle,
    /// A time limit was used up.
    #[error("the response was not complete in time")]
    Timeout,
}

impl StreamError {
    /// Tells the access log.
    fn explain(&self, stream: &mut Stream) {
        let (flag, details) = match self {
            Self::Upstream(Http1Error::Protocol(_) | Http1Error::HeadTooLarge) => (
                ResponseFlag::UpstreamProtocolError,
                "upstream_reset_after_response_started{protocol_error}",
            ),
            Self::Http2(error) if error.is_reset() => (
                ResponseFlag::UpstreamRemoteReset,
                "upstream_reset_after_response_started{remote_reset}",
            ),
            Self::Upstream(_) | Self::Http2(_) => (
                ResponseFlag::UpstreamConnectionTermination,
                "upstream_reset_after_response_started{connection_termination}",
            ),
            Self::Idle | Self::Timeout => return,
        };
        stream.flag(flag);
        stream.info.response_code_details = Some(details.into());
    }
}
