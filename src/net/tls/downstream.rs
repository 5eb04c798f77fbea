//! `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`, compiled.

use std::{io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    api::envoy::extensions::transport_sockets::tls::v3 as pb,
    config::{At, Reported},
    model::Context,
    net::TlsInfo,
};

/// TLS as a filter chain ends it.
#[derive(Debug)]
pub struct DownstreamTls {
    config: Arc<rustls::ServerConfig>,
}

impl DownstreamTls {
    /// Compiles the settings.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        _message: pb::DownstreamTlsContext,
        _cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        Err(at.unsupported())
    }

    /// Does the handshake of a new connection.
    ///
    /// # Errors
    /// When the client and these settings do not come to terms.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config.clone()).accept(stream).await
    }
}

/// The server name and facts of an established session.
pub fn facts(stream: &TlsStream<TcpStream>) -> (Option<Box<str>>, TlsInfo) {
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = session.negotiated_cipher_suite();
    let cipher = cipher
        .and_then(|c| c.suite().as_str())
        .unwrap_or_default()
        .to_owned();
    let application_protocol = session.alpn_protocol().map(Into::into);
    let server_name = session.server_name().map(|n| n.to_ascii_lowercase().into());
    (
        server_name,
        TlsInfo {
            version,
            cipher,
            application_protocol,
        },
    )
}
