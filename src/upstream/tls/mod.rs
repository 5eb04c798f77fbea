//! `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`: TLS towards
//! the origin.

mod client;
mod compile;
mod verifier;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use rustls::{CertificateError, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    digest::Digest,
    model::secret::Secret,
    net::{
        Address,
        tls::{Certificate, InForce, KeyLog, Source, SslStats, ValidationSource, secret},
    },
    xds::slot::Slot,
};

use client::Settings;

pub use client::Client;

/// Which protocol is offered when the configuration lists none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// None: bytes that nobody here reads.
    #[default]
    None,
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
    /// `h2` and `http/1.1`: the host chooses.
    Either,
}

/// Whom a handshake is with.
#[derive(Clone, Copy, Debug)]
pub struct TlsTarget<'a> {
    /// The address that was connected to.
    pub address: &'a Address,
    /// The address it was connected from, where that is one of IP.
    pub local: Option<IpAddr>,
    /// A server name that goes before the one of the settings: the host's
    /// (`auto_host_sni`) or the request's (`auto_sni`).
    pub server_name: Option<&'a str>,
    /// The name that the certificate has to be for, in place of the server name.
    pub subject: Option<&'a str>,
    /// What is going to be spoken.
    pub alpn: Alpn,
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A secret has not arrived yet.
    #[error("TLS secrets are not ready: {0}")]
    NotReady(String),
    /// The server name cannot be one.
    #[error("{0:?} cannot be a TLS server name")]
    ServerName(String),
    /// The settings cannot be used with the secrets that arrived.
    #[error("TLS settings cannot be used: {0}")]
    Settings(String),
    /// The handshake failed.
    #[error("TLS_error: {}", reason(.0))]
    Handshake(#[source] io::Error),
}

/// What went wrong, for a person.
fn reason(error: &io::Error) -> String {
    let rustls = error.get_ref().and_then(|e| e.downcast_ref());
    match rustls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            format!("CERTIFICATE_VERIFY_FAILED: {}", other.0)
        }
        Some(rustls::Error::InvalidCertificate(reason)) => {
            format!("CERTIFICATE_VERIFY_FAILED: {reason}")
        }
        _ => error.to_string(),
    }
}

/// TLS as one cluster speaks it.
#[derive(Debug)]
pub struct UpstreamTls {
    settings: Settings,
    sni: Option<ServerName<'static>>,
    auto_host_sni: bool,
    certificate: Source<Certificate>,
    validation: ValidationSource,
    key_log: Option<Arc<KeyLog>>,
    /// Built from the secrets in force.
    built: ArcSwapOption<Built>,
    /// Equal for settings that look the same on the wire.
    identity: Digest,
    /// `cluster.NAME.ssl.`
    stats: SslStats,
}

#[derive(Debug)]
struct Built {
    client: Arc<Client>,
    /// What it was built from.
    secrets: [Option<Arc<Secret>>; 2],
}

impl UpstreamTls {
    /// Does the handshake over a new connection and counts it.
    ///
    /// # Errors
    /// When a secret is missing, or the origin and these settings do not come
    /// to terms.
    pub async fn connect<IO>(
        &self,
        io: IO,
        target: &TlsTarget<'_>,
    ) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let client = self.client().inspect_err(|error| {
            if let TlsError::NotReady(_) = error {
                self.stats.not_ready();
            }
        })?;
        let server_name = self.server_name(target)?;
        let mut config = match target.subject {
            None => client.config(target.alpn),
            Some(subject) => client.expecting(server_name_of(subject)?, target.alpn),
        };
        let remote = target.address.ip().map(|address| address.ip());
        let key_log = self.key_log.as_ref();
        if let Some(key_log) = key_log.filter(|log| log.covers(target.local, remote)) {
            Arc::make_mut(&mut config).key_log = key_log.clone();
        }
        let connector = TlsConnector::from(config);
        match connector.connect(server_name, io).await {
            Ok(stream) => {
                self.stats.established(stream.get_ref().1);
                Ok(stream)
            }
            Err(error) => {
                self.stats.failed(&error, true);
                Err(TlsError::Handshake(error))
            }
        }
    }

    /// Equal for settings that look the same on the wire. Secrets count by
    /// name: a new certificate is for new connections.
    pub fn identity(&self) -> Digest {
        self.identity
    }

    /// The authorities and the certificate in force.
    pub fn in_force(&self) -> InForce {
        InForce::of(std::slice::from_ref(&self.certificate), &self.validation)
    }

    /// The certificate in force.
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.certificate.get(Secret::certificate)
    }

    /// Its stats.
    pub fn stats(&self) -> &SslStats {
        &self.stats
    }

    /// The host's name is the server name.
    pub fn auto_host_sni(&self) -> bool {
        self.auto_host_sni
    }

    fn server_name(&self, target: &TlsTarget<'_>) -> Result<ServerName<'static>, TlsError> {
        if let Some(name) = target.server_name {
            return server_name_of(name);
        }
        // An address is not sent; it only keys the session cache.
        let address = target.address.ip().map(|address| address.ip());
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(self
            .sni
            .clone()
            .unwrap_or(ServerName::IpAddress(address.into())))
    }

    /// The settings with the secrets in force.
    fn client(&self) -> Result<Arc<Client>, TlsError> {
        let certificate_slot = match &self.certificate {
            Source::Secret(slot) => Some(slot),
            _ => None,
        };
        let validation_slot = match &self.validation {
            ValidationSource::Of(Source::Secret(slot)) | ValidationSource::Combined(_, slot) => {
                Some(slot)
            }
            ValidationSource::Of(_) => None,
        };
        let secrets = [certificate_slot, validation_slot].map(|slot| slot.map(|slot| slot.get()));
        if let Some(built) = &*self.built.load() {
            let same = built.secrets.iter().zip(&secrets).all(|(old, new)| {
                let new = new.as_ref().and_then(|guard| guard.as_ref());
                old.as_ref().map(Arc::as_ptr) == new.map(Arc::as_ptr)
            });
            if same {
                return Ok(Arc::clone(&built.client));
            }
        }
        let certificate = match &self.certificate {
            Source::None => None,
            Source::Fixed(certificate) => Some(Arc::clone(certificate)),
            Source::Secret(slot) => Some(required(slot, Secret::certificate)?),
        };
        let validation = match &self.validation {
            ValidationSource::Of(Source::None) => None,
            ValidationSource::Of(Source::Fixed(validation)) => Some(Arc::clone(validation)),
            ValidationSource::Of(Source::Secret(slot)) => Some(required(slot, Secret::validation)?),
            ValidationSource::Combined(default, slot) => {
                let over = required(slot, Secret::validation)?;
                Some(Arc::new(default.merged(&over)))
            }
        };
        let client = Client::new(&self.settings, certificate, validation);
        let client = Arc::new(client.map_err(TlsError::Settings)?);
        self.built.store(Some(Arc::new(Built {
            client: Arc::clone(&client),
            secrets: secrets.map(|guard| guard.and_then(|guard| guard.clone())),
        })));
        self.stats.updated_by_sds();
        Ok(client)
    }
}

fn server_name_of(name: &str) -> Result<ServerName<'static>, TlsError> {
    let parsed = ServerName::try_from(name.to_owned());
    parsed.map_err(|_| TlsError::ServerName(name.to_owned()))
}

fn required<T>(
    slot: &Slot<Secret>,
    part: fn(&Secret) -> Option<&Arc<T>>,
) -> Result<Arc<T>, TlsError> {
    secret(slot, part).ok_or_else(|| TlsError::NotReady(slot.name().to_string()))
}

#[cfg(test)]
mod tests;
