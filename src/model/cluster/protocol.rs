//! Which HTTP a cluster speaks: `HttpProtocolOptions`, or the deprecated fields
//! of the cluster itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prost_types::Any;

use crate::{
    api::envoy::{
        config::{
            cluster::v3::cluster::ClusterProtocolSelection,
            core::v3::{self as core, http_protocol_options::HeadersWithUnderscoresAction},
        },
        extensions::upstreams::http::v3::{
            self as pb,
            http_protocol_options::{
                AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions as Options,
                UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
            },
        },
    },
    config::{At, Reported, duration, unpack},
    digest::Digest,
    model::{
        Context,
        http1::{Http1Options, Http1Wire},
    },
    refuse,
};

use super::{Http2Options, HttpOptions, KeepAlive};

/// The key of `typed_extension_protocol_options`, and the type of its value.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What an HTTP request is spoken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge, or ALPN `h2` under TLS.
    Http2,
    /// Whatever the client spoke.
    UseDownstream,
    /// HTTP/2 where the host takes it by ALPN, HTTP/1.1 elsewhere.
    Auto,
}

/// The fields of the cluster that `HttpProtocolOptions` took the place of.
pub(super) struct Deprecated {
    pub(super) max_requests_per_connection: Option<u32>,
    pub(super) http_protocol_options: Option<core::Http1ProtocolOptions>,
    pub(super) http2_protocol_options: Option<core::Http2ProtocolOptions>,
    pub(super) common_http_protocol_options: Option<core::HttpProtocolOptions>,
    pub(super) upstream_http_protocol_options: Option<core::UpstreamHttpProtocolOptions>,
    pub(super) protocol_selection: i32,
}

pub(super) fn compile(
    mut extensions: BTreeMap<String, Any>,
    deprecated: Deprecated,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(Protocol, Arc<HttpOptions>), Reported> {
    let place = at.field("typed_extension_protocol_options");
    let http = extensions.remove(HTTP_OPTIONS);
    let mut outcome = Ok(());
    for name in extensions.keys() {
        let place = place.key(name);
        outcome = Err(place.error(format_args!(
            "is not supported; supported is {HTTP_OPTIONS:?}"
        )));
    }
    outcome?;
    let (protocol, options) = match http {
        // The deprecated fields then mean nothing, in Envoy too.
        Some(any) => {
            let place = place.key(HTTP_OPTIONS);
            compile_options(unpack(&any, &place)?, &place)?
        }
        None => compile_deprecated(deprecated, at)?,
    };
    let digest = Digest::of(&options);
    Ok((protocol, cx.shared.http_options.share(digest, options)))
}

fn compile_deprecated(
    message: Deprecated,
    at: &At<'_>,
) -> Result<(Protocol, HttpOptions), Reported> {
    let Deprecated {
        max_requests_per_connection,
        http_protocol_options,
        http2_protocol_options,
        common_http_protocol_options,
        upstream_http_protocol_options,
        protocol_selection,
    } = message;
    let mut options = HttpOptions::default();
    let downstream =
        protocol_selection == i32::from(ClusterProtocolSelection::UseDownstreamProtocol);
    let protocol = match (&http2_protocol_options, downstream) {
        (_, true) => Protocol::UseDownstream,
        (Some(_), false) => Protocol::Http2,
        (None, false) => Protocol::Http1,
    };
    if let Some(common) = common_http_protocol_options {
        compile_common(
            common,
            &mut options,
            &at.field("common_http_protocol_options"),
        )?;
    }
    if let Some(limit) = max_requests_per_connection {
        options.max_requests_per_connection = nonzero(limit);
    }
    if let Some(upstream) = upstream_http_protocol_options {
        let at = at.field("upstream_http_protocol_options");
        compile_upstream(upstream, &mut options, &at)?;
    }
    if let Some(http1) = http_protocol_options {
        options.http1 = compile_http1(http1, &at.field("http_protocol_options"))?;
    }
    if let Some(http2) = http2_protocol_options {
        options.http2 = compile_http2(http2, &at.field("http2_protocol_options"))?;
    }
    Ok((protocol, options))
}

fn compile_options(
    message: pb::HttpProtocolOptions,
    at: &At<'_>,
) -> Result<(Protocol, HttpOptions), Reported> {
    let pb::HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = message;
    let mut outcome = refuse!(at; header_validation_config, outlier_detection,
        request_mirror_policies, hash_policy, retry_policy)
    .and(only_codec(&http_filters, at));
    let mut options = HttpOptions::default();
    if let Some(common) = common_http_protocol_options {
        let at = at.field("common_http_protocol_options");
        outcome = outcome.and(compile_common(common, &mut options, &at));
    }
    if let Some(upstream) = upstream_http_protocol_options {
        let at = at.field("upstream_http_protocol_options");
        outcome = outcome.and(compile_upstream(upstream, &mut options, &at));
    }
    let versions = compile_versions(upstream_protocol_options, at);
    outcome?;
    let Versions {
        protocol,
        http1,
        http2,
    } = versions?;
    (options.http1, options.http2) = (http1, http2);
    Ok((protocol, options))
}

/// What is spoken, and how each version is.
struct Versions {
    protocol: Protocol,
    http1: Http1Wire,
    http2: Http2Options,
}

fn compile_versions(message: Option<Options>, at: &At<'_>) -> Result<Versions, Reported> {
    match message {
        Some(Options::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config })) => {
            compile_explicit(protocol_config, &at.field("explicit_http_config"))
        }
        Some(Options::UseDownstreamProtocolConfig(config)) => {
            let at = at.field("use_downstream_protocol_config");
            let UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            } = config;
            let outcome = refuse!(at; http3_protocol_options);
            let http1 = http_protocol_options;
            let both = compile_both(Protocol::UseDownstream, http1, http2_protocol_options, &at);
            outcome.and(both)
        }
        Some(Options::AutoConfig(config)) => {
            let at = at.field("auto_config");
            let AutoHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
                alternate_protocols_cache_options,
            } = config;
            let outcome = refuse!(at; http3_protocol_options, alternate_protocols_cache_options);
            let http1 = http_protocol_options;
            let both = compile_both(Protocol::Auto, http1, http2_protocol_options, &at);
            outcome.and(both)
        }
        None => Err(at.error(
            "one of explicit_http_config, use_downstream_protocol_config, auto_config is required",
        )),
    }
}

/// The options of a cluster that may speak both.
fn compile_both(
    protocol: Protocol,
    http1: Option<core::Http1ProtocolOptions>,
    http2: Option<core::Http2ProtocolOptions>,
    at: &At<'_>,
) -> Result<Versions, Reported> {
    let http1 = http1.map_or(Ok(Http1Wire::default()), |message| {
        compile_http1(message, &at.field("http_protocol_options"))
    });
    let http2 = http2.map_or(Ok(Http2Options::default()), |message| {
        compile_http2(message, &at.field("http2_protocol_options"))
    });
    let (http1, http2) = (http1?, http2?);
    Ok(Versions {
        protocol,
        http1,
        http2,
    })
}

fn compile_explicit(message: Option<ProtocolConfig>, at: &At<'_>) -> Result<Versions, Reported> {
    match message {
        Some(ProtocolConfig::HttpProtocolOptions(message)) => {
            compile_both(Protocol::Http1, Some(message), None, at)
        }
        Some(ProtocolConfig::Http2ProtocolOptions(message)) => {
            compile_both(Protocol::Http2, None, Some(message), at)
        }
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
            Err(at.field("http3_protocol_options").unsupported())
        }
        None => Err(at.error("one of http_protocol_options, http2_protocol_options is required")),
    }
}

/// Filters on the way to the origin are not supported; the codec, which ends
/// the list, is what happens anyway.
fn only_codec(
    filters: &[crate::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter],
    at: &At<'_>,
) -> Result<(), Reported> {
    let place = at.field("http_filters");
    let mut outcome = Ok(());
    for (index, filter) in filters.iter().enumerate() {
        if filter.name != "envoy.filters.http.upstream_codec" {
            let place = place.index(index);
            outcome = Err(place.error(format_args!(
                "upstream filter {:?} is not supported yet",
                filter.name
            )));
        }
    }
    outcome
}

fn nonzero(limit: u32) -> Option<u32> {
    (limit > 0).then_some(limit)
}

fn compile_common(
    message: core::HttpProtocolOptions,
    options: &mut HttpOptions,
    at: &At<'_>,
) -> Result<(), Reported> {
    let core::HttpProtocolOptions {
        idle_timeout,
        max_headers_count,
        max_connection_duration,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
        max_response_headers_kb,
        max_connection_duration_jitter,
    } = message;
    refuse!(at; max_connection_duration_jitter)?;
    if headers_with_underscores_action != i32::from(HeadersWithUnderscoresAction::Allow) {
        // Envoy, too, applies it to requests only.
        return Err(at
            .field("headers_with_underscores_action")
            .error("has no effect on responses; remove it, or set it on the listener"));
    }
    let optional = |value: Option<prost_types::Duration>, field: &str| {
        let value = value.map(|d| duration(&d, &at.field(field))).transpose()?;
        Ok(value.filter(|d| *d > Duration::ZERO))
    };
    if idle_timeout.is_some() {
        options.idle_timeout = optional(idle_timeout, "idle_timeout")?;
    }
    options.max_connection_duration = optional(max_connection_duration, "max_connection_duration")?;
    options.max_stream_duration = optional(max_stream_duration, "max_stream_duration")?;
    options.max_requests_per_connection = max_requests_per_connection.and_then(nonzero);
    if let Some(count) = max_headers_count {
        options.max_headers = count;
    }
    if let Some(kb) = max_response_headers_kb {
        options.max_response_headers_kb = kb;
    }
    Ok(())
}

fn compile_upstream(
    message: core::UpstreamHttpProtocolOptions,
    options: &mut HttpOptions,
    at: &At<'_>,
) -> Result<(), Reported> {
    let core::UpstreamHttpProtocolOptions {
        auto_sni,
        auto_san_validation,
        override_auto_sni_header,
    } = message;
    options.auto_sni = auto_sni;
    options.auto_san_validation = auto_san_validation;
    // The host is what it comes from anyway.
    if !matches!(&*override_auto_sni_header, "" | ":authority") {
        let at = at.field("override_auto_sni_header");
        let name = override_auto_sni_header.parse();
        options.auto_sni_header = Some(name.map_err(|_| {
            at.error(format_args!(
                "{override_auto_sni_header:?} is not a header name"
            ))
        })?);
    }
    Ok(())
}

/// Of HTTP/1.1's options towards an origin, those that do not concern clients alone.
fn compile_http1(message: core::Http1ProtocolOptions, at: &At<'_>) -> Result<Http1Wire, Reported> {
    let Http1Options {
        wire,
        accept_http_10: _,
        default_host: _,
        absolute_targets: _,
        // Any method that is a token is passed on.
        custom_methods: _,
        // The connection ends either way: a stream error would tell nobody.
        goes_on: _,
        ignored_upgrades: _,
    } = Http1Options::compile(Some(message), at)?;
    Ok(wire)
}

fn compile_http2(
    message: core::Http2ProtocolOptions,
    at: &At<'_>,
) -> Result<Http2Options, Reported> {
    let core::Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        // Extended CONNECT from clients only.
        allow_connect: _,
        allow_metadata,
        // Limits of queues that are not there: see the same of a listener.
        max_outbound_frames: _,
        max_outbound_control_frames: _,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        // For clients that reset their streams; hosts reset them for good reasons.
        stream_reset_burst: _,
        stream_reset_rate: _,
        // The codec answers an invalid message with a stream error.
        stream_error_on_invalid_http_messaging: _,
        override_stream_error_on_invalid_http_message: _,
        custom_settings_parameters,
        connection_keepalive,
        // There is one codec.
        use_oghttp2_codec: _,
        // Only with `allow_metadata`, which is refused.
        max_metadata_size: _,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
    } = message;
    refuse!(at; allow_metadata, custom_settings_parameters, max_header_field_size_kb)?;
    if enable_huffman_encoding == Some(false) {
        return Err(at.field("enable_huffman_encoding").unsupported());
    }
    if disallow_obs_text == Some(true) {
        return Err(at.field("disallow_obs_text").unsupported());
    }
    let default = Http2Options::default();
    Ok(Http2Options {
        hpack_table_size,
        max_concurrent_streams: max_concurrent_streams.unwrap_or(default.max_concurrent_streams),
        stream_window: initial_stream_window_size.unwrap_or(default.stream_window),
        connection_window: initial_connection_window_size.unwrap_or(default.connection_window),
        keep_alive: connection_keepalive
            .map(|message| compile_keep_alive(message, &at.field("connection_keepalive")))
            .transpose()?,
        limits: default.limits.with(
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            [None, None],
        ),
    })
}

fn compile_keep_alive(
    message: core::KeepaliveSettings,
    at: &At<'_>,
) -> Result<KeepAlive, Reported> {
    let core::KeepaliveSettings {
        interval,
        timeout,
        // Spreads pings over time. Connections begin at different times anyway.
        interval_jitter: _,
        connection_idle_interval,
    } = message;
    refuse!(at; connection_idle_interval)?;
    let interval = interval
        .map(|d| duration(&d, &at.field("interval")))
        .transpose()?;
    let place = at.field("timeout");
    let timeout = timeout.ok_or_else(|| place.error("is required"))?;
    Ok(KeepAlive {
        interval,
        timeout: duration(&timeout, &place)?,
    })
}
