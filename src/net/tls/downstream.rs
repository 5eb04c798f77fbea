//! `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`: TLS that
//! ends here.
//!
//! Settings are compiled once; certificates and validation contexts that come
//! from secrets are looked up at each handshake, so a rotated secret is in force
//! for the next client and touches no open connection.

use std::{io, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Certificate, Common, Side, Source, Validation, ValidationSource,
    client_verifier::ClientVerifier, params::suite_name, secret,
    server_certificates::ServerCertificates,
};
use crate::{
    api::envoy::extensions::transport_sockets::tls::v3 as pb,
    config::{At, Reported},
    model::{Context, secret::Secret},
    net::TlsInfo,
    refuse,
};

/// Sessions that can be resumed by id (TLS 1.2 without tickets).
const SESSIONS: usize = 4096;

/// TLS as a filter chain ends it.
#[derive(Debug)]
pub struct DownstreamTls {
    common: Common,
    require_client_certificate: bool,
    stateful_resumption: bool,
    tickets: bool,
    /// `full_scan_certs_on_sni_mismatch`.
    full_scan: bool,
    /// Built from the secrets in force.
    built: ArcSwapOption<Built>,
}

#[derive(Debug)]
struct Built {
    config: Arc<ServerConfig>,
    certificates: Vec<Arc<Certificate>>,
    validation: Option<Arc<Validation>>,
    /// The secret a combined validation context was merged with.
    merged: Option<Arc<Validation>>,
}

/// Why a handshake did not come about.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error("TLS secrets are not ready: {0}")]
    Secret(String),
    #[error("TLS settings cannot be used: {0}")]
    Settings(String),
}

impl DownstreamTls {
    /// Compiles the settings.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: pb::DownstreamTlsContext,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        use pb::downstream_tls_context::SessionTicketKeysType;
        let pb::DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            // How long a session may be resumed is for the client to shorten;
            // tickets here live for twelve hours at most.
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            disable_stateful_session_resumption,
            // What the server prefers is what rustls does.
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = message;
        let require_sni = require_sni.filter(|on| *on);
        let mut refused = refuse!(at; require_sni, session_timeout, ocsp_staple_policy,
            prefer_client_ciphers);
        let tickets = match session_ticket_keys_type {
            None => true,
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(off)) => !off,
            Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
                refused = Err(at.field("session_ticket_keys").unsupported());
                true
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
                refused = Err(at
                    .field("session_ticket_keys_sds_secret_config")
                    .unsupported());
                true
            }
        };
        let place = at.field("common_tls_context");
        let common = Common::compile(
            common_tls_context.unwrap_or_default(),
            Side::Server,
            cx,
            &place,
        );
        refused?;
        let common = common?;
        if common.certificates.is_empty() {
            return Err(place.error(
                "has no certificate; one of tls_certificates, \
                 tls_certificate_sds_secret_configs is required to end TLS",
            ));
        }
        let tls = Self {
            common,
            require_client_certificate: require_client_certificate.unwrap_or(false),
            stateful_resumption: !disable_stateful_session_resumption,
            tickets,
            full_scan: full_scan_certs_on_sni_mismatch.unwrap_or(false),
            built: ArcSwapOption::empty(),
        };
        // Without secrets everything is known now, and so is what is wrong.
        if !tls.uses_secrets() {
            tls.config().map_err(|error| place.error(error))?;
        }
        Ok(tls)
    }

    /// Does the handshake of a new connection.
    ///
    /// # Errors
    /// When a secret is missing, or the client and these settings do not come to terms.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().map_err(io::Error::other)?;
        TlsAcceptor::from(config).accept(stream).await
    }

    /// The authorities and each certificate in force, for `/certs`.
    pub fn in_force(&self) -> (Option<Arc<Validation>>, Vec<Arc<Certificate>>) {
        let validation = match &self.common.validation {
            ValidationSource::Of(source) => source.get(Secret::validation),
            ValidationSource::Combined(_, slot) => secret(slot, Secret::validation),
        };
        let certificates = self.common.certificates.iter();
        let certificates = certificates.filter_map(|c| c.get(Secret::certificate));
        (validation, certificates.collect())
    }

    fn uses_secrets(&self) -> bool {
        let validation = !matches!(
            self.common.validation,
            ValidationSource::Of(Source::None | Source::Fixed(_))
        );
        validation
            || self
                .common
                .certificates
                .iter()
                .any(|c| matches!(c, Source::Secret(_)))
    }

    /// The settings with the secrets in force, made anew when one has changed.
    fn config(&self) -> Result<Arc<ServerConfig>, NotReady> {
        let certificates = self.common.certificates.iter().map(|source| {
            source
                .get(Secret::certificate)
                .ok_or_else(|| not_ready(source))
        });
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        let (validation, merged) = match &self.common.validation {
            ValidationSource::Of(Source::None) => (None, None),
            ValidationSource::Of(source) => {
                let validation = source.get(Secret::validation);
                (Some(validation.ok_or_else(|| not_ready(source))?), None)
            }
            ValidationSource::Combined(default, slot) => {
                let over = secret(slot, Secret::validation);
                let over = over.ok_or_else(|| NotReady::Secret(slot.name().to_string()))?;
                (Some(default.clone()), Some(over))
            }
        };
        if let Some(built) = &*self.built.load()
            && same_all(&built.certificates, &certificates)
            && same(&built.validation, &validation)
            && same(&built.merged, &merged)
        {
            return Ok(built.config.clone());
        }
        let asked = match (&validation, &merged) {
            (Some(default), Some(over)) => Some(Arc::new(default.merged(over))),
            _ => validation.clone(),
        };
        let config = self
            .build(&certificates, asked)
            .map_err(NotReady::Settings)?;
        let config = Arc::new(config);
        self.built.store(Some(Arc::new(Built {
            config: config.clone(),
            certificates,
            validation,
            merged,
        })));
        Ok(config)
    }

    fn build(
        &self,
        certificates: &[Arc<Certificate>],
        validation: Option<Arc<Validation>>,
    ) -> Result<ServerConfig, String> {
        let provider = &self.common.parameters.provider;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.common.parameters.versions)
            .map_err(|error| error.to_string())?;
        let builder = match validation {
            None if self.require_client_certificate => {
                // As Envoy: some certificate has to be there, any one will do.
                let any = Arc::new(Validation::default());
                let verifier = ClientVerifier::new(any, None, true, provider.clone());
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
            None => builder.with_no_client_auth(),
            Some(validation) => {
                validation.check_complete()?;
                let chain = validation.trust.as_ref().map(|trust| {
                    let roots: Arc<RootCertStore> = trust.roots.clone();
                    let mut builder =
                        WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                            .with_crls(trust.revoked.iter().cloned());
                    if trust.only_leaf_revocation {
                        builder = builder.only_check_end_entity_revocation();
                    }
                    builder
                        .build()
                        .map_err(|error| format!("trusted_ca: {error}"))
                });
                // As Envoy: what names a certificate asks for one.
                let required = self.require_client_certificate || validation.pins_certificates();
                let verifier =
                    ClientVerifier::new(validation, chain.transpose()?, required, provider.clone());
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        let resolver = ServerCertificates::new(certificates, self.full_scan);
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols.clone_from(&self.common.alpn);
        config.session_storage = match self.stateful_resumption {
            true => ServerSessionMemoryCache::new(SESSIONS),
            false => Arc::new(NoServerSessionStorage {}),
        };
        if self.tickets {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()
                .map_err(|error| format!("session tickets: {error}"))?;
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }
}

fn not_ready<T>(source: &Source<T>) -> NotReady {
    NotReady::Secret(match source {
        Source::Secret(slot) => slot.name().to_string(),
        Source::None | Source::Fixed(_) => String::new(),
    })
}

fn same<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
    a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr)
}

fn same_all<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// The server name and facts of an established session.
pub fn facts(stream: &TlsStream<TcpStream>) -> (Option<Box<str>>, TlsInfo) {
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = session.negotiated_cipher_suite();
    let cipher = cipher.map_or("", |c| suite_name(c.suite()));
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
