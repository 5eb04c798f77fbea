//! `envoy.config.core.v3.Http1ProtocolOptions`, of either side.

use http::HeaderValue;

use crate::{
    api::envoy::{
        config::core::v3::{
            self as pb, TypedExtensionConfig,
            http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat},
        },
        extensions::http::header_formatters::preserve_case::v3::{
            PreserveCaseFormatterConfig,
            preserve_case_formatter_config::FormatterTypeOnEnvoyHeaders,
        },
    },
    codec::{NameFormat, Preserve},
    config::{At, Reported, unpack},
    model::matcher::StringMatcher,
};

/// What concerns either side of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Http1Wire {
    /// `header_key_format`.
    pub names: NameFormat,
    /// `enable_trailers`: trailers are read and written.
    pub trailers: bool,
    /// `allow_chunked_length`: of a message with a length and chunks, the length is
    /// passed over.
    pub chunked_length: bool,
    /// `send_fully_qualified_url`, of requests to a host.
    pub absolute_url: bool,
}

/// The options; what is besides [`Http1Wire`] concerns clients alone.
#[derive(Clone, Debug)]
pub struct Http1Options {
    /// What concerns either side.
    pub wire: Http1Wire,
    /// `accept_http_10`.
    pub accept_http_10: bool,
    /// `default_host_for_http_10`.
    pub default_host: Option<HeaderValue>,
    /// `allow_absolute_url`, on unless set.
    pub absolute_targets: bool,
    /// `allow_custom_methods`: methods nobody has registered pass.
    pub custom_methods: bool,
    /// `override_stream_error_on_invalid_http_message`: after a request that can be read
    /// and is not valid, the connection goes on. Where it is not set, the connection
    /// manager's `stream_error_on_invalid_http_message` says it.
    pub goes_on: Option<bool>,
    /// `ignore_http_11_upgrade`: upgrades that are as if not asked for.
    pub ignored_upgrades: Box<[StringMatcher]>,
}

impl Default for Http1Options {
    fn default() -> Self {
        Self {
            wire: Http1Wire::default(),
            accept_http_10: false,
            default_host: None,
            absolute_targets: true,
            custom_methods: false,
            goes_on: None,
            ignored_upgrades: Box::default(),
        }
    }
}

impl Http1Options {
    /// Compiles the options; absent ones are the defaults.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: Option<pb::Http1ProtocolOptions>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Some(message) = message else {
            return Ok(Self::default());
        };
        let pb::Http1ProtocolOptions {
            allow_absolute_url,
            accept_http_10,
            default_host_for_http_10,
            header_key_format,
            enable_trailers,
            allow_chunked_length,
            override_stream_error_on_invalid_http_message,
            send_fully_qualified_url,
            // Chooses between two parsers inside Envoy.
            use_balsa_parser: _,
            allow_custom_methods,
            ignore_http_11_upgrade,
        } = message;
        let names = header_key_format.map_or(Ok(NameFormat::Lower), |format| {
            name_format(format, &at.field("header_key_format"))
        });
        let default_host = match default_host_for_http_10.as_str() {
            "" => Ok(None),
            host => HeaderValue::from_str(host).map(Some).map_err(|_| {
                at.field("default_host_for_http_10")
                    .error(format_args!("{host:?} cannot stand in a header"))
            }),
        };
        let place = at.field("ignore_http_11_upgrade");
        let ignored = ignore_http_11_upgrade.into_iter().enumerate();
        let ignored: Vec<_> = ignored
            .map(|(index, matcher)| StringMatcher::compile(matcher, &place.index(index)))
            .collect();
        let ignored = ignored.into_iter().collect::<Result<Vec<_>, _>>();
        Ok(Self {
            wire: Http1Wire {
                names: names?,
                trailers: enable_trailers,
                chunked_length: allow_chunked_length,
                absolute_url: send_fully_qualified_url,
            },
            accept_http_10,
            default_host: default_host?,
            absolute_targets: allow_absolute_url.unwrap_or(true),
            custom_methods: allow_custom_methods,
            goes_on: override_stream_error_on_invalid_http_message,
            ignored_upgrades: ignored?.into(),
        })
    }
}

fn name_format(message: HeaderKeyFormat, at: &At<'_>) -> Result<NameFormat, Reported> {
    let HeaderKeyFormat { header_format } = message;
    match header_format {
        Some(HeaderFormat::ProperCaseWords(_)) => Ok(NameFormat::ProperCase),
        Some(HeaderFormat::StatefulFormatter(TypedExtensionConfig {
            // One type is one formatter, whatever it is called.
            name: _,
            typed_config,
        })) => {
            let at = at.field("stateful_formatter");
            let at = at.field("typed_config");
            let any = typed_config.ok_or_else(|| at.error("is required"))?;
            let PreserveCaseFormatterConfig {
                forward_reason_phrase,
                formatter_type_on_envoy_headers,
            } = unpack(&any, &at)?;
            Ok(NameFormat::Preserve(Preserve {
                reason_phrase: forward_reason_phrase,
                proper_case_for_added: formatter_type_on_envoy_headers
                    == i32::from(FormatterTypeOnEnvoyHeaders::ProperCase),
            }))
        }
        None => Err(at.error("one of proper_case_words, stateful_formatter is required")),
    }
}
