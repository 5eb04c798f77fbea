//! `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext`, compiled: what
//! both ends of TLS are configured with.

use std::sync::Arc;

use crate::{
    api::envoy::extensions::transport_sockets::tls::v3::{
        self as pb,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    },
    config::{At, Reported},
    model::{
        Context,
        secret::{Secret, SecretWanted},
    },
    refuse,
    xds::slot::Slot,
};

use super::{Certificate, KeyLog, Parameters, Side, Validation};

/// The settings both ends have.
#[derive(Debug)]
pub struct Common {
    /// Versions, suites and groups.
    pub parameters: Parameters,
    /// `alpn_protocols`.
    pub alpn: Vec<Vec<u8>>,
    /// Those inline, then those from secrets.
    pub certificates: Vec<Source<Certificate>>,
    /// What is asked of the other end's certificate.
    pub validation: ValidationSource,
    /// `key_log`.
    pub key_log: Option<Arc<KeyLog>>,
}

/// Where a part comes from.
#[derive(Debug)]
pub enum Source<T> {
    /// It is not configured.
    None,
    /// From the message or a file it names.
    Fixed(Arc<T>),
    /// From a secret, which may change.
    Secret(Arc<Slot<Secret>>),
}

/// Where the validation context comes from.
#[derive(Debug)]
pub enum ValidationSource {
    /// One source.
    Of(Source<Validation>),
    /// `combined_validation_context`.
    Combined(Arc<Validation>, Arc<Slot<Secret>>),
}

impl<T> Source<T> {
    /// The part in force; `None` while its secret has not arrived.
    pub fn get(&self, part: fn(&Secret) -> Option<&Arc<T>>) -> Option<Arc<T>> {
        match self {
            Self::None => None,
            Self::Fixed(value) => Some(Arc::clone(value)),
            Self::Secret(slot) => secret(slot, part),
        }
    }

    /// The part, unless it comes from a secret.
    pub fn fixed(&self) -> Option<Arc<T>> {
        match self {
            Self::Fixed(value) => Some(Arc::clone(value)),
            Self::None | Self::Secret(_) => None,
        }
    }
}

/// The part of a secret that has arrived.
pub fn secret<T>(slot: &Slot<Secret>, part: fn(&Secret) -> Option<&Arc<T>>) -> Option<Arc<T>> {
    slot.get().as_ref().and_then(|secret| part(secret).cloned())
}

impl Common {
    /// Compiles the settings.
    ///
    /// # Errors
    /// Everything in the message that is wrong or not supported is reported.
    pub fn compile(
        message: pb::CommonTlsContext,
        side: Side,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::CommonTlsContext {
            tls_params,
            tls_certificates,
            alpn_protocols,
            tls_certificate_sds_secret_configs,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            custom_handshaker,
            tls_certificate_provider_instance,
            key_log,
            custom_tls_certificate_selector,
            validation_context_type,
        } = message;
        let outcome = refuse!(at; tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance, custom_handshaker,
        tls_certificate_provider_instance, custom_tls_certificate_selector);
        let parameters = Parameters::compile(tls_params, side, &at.field("tls_params"));
        let certificates =
            compile_certificates(tls_certificates, tls_certificate_sds_secret_configs, cx, at);
        let validation = compile_validation(validation_context_type, cx, at);
        let key_log = key_log.map(|log| KeyLog::compile(log, cx, &at.field("key_log")));
        let key_log = key_log.transpose();
        outcome?;
        let alpn = alpn_protocols.into_iter().map(String::into_bytes).collect();
        Ok(Self {
            parameters: parameters?,
            alpn,
            certificates: certificates?,
            validation: validation?,
            key_log: key_log?.map(Arc::new),
        })
    }
}

fn compile_certificates(
    inline: Vec<pb::TlsCertificate>,
    secrets: Vec<pb::SdsSecretConfig>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Vec<Source<Certificate>>, Reported> {
    let place = at.field("tls_certificates");
    let inline = inline.into_iter().enumerate().map(|(index, message)| {
        let certificate = Certificate::compile(message, cx, &place.index(index))?;
        Ok(Source::Fixed(Arc::new(certificate)))
    });
    let place = at.field("tls_certificate_sds_secret_configs");
    let secrets = secrets.into_iter().enumerate().map(|(index, message)| {
        Ok(Source::Secret(subscribe(
            message,
            SecretWanted::Certificate,
            cx,
            &place.index(index),
        )?))
    });
    // Each is looked at, so that each error is found.
    let compiled: Vec<Result<_, Reported>> = inline.chain(secrets).collect();
    compiled.into_iter().collect()
}

fn compile_validation(
    message: Option<ValidationContextType>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<ValidationSource, Reported> {
    let source = match message {
        None => Source::None,
        Some(ValidationContextType::ValidationContext(message)) => {
            let place = at.field("validation_context");
            Source::Fixed(Arc::new(Validation::compile(message, cx, &place)?))
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(message)) => {
            let place = at.field("validation_context_sds_secret_config");
            Source::Secret(subscribe(message, SecretWanted::Validation, cx, &place)?)
        }
        Some(ValidationContextType::CombinedValidationContext(message)) => {
            return compile_combined(message, cx, &at.field("combined_validation_context"));
        }
        Some(ValidationContextType::ValidationContextCertificateProvider(_)) => {
            return Err(at
                .field("validation_context_certificate_provider")
                .unsupported());
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(_)) => {
            let place = at.field("validation_context_certificate_provider_instance");
            return Err(place.unsupported());
        }
    };
    Ok(ValidationSource::Of(source))
}

fn compile_combined(
    message: CombinedCertificateValidationContext,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<ValidationSource, Reported> {
    let CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = message;
    refuse!(at; validation_context_certificate_provider,
        validation_context_certificate_provider_instance)?;
    let place = at.field("default_validation_context");
    let default = Validation::compile(default_validation_context.unwrap_or_default(), cx, &place)?;
    let place = at.field("validation_context_sds_secret_config");
    let config = validation_context_sds_secret_config.ok_or_else(|| place.error("is required"))?;
    let slot = subscribe(config, SecretWanted::Validation, cx, &place)?;
    Ok(ValidationSource::Combined(Arc::new(default), slot))
}

pub(super) fn subscribe(
    message: pb::SdsSecretConfig,
    wanted: SecretWanted,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Arc<Slot<Secret>>, Reported> {
    let pb::SdsSecretConfig { name, sds_config } = message;
    if name.is_empty() {
        return Err(at.field("name").error("must not be empty"));
    }
    cx.sources.secret(sds_config.as_ref(), &name, wanted, at)
}
