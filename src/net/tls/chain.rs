//! Whether a certificate's chain leads to an authority, by the rules of Envoy:
//! any trusted certificate ends a chain, be it an intermediate one or the peer's
//! own, and it has to be valid itself.

use rustls::{
    CertRevocationListError, CertificateError, Error, OtherError,
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, UnixTime},
};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, VerifiedPath,
};

use super::{CertificateFacts, Side, Trust, Validation};

impl Validation {
    /// Checks a peer's certificate: its chain where there are authorities, then
    /// its names and hashes. `side` is this end's.
    ///
    /// # Errors
    /// What is wrong with it, also where `accept_untrusted` lets it pass.
    pub fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        side: Side,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        if let Some(trust) = &self.trust {
            let chain = Chain {
                validation: self,
                trust,
                end_entity,
                intermediates,
                side,
                algorithms,
            };
            chain.verify(now)?;
        }
        self.check(end_entity).map_err(|failure| {
            let failure = OtherError(std::sync::Arc::new(failure));
            Error::InvalidCertificate(CertificateError::Other(failure))
        })
    }
}

struct Chain<'a> {
    validation: &'a Validation,
    trust: &'a Trust,
    end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    side: Side,
    algorithms: &'a WebPkiSupportedAlgorithms,
}

impl Chain<'_> {
    fn verify(&self, now: UnixTime) -> Result<(), Error> {
        if self.is_trusted_itself() {
            return self.check_own_validity(now);
        }
        let outcome = self.verify_at(now);
        match outcome {
            Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. })
                if self.validation.allow_expired =>
            {
                // Good if it was good at some time: at the start or end of the
                // validity of one of its certificates, if at all.
                let ever = self.moments().any(|then| self.verify_at(then).is_ok());
                match ever {
                    true => Ok(()),
                    false => outcome.map_err(told),
                }
            }
            outcome => outcome.map_err(told),
        }
    }

    fn verify_at(&self, now: UnixTime) -> Result<(), webpki::Error> {
        let end_entity = EndEntityCert::try_from(self.end_entity)?;
        let lists: Vec<_> = self
            .validation
            .revoked
            .iter()
            .flat_map(|l| l.iter())
            .collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(match self.validation.only_leaf_revocation {
                    true => RevocationCheckDepth::EndEntity,
                    false => RevocationCheckDepth::Chain,
                })
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(match self.validation.allow_expired {
                    // The time is not the present one.
                    true => ExpirationPolicy::Ignore,
                    false => ExpirationPolicy::Enforce,
                })
                .build()
        });
        end_entity
            .verify_for_usage(
                self.algorithms.all,
                &self.trust.anchors,
                self.intermediates,
                now,
                match self.side {
                    Side::Client => KeyUsage::server_auth(),
                    Side::Server => KeyUsage::client_auth(),
                },
                revocation,
                Some(&|path: &VerifiedPath<'_>| self.check_path(path, now)),
            )
            .map(drop)
    }

    /// What webpki leaves open: the length of the chain, and whether its anchor
    /// is valid.
    fn check_path(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
        if let Some(max) = self.validation.max_depth {
            // The anchor counts, but a chain of two is never too long.
            let above = path.intermediate_certificates().count() + 1;
            if above > usize::try_from(max).unwrap_or(usize::MAX).max(1) {
                return Err(webpki::Error::UnknownIssuer);
            }
        }
        let anchors = &self.trust.anchors;
        let index = anchors.iter().position(|a| std::ptr::eq(a, path.anchor()));
        match index.and_then(|index| self.trust.validity.get(index)) {
            _ if self.validation.allow_expired => Ok(()),
            Some(&(not_before, _)) if now.as_secs() < not_before.as_secs() => {
                Err(webpki::Error::CertNotValidYet {
                    time: now,
                    not_before,
                })
            }
            Some(&(_, not_after)) if now.as_secs() > not_after.as_secs() => {
                Err(webpki::Error::CertExpired {
                    time: now,
                    not_after,
                })
            }
            _ => Ok(()),
        }
    }

    /// One that was signed by its own key, webpki takes for an authority only.
    /// Revocation lists are its issuer's, who has no say in this.
    fn is_trusted_itself(&self) -> bool {
        self.validation.revoked.is_none() && self.trust.certificates.contains(self.end_entity)
    }

    fn check_own_validity(&self, now: UnixTime) -> Result<(), Error> {
        let Some(facts) = CertificateFacts::read(self.end_entity, "") else {
            return Err(CertificateError::BadEncoding.into());
        };
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
        match facts.valid_from <= now && now <= facts.expiration {
            _ if self.validation.allow_expired => Ok(()),
            true => Ok(()),
            false => Err(CertificateError::Expired.into()),
        }
    }

    /// The first and last moments of the presented certificates.
    fn moments(&self) -> impl Iterator<Item = UnixTime> {
        let presented = std::iter::once(self.end_entity).chain(self.intermediates);
        let facts = presented.filter_map(|one| CertificateFacts::read(one, ""));
        facts
            .flat_map(|facts| [facts.expiration, facts.valid_from])
            .filter_map(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map(UnixTime::since_unix_epoch)
    }
}

/// As rustls tells it, so that peers get the alert that fits.
fn told(error: webpki::Error) -> Error {
    use webpki::Error as E;
    let certificate = match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::InvalidCertValidity => CertificateError::Expired,
        // webpki takes no authority for a peer; one that is its own issuer is one.
        E::UnknownIssuer | E::CaUsedAsEndEntity => CertificateError::UnknownIssuer,
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        E::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }
        }
        E::IssuerNotCrlSigner => return CertRevocationListError::IssuerInvalidForCrl.into(),
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::InvalidCrlSignatureForPublicKey => return CertRevocationListError::BadSignature.into(),
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        error => CertificateError::Other(OtherError(std::sync::Arc::new(error))),
    };
    certificate.into()
}
