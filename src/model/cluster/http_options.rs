//! What a cluster says about HTTP, whatever version is spoken.

use std::{hash::Hash, time::Duration};

use http::HeaderName;

use crate::{model::http1::Http1Wire, net::http2::FrameLimits};

/// `idle_timeout` of connections, unless set.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// `max_response_headers_kb`, unless set.
pub const DEFAULT_MAX_RESPONSE_HEADERS_KB: u32 = 60;
/// `max_headers_count`, unless set.
pub const DEFAULT_MAX_HEADERS: u32 = 100;
/// `initial_stream_window_size`, unless set.
pub const DEFAULT_STREAM_WINDOW: u32 = 16 * 1024 * 1024;
/// `initial_connection_window_size`, unless set.
pub const DEFAULT_CONNECTION_WINDOW: u32 = 24 * 1024 * 1024;
/// `max_concurrent_streams`, unless set.
pub const DEFAULT_CONCURRENT_STREAMS: u32 = 1024;

/// Limits and codec settings of a cluster's HTTP connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpOptions {
    /// A connection without requests is closed after this; `None` for never.
    pub idle_timeout: Option<Duration>,
    /// A connection takes no more requests after this.
    pub max_connection_duration: Option<Duration>,
    /// A request with its response takes at most this long.
    pub max_stream_duration: Option<Duration>,
    /// A connection takes at most this many requests; `None` for any number.
    pub max_requests_per_connection: Option<u32>,
    /// Largest header block of a response, in KiB.
    pub max_response_headers_kb: u32,
    /// Most headers of a response.
    pub max_headers: u32,
    /// `auto_sni`: the server name is the request's host.
    pub auto_sni: bool,
    /// `auto_san_validation`: the certificate has to be for that name.
    pub auto_san_validation: bool,
    /// `override_auto_sni_header`: the server name comes from this header.
    pub auto_sni_header: Option<HeaderName>,
    /// HTTP/1.
    pub http1: Http1Wire,
    /// HTTP/2.
    pub http2: Http2Options,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(DEFAULT_IDLE_TIMEOUT),
            max_connection_duration: None,
            max_stream_duration: None,
            max_requests_per_connection: None,
            max_response_headers_kb: DEFAULT_MAX_RESPONSE_HEADERS_KB,
            max_headers: DEFAULT_MAX_HEADERS,
            auto_sni: false,
            auto_san_validation: false,
            auto_sni_header: None,
            http1: Http1Wire::default(),
            http2: Http2Options::default(),
        }
    }
}

impl HttpOptions {
    /// What the peer of a connection can notice: connections that differ in it
    /// cannot stand in for each other.
    pub(super) fn wire(&self) -> impl Hash {
        (
            self.http1,
            self.http2.clone(),
            self.max_response_headers_kb,
            self.max_headers,
            self.auto_sni,
            self.auto_san_validation,
            self.auto_sni_header.clone(),
        )
    }
}

/// HTTP/2 towards the origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http2Options {
    /// `hpack_table_size`, in bytes; the protocol's 4096 unless set.
    pub hpack_table_size: Option<u32>,
    /// `max_concurrent_streams`: at most this many requests on a connection,
    /// also when the origin would allow more.
    pub max_concurrent_streams: u32,
    /// `initial_stream_window_size`, in bytes.
    pub stream_window: u32,
    /// `initial_connection_window_size`, in bytes.
    pub connection_window: u32,
    /// `connection_keepalive`.
    pub keep_alive: Option<KeepAlive>,
    /// What the host may do without being asked for anything.
    pub limits: FrameLimits,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            hpack_table_size: None,
            max_concurrent_streams: DEFAULT_CONCURRENT_STREAMS,
            stream_window: DEFAULT_STREAM_WINDOW,
            connection_window: DEFAULT_CONNECTION_WINDOW,
            keep_alive: None,
            limits: FrameLimits::default(),
        }
    }
}

/// HTTP/2 pings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeepAlive {
    /// How often, while there are requests.
    pub interval: Option<Duration>,
    /// How long to wait for the answer before the connection is closed.
    pub timeout: Duration,
}
