//! `…ssl.`: what is counted of TLS, on either side.

use std::sync::{Arc, OnceLock};

use rustls::{CertificateError, CommonState, HandshakeKind, NamedGroup, SignatureScheme};

use super::{Side, ValidationFailure, suite_name};
use crate::stats::{Block, Counter, Registry};

crate::stat_table! {
    /// `listener.ADDRESS.ssl.` and `cluster.NAME.ssl.`
    pub mod ssl_stats {
        counters {
            connection_error,
            fail_verify_cert_hash,
            fail_verify_error,
            fail_verify_no_cert,
            fail_verify_san,
            handshake,
            no_certificate,
            ocsp_staple_failed,
            ocsp_staple_omitted,
            ocsp_staple_requests,
            ocsp_staple_responses,
            session_reused,
        }
        gauges {}
        histograms {}
        texts {}
    }
}

crate::stat_table! {
    /// `….ssl.`: what handshakes settled on, made with the first of them.
    mod settled_stats {
        counters {
            aes128_gcm = "ciphers.TLS_AES_128_GCM_SHA256",
            aes256_gcm = "ciphers.TLS_AES_256_GCM_SHA384",
            chacha20 = "ciphers.TLS_CHACHA20_POLY1305_SHA256",
            ecdsa_aes128 = "ciphers.ECDHE-ECDSA-AES128-GCM-SHA256",
            ecdsa_aes256 = "ciphers.ECDHE-ECDSA-AES256-GCM-SHA384",
            ecdsa_chacha20 = "ciphers.ECDHE-ECDSA-CHACHA20-POLY1305",
            rsa_aes128 = "ciphers.ECDHE-RSA-AES128-GCM-SHA256",
            rsa_aes256 = "ciphers.ECDHE-RSA-AES256-GCM-SHA384",
            rsa_chacha20 = "ciphers.ECDHE-RSA-CHACHA20-POLY1305",
            x25519 = "curves.X25519",
            p256 = "curves.P-256",
            p384 = "curves.P-384",
            p521 = "curves.P-521",
            x25519_mlkem768 = "curves.X25519MLKEM768",
            tls12 = "versions.TLSv1.2",
            tls13 = "versions.TLSv1.3",
            ecdsa_secp256r1_sha256 = "sigalgs.ecdsa_secp256r1_sha256",
            ecdsa_secp384r1_sha384 = "sigalgs.ecdsa_secp384r1_sha384",
            ecdsa_secp521r1_sha512 = "sigalgs.ecdsa_secp521r1_sha512",
            ed25519 = "sigalgs.ed25519",
            rsa_pkcs1_sha256 = "sigalgs.rsa_pkcs1_sha256",
            rsa_pkcs1_sha384 = "sigalgs.rsa_pkcs1_sha384",
            rsa_pkcs1_sha512 = "sigalgs.rsa_pkcs1_sha512",
            rsa_pss_rsae_sha256 = "sigalgs.rsa_pss_rsae_sha256",
            rsa_pss_rsae_sha384 = "sigalgs.rsa_pss_rsae_sha384",
            rsa_pss_rsae_sha512 = "sigalgs.rsa_pss_rsae_sha512",
        }
        gauges {}
        histograms {}
        texts {}
        late { "ciphers.", "curves.", "sigalgs.", "versions." }
    }
}

crate::stat_table! {
    /// `listener.ADDRESS.server_ssl_socket_factory.` and
    /// `cluster.NAME.client_ssl_socket_factory.`; either has the names of both.
    pub mod factory_stats {
        counters {
            downstream_context_secrets_not_ready,
            // Settings were built anew for the next handshake, from secrets that came by SDS.
            ssl_context_update_by_sds,
            upstream_context_secrets_not_ready,
        }
        gauges {}
        histograms {}
        texts {}
    }
}

/// The stats of one side of TLS.
#[derive(Debug)]
pub struct SslStats {
    registry: Arc<Registry>,
    side: Side,
    block: Arc<Block>,
    factory: Arc<Block>,
    settled: OnceLock<Arc<Block>>,
}

impl SslStats {
    /// `prefix` with its final dot, to which `ssl.` is added.
    pub fn new(registry: &Arc<Registry>, prefix: &str, side: Side) -> Self {
        let factory = match side {
            Side::Server => "server_ssl_socket_factory.",
            Side::Client => "client_ssl_socket_factory.",
        };
        Self {
            registry: Arc::clone(registry),
            side,
            factory: registry.block(&format!("{prefix}{factory}"), &factory_stats::TABLE),
            block: registry.block(&format!("{prefix}ssl."), &ssl_stats::TABLE),
            settled: OnceLock::new(),
        }
    }

    /// Counts a connection that found a secret missing.
    pub fn not_ready(&self) {
        self.factory.inc(match self.side {
            Side::Server => factory_stats::downstream_context_secrets_not_ready,
            Side::Client => factory_stats::upstream_context_secrets_not_ready,
        });
    }

    /// Counts settings that were built from secrets.
    pub fn updated_by_sds(&self) {
        self.factory.inc(factory_stats::ssl_context_update_by_sds);
    }

    /// Counts an established session.
    pub fn established(&self, session: &CommonState) {
        self.block.inc(ssl_stats::handshake);
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.block.inc(ssl_stats::session_reused);
        }
        if session.peer_certificates().is_none_or(<[_]>::is_empty) {
            self.block.inc(ssl_stats::no_certificate);
        }
        let cipher = session
            .negotiated_cipher_suite()
            .map(|suite| suite_name(suite.suite()));
        let group = session
            .negotiated_key_exchange_group()
            .map(|group| group_name(group.name()));
        self.settled("ciphers.", cipher);
        self.settled("curves.", group);
        self.settled("versions.", Some(version_name(session)));
    }

    /// Counts the scheme by which a peer proved that a certificate is its own.
    pub fn signed(&self, scheme: SignatureScheme) {
        let name = super::params::SCHEMES
            .iter()
            .find(|(_, known)| *known == scheme)
            .map(|(name, _)| *name);
        self.settled("sigalgs.", name);
    }

    fn settled(&self, kind: &str, name: Option<&str>) {
        let named = |known: &str| known.strip_prefix(kind) == name && name.is_some();
        let table = &settled_stats::TABLE;
        let Some(index) = table.counters.iter().position(|known| named(known)) else {
            return;
        };
        let make = || self.registry.block(self.block.prefix(), table);
        if let Ok(index) = u16::try_from(index) {
            self.settled.get_or_init(make).inc(Counter(index));
        }
    }

    /// Counts a handshake that failed. What is wrong with a certificate may have
    /// been counted where it was found, and is passed over then.
    pub fn failed(&self, error: &std::io::Error, certificates_too: bool) {
        let rustls = error.get_ref().and_then(|e| e.downcast_ref());
        match rustls {
            // The peer has gone, or the socket failed.
            None => {}
            Some(rustls::Error::NoCertificatesPresented) => {
                self.block.inc(ssl_stats::fail_verify_no_cert);
            }
            Some(error @ rustls::Error::InvalidCertificate(_)) if certificates_too => {
                self.certificate_failed(error);
            }
            Some(rustls::Error::InvalidCertificate(_)) => {}
            Some(_) => self.block.inc(ssl_stats::connection_error),
        }
    }

    /// Counts what is wrong with a peer's certificate.
    pub fn certificate_failed(&self, error: &rustls::Error) {
        use CertificateError::{NotValidForName, NotValidForNameContext, Other};
        self.block.inc(match error {
            rustls::Error::InvalidCertificate(Other(other)) => match other.0.downcast_ref() {
                Some(ValidationFailure::San) => ssl_stats::fail_verify_san,
                Some(ValidationFailure::Hash) => ssl_stats::fail_verify_cert_hash,
                None => ssl_stats::fail_verify_error,
            },
            rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
                ssl_stats::fail_verify_san
            }
            _ => ssl_stats::fail_verify_error,
        });
    }

    /// The counters.
    pub fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// Adds one to a counter.
    pub fn inc(&self, counter: Counter) {
        self.block.inc(counter);
    }
}

/// `TLSv1.2` or `TLSv1.3`.
pub(super) fn version_name(session: &CommonState) -> &'static str {
    match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    }
}

/// A group by Envoy's name.
pub(super) fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::secp521r1 => "P-521",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "",
    }
}
