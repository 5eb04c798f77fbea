//! Verifies an origin's certificate as its cluster asks, which is as Envoy does:
//! without a validation context anything goes; with authorities the chain has to
//! lead to one of them; the name counts only where it is asked for.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::net::tls::{Parameters, Side, Validation};

#[derive(Clone, Debug)]
pub(super) struct OriginVerifier {
    pub(super) validation: Option<Arc<Validation>>,
    pub(super) check: NameCheck,
    pub(super) parameters: Parameters,
}

/// What the certificate has to be for.
#[derive(Clone, Debug)]
pub(super) enum NameCheck {
    /// Only what the validation context says.
    None,
    /// The server name.
    ServerName,
    /// This name, whatever the server name is.
    Name(ServerName<'static>),
}

impl OriginVerifier {
    fn verify(
        &self,
        validation: &Validation,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = &self.parameters.provider.signature_verification_algorithms;
        validation.verify(end_entity, intermediates, now, Side::Client, algorithms)?;
        let name = match &self.check {
            NameCheck::None => return Ok(()),
            NameCheck::ServerName => name,
            NameCheck::Name(name) => name,
        };
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)
    }
}

impl ServerCertVerifier for OriginVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(validation) = &self.validation {
            let verified = self.verify(validation, end_entity, intermediates, server_name, now);
            if !validation.accept_untrusted {
                verified?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.parameters.verify_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.parameters.verify_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.parameters.verify_schemes()
    }
}
