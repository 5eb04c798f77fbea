//! A rustls client, made of settings, a certificate and what to ask of the
//! origin's.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig,
    client::{ResolvesClientCert, Resumption},
    pki_types::ServerName,
    sign::CertifiedKey,
};

use crate::net::tls::{Certificate, Parameters, Validation};

use super::{
    Alpn,
    verifier::{NameCheck, OriginVerifier},
};

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
    verifier: OriginVerifier,
    http1: OnceLock<Arc<ClientConfig>>,
    http2: OnceLock<Arc<ClientConfig>>,
    either: OnceLock<Arc<ClientConfig>>,
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
            check: match settings.check_name {
                true => NameCheck::ServerName,
                false => NameCheck::None,
            },
            parameters: settings.parameters.clone(),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(settings.parameters.versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier.clone()));
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
            verifier,
            http1: OnceLock::new(),
            http2: OnceLock::new(),
            either: OnceLock::new(),
        })
    }

    pub(super) fn config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        let (cell, protocols): (_, &[&str]) = match alpn {
            _ if !self.base.alpn_protocols.is_empty() => return Arc::clone(&self.base),
            Alpn::None => return Arc::clone(&self.base),
            Alpn::Http1 => (&self.http1, &["http/1.1"]),
            Alpn::Http2 => (&self.http2, &["h2"]),
            Alpn::Either => (&self.either, &["h2", "http/1.1"]),
        };
        let offer = || {
            let mut config = ClientConfig::clone(&self.base);
            config.alpn_protocols = protocols.iter().map(|p| (*p).into()).collect();
            Arc::new(config)
        };
        Arc::clone(cell.get_or_init(offer))
    }

    /// For one connection, on which the certificate has to be for this name whatever
    /// the server name is.
    pub(super) fn expecting(&self, name: ServerName<'static>, alpn: Alpn) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config(alpn));
        let verifier = OriginVerifier {
            check: NameCheck::Name(name),
            ..self.verifier.clone()
        };
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(verifier));
        // A session is known by its server name, and its certificate is not seen again.
        config.resumption = Resumption::disabled();
        Arc::new(config)
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
