//! `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`: TLS that
//! ends here.
//!
//! Settings are compiled once; certificates and validation contexts that come
//! from secrets are looked up at each handshake, so a rotated secret is in force
//! for the next client and touches no open connection.

use std::{
    hash::Hash,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig,
    server::{
        Acceptor, ClientHello, NoServerSessionStorage, ServerSessionMemoryCache,
        StoresServerSessions,
    },
};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    Certificate, Common, InForce, KeyLog, Side, Source, SslStats, Validation, ValidationSource,
    client_verifier::ClientVerifier,
    secret,
    server_certificates::{ServerCertificates, Shown},
    tickets::Tickets,
};
use crate::{
    api::envoy::extensions::transport_sockets::tls::v3 as pb,
    config::{At, Reported},
    digest::{Digest, Said},
    model::{
        Context,
        secret::{Secret, SecretWanted, TICKET_KEY_LENGTH, compile_ticket_keys},
    },
    net::{Address, TlsInfo},
    refuse,
};

/// Sessions of one context that can be resumed by id (TLS 1.2 without tickets).
const SESSIONS: usize = 1024;

/// TLS as a filter chain ends it.
#[derive(Debug)]
pub struct DownstreamTls {
    common: Common,
    require_client_certificate: bool,
    stateful_resumption: bool,
    tickets: TicketKeys,
    /// `session_timeout`.
    session_timeout: Option<Duration>,
    /// `full_scan_certs_on_sni_mismatch`.
    full_scan: bool,
    /// `require_sni`.
    require_sni: bool,
    /// `prefer_client_ciphers`.
    prefer_client_ciphers: bool,
    stats: Arc<SslStats>,
    /// Built from the secrets in force.
    built: ArcSwapOption<Built>,
}

/// What encrypts session tickets.
#[derive(Debug)]
enum TicketKeys {
    /// `disable_stateless_session_resumption`.
    Off,
    /// `session_ticket_keys`, or without any, keys of this process's own.
    Of(Source<Vec<[u8; TICKET_KEY_LENGTH]>>),
}

#[derive(Debug)]
struct Built {
    parts: Parts,
    selection: ServerCertificates,
    /// Without a certificate.
    template: ServerConfig,
    /// By certificate: with ALPN and without, and the same with secrets logged.
    configs: Vec<[OnceLock<Arc<ServerConfig>>; 4]>,
}

/// What a configuration is built from; secrets may put others in their place.
#[derive(Debug)]
struct Parts {
    certificates: Vec<Arc<Certificate>>,
    validation: Option<Arc<Validation>>,
    /// The secret a combined validation context is merged with.
    merged: Option<Arc<Validation>>,
    ticket_keys: Option<Arc<Vec<[u8; TICKET_KEY_LENGTH]>>>,
}

impl Parts {
    fn is_same(&self, other: &Self) -> bool {
        let certificates = self.certificates.iter().zip(&other.certificates);
        self.certificates.len() == other.certificates.len()
            && certificates.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
            && same(&self.validation, &other.validation)
            && same(&self.merged, &other.merged)
            && same(&self.ticket_keys, &other.ticket_keys)
    }
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
    /// Compiles the settings. `stat_prefix` is the listener's, with its final dot.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: pb::DownstreamTlsContext,
        stat_prefix: &str,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        use pb::downstream_tls_context::SessionTicketKeysType;
        let pb::DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            disable_stateful_session_resumption,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = message;
        let refused = refuse!(at; ocsp_staple_policy);
        let session_timeout = session_timeout
            .map(|d| crate::config::duration(&d, &at.field("session_timeout")))
            .transpose();
        let tickets = match session_ticket_keys_type {
            None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => {
                Ok(TicketKeys::Of(Source::None))
            }
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => {
                Ok(TicketKeys::Off)
            }
            Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
                let keys = compile_ticket_keys(keys, cx, &at.field("session_ticket_keys"));
                keys.map(|keys| TicketKeys::Of(Source::Fixed(Arc::new(keys))))
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(config)) => {
                let place = at.field("session_ticket_keys_sds_secret_config");
                super::common::subscribe(config, SecretWanted::TicketKeys, cx, &place)
                    .map(|slot| TicketKeys::Of(Source::Secret(slot)))
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
        let (common, tickets, session_timeout) = (common?, tickets?, session_timeout?);
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
            session_timeout,
            full_scan: full_scan_certs_on_sni_mismatch.unwrap_or(false),
            require_sni: require_sni.unwrap_or(false),
            prefer_client_ciphers,
            stats: Arc::new(SslStats::new(cx.stats, stat_prefix, Side::Server)),
            built: ArcSwapOption::empty(),
        };
        // Without secrets everything is known now, and so is what is wrong.
        if !tls.uses_secrets() {
            tls.built().map_err(|error| place.error(error))?;
        }
        Ok(tls)
    }

    /// Does the handshake of a new connection between these addresses and counts
    /// it. Gives the server name that the client sent, too.
    ///
    /// # Errors
    /// When a secret is missing, or the client and these settings do not come to terms.
    pub async fn accept(
        &self,
        stream: TcpStream,
        [local, remote]: [&Address; 2],
    ) -> io::Result<(TlsStream<TcpStream>, TlsInfo, Option<Box<str>>)> {
        let built = self.built().map_err(|error| {
            if let NotReady::Secret(_) = error {
                self.stats.not_ready();
            }
            io::Error::other(error)
        })?;
        let key_log = self.common.key_log.as_ref().filter(|log| {
            let ip = |address: &Address| address.ip().map(|address| address.ip());
            log.covers(ip(local), ip(remote))
        });
        let (accepted, index) = match self.handshake(&built, stream, key_log).await {
            Ok(accepted) => accepted,
            Err(error) => {
                self.stats.failed(&error, false);
                return Err(error);
            }
        };
        let (_, session) = accepted.get_ref();
        self.stats.established(session);
        let info = TlsInfo::new(session, built.parts.certificates.get(index).cloned());
        let server_name = session.server_name().map(|n| n.to_ascii_lowercase().into());
        Ok((accepted, info, server_name))
    }

    async fn handshake(
        &self,
        built: &Built,
        stream: TcpStream,
        key_log: Option<&Arc<KeyLog>>,
    ) -> io::Result<(TlsStream<TcpStream>, usize)> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let hello = start.client_hello();
        let (index, named) = built.selection.choose(&hello);
        let config = match self.require_sni && !named {
            true => built.nobody(),
            false => built.config(index, self.speaks(&hello), key_log),
        };
        Ok((start.into_stream(config).await?, index))
    }

    /// Whether ALPN will settle something: without a protocol in common Envoy
    /// goes on as if it had not been asked, where rustls would end the handshake.
    fn speaks(&self, hello: &ClientHello<'_>) -> bool {
        let offered = hello.alpn();
        offered.is_none_or(|mut offered| {
            offered.any(|protocol| self.common.alpn.iter().any(|ours| ours == protocol))
        })
    }

    /// The authorities and certificates in force.
    pub fn in_force(&self) -> InForce {
        InForce::of(&self.common.certificates, &self.common.validation)
    }

    /// Its stats.
    pub fn stats(&self) -> &SslStats {
        &self.stats
    }

    fn uses_secrets(&self) -> bool {
        let validation = !matches!(
            self.common.validation,
            ValidationSource::Of(Source::None | Source::Fixed(_))
        );
        let certificates = &self.common.certificates;
        validation
            || matches!(self.tickets, TicketKeys::Of(Source::Secret(_)))
            || certificates.iter().any(|c| matches!(c, Source::Secret(_)))
    }

    /// The parts in force.
    fn parts(&self) -> Result<Parts, NotReady> {
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
        let ticket_keys = match &self.tickets {
            TicketKeys::Off | TicketKeys::Of(Source::None) => None,
            TicketKeys::Of(source) => {
                let keys = source.get(Secret::ticket_keys);
                Some(keys.ok_or_else(|| not_ready(source))?)
            }
        };
        Ok(Parts {
            certificates,
            validation,
            merged,
            ticket_keys,
        })
    }

    /// The settings with the secrets in force, made anew when one has changed.
    fn built(&self) -> Result<Arc<Built>, NotReady> {
        let parts = self.parts()?;
        if let Some(built) = &*self.built.load()
            && built.parts.is_same(&parts)
        {
            return Ok(Arc::clone(built));
        }
        let built = Arc::new(self.build(parts).map_err(NotReady::Settings)?);
        self.built.store(Some(Arc::clone(&built)));
        if self.uses_secrets() {
            self.stats.updated_by_sds();
        }
        Ok(built)
    }

    fn build(&self, parts: Parts) -> Result<Built, String> {
        let validation = match (&parts.validation, &parts.merged) {
            (Some(default), Some(over)) => Some(Arc::new(default.merged(over))),
            (validation, _) => validation.clone(),
        };
        let context = self.session_context(&parts.certificates, validation.as_deref());
        let parameters = &self.common.parameters;
        let builder = ServerConfig::builder_with_provider(parameters.provider.clone())
            .with_protocol_versions(parameters.versions)
            .map_err(|error| error.to_string())?;
        let asked = match validation {
            // Some certificate has to be there, any one will do.
            None if self.require_client_certificate => Some(Arc::new(Validation::default())),
            validation => validation,
        };
        let builder = match asked {
            None => builder.with_no_client_auth(),
            Some(validation) => {
                validation.check_complete()?;
                builder.with_client_cert_verifier(Arc::new(ClientVerifier {
                    validation,
                    required: self.require_client_certificate,
                    parameters: parameters.clone(),
                    stats: Arc::clone(&self.stats),
                }))
            }
        };
        let mut template = builder.with_cert_resolver(Arc::new(Shown(None)));
        template.alpn_protocols.clone_from(&self.common.alpn);
        // Envoy's own order knows equals, among which the client's decides; so it
        // does here unless an order is given.
        template.ignore_client_order = parameters.ordered && !self.prefer_client_ciphers;
        template.session_storage = match self.stateful_resumption {
            true => Arc::new(Sessions::default()),
            false => Arc::new(NoServerSessionStorage {}),
        };
        match &self.tickets {
            TicketKeys::Off => template.send_tls13_tickets = 0,
            TicketKeys::Of(_) => {
                let keys = parts.ticket_keys.as_ref().map_or(&[][..], |keys| keys);
                let tickets = Tickets::new(keys, context, self.session_timeout);
                let tickets = tickets.ok_or("there are no random numbers for session tickets")?;
                template.ticketer = Arc::new(tickets);
            }
        }
        let keys = parts.certificates.iter();
        Ok(Built {
            selection: ServerCertificates::new(&parts.certificates, self.full_scan),
            configs: keys.map(|_| Default::default()).collect(),
            template,
            parts,
        })
    }

    /// What a session depends on: it is resumed only where the same is asked of
    /// the client and certificates for the same names are shown. (That the server
    /// name is the same, rustls sees to.)
    fn session_context(
        &self,
        certificates: &[Arc<Certificate>],
        validation: Option<&Validation>,
    ) -> Digest {
        let mut said = Said::default();
        self.require_client_certificate.hash(&mut said);
        validation.hash(&mut said);
        for facts in certificates.iter().filter_map(|c| c.facts.first()) {
            facts.common_name.hash(&mut said);
            for name in &facts.names {
                name.text().hash(&mut said);
            }
        }
        said.digest()
    }
}

impl Built {
    /// Shows one certificate.
    fn config(&self, index: usize, alpn: bool, key_log: Option<&Arc<KeyLog>>) -> Arc<ServerConfig> {
        let make = || {
            let mut config = self.template.clone();
            let key = Arc::clone(&self.parts.certificates[index].key);
            config.cert_resolver = Arc::new(Shown(Some(key)));
            if !alpn {
                config.alpn_protocols.clear();
            }
            if let Some(key_log) = key_log {
                config.key_log = key_log.clone();
            }
            Arc::new(config)
        };
        let cell = &self.configs[index][usize::from(alpn) + 2 * usize::from(key_log.is_some())];
        Arc::clone(cell.get_or_init(make))
    }

    /// Ends the handshake of a client that does not say whom it wants.
    fn nobody(&self) -> Arc<ServerConfig> {
        Arc::new(self.template.clone())
    }
}

/// Sessions kept here, with room made when the first one comes: most clients
/// keep their sessions themselves, in tickets.
#[derive(Debug, Default)]
struct Sessions(OnceLock<Arc<ServerSessionMemoryCache>>);

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let cache = || ServerSessionMemoryCache::new(SESSIONS);
        self.0.get_or_init(cache).put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get()?.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get()?.take(key)
    }

    fn can_cache(&self) -> bool {
        true
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
