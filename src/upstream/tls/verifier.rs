//! Verifies an origin's certificate as its cluster asks, which is as Envoy does:
//! without a validation context anything goes; with authorities the chain has to
//! lead to one of them; the name counts only where it is asked for.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::net::tls::{CertificateFacts, Validation};

#[derive(Debug)]
pub(super) struct OriginVerifier {
    validation: Option<Arc<Validation>>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The certificate has to be for the server name.
    check_name: bool,
    provider: Arc<CryptoProvider>,
}

impl OriginVerifier {
    /// # Errors
    /// When the revocation lists cannot be used.
    pub(super) fn new(
        validation: Option<Arc<Validation>>,
        check_name: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let trust = validation.as_ref().and_then(|v| v.trust.as_ref());
        let chain = trust.map(|trust| {
            let mut builder = WebPkiServerVerifier::builder_with_provider(
                Arc::clone(&trust.roots),
                Arc::clone(&provider),
            )
            .with_crls(trust.revoked.iter().cloned());
            if trust.only_leaf_revocation {
                builder = builder.only_check_end_entity_revocation();
            }
            builder.build()
        });
        Ok(Self {
            chain: chain.transpose()?,
            validation,
            check_name,
            provider,
        })
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let (Some(chain), Some(validation)) = (&self.chain, &self.validation) else {
            return Ok(());
        };
        let verified = chain.verify_server_cert(end_entity, intermediates, name, &[], now);
        match verified {
            Ok(_) => Ok(()),
            // Checked last, so everything else is good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(()),
            Err(_) if validation.accept_untrusted => Ok(()),
            // A certificate that is itself trusted needs no chain: one that was
            // signed by its own key, which webpki takes for an authority only.
            Err(_) if is_trusted_itself(validation, end_entity, now) => match self.check_name {
                true => verify_server_name(&ParsedCertificate::try_from(end_entity)?, name),
                false => Ok(()),
            },
            Err(error) => Err(error),
        }
    }
}

fn is_trusted_itself(
    validation: &Validation,
    end_entity: &CertificateDer<'_>,
    now: UnixTime,
) -> bool {
    let trusted = validation.trust.as_ref();
    let Some(facts) = trusted
        .filter(|trust| trust.certificates.contains(end_entity) && trust.revoked.is_empty())
        .and_then(|_| CertificateFacts::read(end_entity, ""))
    else {
        return false;
    };
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
    facts.valid_from <= now && now <= facts.expiration
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
        self.verify_chain(end_entity, intermediates, server_name, now)?;
        if let Some(validation) = &self.validation {
            let other = |failure| OtherError(Arc::new(failure));
            validation.check(end_entity).map_err(|failure| {
                Error::InvalidCertificate(CertificateError::Other(other(failure)))
            })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
