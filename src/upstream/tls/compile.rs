//! From the API message to [`UpstreamTls`].

use std::{hash::Hash, sync::Arc};

use arc_swap::ArcSwapOption;
use prost::Message;
use rustls::pki_types::ServerName;

use crate::{
    api::envoy::extensions::transport_sockets::tls::v3 as pb,
    config::{At, Reported},
    digest::Said,
    model::Context,
    net::tls::{Common, Side, Source, SslStats, ValidationSource},
    refuse,
};

use super::{Built, Client, Settings, UpstreamTls};

/// `max_session_keys`, unless set.
const DEFAULT_SESSION_KEYS: u32 = 1;

impl UpstreamTls {
    /// Compiles the settings. `check_name` asks for a certificate that is for the
    /// server name, as `auto_sni_san_validation` does. `stat_prefix` is the
    /// cluster's, with its final dot.
    ///
    /// # Errors
    /// Everything in the message that is wrong or not supported is reported.
    pub fn compile(
        message: pb::UpstreamTlsContext,
        check_name: bool,
        stat_prefix: &str,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut said = Said::default();
        message.encode_to_vec().hash(&mut said);
        check_name.hash(&mut said);
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
        let common_place = at.field("common_tls_context");
        let common = Common::compile(
            common_tls_context.unwrap_or_default(),
            Side::Client,
            cx,
            &common_place,
        );
        outcome?;
        let Common {
            parameters,
            alpn,
            mut certificates,
            validation,
            key_log,
        } = common?;
        let certificate = certificates.pop().unwrap_or(Source::None);
        if !certificates.is_empty() {
            return Err(common_place.error("a client has one certificate; found more"));
        }
        let sni = sni?;
        let check_name = check_name || auto_sni_san_validation;
        if check_name && matches!(validation, ValidationSource::Of(Source::None)) {
            return Err(common_place.error(
                "auto_sni_san_validation and auto_san_validation need a validation context with a trusted_ca",
            ));
        }
        let settings = Settings {
            parameters,
            alpn,
            sessions: max_session_keys.unwrap_or(DEFAULT_SESSION_KEYS) as usize,
            check_name,
        };
        // Files count by their content, secrets by their name.
        if let Source::Fixed(certificate) = &certificate {
            certificate.hash(&mut said);
        }
        match &validation {
            ValidationSource::Of(Source::Fixed(validation))
            | ValidationSource::Combined(validation, _) => validation.hash(&mut said),
            ValidationSource::Of(_) => {}
        }
        let identity = said.digest();
        let built = match (&certificate, &validation) {
            (Source::Secret(_), _)
            | (_, ValidationSource::Combined(..) | ValidationSource::Of(Source::Secret(_))) => None,
            (certificate, ValidationSource::Of(validation)) => {
                let make = || Client::new(&settings, certificate.fixed(), validation.fixed());
                let client = cx.shared.tls_clients.get(identity, make);
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
            key_log,
            built: ArcSwapOption::new(built),
            identity,
            stats: SslStats::new(cx.stats, stat_prefix, Side::Client),
        })
    }
}
