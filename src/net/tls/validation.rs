//! `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`:
//! what a peer's certificate has to be.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    DistinguishedName,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime, pem::PemObject,
    },
};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use crate::{
    api::envoy::extensions::transport_sockets::tls::v3::{
        self as pb,
        certificate_validation_context::{SystemRootCerts, TrustChainVerification},
    },
    config::{At, MAX_CONTENT, Reported, read_file},
    digest::{Digest, Said},
    model::{Context, data_source},
    refuse,
};

use super::{
    certificate::{facts_of, path_of},
    certificate_facts::{CertificateFacts, SubjectName, subject_names},
    pem,
    san::SanMatcher,
};

/// Where the system keeps the authorities it trusts; the first that exists is read.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a peer's certificate has to be.
#[derive(Debug, Default)]
pub struct Validation {
    /// `trusted_ca`, or the system's.
    pub trust: Option<Arc<Trust>>,
    /// `crl`.
    pub(super) revoked: Option<Arc<[CertRevocationList<'static>]>>,
    /// `only_verify_leaf_cert_crl`.
    pub(super) only_leaf_revocation: bool,
    /// `allow_expired_certificate`.
    pub(super) allow_expired: bool,
    /// `max_verify_depth`: how many certificates there may be above the peer's own.
    pub(super) max_depth: Option<u32>,
    /// `trust_chain_verification: ACCEPT_UNTRUSTED`: whatever is wrong with a
    /// certificate is counted and no more.
    pub accept_untrusted: bool,
    /// SHA-256 of certificates, one of which it has to be.
    hashes: Vec<[u8; 32]>,
    /// SHA-256 of public keys, one of which it has to have.
    spki: Vec<[u8; 32]>,
    /// Names, one of which it has to carry.
    sans: Vec<SanMatcher>,
    /// `suppress_client_ca_list`.
    pub suppress_client_ca_list: bool,
    identity: Digest,
}

/// Authorities.
#[derive(Debug)]
pub struct Trust {
    /// Anchors of chains.
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    /// When each anchor's certificate is valid.
    pub(super) validity: Vec<(UnixTime, UnixTime)>,
    /// Their subjects, which clients are told.
    pub(super) subjects: Vec<DistinguishedName>,
    /// The certificates themselves: a peer that presents one of them is trusted.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The authorities, for `/certs`.
    pub facts: Vec<CertificateFacts>,
}

/// Why a certificate is refused, after its chain has been found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidationFailure {
    /// No name matches.
    #[error("verify SAN list")]
    San,
    /// No hash matches.
    #[error("verify certificate hash")]
    Hash,
}

impl Validation {
    /// Loads and checks the settings.
    ///
    /// # Errors
    /// Everything in the message that is wrong or not supported is reported.
    pub fn compile(
        message: pb::CertificateValidationContext,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::CertificateValidationContext {
            trusted_ca,
            verify_certificate_hash,
            verify_certificate_spki,
            require_signed_certificate_timestamp,
            crl,
            allow_expired_certificate,
            match_subject_alt_names,
            trust_chain_verification,
            // The file is watched in any case, whatever directory it is in.
            watched_directory: _,
            custom_validator_config,
            ca_certificate_provider_instance,
            only_verify_leaf_cert_crl,
            match_typed_subject_alt_names,
            max_verify_depth,
            system_root_certs,
            suppress_client_ca_list,
        } = message;
        // False is what happens.
        let require_signed_certificate_timestamp =
            require_signed_certificate_timestamp.filter(|required| *required);
        let refused = refuse!(at; require_signed_certificate_timestamp,
            custom_validator_config, ca_certificate_provider_instance);
        let mut said = Said::default();

        let place = at.field("trusted_ca");
        let authorities = match (trusted_ca, system_root_certs) {
            (Some(source), _) => {
                let path = path_of(&source).to_owned();
                Some(data_source::load(source, cx, &place).map(|pem| (pem, path)))
            }
            (None, Some(SystemRootCerts {})) => Some(system_roots(&at.field("system_root_certs"))),
            (None, None) => None,
        };
        let crl_place = at.field("crl");
        let crl = crl.map(|source| data_source::load(source, cx, &crl_place));
        let hashes = digests(
            &verify_certificate_hash,
            parse_hex,
            &at.field("verify_certificate_hash"),
        );
        let spki = digests(
            &verify_certificate_spki,
            parse_base64,
            &at.field("verify_certificate_spki"),
        );
        let sans = compile_sans(
            match_typed_subject_alt_names.clone(),
            match_subject_alt_names.clone(),
            at,
        );

        refused?;
        let authorities = authorities.transpose()?;
        let crl = crl.transpose()?;
        (
            &authorities,
            &crl,
            only_verify_leaf_cert_crl,
            trust_chain_verification,
            allow_expired_certificate,
            max_verify_depth,
        )
            .hash(&mut said);
        (
            &verify_certificate_hash,
            &verify_certificate_spki,
            suppress_client_ca_list,
        )
            .hash(&mut said);
        for san in &match_typed_subject_alt_names {
            prost::Message::encode_to_vec(san).hash(&mut said);
        }
        for san in &match_subject_alt_names {
            prost::Message::encode_to_vec(san).hash(&mut said);
        }
        let (hashes, spki, sans) = (hashes?, spki?, sans?);
        let revoked = crl
            .map(|pem| revocation_lists(&pem, &crl_place))
            .transpose()?;
        let trust = authorities.map(|(pem, path)| {
            let certificates = pem::certificates(&pem, &path, &place)?;
            Trust::new(certificates, &path, &place).map(Arc::new)
        });
        Ok(Self {
            trust: trust.transpose()?,
            revoked: revoked.map(Into::into),
            only_leaf_revocation: only_verify_leaf_cert_crl,
            allow_expired: allow_expired_certificate,
            max_depth: max_verify_depth,
            accept_untrusted: trust_chain_verification
                == i32::from(TrustChainVerification::AcceptUntrusted),
            hashes,
            spki,
            sans,
            suppress_client_ca_list,
            identity: said.digest(),
        })
    }

    /// Whether the parts make sense together: names prove nothing of a
    /// certificate that anybody may have signed.
    ///
    /// # Errors
    /// What to say about it.
    pub fn check_complete(&self) -> Result<(), &'static str> {
        match &self.trust {
            None if !self.sans.is_empty() => Err(
                "SAN-based verification of peer certificates without trusted CA is insecure and not allowed",
            ),
            None if self.revoked.is_some() => Err("crl means nothing without trusted_ca"),
            _ => Ok(()),
        }
    }

    /// These settings with those of a secret merged over them, as
    /// `combined_validation_context` does: lists append, the rest is replaced.
    pub fn merged(&self, over: &Self) -> Self {
        let both = |a: &[[u8; 32]], b: &[[u8; 32]]| [a, b].concat();
        Self {
            trust: over.trust.clone().or_else(|| self.trust.clone()),
            revoked: over.revoked.clone().or_else(|| self.revoked.clone()),
            only_leaf_revocation: self.only_leaf_revocation || over.only_leaf_revocation,
            allow_expired: self.allow_expired || over.allow_expired,
            max_depth: over.max_depth.or(self.max_depth),
            accept_untrusted: self.accept_untrusted || over.accept_untrusted,
            hashes: both(&self.hashes, &over.hashes),
            spki: both(&self.spki, &over.spki),
            sans: [self.sans.clone(), over.sans.clone()].concat(),
            suppress_client_ca_list: self.suppress_client_ca_list || over.suppress_client_ca_list,
            identity: Digest::of((self.identity, over.identity)),
        }
    }

    /// Checks what is asked of a certificate besides its chain.
    ///
    /// # Errors
    /// What it does not meet.
    pub fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), ValidationFailure> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        if self.hashes.is_empty() && self.spki.is_empty() && self.sans.is_empty() {
            return Ok(());
        }
        let parsed = X509Certificate::from_der(certificate);
        let Ok((_, x509)) = parsed else {
            return Err(ValidationFailure::Hash);
        };
        if !self.sans.is_empty() {
            let names = subject_names(&x509);
            let good = |name: &SubjectName| self.sans.iter().any(|san| san.is_match(name));
            if !names.iter().any(good) {
                return Err(ValidationFailure::San);
            }
        }
        if !self.hashes.is_empty() || !self.spki.is_empty() {
            let hash = digest(&SHA256, certificate);
            let spki = digest(&SHA256, x509.public_key().raw);
            // Either is enough, as in Envoy.
            if !self.hashes.iter().any(|h| h == hash.as_ref())
                && !self.spki.iter().any(|h| h == spki.as_ref())
            {
                return Err(ValidationFailure::Hash);
            }
        }
        Ok(())
    }

    /// Whether it asks for certain certificates, which nobody can show who shows
    /// none: then a client has to, whatever `require_client_certificate` says.
    pub fn pins_certificates(&self) -> bool {
        let pins = [self.hashes.len(), self.spki.len(), self.sans.len()];
        !self.accept_untrusted && pins.iter().any(|count| *count > 0)
    }

    /// The authorities, for `/certs`.
    pub fn facts(&self) -> &[CertificateFacts] {
        self.trust.as_deref().map_or(&[], |trust| &trust.facts)
    }
}

impl Hash for Validation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

impl Trust {
    fn new(
        certificates: Vec<CertificateDer<'static>>,
        path: &str,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut trust = Self {
            anchors: Vec::with_capacity(certificates.len()),
            validity: Vec::with_capacity(certificates.len()),
            subjects: Vec::with_capacity(certificates.len()),
            facts: facts_of(&certificates, path),
            certificates: Vec::new(),
        };
        let time = |at: SystemTime| UnixTime::since_unix_epoch(since_epoch(at));
        for certificate in &certificates {
            let anchor = webpki::anchor_from_trusted_cert(certificate);
            let facts = CertificateFacts::read(certificate, path);
            // A bundle may have some that are not understood, as the system's may.
            if let (Ok(anchor), Some(facts)) = (anchor, facts) {
                let subject = DistinguishedName::in_sequence(&anchor.subject);
                trust.subjects.push(subject);
                trust.anchors.push(anchor.to_owned());
                trust
                    .validity
                    .push((time(facts.valid_from), time(facts.expiration)));
            }
        }
        if trust.anchors.is_empty() {
            let count = certificates.len();
            return Err(at.error(format_args!(
                "none of its {count} certificates can be used as an authority"
            )));
        }
        trust.certificates = certificates;
        Ok(trust)
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn system_roots(at: &At<'_>) -> Result<(Vec<u8>, String), Reported> {
    for path in SYSTEM_ROOTS {
        if let Ok(pem) = read_file(path.as_ref(), MAX_CONTENT) {
            return Ok((pem, path.to_owned()));
        }
    }
    let list = SYSTEM_ROOTS.join(", ");
    Err(at.error(format_args!("this system has none of {list}")))
}

fn revocation_lists(pem: &[u8], at: &At<'_>) -> Result<Vec<CertRevocationList<'static>>, Reported> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let lists = lists.map_err(|error| at.error(format_args!("is not well-formed PEM: {error}")))?;
    if lists.is_empty() {
        return Err(at.error("contains no PEM revocation list"));
    }
    let parse = |list: &CertificateRevocationListDer<'_>| {
        OwnedCertRevocationList::from_der(list)
            .map(CertRevocationList::from)
            .map_err(|error| {
                at.error(format_args!(
                    "a revocation list cannot be used: {error}; it has to be of version 2 with a \
                     CRL number, as RFC 5280, 5.2 has it"
                ))
            })
    };
    lists.iter().map(parse).collect()
}

fn compile_sans(
    typed: Vec<pb::SubjectAltNameMatcher>,
    untyped: Vec<crate::api::envoy::r#type::matcher::v3::StringMatcher>,
    at: &At<'_>,
) -> Result<Vec<SanMatcher>, Reported> {
    let mut outcome = Ok(());
    let mut sans = Vec::new();
    let place = at.field("match_typed_subject_alt_names");
    for (index, matcher) in typed.into_iter().enumerate() {
        match SanMatcher::compile(matcher, &place.index(index)) {
            Ok(san) => sans.push(san),
            Err(reported) => outcome = Err(reported),
        }
    }
    // The typed ones take the place of the others, as in Envoy.
    if sans.is_empty() {
        let place = at.field("match_subject_alt_names");
        for (index, matcher) in untyped.into_iter().enumerate() {
            match SanMatcher::compile_untyped(matcher, &place.index(index)) {
                Ok(more) => sans.extend(more),
                Err(reported) => outcome = Err(reported),
            }
        }
    }
    outcome.map(|()| sans)
}

fn digests(
    texts: &[String],
    parse: fn(&str) -> Option<[u8; 32]>,
    at: &At<'_>,
) -> Result<Vec<[u8; 32]>, Reported> {
    let mut outcome = Ok(());
    let mut parsed = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match parse(text) {
            Some(hash) => parsed.push(hash),
            None => {
                let place = at.index(index);
                outcome = Err(place.error(format_args!("{text:?} is not a SHA-256 hash")));
            }
        }
    }
    outcome.map(|()| parsed)
}

/// Hex, with or without a colon after each byte.
fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(hash)
}

fn parse_base64(text: &str) -> Option<[u8; 32]> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}
