//! `envoy.extensions.transport_sockets.tls.v3.TlsParameters`, in terms of rustls.

use std::sync::Arc;

use rustls::{
    NamedGroup, ProtocolVersion, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

use crate::{
    api::envoy::extensions::transport_sockets::tls::v3::{self as pb, tls_parameters::TlsProtocol},
    config::{At, Reported},
    refuse,
};

/// Versions, and the suites and groups of a provider.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// Suites and groups that may be used, in order of preference.
    pub provider: Arc<CryptoProvider>,
    /// Versions that may be used.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// `signature_algorithms`: by these alone either end may sign; empty for all
    /// there are.
    pub schemes: Vec<SignatureScheme>,
    /// `cipher_suites` are in an order of preference.
    pub ordered: bool,
}

/// Which end of a connection is meant: Envoy offers TLS 1.3 by itself only where
/// it is the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards origins; the highest version is 1.2 unless set.
    Client,
    /// Towards clients; the highest version is 1.3 unless set.
    Server,
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

/// OpenSSL's names, which Envoy uses, for what rustls calls by the RFC's.
const SUITES: [(&str, rustls::CipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        rustls::CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// A suite by OpenSSL's name, as Envoy prints it.
pub fn suite_name(suite: rustls::CipherSuite) -> &'static str {
    use rustls::CipherSuite;
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        suite => SUITES
            .iter()
            .find(|(_, id)| *id == suite)
            .map_or("", |(name, _)| name),
    }
}

/// The number of a suite of which this is OpenSSL's name.
pub fn suite_number(name: &str) -> Option<u16> {
    use rustls::CipherSuite;
    let of_tls13 = [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let all = of_tls13.into_iter().chain(SUITES.iter().map(|(_, id)| *id));
    let mut named = all.filter(|&suite| suite_name(suite) == name);
    named.next().map(u16::from)
}

/// Signature schemes by their names, which are those of TLS itself.
pub(super) const SCHEMES: [(&str, SignatureScheme); 10] = [
    (
        "ecdsa_secp256r1_sha256",
        SignatureScheme::ECDSA_NISTP256_SHA256,
    ),
    (
        "ecdsa_secp384r1_sha384",
        SignatureScheme::ECDSA_NISTP384_SHA384,
    ),
    (
        "ecdsa_secp521r1_sha512",
        SignatureScheme::ECDSA_NISTP521_SHA512,
    ),
    ("ed25519", SignatureScheme::ED25519),
    ("rsa_pkcs1_sha256", SignatureScheme::RSA_PKCS1_SHA256),
    ("rsa_pkcs1_sha384", SignatureScheme::RSA_PKCS1_SHA384),
    ("rsa_pkcs1_sha512", SignatureScheme::RSA_PKCS1_SHA512),
    ("rsa_pss_rsae_sha256", SignatureScheme::RSA_PSS_SHA256),
    ("rsa_pss_rsae_sha384", SignatureScheme::RSA_PSS_SHA384),
    ("rsa_pss_rsae_sha512", SignatureScheme::RSA_PSS_SHA512),
];

impl Parameters {
    /// Compiles the settings; without any, everything that rustls has is used.
    ///
    /// # Errors
    /// What rustls does not have is reported by name.
    pub fn compile(
        message: Option<pb::TlsParameters>,
        side: Side,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::TlsParameters {
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            cipher_suites,
            ecdh_curves,
            signature_algorithms,
            compliance_policies,
        } = message.unwrap_or_default();
        let mut provider = aws_lc_rs::default_provider();
        let outcome = refuse!(at; compliance_policies);
        let versions = versions(
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            side,
            at,
        );
        let suites = suites(&cipher_suites, &provider, &at.field("cipher_suites"));
        let groups = groups(&ecdh_curves, &at.field("ecdh_curves"));
        let schemes = schemes(&signature_algorithms, &at.field("signature_algorithms"));
        outcome?;
        if let Some(suites) = suites? {
            provider.cipher_suites = suites;
        }
        if let Some(groups) = groups? {
            provider
                .kx_groups
                .retain(|group| groups.contains(&group.name()));
            provider
                .kx_groups
                .sort_by_key(|group| groups.iter().position(|name| *name == group.name()));
        }
        Ok(Self {
            provider: Arc::new(provider),
            versions: versions?,
            schemes: schemes?,
            ordered: !cipher_suites.is_empty(),
        })
    }
}

impl Parameters {
    /// The schemes by which the other end may sign.
    pub fn verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let mut all = algorithms.supported_schemes();
        all.retain(|scheme| self.allows(*scheme));
        all
    }

    /// Whether either end may sign by this scheme.
    pub fn allows(&self, scheme: SignatureScheme) -> bool {
        self.schemes.is_empty() || self.schemes.contains(&scheme)
    }
}

fn versions(
    minimum: i32,
    maximum: i32,
    side: Side,
    at: &At<'_>,
) -> Result<&'static [&'static SupportedProtocolVersion], Reported> {
    let bound = |value: i32, field: &str, auto: TlsProtocol| {
        let place = at.field(field);
        match TlsProtocol::try_from(value) {
            Ok(TlsProtocol::TlsAuto) => Ok(auto),
            Ok(version @ (TlsProtocol::TlSv12 | TlsProtocol::TlSv13)) => Ok(version),
            Ok(version) => Err(place.error(format_args!(
                "{} is not supported; the lowest is TLSv1_2",
                version.as_str_name()
            ))),
            Err(_) => Err(place.error(format_args!("{value} is not a TlsProtocol"))),
        }
    };
    let lowest = bound(minimum, "tls_minimum_protocol_version", TlsProtocol::TlSv12)?;
    let unset = match side {
        // A minimum of 1.3 alone would leave nothing.
        Side::Client => lowest,
        Side::Server => TlsProtocol::TlSv13,
    };
    let highest = bound(maximum, "tls_maximum_protocol_version", unset)?;
    match (lowest, highest) {
        (TlsProtocol::TlSv13, TlsProtocol::TlSv12) => Err(at
            .field("tls_maximum_protocol_version")
            .error("is below tls_minimum_protocol_version")),
        (TlsProtocol::TlSv13, _) => Ok(ONLY_13),
        (_, TlsProtocol::TlSv12) => Ok(ONLY_12),
        _ => Ok(BOTH),
    }
}

/// Suites of TLS 1.2 in the order given; those of TLS 1.3 are not configurable,
/// in Envoy either. A name may be a group of equals, `[A|B]`, which keep their order.
fn suites(
    names: &[String],
    provider: &CryptoProvider,
    at: &At<'_>,
) -> Result<Option<Vec<SupportedCipherSuite>>, Reported> {
    if names.is_empty() {
        return Ok(None);
    }
    let of_tls13 =
        |suite: &&SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
    let mut suites: Vec<_> = provider
        .cipher_suites
        .iter()
        .filter(of_tls13)
        .copied()
        .collect();
    let mut outcome = Ok(());
    for (index, group) in names.iter().enumerate() {
        let group = group.trim_start_matches('[').trim_end_matches(']');
        for name in group.split('|') {
            let id = SUITES.iter().find(|(n, _)| *n == name).map(|(_, id)| *id);
            let suite = provider
                .cipher_suites
                .iter()
                .find(|s| Some(s.suite()) == id);
            match suite {
                Some(suite) => suites.push(*suite),
                None => {
                    let known: Vec<_> = SUITES.iter().map(|(name, _)| *name).collect();
                    outcome = Err(at.index(index).error(format_args!(
                        "{name:?} is not supported; supported are {}",
                        known.join(", ")
                    )));
                }
            }
        }
    }
    outcome.map(|()| Some(suites))
}

fn groups(names: &[String], at: &At<'_>) -> Result<Option<Vec<NamedGroup>>, Reported> {
    if names.is_empty() {
        return Ok(None);
    }
    let mut outcome = Ok(());
    let mut groups = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        match name.as_str() {
            "X25519" => groups.push(NamedGroup::X25519),
            "P-256" => groups.push(NamedGroup::secp256r1),
            "P-384" => groups.push(NamedGroup::secp384r1),
            "X25519MLKEM768" => groups.push(NamedGroup::X25519MLKEM768),
            _ => {
                outcome = Err(at.index(index).error(format_args!(
                    "{name:?} is not supported; supported are X25519, P-256, P-384, X25519MLKEM768"
                )));
            }
        }
    }
    outcome.map(|()| Some(groups))
}

fn schemes(names: &[String], at: &At<'_>) -> Result<Vec<SignatureScheme>, Reported> {
    let mut outcome = Ok(());
    let mut schemes = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        match SCHEMES.iter().find(|(known, _)| known == name) {
            Some((_, scheme)) => schemes.push(*scheme),
            None => {
                let known: Vec<_> = SCHEMES.iter().map(|(name, _)| *name).collect();
                outcome = Err(at.index(index).error(format_args!(
                    "{name:?} is not supported; supported are {}",
                    known.join(", ")
                )));
            }
        }
    }
    outcome.map(|()| schemes)
}
