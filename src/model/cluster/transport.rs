//! `transport_socket` and `transport_socket_matches`, compiled.

use std::sync::Arc;

use prost::Message;
use prost_types::Struct;

use crate::{
    api::envoy::{
        config::{
            cluster::v3::cluster::TransportSocketMatch,
            core::v3::{Metadata, TransportSocket, transport_socket::ConfigType},
        },
        extensions::transport_sockets::{
            proxy_protocol::v3::ProxyProtocolUpstreamTransport, raw_buffer::v3::RawBuffer,
        },
    },
    config::{At, Reported, unpack},
    digest::Digest,
    model::Context,
    net::proxy_protocol::ProxyProtocol,
    stats::Block,
    upstream::{
        Endpoint, UpstreamTls, host::has_labels, host_set::Membership, stats::transport_match_stats,
    },
};

const RAW: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const PROXY: &str =
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// The namespace of metadata by which an endpoint asks for a transport socket.
const MATCH: &str = "envoy.transport_socket_match";

/// What carries the bytes of a connection: the socket, and what is said on it
/// before the first of them.
#[derive(Debug)]
pub struct Transport {
    proxy_protocol: Option<ProxyProtocol>,
    tls: Option<Arc<UpstreamTls>>,
    identity: Digest,
}

impl Default for Transport {
    /// The socket alone.
    fn default() -> Self {
        Self::new(None, None)
    }
}

impl Transport {
    /// `proxy_protocol` comes with a digest of its settings.
    fn new(proxy_protocol: Option<(ProxyProtocol, Digest)>, tls: Option<Arc<UpstreamTls>>) -> Self {
        let (proxy_protocol, settings) = proxy_protocol.unzip();
        Self {
            identity: Digest::of((settings, tls.as_ref().map(|tls| tls.identity()))),
            proxy_protocol,
            tls,
        }
    }

    /// TLS, where it is spoken.
    pub fn tls(&self) -> Option<&Arc<UpstreamTls>> {
        self.tls.as_ref()
    }

    /// The PROXY protocol, where it is spoken: before TLS.
    pub fn proxy_protocol(&self) -> Option<&ProxyProtocol> {
        self.proxy_protocol.as_ref()
    }

    /// Equal for transports that look the same on the wire. Secrets count by name:
    /// a new certificate is for new connections.
    pub fn identity(&self) -> Digest {
        self.identity
    }
}

/// The transport sockets of a cluster, one of which each endpoint gets.
#[derive(Debug)]
pub struct Transports {
    matches: Box<[Match]>,
    default: Arc<Transport>,
}

/// `TransportSocketMatch`.
#[derive(Debug)]
struct Match {
    /// What the metadata has to hold.
    labels: Struct,
    transport: Arc<Transport>,
    /// `cluster.NAME.MATCH.`
    stats: Arc<Block>,
}

impl Match {
    fn is_for(&self, metadata: Option<&Metadata>) -> bool {
        has_labels(metadata, MATCH, &self.labels)
    }
}

impl Transports {
    /// Every one, the default first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Transport>> {
        let matched = self.matches.iter().map(|matched| &matched.transport);
        std::iter::once(&self.default).chain(matched)
    }

    /// The one for an endpoint with this metadata, in a locality with that.
    pub fn select(
        &self,
        endpoint: Option<&Metadata>,
        locality: Option<&Metadata>,
    ) -> &Arc<Transport> {
        self.matching(endpoint, locality)
            .map_or(&self.default, |matched| &matched.transport)
    }

    /// The first that the endpoint's metadata matches, or else its locality's.
    fn matching(&self, endpoint: Option<&Metadata>, locality: Option<&Metadata>) -> Option<&Match> {
        let of = |metadata| self.matches.iter().find(move |m| m.is_for(metadata));
        of(endpoint).or_else(|| of(locality))
    }

    /// Gives the endpoints of another configuration of the cluster the transport
    /// sockets of this one.
    pub fn assign(&self, membership: &mut Membership) {
        for locality in &mut membership.localities {
            let of_locality = locality.metadata.as_deref();
            for endpoint in &mut locality.endpoints {
                let transport = self.select(endpoint.metadata.as_deref(), of_locality);
                if transport.identity() != endpoint.transport.identity() {
                    *endpoint = Arc::new(Endpoint {
                        transport: Arc::clone(transport),
                        ..Endpoint::clone(endpoint)
                    });
                }
            }
        }
    }

    /// Counts a host that got its transport socket. `false`: it is the default.
    pub(super) fn count(&self, endpoint: &Endpoint, locality: Option<&Metadata>) -> bool {
        let matching = self.matching(endpoint.metadata.as_deref(), locality);
        if let Some(matching) = matching {
            let stat = transport_match_stats::total_match_count;
            matching.stats.inc(stat);
        }
        matching.is_some()
    }
}

/// What the transport sockets of a cluster are compiled with.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The certificate has to be for the server name: `auto_san_validation`.
    pub(super) check_name: bool,
    /// The protocol is chosen by ALPN: `auto_config`.
    pub(super) alpn: bool,
    /// The cluster's, with its final dot.
    pub(super) stat_prefix: &'a str,
}

pub(super) fn compile(
    default: Option<TransportSocket>,
    matches: Vec<TransportSocketMatch>,
    wanted: Wanted<'_>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Transports, Reported> {
    let default = compile_one(default, wanted, cx, &at.field("transport_socket"));
    let place = at.field("transport_socket_matches");
    let mut outcome = Ok(());
    let mut compiled = Vec::with_capacity(matches.len());
    for (index, message) in matches.into_iter().enumerate() {
        let TransportSocketMatch {
            name,
            r#match,
            transport_socket,
        } = message;
        let place = place.index(index);
        let place = place.field("transport_socket");
        if transport_socket.is_none() {
            outcome = Err(place.error("is required"));
            continue;
        }
        match compile_one(transport_socket, wanted, cx, &place) {
            Ok(transport) => compiled.push(Match {
                labels: r#match.unwrap_or_default(),
                transport: Arc::new(transport),
                stats: cx.stats.block(
                    &format!(
                        "{}{}.",
                        wanted.stat_prefix,
                        super::compile::stat_name(&name)
                    ),
                    &transport_match_stats::TABLE,
                ),
            }),
            Err(reported) => outcome = Err(reported),
        }
    }
    let default = Arc::new(default?);
    outcome.map(|()| Transports {
        matches: compiled.into(),
        default,
    })
}

fn compile_one(
    message: Option<TransportSocket>,
    wanted: Wanted<'_>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Transport, Reported> {
    let transport = match message {
        Some(message) => compile_socket(message, wanted, cx, at)?,
        None => Transport::default(),
    };
    if wanted.alpn && transport.tls().is_none() {
        return Err(at.error("has to be TLS, for auto_config chooses the protocol by ALPN"));
    }
    Ok(transport)
}

fn compile_socket(
    message: TransportSocket,
    wanted: Wanted<'_>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Transport, Reported> {
    let TransportSocket { name, config_type } = message;
    let place = at.field("typed_config");
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        return match name.as_str() {
            "envoy.transport_sockets.raw_buffer" | "raw_buffer" => Ok(Transport::default()),
            _ => Err(place.error(format_args!("is required by {name:?}"))),
        };
    };
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        RAW => {
            let RawBuffer {} = unpack(&any, &place)?;
            Ok(Transport::default())
        }
        TLS => {
            let message = unpack(&any, &place)?;
            let (check, prefix) = (wanted.check_name, wanted.stat_prefix);
            let tls = UpstreamTls::compile(message, check, prefix, cx, &place)?;
            Ok(Transport::new(None, Some(Arc::new(tls))))
        }
        PROXY => compile_proxy(unpack(&any, &place)?, wanted, cx, &place),
        other => Err(place.error(format_args!(
            "{other:?} is not supported; supported are {RAW:?}, {TLS:?} and {PROXY:?}"
        ))),
    }
}

fn compile_proxy(
    message: ProxyProtocolUpstreamTransport,
    wanted: Wanted<'_>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Transport, Reported> {
    let ProxyProtocolUpstreamTransport {
        config,
        transport_socket,
        // A client without an IP address is told of as such in any case.
        allow_unspecified_address: _,
        // Connections are told apart by the whole of the header in any case.
        tlv_as_pool_key: _,
    } = message;
    let config = config.unwrap_or_default();
    let settings = Digest::of_bytes(&config.encode_to_vec());
    let proxy_protocol = ProxyProtocol::compile(config, &at.field("config"));
    let place = at.field("transport_socket");
    let inner = transport_socket.ok_or_else(|| place.error("is required"));
    let inner = inner.and_then(|inner| compile_socket(inner, wanted, cx, &place))?;
    if inner.proxy_protocol.is_some() {
        return Err(place.error("a connection has one header of the PROXY protocol"));
    }
    Ok(Transport::new(Some((proxy_protocol?, settings)), inner.tls))
}
