//! `HttpConnectionManager`, compiled.

mod compile;
mod detection;
mod local_reply;
mod peer;
pub mod protocol;
mod scoped;

use std::{
    hash::Hash,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::HeaderValue;

use crate::{
    access_log::AccessLogs,
    codec::stats::http1_stats,
    digest::{Digest, Said},
    model::{
        header_mutation::HeaderMutations, http1::Http1Options, listener::Listener, route::Routes,
    },
    net::http2::stats::http2_stats,
    stats::{Block, Registry},
};

pub use detection::{Detection, DetectionFailed};
pub use local_reply::LocalReplyConfig;
pub use peer::{CertDetails, ForwardClientCert, Internal, PeerOptions};
use protocol::{CommonOptions, Http2Options, Underscores};

use super::{
    filters::{FilterChain, Router},
    stats::listener_http_stats,
};

/// `stream_idle_timeout` when it is not set.
pub const DEFAULT_STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// `max_request_headers_kb` when it is not set, in bytes.
pub const DEFAULT_MAX_REQUEST_HEAD: usize = 60 * 1024;
/// `drain_timeout` when it is not set.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// `delayed_close_timeout` when it is not set.
pub const DEFAULT_DELAYED_CLOSE: Duration = Duration::from_secs(1);

/// `codec_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// By ALPN, else by what the client says first.
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// `server_header_transformation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerHeader {
    /// Ours replaces the upstream's.
    Overwrite,
    /// Ours where there is none.
    AppendIfAbsent,
    /// The upstream's alone.
    PassThrough,
}

/// `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Left alone; the default.
    Keep,
    /// Answered with 400.
    Reject,
    /// Unescaped, and the client sent there.
    Redirect,
    /// Unescaped.
    Forward,
}

/// How a request's path is made plain before it is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathOptions {
    /// `normalize_path`, off unless set.
    pub normalize: bool,
    /// `merge_slashes`.
    pub merge_slashes: bool,
    /// `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

impl PathOptions {
    /// Whether paths are left alone.
    pub fn is_noop(self) -> bool {
        !self.normalize && !self.merge_slashes && self.escaped_slashes == EscapedSlashes::Keep
    }
}

/// Which port is taken off the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    Keep,
    /// The listener's own: `strip_matching_host_port`.
    Matching,
    /// Any: `strip_any_host_port`.
    Any,
}

/// How the authority is made plain before it is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Its port.
    pub strip_port: StripPort,
    /// `strip_trailing_host_dot`.
    pub strip_trailing_dot: bool,
}

/// `x-request-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestIdOptions {
    /// `generate_request_id`, on unless set.
    pub generate: bool,
    /// `preserve_external_request_id`.
    pub preserve_external: bool,
    /// `always_set_request_id_in_response`.
    pub in_response: bool,
}

/// How long things may take. `None` is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `stream_idle_timeout`, 5 min unless set.
    pub stream_idle: Option<Duration>,
    /// `stream_flush_timeout`, as `stream_idle` unless set: how long a client of HTTP/2 may
    /// take nothing of a response that is all here.
    pub stream_flush: Option<Duration>,
    /// `request_timeout`: until the whole request has come.
    pub request: Option<Duration>,
    /// `request_headers_timeout`: until its head has come.
    pub request_headers: Option<Duration>,
    /// `drain_timeout`, 5 s unless set: how long a connection that has been idle or open
    /// too long waits for one more request.
    pub drain: Duration,
    /// `delayed_close_timeout`, 1 s unless set: how long a client whose connection is over
    /// may take to close it too. Without it nobody waits for clients.
    pub delayed_close: Option<Duration>,
}

/// `access_log_options`: a request is logged at its end, and then, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Every so often for as long as it lives.
    pub interval: Option<Duration>,
    /// When its head has come.
    pub on_request: bool,
    /// When it has become a tunnel.
    pub on_tunnel: bool,
}

/// What `add_user_agent` says of this proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserAgent {
    /// `node.cluster`.
    pub cluster: HeaderValue,
    /// `node.id`; nothing is said of an empty one.
    pub node: Option<HeaderValue>,
}

/// One kind of upgrade, `websocket` being the usual one.
#[derive(Debug)]
pub struct Upgrade {
    /// `upgrade_type`, lower case.
    pub kind: Box<str>,
    /// `enabled`, on unless set; a route may say otherwise.
    pub enabled: bool,
    /// `filters`: what such requests pass in place of the connection manager's filters.
    pub filters: Option<(FilterChain, Router)>,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Debug)]
pub struct ConnectionManager {
    /// `stat_prefix`.
    pub stat_prefix: Box<str>,
    /// `http.STAT_PREFIX.`
    pub stats: Arc<Block>,
    /// `http.STAT_PREFIX.`: what becomes of its requests.
    pub router_stats: Arc<Block>,
    /// `http.STAT_PREFIX.tracing.`: held to be listed, as Envoy lists it also without
    /// tracing; nothing is counted there.
    pub tracing_stats: Arc<Block>,
    /// `record_route_resolution_stats`: how often and how long a request's route was
    /// looked for.
    pub route_resolution: Option<Arc<Block>>,
    registry: Arc<Registry>,
    listener_stats: OnceLock<Arc<Block>>,
    http1_stats: OnceLock<Arc<Block>>,
    http2_stats: OnceLock<Arc<Block>>,
    /// `codec_type`.
    pub codec: Codec,
    /// The routes, inline, by RDS or by scope.
    pub routes: Routes,
    /// The filters before the router.
    pub filters: FilterChain,
    /// The filter that ends the chain.
    pub router: Router,
    /// `server_name`, `envoy` unless set.
    pub server_name: HeaderValue,
    /// What is done with the upstream's `server`.
    pub server_header: ServerHeader,
    /// `via`.
    pub via: Option<HeaderValue>,
    /// Who the client is, and what is believed of what it says.
    pub peer: PeerOptions,
    /// `original_ip_detection_extensions`: who else may tell the client's address.
    pub detection: Box<[Detection]>,
    /// `early_header_mutation_extensions`, all in their order.
    pub early_mutations: HeaderMutations,
    /// `add_user_agent`: hosts are told which proxy this is.
    pub user_agent: Option<UserAgent>,
    /// `x-request-id`.
    pub request_id: RequestIdOptions,
    /// Options of every codec.
    pub common: CommonOptions,
    /// HTTP/1.
    pub http1: Http1Options,
    /// `http1_safe_max_connection_duration`: a connection of HTTP/1 that has been open too
    /// long closes with its next response alone.
    pub http1_safe_max_duration: bool,
    /// HTTP/2.
    pub http2: Http2Options,
    /// Bytes a request head may have: `max_request_headers_kb`, 60 unless set.
    pub max_request_head: usize,
    /// Time limits.
    pub timeouts: Timeouts,
    /// The path.
    pub path: PathOptions,
    /// The authority.
    pub host: HostOptions,
    /// Who writes down what became of requests.
    pub access_logs: AccessLogs,
    /// When else than at their end requests are logged.
    pub log_options: LogOptions,
    /// `local_reply_config`: what the answers of this proxy itself look like.
    pub local_replies: Option<LocalReplyConfig>,
    /// `proxy_100_continue`: hosts are asked whether a client shall send the body of its
    /// request, and the first of their interim responses is passed on.
    pub proxy_100_continue: bool,
    /// Upgrades that are let through.
    pub upgrades: Box<[Upgrade]>,
    /// `add_proxy_protocol_connection_state`, on unless it is off: hosts that are spoken
    /// to by the PROXY protocol are told of the client.
    pub tells_of_client: bool,
    /// `scheme_header_transformation.scheme_to_overwrite`.
    pub scheme: Option<&'static str>,
}

impl ConnectionManager {
    /// Equal for two managers when a connection of the one can go on under the
    /// other: what was settled with the client at its start is the same.
    pub fn transport_identity(&self) -> Digest {
        let mut said = Said::default();
        self.codec.hash(&mut said);
        self.http1.wire.hash(&mut said);
        self.http1.accept_http_10.hash(&mut said);
        self.http2.hash(&mut said);
        self.max_request_head.hash(&mut said);
        self.common.max_headers.hash(&mut said);
        said.digest()
    }

    /// The filters that a request passes, and the router; `upgrade` is the place in
    /// [`upgrades`](Self::upgrades) of one that has its own.
    pub fn chain(&self, upgrade: Option<u16>) -> (&FilterChain, &Router) {
        let upgrade = upgrade.and_then(|index| self.upgrades.get(usize::from(index)));
        match upgrade.and_then(|upgrade| upgrade.filters.as_ref()) {
            Some((filters, router)) => (filters, router),
            None => (&self.filters, &self.router),
        }
    }

    /// `listener.ADDRESS.http.STAT_PREFIX.` of the listener it serves.
    pub fn listener_stats(&self, listener: &Listener) -> &Arc<Block> {
        self.listener_stats.get_or_init(|| {
            let prefix = format!("{}http.{}.", listener.stats.prefix(), self.stat_prefix);
            self.registry.block(&prefix, &listener_http_stats::TABLE)
        })
    }

    /// `http1.`, of all connection managers.
    pub fn http1_stats(&self) -> &Arc<Block> {
        self.http1_stats
            .get_or_init(|| self.registry.block("http1.", &http1_stats::TABLE))
    }

    /// `http2.`, of all connection managers.
    pub fn http2_stats(&self) -> &Arc<Block> {
        self.http2_stats
            .get_or_init(|| self.registry.block("http2.", &http2_stats::TABLE))
    }

    /// Whether headers with an underscore need to be looked for.
    pub fn minds_underscores(&self) -> bool {
        self.common.underscores != Underscores::Allow
    }
}
