//! A rustls client, made of settings, a certificate and what to ask of the
//! origin's.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig,
    client::{ResolvesClientCert, Resumption},
    sign::CertifiedKey,
};

use crate::net::tls::{Certificate, Parameters, Validation};

use super::{Alpn, verifier::OriginVerifier};

/// What does not come from a secret.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) parameters: Parameters,
    /// `alpn_protocols`; empty to offer what is going to be spoken.
    pub(super) alpn: Vec<Vec<u8>>,
    /// `max_session_keys`.
    pub(super) sessions: usize,
    /// The certificate has to be for the server name.
    pub(super) check_name: bool,
}

/// One configuration for each protocol that may be offered.
#[derive(Debug)]
pub struct Client {
    base: Arc<ClientConfig>,
    http1: OnceLock<Arc<ClientConfig>>,
    http2: OnceLock<Arc<ClientConfig>>,
}

impl Client {
    /// # Errors
    /// What makes the parts unusable together.
    pub(super) fn new(
        settings: &Settings,
        certificate: Option<Arc<Certificate>>,
        validation: Option<Arc<Validation>>,
    ) -> Result<Self, String> {
        if let Some(validation) = &validation {
            validation.check_complete()?;
        }
        let provider = &settings.parameters.provider;
        let verifier = OriginVerifier {
            validation,
            check_name: settings.check_name,
            parameters: settings.parameters.clone(),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(settings.parameters.versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match certificate {
            Some(certificate) => {
                let key = Arc::clone(&certificate.key);
                builder.with_client_cert_resolver(Arc::new(Always(key)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&settings.alpn);
        config.resumption = match settings.sessions {
            0 => Resumption::disabled(),
            sessions => Resumption::in_memory_sessions(sessions),
        };
        Ok(Self {
            base: Arc::new(config),
            http1: OnceLock::new(),
            http2: OnceLock::new(),
        })
    }

    pub(super) fn config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        let (cell, protocol) = match alpn {
            _ if !self.base.alpn_protocols.is_empty() => return Arc::clone(&self.base),
            Alpn::None => return Arc::clone(&self.base),
            Alpn::Http1 => (&self.http1, "http/1.1"),
            Alpn::Http2 => (&self.http2, "h2"),
        };
        let offer = || {
            let mut config = ClientConfig::clone(&self.base);
            config.alpn_protocols = vec![protocol.into()];
            Arc::new(config)
        };
        Arc::clone(cell.get_or_init(offer))
    }
}

/// Presents one certificate, whatever authorities the origin names: as Envoy.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(
        &self,
        _authorities: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
