//! `envoy.config.core.v3.GrpcService.GoogleGrpc`, compiled: a server that is
//! named by its address.
//!
//! Envoy speaks to such a server by a library of its own. Here it is a cluster
//! like any other, but one that nobody else sees: `target_uri` gives its hosts,
//! the credentials its TLS, the channel's arguments its keepalive.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use prost::{Message, Name};
use prost_types::Any;
use tonic::Code;

use super::channel_uri::{Endpoints, TargetUri};
use crate::{
    api::envoy::{
        config::{
            cluster::v3::{
                Cluster as ClusterMessage,
                cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily},
            },
            core::v3::{
                Address, Http2ProtocolOptions, KeepaliveSettings, Pipe, SocketAddress,
                TransportSocket, address,
                grpc_service::{
                    GoogleGrpc,
                    google_grpc::{
                        ChannelArgs, ChannelCredentials, GoogleLocalCredentials, SslCredentials,
                        channel_args::{Value, value::ValueSpecifier},
                        channel_credentials::CredentialSpecifier,
                    },
                },
                socket_address::PortSpecifier,
                transport_socket::ConfigType,
            },
            endpoint::v3::{
                ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
                lb_endpoint::HostIdentifier,
            },
        },
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, CommonTlsContext, TlsCertificate, UpstreamTlsContext,
            certificate_validation_context::SystemRootCerts,
            common_tls_context::ValidationContextType,
        },
    },
    config::{At, ConfigError, Report, Reported},
    model::{Context, NoSources, Shared, cluster::Cluster, context::ServerInfo},
    refuse,
    runtime::Runtime,
    stats::{self, Block},
};

crate::stat_table! {
    /// `grpc.STAT_PREFIX.`
    pub mod channel_stats {
        counters {
            streams_closed_0, streams_closed_1, streams_closed_2, streams_closed_3,
            streams_closed_4, streams_closed_5, streams_closed_6, streams_closed_7,
            streams_closed_8, streams_closed_9, streams_closed_10, streams_closed_11,
            streams_closed_12, streams_closed_13, streams_closed_14, streams_closed_15,
            streams_closed_16, streams_total, google_grpc_client_creation,
        }
        gauges {}
        histograms {}
        texts {}
    }
}

/// What channels are made of, and those there are.
#[derive(Debug)]
pub struct Channels {
    server: ServerInfo,
    runtime: Arc<Runtime>,
    stats: Arc<stats::Registry>,
    /// Their clusters are counted here, which nobody reads.
    hidden: Arc<stats::Registry>,
    shared: Shared,
    /// By what they were compiled from.
    known: RefCell<HashMap<Box<[u8]>, Weak<Channel>>>,
}

impl Channels {
    /// None yet.
    pub fn new(server: &ServerInfo, runtime: &Arc<Runtime>, stats: &Arc<stats::Registry>) -> Self {
        Self {
            server: server.clone(),
            runtime: runtime.clone(),
            stats: stats.clone(),
            hidden: stats::Registry::new(server.concurrency),
            shared: Shared::default(),
            known: RefCell::default(),
        }
    }
}

impl Default for Channels {
    fn default() -> Self {
        let stats = stats::Registry::new(0);
        Self::new(&ServerInfo::default(), &Runtime::empty(&stats), &stats)
    }
}

/// A server that is named by its address.
#[derive(Debug)]
pub struct Channel {
    /// `target_uri`.
    pub name: Arc<str>,
    /// What calls are addressed to.
    pub authority: Box<str>,
    /// `grpc.max_receive_message_length`, in bytes.
    pub max_message: Option<usize>,
    pub(super) cluster: Arc<Cluster>,
    stats: Arc<Block>,
}

impl Channel {
    /// Compiles a server, or gives the one that was compiled from the same.
    ///
    /// # Errors
    /// What is wrong, or not supported, has been reported.
    pub fn compile(
        message: &GoogleGrpc,
        channels: &Channels,
        at: &At<'_>,
    ) -> Result<Arc<Self>, Reported> {
        let key: Box<[u8]> = message.encode_to_vec().into();
        let known = channels.known.borrow().get(&key).and_then(Weak::upgrade);
        if let Some(channel) = known {
            return Ok(channel);
        }
        let channel = Arc::new(Self::make(message.clone(), channels, at)?);
        let mut known = channels.known.borrow_mut();
        known.retain(|_, channel| channel.strong_count() > 0);
        known.insert(key, Arc::downgrade(&channel));
        Ok(channel)
    }

    fn make(message: GoogleGrpc, channels: &Channels, at: &At<'_>) -> Result<Self, Reported> {
        let GoogleGrpc {
            target_uri,
            channel_credentials,
            call_credentials,
            stat_prefix,
            credentials_factory_name,
            config,
            // One message at a time is read, and one sent.
            per_stream_buffer_limit_bytes: _,
            channel_args,
            channel_credentials_plugin,
            call_credentials_plugin,
        } = message;
        let refused = refuse!(at;
            call_credentials, config, channel_credentials_plugin, call_credentials_plugin,
        );
        let factory = match credentials_factory_name.as_str() {
            "" | "envoy.grpc_credentials.default" => Ok(()),
            other => Err(at.field("credentials_factory_name").error(format_args!(
                "{other:?} is not supported; only envoy.grpc_credentials.default is"
            ))),
        };
        let arguments = Arguments::compile(channel_args, &at.field("channel_args"));
        let uri = TargetUri::parse(&target_uri).map_err(|error| {
            at.field("target_uri")
                .error(format_args!("{target_uri:?} {error}"))
        });
        let at_credentials = at.field("channel_credentials");
        let specifier = channel_credentials.and_then(
            |ChannelCredentials {
                 credential_specifier,
             }| credential_specifier,
        );
        let ssl = match specifier {
            None => Ok(None),
            Some(CredentialSpecifier::LocalCredentials(GoogleLocalCredentials {})) => {
                match &uri {
                    Ok(uri) if !uri.is_local() => Err(at_credentials
                        .field("local_credentials")
                        .error(format_args!(
                            "are for servers on this host; {target_uri:?} may be elsewhere"
                        ))),
                    _ => Ok(None),
                }
            }
            Some(CredentialSpecifier::SslCredentials(ssl)) => Ok(Some(ssl)),
            Some(CredentialSpecifier::GoogleDefault(())) => {
                Err(at_credentials.field("google_default").unsupported())
            }
        };
        refused?;
        factory?;
        let (arguments, uri, ssl) = (arguments?, uri?, ssl?);
        let name = arguments.server_name.as_ref().unwrap_or(&uri.host);
        let transport_socket = ssl.map(|ssl| transport_socket(ssl, name));
        let authority = arguments.authority.as_ref().unwrap_or(&uri.authority);
        let (authority, max_message) = (authority.as_str().into(), arguments.max_message);
        let cluster = ClusterMessage {
            transport_socket,
            ..cluster(&target_uri, uri.endpoints, &arguments)
        };
        let report = Report::new();
        let cx = Context {
            stats: &channels.hidden,
            // The fields that could refer to one are not set.
            sources: &NoSources("a channel refers to no other resource"),
            server: &channels.server,
            shared: &channels.shared,
            runtime: &channels.runtime,
        };
        let Ok(cluster) = Cluster::compile(cluster, None, &cx, &report.root()) else {
            return Err(tell(report, at));
        };
        let prefix = format!("grpc.{stat_prefix}.");
        let stats = channels.stats.block(&prefix, &channel_stats::TABLE);
        stats.inc(channel_stats::google_grpc_client_creation);
        Ok(Self {
            name: target_uri.into(),
            authority,
            max_message,
            cluster: Arc::new(cluster),
            stats,
        })
    }

    /// Counts a call that begins.
    pub(super) fn begins(&self) {
        self.stats.inc(channel_stats::streams_total);
    }

    /// Counts a call that has ended.
    pub(super) fn ended(&self, code: Code) {
        use channel_stats::*;
        self.stats.inc(match code {
            Code::Ok => streams_closed_0,
            Code::Cancelled => streams_closed_1,
            Code::Unknown => streams_closed_2,
            Code::InvalidArgument => streams_closed_3,
            Code::DeadlineExceeded => streams_closed_4,
            Code::NotFound => streams_closed_5,
            Code::AlreadyExists => streams_closed_6,
            Code::PermissionDenied => streams_closed_7,
            Code::ResourceExhausted => streams_closed_8,
            Code::FailedPrecondition => streams_closed_9,
            Code::Aborted => streams_closed_10,
            Code::OutOfRange => streams_closed_11,
            Code::Unimplemented => streams_closed_12,
            Code::Internal => streams_closed_13,
            Code::Unavailable => streams_closed_14,
            Code::DataLoss => streams_closed_15,
            Code::Unauthenticated => streams_closed_16,
        });
    }
}

/// `channel_args`, of which those are taken that mean something here.
#[derive(Debug, Default)]
struct Arguments {
    authority: Option<String>,
    server_name: Option<String>,
    keepalive_time: Option<Duration>,
    keepalive_timeout: Option<Duration>,
    max_message: Option<usize>,
}

/// `grpc.keepalive_timeout_ms`, unless set.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

impl Arguments {
    fn compile(message: Option<ChannelArgs>, at: &At<'_>) -> Result<Self, Reported> {
        let ChannelArgs { args } = message.unwrap_or_default();
        let at = at.field("args");
        let mut sorted: Vec<_> = args.into_iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let (mut found, mut outcome) = (Self::default(), Ok(()));
        for (key, Value { value_specifier }) in sorted {
            let at = at.key(&key);
            let taken = value_specifier
                .ok_or_else(|| at.error("is empty"))
                .and_then(|value| found.take(&key, value, &at));
            if let Err(reported) = taken {
                outcome = Err(reported);
            }
        }
        outcome.map(|()| found)
    }

    fn take(&mut self, key: &str, value: ValueSpecifier, at: &At<'_>) -> Result<(), Reported> {
        let number = |value| match value {
            ValueSpecifier::IntValue(number) => {
                u64::try_from(number).map_err(|_| at.error("must not be negative"))
            }
            ValueSpecifier::StringValue(_) => Err(at.error("must be a number")),
        };
        let milliseconds = |value| match number(value)? {
            0 => Err(at.error("must be a millisecond at least")),
            time => Ok(Duration::from_millis(time)),
        };
        let text = |value| match value {
            ValueSpecifier::StringValue(text) => Ok(text),
            ValueSpecifier::IntValue(_) => Err(at.error("must be a text")),
        };
        match key {
            "grpc.default_authority" => self.authority = Some(text(value)?),
            "grpc.ssl_target_name_override" => self.server_name = Some(text(value)?),
            "grpc.keepalive_time_ms" => self.keepalive_time = Some(milliseconds(value)?),
            "grpc.keepalive_timeout_ms" => self.keepalive_timeout = Some(milliseconds(value)?),
            "grpc.max_receive_message_length" => {
                self.max_message = Some(usize::try_from(number(value)?).unwrap_or(usize::MAX));
            }
            // What they say holds for every stream to a management server.
            "grpc.keepalive_permit_without_calls" | "grpc.http2.max_pings_without_data" => {
                number(value)?;
            }
            _ => {
                return Err(at.error(
                    "is not supported; supported are grpc.default_authority, \
                     grpc.keepalive_time_ms, grpc.keepalive_timeout_ms, \
                     grpc.max_receive_message_length and grpc.ssl_target_name_override",
                ));
            }
        }
        Ok(())
    }
}

/// The cluster that a channel is, but for its TLS.
fn cluster(name: &str, endpoints: Endpoints, arguments: &Arguments) -> ClusterMessage {
    let (kind, addresses) = match endpoints {
        Endpoints::Pipe(path) => (DiscoveryType::Static, vec![pipe(path)]),
        Endpoints::Addresses(addresses) => {
            let all = addresses.into_iter();
            let all = all.map(|(ip, port)| socket_address(ip.to_string(), port));
            (DiscoveryType::Static, all.collect())
        }
        Endpoints::Name(name, port) => {
            (DiscoveryType::LogicalDns, vec![socket_address(name, port)])
        }
    };
    let lb_endpoints = addresses.into_iter().map(|address| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(address),
            }),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    });
    let keepalive = arguments.keepalive_time.map(|interval| KeepaliveSettings {
        interval: Some(message_of(interval)),
        timeout: Some(message_of(
            arguments.keepalive_timeout.unwrap_or(KEEPALIVE_TIMEOUT),
        )),
        ..KeepaliveSettings::default()
    });
    #[expect(deprecated, reason = "the shortest way to say HTTP/2")]
    ClusterMessage {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        dns_lookup_family: DnsLookupFamily::All.into(),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: lb_endpoints.collect(),
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            connection_keepalive: keepalive,
            ..Http2ProtocolOptions::default()
        }),
        ..ClusterMessage::default()
    }
}

fn pipe(path: String) -> address::Address {
    address::Address::Pipe(Pipe { path, mode: 0 })
}

fn socket_address(host: String, port: u16) -> address::Address {
    address::Address::SocketAddress(SocketAddress {
        address: host,
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    })
}

fn message_of(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().try_into().unwrap_or_default(),
    }
}

/// TLS to the server of this name.
fn transport_socket(credentials: SslCredentials, name: &str) -> TransportSocket {
    let SslCredentials {
        root_certs,
        private_key,
        cert_chain,
    } = credentials;
    let has_certificate = private_key.is_some() || cert_chain.is_some();
    let certificate = has_certificate.then(|| TlsCertificate {
        certificate_chain: cert_chain,
        private_key,
        ..TlsCertificate::default()
    });
    let validation = CertificateValidationContext {
        system_root_certs: root_certs.is_none().then(SystemRootCerts::default),
        trusted_ca: root_certs,
        ..CertificateValidationContext::default()
    };
    let tls = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: certificate.into_iter().collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        sni: name.to_owned(),
        auto_sni_san_validation: true,
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: "tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: UpstreamTlsContext::type_url(),
            value: tls.encode_to_vec(),
        })),
    }
}

/// Reports what is wrong with a channel's cluster at the field it comes from.
fn tell(report: Report, at: &At<'_>) -> Reported {
    let credentials = at.field("channel_credentials");
    let ssl = credentials.field("ssl_credentials");
    let mut outcome = None;
    for ConfigError { path, message, .. } in report.into_errors() {
        let has = |part| path.contains(part);
        outcome = Some(match () {
            () if has("trusted_ca") => ssl.field("root_certs").error(message),
            () if has("private_key") => ssl.field("private_key").error(message),
            () if has("certificate_chain") => ssl.field("cert_chain").error(message),
            () if has("common_tls_context") => ssl.error(message),
            () => at.field("target_uri").error(message),
        });
    }
    outcome.unwrap_or_else(|| at.error("cannot be reached"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::read;

    fn compile(yaml: &str) -> Result<Arc<Channel>, String> {
        let report = Report::new();
        Channel::compile(&read(yaml), &Channels::default(), &report.root())
            .map_err(|_| report.to_string())
    }

    #[tokio::test]
    async fn a_channel_is_a_cluster() {
        let channel = compile(
            "{target_uri: 'dns:///plane:1', stat_prefix: xds, channel_args: {args: {\
               grpc.default_authority: {string_value: other}, \
               grpc.keepalive_time_ms: {int_value: 1000}, \
               grpc.max_receive_message_length: {int_value: 5}}}}",
        )
        .unwrap();
        assert_eq!(
            (&*channel.name, &*channel.authority),
            ("dns:///plane:1", "other")
        );
        assert_eq!(channel.max_message, Some(5));
        let keepalive = channel.cluster.http.http2.keep_alive.as_ref().unwrap();
        assert_eq!(keepalive.interval, Some(Duration::from_secs(1)));
        assert_eq!(keepalive.timeout, KEEPALIVE_TIMEOUT);
        let mut transports = channel.cluster.transports.all();
        assert!(transports.all(|transport| transport.tls().is_none()));
    }

    #[test]
    fn the_same_channel_is_made_once() {
        let (channels, report) = (Channels::default(), Report::new());
        let message = read("{target_uri: '127.0.0.1:1', stat_prefix: xds}");
        let make = || Channel::compile(&message, &channels, &report.root()).unwrap();
        let first = make();
        assert!(Arc::ptr_eq(&first, &make()));
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        for (more, expected) in [
            (
                "call_credentials: [{access_token: abc}]",
                "call_credentials: is not supported yet",
            ),
            (
                "channel_credentials: {google_default: {}}",
                "channel_credentials.google_default: is not supported yet",
            ),
            (
                "channel_credentials: {ssl_credentials: {root_certs: {filename: /none}}}",
                "channel_credentials.ssl_credentials.root_certs: /none: No such file",
            ),
            (
                "channel_credentials: {ssl_credentials: {root_certs: {inline_string: x}}}",
                "channel_credentials.ssl_credentials.root_certs: ",
            ),
            (
                "channel_args: {args: {grpc.other: {int_value: 1}}}",
                "channel_args.args[\"grpc.other\"]: is not supported; supported are",
            ),
            (
                "channel_args: {args: {grpc.keepalive_time_ms: {string_value: '1'}}}",
                "channel_args.args[\"grpc.keepalive_time_ms\"]: must be a number",
            ),
            (
                "credentials_factory_name: mine",
                "credentials_factory_name: \"mine\" is not supported",
            ),
        ] {
            let yaml = format!("{{target_uri: '10.0.0.1:1', stat_prefix: xds, {more}}}");
            let said = compile(&yaml).unwrap_err();
            assert!(said.starts_with(expected), "{more}: {said}");
        }
        let said = compile("{target_uri: 'xds:///a', stat_prefix: xds}").unwrap_err();
        assert!(
            said.starts_with("target_uri: \"xds:///a\" xds: is not supported"),
            "{said}"
        );
        let local = "channel_credentials: {local_credentials: {}}";
        compile(&format!(
            "{{target_uri: 'localhost:1', stat_prefix: xds, {local}}}"
        ))
        .unwrap();
        let said = compile(&format!(
            "{{target_uri: 'plane:1', stat_prefix: xds, {local}}}"
        ));
        assert!(
            said.unwrap_err()
                .starts_with("channel_credentials.local_credentials: are for")
        );
    }
}
