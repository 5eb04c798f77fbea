//! From the API message to [`UpstreamTls`].

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use prost::Message;
use rustls::pki_types::ServerName;

use crate::{
    api::envoy::extensions::transport_sockets::tls::v3::{
        self as pb,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    },
    config::{At, Reported},
    model::Context,
    net::tls::{Certificate, Parameters, Validation},
    refuse,
    upstream::stats::ssl_stats,
};

use super::{Built, Client, Settings, Source, UpstreamTls, ValidationSource};

/// `max_session_keys`, unless set.
const DEFAULT_SESSION_KEYS: u32 = 1;

impl UpstreamTls {
    /// Compiles the settings. `stat_prefix` is the cluster's, with its final dot.
    ///
    /// # Errors
    /// Everything in the message that is wrong or not supported is reported.
    pub fn compile(
        message: pb::UpstreamTlsContext,
        stat_prefix: &str,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut hasher = foldhash::fast::FixedState::default().build_hasher();
        hasher.write(&message.encode_to_vec());
        let pb::UpstreamTlsContext {
            common_tls_context,
            sni,
            allow_renegotiation,
            max_session_keys,
            // rustls holds a certificate to the usage of its key in any case.
            enforce_rsa_key_usage: _,
            auto_host_sni,
            auto_sni_san_validation,
        } = message;
        let outcome = refuse!(at; allow_renegotiation);
        let place = at.field("sni");
        let sni = match sni.as_str() {
            "" => Ok(None),
            name => ServerName::try_from(name.to_owned())
                .map(Some)
                .map_err(|_| place.error(format_args!("{name:?} cannot be a TLS server name"))),
        };
        let common = compile_common(
            common_tls_context.unwrap_or_default(),
            cx,
            &at.field("common_tls_context"),
        );
        outcome?;
        let (parameters, alpn, certificate, validation) = common?;
        let sni = sni?;
        if auto_sni_san_validation && matches!(validation, ValidationSource::Of(Source::None)) {
            let place = at.field("auto_sni_san_validation");
            return Err(place.error("needs a validation context with a trusted_ca"));
        }
        let settings = Settings {
            parameters,
            alpn,
            sessions: max_session_keys.unwrap_or(DEFAULT_SESSION_KEYS) as usize,
            check_name: auto_sni_san_validation,
        };
        // Files count by their content, secrets by their name.
        if let Source::Fixed(certificate) = &certificate {
            certificate.hash(&mut hasher);
        }
        match &validation {
            ValidationSource::Of(Source::Fixed(validation))
            | ValidationSource::Combined(validation, _) => validation.hash(&mut hasher),
            ValidationSource::Of(_) => {}
        }
        let identity = hasher.finish();
        let built = match (&certificate, &validation) {
            (Source::Secret(_), _)
            | (_, ValidationSource::Combined(..) | ValidationSource::Of(Source::Secret(_))) => None,
            (certificate, ValidationSource::Of(validation)) => {
                let make = || Client::new(&settings, certificate.fixed(), validation.fixed());
                let client = cx.tls.clients.get(identity, make);
                let client = client.map_err(|error| at.field("common_tls_context").error(error))?;
                Some(Arc::new(Built {
                    client,
                    secrets: [None, None],
                }))
            }
        };
        Ok(Self {
            settings,
            sni,
            auto_host_sni,
            certificate,
            validation,
            built: ArcSwapOption::new(built),
            identity,
            stats: cx
                .stats
                .block(&format!("{stat_prefix}ssl."), &ssl_stats::TABLE),
        })
    }
}

impl<T> Source<T> {
    fn fixed(&self) -> Option<Arc<T>> {
        match self {
            Self::Fixed(value) => Some(Arc::clone(value)),
            Self::None | Self::Secret(_) => None,
        }
    }
}

type Common = (
    Parameters,
    Vec<Vec<u8>>,
    Source<Certificate>,
    ValidationSource,
);

fn compile_common(
    message: pb::CommonTlsContext,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Common, Reported> {
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
        tls_certificate_provider_instance, key_log, custom_tls_certificate_selector);
    let parameters = Parameters::compile(tls_params, &at.field("tls_params"));
    let certificate =
        compile_certificate(tls_certificates, tls_certificate_sds_secret_configs, cx, at);
    let validation = compile_validation(validation_context_type, cx, at);
    outcome?;
    let alpn = alpn_protocols.into_iter().map(String::into_bytes).collect();
    Ok((parameters?, alpn, certificate?, validation?))
}

fn compile_certificate(
    mut inline: Vec<pb::TlsCertificate>,
    mut secrets: Vec<pb::SdsSecretConfig>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Source<Certificate>, Reported> {
    if inline.len() + secrets.len() > 1 {
        return Err(at.error("a client has one certificate; found more"));
    }
    if let Some(message) = inline.pop() {
        let place = at.field("tls_certificates");
        let certificate = Certificate::compile(message, cx, &place.index(0))?;
        return Ok(Source::Fixed(Arc::new(certificate)));
    }
    match secrets.pop() {
        Some(message) => {
            let place = at.field("tls_certificate_sds_secret_configs");
            Ok(Source::Secret(subscribe(message, cx, &place.index(0))?))
        }
        None => Ok(Source::None),
    }
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
            Source::Secret(subscribe(message, cx, &place)?)
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
    let slot = subscribe(config, cx, &place)?;
    Ok(ValidationSource::Combined(Arc::new(default), slot))
}

fn subscribe(
    message: pb::SdsSecretConfig,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Arc<crate::xds::slot::Slot<crate::model::secret::Secret>>, Reported> {
    let pb::SdsSecretConfig { name, sds_config } = message;
    if name.is_empty() {
        return Err(at.field("name").error("must not be empty"));
    }
    cx.sources.secret(sds_config.as_ref(), &name, at)
}
