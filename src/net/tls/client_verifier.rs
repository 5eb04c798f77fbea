//! Verifies a client's certificate as the filter chain asks.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{Parameters, Side, SslStats, Validation};

#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) validation: Arc<Validation>,
    pub(super) required: bool,
    pub(super) parameters: Parameters,
    pub(super) stats: Arc<SslStats>,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        // As Envoy: what names a certificate asks for one.
        self.required || self.validation.pins_certificates()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match &self.validation.trust {
            Some(trust) if !self.validation.suppress_client_ca_list => &trust.subjects,
            _ => &[],
        }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let algorithms = &self.parameters.provider.signature_verification_algorithms;
        let verified =
            self.validation
                .verify(end_entity, intermediates, now, Side::Server, algorithms);
        if let Err(error) = verified {
            self.stats.certificate_failed(&error);
            if !self.validation.accept_untrusted {
                return Err(error);
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = self.parameters.verify_tls12(message, certificate, signed)?;
        self.stats.signed(signed.scheme);
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = self.parameters.verify_tls13(message, certificate, signed)?;
        self.stats.signed(signed.scheme);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.parameters.verify_schemes()
    }
}
