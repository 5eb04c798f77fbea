//! `envoy.config.listener.v3.FilterChain`, compiled.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;

use crate::{
    api::envoy::config::listener::v3 as pb,
    config::{At, Reported, optional_duration},
    digest::Digest,
    http,
    model::Context,
    net::{
        filters::{Filters, Gate},
        tls::DownstreamTls,
    },
    tcp,
};

/// What carries a connection's bytes.
#[derive(Debug)]
pub enum Transport {
    /// In clear.
    Raw,
    /// TLS that ends here.
    Tls(Arc<DownstreamTls>),
}

/// The filter a chain ends in.
#[derive(Debug)]
pub enum NetworkFilter {
    /// `envoy.filters.network.http_connection_manager`.
    Http(Arc<http::ConnectionManager>),
    /// `envoy.filters.network.tcp_proxy`.
    Tcp(Arc<tcp::TcpProxy>),
    /// `envoy.filters.network.echo`.
    Echo,
    /// `envoy.filters.network.direct_response`, and what it says.
    DirectResponse(Bytes),
}

/// One filter chain.
#[derive(Debug)]
pub struct FilterChain {
    /// Its name, which may be empty.
    pub name: Arc<str>,
    /// Its transport socket.
    pub transport: Transport,
    /// The filters that a connection passes before it is served.
    pub gates: Box<[Gate]>,
    /// The filter that serves.
    pub network: NetworkFilter,
    /// How long the transport socket may take until it is ready.
    pub transport_connect_timeout: Option<Duration>,
    /// Equal when an open connection can go on under the other chain: the same
    /// TLS settings (but for certificates) and the same codec options.
    pub transport_identity: Digest,
}

impl FilterChain {
    /// Compiles everything but `filter_chain_match`, which the listener reads.
    /// `stat_prefix` is the listener's, with its final dot.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: pb::FilterChain,
        stat_prefix: &str,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::FilterChain {
            filter_chain_match: _,
            filters,
            // The listener reads it, of the first chain.
            use_proxy_proto: _,
            // Only read by matchers and access logs that are refused by name.
            metadata: _,
            transport_socket,
            name,
            transport_socket_connect_timeout,
        } = message;
        let timeout = optional_duration(
            transport_socket_connect_timeout.as_ref(),
            &at.field("transport_socket_connect_timeout"),
        );

        let transport = match transport_socket {
            None => Ok((Transport::Raw, None)),
            Some(socket) => {
                compile_transport(socket, stat_prefix, cx, &at.field("transport_socket"))
            }
        };
        let site = format!("{stat_prefix}{name}");
        let filters = Filters::compile(filters, &site, cx, &at.field("filters"));
        let timeout = timeout?;
        let ((transport, transport_digest), filters) = (transport?, filters?);
        let Filters {
            gates,
            terminal: network,
        } = filters;
        let kind = match &network {
            NetworkFilter::Http(manager) => (0u8, Some(manager.transport_identity())),
            NetworkFilter::Tcp(_) => (1, None),
            NetworkFilter::Echo => (2, None),
            NetworkFilter::DirectResponse(_) => (3, None),
        };
        Ok(Self {
            name: name.into(),
            transport,
            gates,
            network,
            transport_connect_timeout: timeout.filter(|limit| !limit.is_zero()),
            transport_identity: Digest::of((transport_digest, kind)),
        })
    }
}

fn compile_transport(
    socket: crate::api::envoy::config::core::v3::TransportSocket,
    stat_prefix: &str,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(Transport, Option<Digest>), Reported> {
    use crate::api::envoy::{
        config::core::v3::transport_socket::ConfigType,
        extensions::transport_sockets::{raw_buffer::v3::RawBuffer, tls::v3::DownstreamTlsContext},
    };
    let Some(ConfigType::TypedConfig(any)) = socket.config_type else {
        return match socket.name.as_str() {
            "envoy.transport_sockets.raw_buffer" => Ok((Transport::Raw, None)),
            _ => Err(at.field("typed_config").error("is required")),
        };
    };
    let at = at.field("typed_config");
    match crate::config::type_name(&any) {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => {
            let RawBuffer {} = crate::config::unpack(&any, &at)?;
            Ok((Transport::Raw, None))
        }
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
            let mut context: DownstreamTlsContext = crate::config::unpack(&any, &at)?;
            let tls = DownstreamTls::compile(context.clone(), stat_prefix, cx, &at)?;
            // A new certificate is for new handshakes; it moves no connection.
            if let Some(common) = &mut context.common_tls_context {
                common.tls_certificates.clear();
                common.tls_certificate_sds_secret_configs.clear();
            }
            let digest = Digest::of_bytes(&context.encode_to_vec());
            Ok((Transport::Tls(Arc::new(tls)), Some(digest)))
        }
        other => Err(at.error(format_args!(
            "the transport socket {other:?} is not supported; there are \
             envoy.transport_sockets.tls and envoy.transport_sockets.raw_buffer"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        config::Report,
        model::testing::{World, read},
    };

    use super::*;

    #[test]
    fn the_same_chain_has_the_same_identity_each_time_it_is_read() {
        let world = World::new();
        let identity = || {
            let report = Report::new();
            let chain = read(
                r#"
filters:
- name: envoy.filters.network.echo
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    require_client_certificate: true
    common_tls_context:
      tls_certificate_sds_secret_configs: [{name: a, sds_config: {ads: {}}}]
      validation_context_sds_secret_config:
        name: b
        sds_config:
          api_config_source:
            api_type: GRPC
            grpc_services:
            - google_grpc:
                target_uri: "dns:///plane:1"
                stat_prefix: plane
                channel_args:
                  args:
                    grpc.keepalive_time_ms: {int_value: 1000}
                    grpc.keepalive_timeout_ms: {int_value: 2000}
                    grpc.max_receive_message_length: {int_value: 3000}
                    grpc.default_authority: {string_value: a}
"#,
            );
            let chain = FilterChain::compile(chain, "listener.", &world.cx(), &report.root());
            chain.expect("a chain").transport_identity
        };
        let first = identity();
        for _ in 0..16 {
            assert_eq!(identity(), first);
        }
    }
}
