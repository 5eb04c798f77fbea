//! From the API message to [`ConnectionManager`].

use std::sync::{Arc, OnceLock};

use http::HeaderValue;

use crate::{
    access_log::AccessLogs,
    api::envoy::{
        config::core::v3::TypedExtensionConfig,
        extensions::filters::network::http_connection_manager::v3::{
            self as pb, HttpConnectionManager as Message,
            http_connection_manager::{
                self as hcm, CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction,
                RouteSpecifier, ServerHeaderTransformation, StripPortMode,
            },
        },
    },
    config::{At, Reported},
    http::{
        filters::{self, FilterContext},
        stats::{http_stats, route_resolution_stats, router_stats, tracing_stats},
    },
    model::{
        Context,
        header_mutation::HeaderMutations,
        http1::Http1Options,
        route::{RouteTable, Routes},
    },
    refuse,
    xds::slot::Slot,
};

use super::{
    CertDetails, Codec, ConnectionManager, DEFAULT_DELAYED_CLOSE, DEFAULT_DRAIN_TIMEOUT,
    DEFAULT_MAX_REQUEST_HEAD, DEFAULT_STREAM_IDLE_TIMEOUT, Detection, EscapedSlashes,
    ForwardClientCert, HostOptions, Internal, LocalReplyConfig, LogOptions, PathOptions,
    PeerOptions, RequestIdOptions, ServerHeader, StripPort, Timeouts, Upgrade, UserAgent,
    protocol::{CommonOptions, Http2Options, timeout},
    scoped,
};

impl ConnectionManager {
    /// Compiles a connection manager.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(message: Message, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            codec_type,
            stat_prefix,
            route_specifier,
            http_filters,
            add_user_agent,
            tracing,
            http_protocol_options,
            http2_protocol_options,
            server_name,
            drain_timeout,
            access_log,
            use_remote_address,
            generate_request_id,
            forward_client_cert_details,
            set_current_client_cert_details,
            proxy_100_continue,
            xff_num_trusted_hops,
            // Without effect in Envoy, too: `x-forwarded-for` has the address as it is.
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6: _,
            skip_xff_append,
            via,
            upgrade_configs,
            stream_idle_timeout,
            internal_address_config,
            delayed_close_timeout,
            request_timeout,
            max_request_headers_kb,
            normalize_path,
            preserve_external_request_id,
            merge_slashes,
            server_header_transformation,
            common_http_protocol_options,
            request_id_extension,
            always_set_request_id_in_response,
            local_reply_config,
            strip_matching_host_port,
            // A malformed HTTP/2 request resets its stream in any case.
            stream_error_on_invalid_http_message,
            request_headers_timeout,
            path_normalization_options,
            http3_protocol_options,
            path_with_escaped_slashes_action,
            original_ip_detection_extensions,
            strip_trailing_host_dot,
            scheme_header_transformation,
            proxy_status_config,
            typed_header_validation_config,
            append_x_forwarded_port,
            early_header_mutation_extensions,
            add_proxy_protocol_connection_state,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            access_log_options,
            append_local_overload,
            http1_safe_max_connection_duration,
            stream_flush_timeout,
            forward_client_cert_matcher,
            forward_proto_config,
            drain_timeout_jitter,
            record_route_resolution_stats,
            strip_port_mode,
        } = message;

        let mut outcome = refuse!(at;
            tracing, http3_protocol_options,
            // Accepted by Envoy, where nothing reads it.
            path_normalization_options,
            proxy_status_config, typed_header_validation_config, append_local_overload, forward_client_cert_matcher,
            forward_proto_config, drain_timeout_jitter,
        );
        if let Err(reported) = check_request_id(request_id_extension, at) {
            outcome = Err(reported);
        }
        let codec = match CodecType::try_from(codec_type) {
            Ok(CodecType::Http1) => Ok(Codec::Http1),
            Ok(CodecType::Http2) => Ok(Codec::Http2),
            Ok(CodecType::Http3) => Err(at.field("codec_type").error("HTTP3 is not supported yet")),
            Ok(CodecType::Auto) | Err(_) => Ok(Codec::Auto),
        };
        let prefix = format!("http.{stat_prefix}.");
        let routes = compile_routes(route_specifier, &prefix, cx, at);
        let filter_context = FilterContext {
            cx,
            stat_prefix: &prefix,
        };
        let chain = filters::compile_chain(http_filters, filter_context, &at.field("http_filters"));
        let common = CommonOptions::compile(
            common_http_protocol_options,
            &at.field("common_http_protocol_options"),
        );
        let http1 =
            Http1Options::compile(http_protocol_options, &at.field("http_protocol_options"));
        let http2 =
            Http2Options::compile(http2_protocol_options, &at.field("http2_protocol_options"));
        let server = match server_name.as_str() {
            "" => Ok(HeaderValue::from_static("envoy")),
            name => header_value(name, &at.field("server_name")),
        };
        let via = match via.as_str() {
            "" => Ok(None),
            via => header_value(via, &at.field("via")).map(Some),
        };
        let internal = Internal::compile(
            internal_address_config,
            &at.field("internal_address_config"),
        );
        let client_cert = compile_client_cert(
            forward_client_cert_details,
            set_current_client_cert_details,
            &at.field("set_current_client_cert_details"),
        );
        let timeouts = compile_timeouts(
            [
                stream_idle_timeout,
                stream_flush_timeout,
                request_timeout,
                request_headers_timeout,
                drain_timeout,
                delayed_close_timeout,
            ],
            at,
        );
        let detection = compile_detection(
            original_ip_detection_extensions,
            use_remote_address.unwrap_or(false),
            xff_num_trusted_hops,
            at,
        );
        let early_mutations = HeaderMutations::compile_early(
            early_header_mutation_extensions,
            &at.field("early_header_mutation_extensions"),
        );
        let user_agent = match add_user_agent {
            Some(true) => UserAgent::new(cx, &at.field("add_user_agent")).map(Some),
            Some(false) | None => Ok(None),
        };
        let local_replies = local_reply_config
            .map(|message| LocalReplyConfig::compile(message, cx, &at.field("local_reply_config")))
            .transpose();
        let log_options = LogOptions::compile(
            access_log_options,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            at,
        );
        let access_logs = AccessLogs::compile(access_log, cx, &at.field("access_log"));
        let upgrades = compile_upgrades(
            upgrade_configs,
            filter_context,
            &at.field("upgrade_configs"),
        );
        let scheme = compile_scheme(
            scheme_header_transformation,
            &at.field("scheme_header_transformation"),
        );
        let strip_port = match strip_port_mode {
            Some(StripPortMode::StripAnyHostPort(true)) if strip_matching_host_port => Err(at
                .field("strip_any_host_port")
                .error("only one of strip_matching_host_port and strip_any_host_port can be set")),
            Some(StripPortMode::StripAnyHostPort(true)) => Ok(StripPort::Any),
            _ if strip_matching_host_port => Ok(StripPort::Matching),
            _ => Ok(StripPort::Keep),
        };
        let http1 = http1.map(|options| Http1Options {
            goes_on: options.goes_on.or(stream_error_on_invalid_http_message),
            ..options
        });
        outcome?;
        let (filters, router) = chain?;
        Ok(Self {
            stats: cx.stats.block(&prefix, &http_stats::TABLE),
            router_stats: cx.stats.block(&prefix, &router_stats::TABLE),
            tracing_stats: cx
                .stats
                .block(&format!("{prefix}tracing."), &tracing_stats::TABLE),
            route_resolution: record_route_resolution_stats
                .then(|| cx.stats.block(&prefix, &route_resolution_stats::TABLE)),
            stat_prefix: stat_prefix.into(),
            registry: cx.stats.clone(),
            listener_stats: OnceLock::new(),
            http1_stats: OnceLock::new(),
            http2_stats: OnceLock::new(),
            codec: codec?,
            routes: routes?,
            filters,
            router,
            server_name: server?,
            server_header: match ServerHeaderTransformation::try_from(server_header_transformation)
            {
                Ok(ServerHeaderTransformation::AppendIfAbsent) => ServerHeader::AppendIfAbsent,
                Ok(ServerHeaderTransformation::PassThrough) => ServerHeader::PassThrough,
                Ok(ServerHeaderTransformation::Overwrite) | Err(_) => ServerHeader::Overwrite,
            },
            via: via?,
            peer: PeerOptions {
                use_remote_address: use_remote_address.unwrap_or(false),
                trusted_hops: xff_num_trusted_hops,
                skip_xff_append,
                append_forwarded_port: append_x_forwarded_port,
                own_address: cx.server.local_address,
                internal: internal?,
                client_cert: client_cert?,
            },
            detection: detection?,
            early_mutations: early_mutations?,
            user_agent: user_agent?,
            request_id: RequestIdOptions {
                generate: generate_request_id.unwrap_or(true),
                preserve_external: preserve_external_request_id,
                in_response: always_set_request_id_in_response,
            },
            common: common?,
            http1: http1?,
            http1_safe_max_duration: http1_safe_max_connection_duration,
            http2: http2?,
            max_request_head: max_request_headers_kb
                .map_or(DEFAULT_MAX_REQUEST_HEAD, |kb| kb as usize * 1024),
            timeouts: timeouts?,
            path: PathOptions {
                normalize: normalize_path.unwrap_or(false),
                merge_slashes,
                escaped_slashes: escaped_slashes(path_with_escaped_slashes_action),
            },
            host: HostOptions {
                strip_port: strip_port?,
                strip_trailing_dot: strip_trailing_host_dot,
            },
            access_logs: access_logs?,
            log_options: log_options?,
            local_replies: local_replies?,
            proxy_100_continue,
            upgrades: upgrades?,
            tells_of_client: add_proxy_protocol_connection_state.unwrap_or(true),
            scheme: scheme?,
        })
    }
}

fn compile_detection(
    extensions: Vec<TypedExtensionConfig>,
    use_remote_address: bool,
    trusted_hops: u32,
    at: &At<'_>,
) -> Result<Box<[Detection]>, Reported> {
    let place = at.field("original_ip_detection_extensions");
    let (mixed, with) = (!extensions.is_empty(), |other| {
        place.error(format_args!("cannot be set together with {other}"))
    });
    let detection = Detection::compile_all(extensions, &place);
    match mixed {
        true if use_remote_address => Err(with("use_remote_address")),
        true if trusted_hops > 0 => Err(with("xff_num_trusted_hops")),
        _ => detection,
    }
}

impl UserAgent {
    fn new(cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let node = match cx.server.node_id.as_str() {
            "" => None,
            node => Some(header_value(node, at)?),
        };
        Ok(Self {
            cluster: header_value(&cx.server.node_cluster, at)?,
            node,
        })
    }
}

impl LogOptions {
    fn compile(
        options: Option<hcm::HcmAccessLogOptions>,
        old_interval: Option<prost_types::Duration>,
        old_on_request: bool,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let time = |interval: Option<prost_types::Duration>, at: &At<'_>| {
            let at = at.field("access_log_flush_interval");
            interval
                .map(|d| crate::config::duration(&d, &at))
                .transpose()
        };
        let Some(options) = options else {
            return Ok(Self {
                interval: time(old_interval, at)?,
                on_request: old_on_request,
                on_tunnel: false,
            });
        };
        let twice = |name: &str| {
            at.field(name)
                .error("only one of it and access_log_options can be set")
        };
        if old_interval.is_some() {
            return Err(twice("access_log_flush_interval"));
        }
        if old_on_request {
            return Err(twice("flush_access_log_on_new_request"));
        }
        let hcm::HcmAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_new_request,
            flush_log_on_tunnel_successfully_established,
        } = options;
        Ok(Self {
            interval: time(access_log_flush_interval, &at.field("access_log_options"))?,
            on_request: flush_access_log_on_new_request,
            on_tunnel: flush_log_on_tunnel_successfully_established,
        })
    }
}

fn header_value(text: &str, at: &At<'_>) -> Result<HeaderValue, Reported> {
    HeaderValue::from_str(text)
        .map_err(|_| at.error(format_args!("{text:?} cannot stand in a header")))
}

fn compile_routes(
    specifier: Option<RouteSpecifier>,
    stat_prefix: &str,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Routes, Reported> {
    match specifier {
        Some(RouteSpecifier::RouteConfig(message)) => {
            let name: Arc<str> = message.name.as_str().into();
            let table = RouteTable::compile_inline(message, cx, &at.field("route_config"))?;
            Ok(Routes::Table(Arc::new(Slot::fixed(name, Arc::new(table)))))
        }
        Some(RouteSpecifier::Rds(pb::Rds {
            config_source,
            route_config_name,
        })) => {
            let at = at.field("rds");
            let at_source = at.field("config_source");
            let source = config_source.ok_or_else(|| at_source.error("is required"))?;
            if route_config_name.is_empty() {
                return Err(at.field("route_config_name").error("is required"));
            }
            cx.sources
                .routes(&source, &route_config_name, stat_prefix, &at_source)
                .map(Routes::Table)
        }
        Some(RouteSpecifier::ScopedRoutes(message)) => {
            scoped::compile(message, stat_prefix, cx, &at.field("scoped_routes"))
                .map(Routes::Scoped)
        }
        None => Err(at.error("one of rds, route_config, scoped_routes is required")),
    }
}

fn check_request_id(
    extension: Option<pb::RequestIdExtension>,
    at: &At<'_>,
) -> Result<(), Reported> {
    use crate::api::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
    let Some(pb::RequestIdExtension {
        typed_config: Some(any),
    }) = extension
    else {
        return Ok(());
    };
    let at = at.field("request_id_extension");
    let at = at.field("typed_config");
    // Both only matter to tracing.
    let UuidRequestIdConfig {
        pack_trace_reason: _,
        use_request_id_for_trace_sampling: _,
    } = crate::config::unpack(&any, &at)?;
    Ok(())
}

fn compile_client_cert(
    details: i32,
    set: Option<hcm::SetCurrentClientCertDetails>,
    at: &At<'_>,
) -> Result<ForwardClientCert, Reported> {
    let set = CertDetails::compile(set, at)?;
    Ok(match ForwardClientCertDetails::try_from(details) {
        Ok(ForwardClientCertDetails::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Ok(ForwardClientCertDetails::AppendForward) => ForwardClientCert::AppendForward(set),
        Ok(ForwardClientCertDetails::SanitizeSet) => ForwardClientCert::SanitizeSet(set),
        Ok(ForwardClientCertDetails::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
        Ok(ForwardClientCertDetails::Sanitize) | Err(_) => ForwardClientCert::Sanitize,
    })
}

fn compile_timeouts(
    [stream_idle, flush, request, headers, drain, delayed_close]: [Option<prost_types::Duration>;
        6],
    at: &At<'_>,
) -> Result<Timeouts, Reported> {
    let stream_idle = timeout(
        stream_idle,
        Some(DEFAULT_STREAM_IDLE_TIMEOUT),
        &at.field("stream_idle_timeout"),
    );
    let flush = flush.map(|flush| timeout(Some(flush), None, &at.field("stream_flush_timeout")));
    let request = timeout(request, None, &at.field("request_timeout"));
    let headers = timeout(headers, None, &at.field("request_headers_timeout"));
    let place = at.field("delayed_close_timeout");
    let delayed_close = timeout(delayed_close, Some(DEFAULT_DELAYED_CLOSE), &place);
    let place = at.field("drain_timeout");
    let drain = drain.map_or(Ok(DEFAULT_DRAIN_TIMEOUT), |drain| {
        crate::config::duration(&drain, &place)
    });
    let stream_idle = stream_idle?;
    Ok(Timeouts {
        stream_idle,
        stream_flush: flush.transpose()?.unwrap_or(stream_idle),
        request: request?,
        request_headers: headers?,
        drain: drain?,
        delayed_close: delayed_close?,
    })
}

fn escaped_slashes(action: i32) -> EscapedSlashes {
    use PathWithEscapedSlashesAction as Action;
    match Action::try_from(action) {
        Ok(Action::RejectRequest) => EscapedSlashes::Reject,
        Ok(Action::UnescapeAndRedirect) => EscapedSlashes::Redirect,
        Ok(Action::UnescapeAndForward) => EscapedSlashes::Forward,
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) | Err(_) => {
            EscapedSlashes::Keep
        }
    }
}

fn compile_upgrades(
    configs: Vec<hcm::UpgradeConfig>,
    cx: FilterContext<'_>,
    at: &At<'_>,
) -> Result<Box<[Upgrade]>, Reported> {
    let mut upgrades: Vec<Upgrade> = Vec::with_capacity(configs.len());
    let mut outcome = Ok(());
    for (index, config) in configs.into_iter().enumerate() {
        let at = at.index(index);
        let hcm::UpgradeConfig {
            upgrade_type,
            filters,
            enabled,
        } = config;
        let filters = match filters.is_empty() {
            true => None,
            false => match filters::compile_chain(filters, cx, &at.field("filters")) {
                Ok(chain) => Some(chain),
                Err(reported) => {
                    outcome = Err(reported);
                    None
                }
            },
        };
        let kind = upgrade_type.to_ascii_lowercase();
        if upgrades.iter().any(|u| *u.kind == kind) {
            outcome = Err(at.field("upgrade_type").error(format_args!(
                "there is already an upgrade of type {upgrade_type:?}"
            )));
        }
        upgrades.push(Upgrade {
            kind: kind.into(),
            enabled: enabled.unwrap_or(true),
            filters,
        });
    }
    outcome.map(|()| upgrades.into())
}

fn compile_scheme(
    message: Option<crate::api::envoy::config::core::v3::SchemeHeaderTransformation>,
    at: &At<'_>,
) -> Result<Option<&'static str>, Reported> {
    use crate::api::envoy::config::core::v3::{
        SchemeHeaderTransformation, scheme_header_transformation::Transformation,
    };
    let Some(SchemeHeaderTransformation {
        transformation,
        match_upstream,
    }) = message
    else {
        return Ok(None);
    };
    refuse!(at; match_upstream)?;
    match transformation {
        None => Ok(None),
        Some(Transformation::SchemeToOverwrite(scheme)) => match scheme.as_str() {
            "http" => Ok(Some("http")),
            "https" => Ok(Some("https")),
            other => Err(at
                .field("scheme_to_overwrite")
                .error(format_args!("{other:?} is not one of \"http\", \"https\""))),
        },
    }
}
