//! Whether a peer holds the key of the certificate that it presents.
//!
//! webpki reads certificates of X.509's version 3 alone. One of version 1, as
//! `openssl x509 -req` makes it when it is told of no extension, has a key all the same.

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerIncompatible, PeerMisbehaved,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};
use webpki::RawPublicKeyEntity;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Parameters;

/// The public key of a certificate, with its algorithm; `None` when it is none.
pub(super) fn public_key<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Option<SubjectPublicKeyInfoDer<'a>> {
    let (_, x509) = X509Certificate::from_der(certificate).ok()?;
    Some(x509.tbs_certificate.subject_pki.raw.into())
}

impl Parameters {
    /// Verifies the signature of a handshake of TLS 1.2.
    ///
    /// # Errors
    /// When it is made by a scheme that was not offered, or not by the certificate's key.
    pub fn verify_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(signature.scheme)?;
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12(message, certificate, signature, algorithms)
    }

    /// Verifies the signature of a handshake of TLS 1.3.
    ///
    /// # Errors
    /// When it is made by a scheme that was not offered, or not by the certificate's key.
    pub fn verify_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(signature.scheme)?;
        let algorithms = &self.provider.signature_verification_algorithms;
        let outcome = verify_tls13_signature(message, certificate, signature, algorithms);
        match unread_key(certificate, &outcome) {
            None => outcome,
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, signature, algorithms),
        }
    }

    fn check_scheme(&self, scheme: SignatureScheme) -> Result<(), Error> {
        match self.allows(scheme) {
            true => Ok(()),
            false => Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()),
        }
    }
}

fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let outcome = verify_tls12_signature(message, certificate, signature, algorithms);
    let Some(key) = unread_key(certificate, &outcome) else {
        return outcome;
    };
    let bad = || Error::from(CertificateError::BadSignature);
    let entity = RawPublicKeyEntity::try_from(&key).map_err(|_| bad())?;
    let mut mapping = algorithms.mapping.iter();
    let known = mapping.find(|(scheme, _)| *scheme == signature.scheme);
    let (_, candidates) = known.ok_or(PeerIncompatible::NoSignatureSchemesInCommon)?;
    let made = candidates.iter().any(|algorithm| {
        entity
            .verify_signature(*algorithm, message, signature.signature())
            .is_ok()
    });
    match made {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(bad()),
    }
}

/// The key of a certificate that was not read for its version.
fn unread_key<'a, T>(
    certificate: &'a CertificateDer<'_>,
    outcome: &Result<T, Error>,
) -> Option<SubjectPublicKeyInfoDer<'a>> {
    let Err(Error::InvalidCertificate(CertificateError::Other(OtherError(error)))) = outcome else {
        return None;
    };
    match error.downcast_ref() {
        Some(webpki::Error::UnsupportedCertVersion) => public_key(certificate),
        _ => None,
    }
}
