//! Facts about one request or one connection, gathered while it lives and
//! printed when it ends.

use std::{
    borrow::Cow,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use http::StatusCode;

use crate::{
    model::route::RouteHandle,
    net::{Address, ConnectionInfo, TlsInfo},
};

use super::flags::ResponseFlags;

/// The application protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    /// As Envoy prints it: `HTTP/1.1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// When things happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Last byte of the request from the client.
    pub last_downstream_rx: Option<Instant>,
    /// First byte of the request to the upstream; see [`Needs::moments`](super::Needs).
    pub first_upstream_tx: Option<Instant>,
    /// Last byte of the request to the upstream, likewise.
    pub last_upstream_tx: Option<Instant>,
    /// First byte of the response from the upstream.
    pub first_upstream_rx: Option<Instant>,
    /// Last byte of the response from the upstream.
    pub last_upstream_rx: Option<Instant>,
    /// First byte of the response to the client.
    pub first_downstream_tx: Option<Instant>,
    /// Last byte of the response to the client.
    pub last_downstream_tx: Option<Instant>,
}

/// Bytes on the wire, with headers and framing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes {
    /// Received.
    pub wire_received: u64,
    /// Sent.
    pub wire_sent: u64,
}

/// What is known of the connection to the upstream: made once for each
/// connection and shared by its requests.
#[derive(Debug, Default)]
pub struct UpstreamConnection {
    /// Numbered within the process.
    pub id: u64,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// Protocol spoken.
    pub protocol: Option<Protocol>,
    /// Set when it is encrypted.
    pub tls: Option<TlsInfo>,
}

/// The upstream host that was chosen.
#[derive(Debug)]
pub struct UpstreamHost {
    /// Its address as Envoy prints it, with the port; a path for a pipe.
    pub address: Box<str>,
    /// Its name, where it has one: the DNS name or `endpoint.hostname`.
    pub hostname: Box<str>,
}

/// Everything [`Formatter`](super::Formatter)s print that is not a header.
///
/// Owned by the stream (a request, or a TCP session), written as facts become
/// known. Strings are shared or static, so that filling it in does not allocate.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// Wall-clock start.
    pub start_time: SystemTime,
    /// Monotonic start.
    pub start: Instant,
    /// Monotonic end; until it is set, durations run to the moment of printing.
    pub end: Option<Instant>,
    /// The downstream connection.
    pub connection: Rc<ConnectionInfo>,
    /// The client's address where `x-forwarded-for` or the like says another
    /// than the connection's.
    pub downstream_remote: Option<Address>,
    /// Downstream protocol; absent for TCP.
    pub protocol: Option<Protocol>,
    /// Status sent to the client.
    pub response_code: Option<StatusCode>,
    /// Who gave that status and why: `via_upstream`, `route_not_found`, ….
    pub response_code_details: Option<Cow<'static, str>>,
    /// Why the connection was ended at layer 4.
    pub connection_termination_details: Option<Cow<'static, str>>,
    /// Reasons.
    pub flags: ResponseFlags,
    /// Body bytes received from the client.
    pub bytes_received: u64,
    /// Body bytes sent to the client.
    pub bytes_sent: u64,
    /// Bytes on the wire with the upstream, over HTTP/1.
    pub upstream_bytes: Bytes,
    /// Moments.
    pub timing: Timing,
    /// The route that was chosen.
    pub route: Option<RouteHandle>,
    /// Which of its virtual host's [`VirtualClusters`](crate::model::route::VirtualClusters)
    /// the request is in.
    pub virtual_cluster: Option<u32>,
    /// The cluster that was chosen: `alt_stat_name`, or its name.
    pub upstream_cluster: Option<Rc<str>>,
    /// The cluster's name, whatever `alt_stat_name` says.
    pub upstream_cluster_raw: Option<Rc<str>>,
    /// The host that was chosen last.
    pub upstream_host: Option<Rc<UpstreamHost>>,
    /// The connection that was used last.
    pub upstream_connection: Option<Rc<UpstreamConnection>>,
    /// Why connecting to the upstream failed: `delayed connect error: 111`.
    pub upstream_transport_failure_reason: Option<Cow<'static, str>>,
    /// Tries, with the first; 0 when the request never went to an upstream.
    pub attempt_count: u32,
    /// Whether the health check filter answered.
    pub health_check: bool,
}

impl StreamInfo {
    /// A stream that starts now.
    pub fn new(connection: Rc<ConnectionInfo>, start_time: SystemTime, start: Instant) -> Self {
        Self {
            start_time,
            start,
            end: None,
            connection,
            downstream_remote: None,
            protocol: None,
            response_code: None,
            response_code_details: None,
            connection_termination_details: None,
            flags: ResponseFlags::default(),
            bytes_received: 0,
            bytes_sent: 0,
            upstream_bytes: Bytes::default(),
            timing: Timing::default(),
            route: None,
            virtual_cluster: None,
            upstream_cluster: None,
            upstream_cluster_raw: None,
            upstream_host: None,
            upstream_connection: None,
            upstream_transport_failure_reason: None,
            attempt_count: 0,
            health_check: false,
        }
    }

    /// The client's address as the request has it.
    pub fn remote(&self) -> &Address {
        self.downstream_remote
            .as_ref()
            .unwrap_or(&self.connection.remote)
    }

    /// How long the stream has lived: to its end, or until now.
    pub fn duration(&self) -> Duration {
        self.end
            .unwrap_or_else(Instant::now)
            .saturating_duration_since(self.start)
    }
}
