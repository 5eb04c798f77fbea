//! What a TLS context uses at the moment, for `/certs` and the stats.

use std::sync::Arc;

use crate::model::secret::Secret;

use super::{Certificate, Source, Validation, ValidationSource, secret};

/// The certificates of a TLS context and the authorities it trusts, as far as
/// they have arrived.
#[derive(Debug)]
pub struct InForce {
    /// The authorities.
    pub authorities: Option<Named<Validation>>,
    /// Certificates.
    pub certificates: Vec<Named<Certificate>>,
}

/// A part and the name of the secret it comes from, if it comes from one.
#[derive(Debug)]
pub struct Named<T> {
    /// The secret's name.
    pub name: Option<Arc<str>>,
    /// The part.
    pub part: Arc<T>,
}

impl<T> Clone for Named<T> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            part: self.part.clone(),
        }
    }
}

impl<T> Source<T> {
    fn named(&self, part: fn(&Secret) -> Option<&Arc<T>>) -> Option<Named<T>> {
        let name = match self {
            Self::None | Self::Fixed(_) => None,
            Self::Secret(slot) => Some(slot.name().clone()),
        };
        self.get(part).map(|part| Named { name, part })
    }
}

impl InForce {
    /// What these sources have.
    pub fn of(certificates: &[Source<Certificate>], validation: &ValidationSource) -> Self {
        let authorities = match validation {
            ValidationSource::Of(source) => source.named(Secret::validation),
            ValidationSource::Combined(default, slot) => {
                secret(slot, Secret::validation).map(|over| Named {
                    name: Some(slot.name().clone()),
                    part: match over.trust.is_some() {
                        true => over,
                        false => default.clone(),
                    },
                })
            }
        };
        let certificates = certificates.iter();
        Self {
            authorities,
            certificates: certificates
                .filter_map(|source| source.named(Secret::certificate))
                .collect(),
        }
    }
}
