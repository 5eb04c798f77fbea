//! `envoy.extensions.transport_sockets.tls.v3.Secret`, compiled.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::envoy::extensions::transport_sockets::tls::v3::{self as pb, secret::Type},
    config::{At, Reported},
    net::tls::{Certificate, Validation},
};

use super::{Context, data_source};

/// Length of one session ticket key: name, HMAC key and AES key.
pub const TICKET_KEY_LENGTH: usize = 80;

/// A named secret.
#[derive(Debug)]
pub struct Secret {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: SecretKind,
}

/// What a secret is.
#[derive(Debug)]
pub enum SecretKind {
    /// `tls_certificate`.
    Certificate(Arc<Certificate>),
    /// `validation_context`.
    Validation(Arc<Validation>),
    /// `session_ticket_keys`: the first encrypts, all decrypt.
    TicketKeys(Arc<Vec<[u8; TICKET_KEY_LENGTH]>>),
    /// `generic_secret`.
    Generic {
        /// `secret`.
        secret: Box<[u8]>,
        /// `secrets`.
        secrets: HashMap<String, Box<[u8]>>,
    },
}

/// What is asked of a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SecretWanted {
    /// Nothing: it may be of any kind.
    #[default]
    Any,
    /// [`SecretKind::Certificate`].
    Certificate,
    /// [`SecretKind::Validation`].
    Validation,
    /// [`SecretKind::TicketKeys`].
    TicketKeys,
}

impl SecretWanted {
    /// The field of the message in which it is found.
    fn field(self) -> &'static str {
        match self {
            Self::Any => "secret",
            Self::Certificate => "tls_certificate",
            Self::Validation => "validation_context",
            Self::TicketKeys => "session_ticket_keys",
        }
    }
}

impl SecretKind {
    /// The field of the message in which it was found.
    fn field(&self) -> &'static str {
        match self {
            Self::Certificate(_) => SecretWanted::Certificate.field(),
            Self::Validation(_) => SecretWanted::Validation.field(),
            Self::TicketKeys(_) => SecretWanted::TicketKeys.field(),
            Self::Generic { .. } => "generic_secret",
        }
    }
}

impl Secret {
    /// Refuses a secret of another kind than is wanted: nothing could be done with it.
    ///
    /// # Errors
    /// Reported at `at`.
    pub fn check(&self, wanted: SecretWanted, at: &At<'_>) -> Result<(), Reported> {
        let (found, wanted_field) = (self.kind.field(), wanted.field());
        if wanted == SecretWanted::Any || found == wanted_field {
            return Ok(());
        }
        Err(at.error(format_args!(
            "secret '{}' has a {found}; a {wanted_field} is needed",
            self.name
        )))
    }

    /// Loads and checks a secret.
    ///
    /// # Errors
    /// Everything in the message that is wrong or not supported is reported.
    pub fn compile(message: pb::Secret, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let pb::Secret { name, r#type } = message;
        let kind = match r#type {
            Some(Type::TlsCertificate(certificate)) => {
                let place = at.field("tls_certificate");
                SecretKind::Certificate(Arc::new(Certificate::compile(certificate, cx, &place)?))
            }
            Some(Type::ValidationContext(message)) => {
                let place = at.field("validation_context");
                SecretKind::Validation(Arc::new(Validation::compile(message, cx, &place)?))
            }
            Some(Type::SessionTicketKeys(keys)) => {
                let place = at.field("session_ticket_keys");
                SecretKind::TicketKeys(Arc::new(compile_ticket_keys(keys, cx, &place)?))
            }
            Some(Type::GenericSecret(generic)) => {
                compile_generic(generic, cx, &at.field("generic_secret"))?
            }
            None => {
                return Err(at.error(
                    "one of tls_certificate, validation_context, session_ticket_keys, generic_secret is required",
                ));
            }
        };
        Ok(Self {
            name: name.into(),
            kind,
        })
    }

    /// The certificate, if it is one.
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        match &self.kind {
            SecretKind::Certificate(certificate) => Some(certificate),
            _ => None,
        }
    }

    /// The session ticket keys, if it is that.
    pub fn ticket_keys(&self) -> Option<&Arc<Vec<[u8; TICKET_KEY_LENGTH]>>> {
        match &self.kind {
            SecretKind::TicketKeys(keys) => Some(keys),
            _ => None,
        }
    }

    /// The validation context, if it is one.
    pub fn validation(&self) -> Option<&Arc<Validation>> {
        match &self.kind {
            SecretKind::Validation(validation) => Some(validation),
            _ => None,
        }
    }
}

/// Session ticket keys, 80 bytes each.
///
/// # Errors
/// What cannot be read, or has another length.
pub fn compile_ticket_keys(
    message: pb::TlsSessionTicketKeys,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Vec<[u8; TICKET_KEY_LENGTH]>, Reported> {
    let pb::TlsSessionTicketKeys { keys } = message;
    let place = at.field("keys");
    let mut loaded = Vec::with_capacity(keys.len());
    for (index, source) in keys.into_iter().enumerate() {
        let place = place.index(index);
        let key = data_source::load(source, cx, &place)?;
        let key = key.try_into().map_err(|key: Vec<u8>| {
            place.error(format_args!(
                "a session ticket key has {TICKET_KEY_LENGTH} bytes, this has {}",
                key.len()
            ))
        })?;
        loaded.push(key);
    }
    Ok(loaded)
}

fn compile_generic(
    message: pb::GenericSecret,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<SecretKind, Reported> {
    let pb::GenericSecret { secret, secrets } = message;
    let secret = match secret {
        Some(source) => data_source::load(source, cx, &at.field("secret"))?,
        None => Vec::new(),
    };
    let place = at.field("secrets");
    let mut loaded = HashMap::with_capacity(secrets.len());
    for (name, source) in secrets {
        let value = data_source::load(source, cx, &place.key(&name))?;
        loaded.insert(name, value.into());
    }
    Ok(SecretKind::Generic {
        secret: secret.into(),
        secrets: loaded,
    })
}
