//! `envoy.extensions.transport_sockets.tls.v3.TlsCertificate`: a chain and its
//! key, checked to belong together.

use std::{
    hash::Hash,
    sync::{Arc, OnceLock},
};

use rustls::{
    crypto::aws_lc_rs,
    pki_types::CertificateDer,
    sign::{CertifiedKey, SigningKey},
};

use crate::{
    api::envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3 as pb,
    },
    config::{At, Reported},
    digest::Digest,
    model::{Context, data_source},
    refuse,
};

use super::{
    CertificateText, certificate_facts::CertificateFacts, pem, server_certificates::Names,
    signature::public_key,
};

/// A certificate with its chain and its private key.
#[derive(Debug)]
pub struct Certificate {
    /// What a handshake presents.
    pub key: Arc<CertifiedKey>,
    /// The chain, the certificate itself first.
    pub facts: Vec<CertificateFacts>,
    /// A hash of the chain and the key.
    pub identity: Digest,
    text: OnceLock<Option<CertificateText>>,
}

impl Certificate {
    /// Loads and checks a certificate.
    ///
    /// # Errors
    /// What cannot be read, is not PEM, or does not fit together.
    pub fn compile(
        message: pb::TlsCertificate,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::TlsCertificate {
            certificate_chain,
            private_key,
            password,
            ocsp_staple,
            signed_certificate_timestamp,
            private_key_provider,
            // The files are watched in any case, whatever directory they are in.
            watched_directory: _,
            pkcs12,
            tls_params,
        } = message;
        refuse!(at; password, signed_certificate_timestamp, private_key_provider, pkcs12,
            tls_params)?;
        let chain_place = at.field("certificate_chain");
        let key_place = at.field("private_key");
        let chain = certificate_chain.ok_or_else(|| chain_place.error("is required"));
        let key = private_key.ok_or_else(|| key_place.error("is required"));
        let (chain, key) = (chain?, key?);
        let path = path_of(&chain).to_owned();
        let key_path = path_of(&key).to_owned();
        let chain = data_source::load(chain, cx, &chain_place);
        let key = data_source::load(key, cx, &key_place);
        let (chain, key) = (chain?, key?);

        let identity = Digest::of((&chain, &key));
        let chain = pem::certificates(&chain, &path, &chain_place);
        let key = pem::private_key(&key, &key_path, &key_place);
        let (chain, key) = (chain?, key?);
        let facts = facts_of(&chain, &path);
        if let Some(first) = facts.first() {
            warn_of_dates(first, &chain_place);
        }
        let provider = aws_lc_rs::default_provider();
        let key = provider.key_provider.load_private_key(key).map_err(|_| {
            key_place.error(format_args!(
                "{key_path} is of a kind that is not supported; RSA with 2048 bits or more, \
                 ECDSA on P-256, P-384 and P-521, and Ed25519 are"
            ))
        })?;
        let mut certified = CertifiedKey::new(chain, key);
        let own = belongs(&certified.cert[0], &*certified.key);
        match own {
            Some(true) => {}
            Some(false) => return Err(at.error(mismatch(&certified, &path, &key_path))),
            None => {
                return Err(chain_place.error(format_args!(
                    "{path} has a certificate in it that cannot be read"
                )));
            }
        }
        if let Some(staple) = ocsp_staple {
            let staple = data_source::load(staple, cx, &at.field("ocsp_staple"))?;
            certified.ocsp = Some(staple);
        }
        Ok(Self {
            key: Arc::new(certified),
            facts,
            identity,
            text: OnceLock::new(),
        })
    }

    /// Whether it is for this host, which is in lower case: by a name of its own, or by
    /// a wildcard.
    pub fn is_for(&self, host: &str) -> bool {
        let names = Names::of(self.facts.first());
        names.has(host) || names.has_wildcard_for(host)
    }

    /// What it says, read when it is first asked for; `None` when it cannot be
    /// read.
    pub fn text(&self) -> Option<&CertificateText> {
        let read = || CertificateText::read(self.key.cert.first()?);
        self.text.get_or_init(read).as_ref()
    }
}

impl Hash for Certificate {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

/// A certificate that clients will not take is used all the same, as in Envoy.
fn warn_of_dates(facts: &CertificateFacts, at: &At<'_>) {
    let now = std::time::SystemTime::now();
    if facts.expiration < now {
        let days = now.duration_since(facts.expiration).unwrap_or_default();
        let days = days.as_secs() / (24 * 3600);
        at.warn(format_args!(
            "the certificate ({}) expired {days} days ago; clients will refuse it",
            facts.path
        ));
    } else if facts.valid_from > now {
        at.warn(format_args!(
            "the certificate ({}) is not valid yet; clients will refuse it",
            facts.path
        ));
    }
}

/// Whether a certificate is for a key; `None` when it cannot be read.
fn belongs(certificate: &CertificateDer<'_>, key: &dyn SigningKey) -> Option<bool> {
    let public_key = public_key(certificate)?;
    // What a key does not tell of itself cannot be compared.
    Some(key.public_key().is_none_or(|own| own == public_key))
}

/// Why a key does not go with a chain. Chains are often in the wrong order.
fn mismatch(certified: &CertifiedKey, path: &str, key_path: &str) -> String {
    let own = |certificate| belongs(certificate, &*certified.key) == Some(true);
    match certified.cert.iter().position(own) {
        Some(index) => format!(
            "the private_key ({key_path}) belongs to certificate {} of certificate_chain ({path}); \
             its certificate has to be the first",
            index + 1
        ),
        None => format!(
            "the private_key ({key_path}) does not belong to the first certificate of \
             certificate_chain ({path})"
        ),
    }
}

/// The facts of each certificate that can be read.
pub(super) fn facts_of(certificates: &[CertificateDer<'_>], path: &str) -> Vec<CertificateFacts> {
    let facts = |certificate| CertificateFacts::read(certificate, path);
    certificates.iter().filter_map(facts).collect()
}

/// The file a source names, as `/certs` shows it.
pub(super) fn path_of(source: &DataSource) -> &str {
    match &source.specifier {
        Some(Specifier::Filename(path)) => path,
        _ => "<inline>",
    }
}
