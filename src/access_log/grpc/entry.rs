//! What is known of a stream as `envoy.data.accesslog.v3` says it.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use http::{
    HeaderName, HeaderValue,
    header::{HOST, REFERER, USER_AGENT},
};

use crate::{
    api::envoy::{
        config::core::v3::{
            Address as AddressMessage, Pipe, RequestMethod, SocketAddress, address,
            socket_address::PortSpecifier,
        },
        data::accesslog::v3::{
            AccessLogCommon, ConnectionProperties, HttpAccessLogEntry, HttpRequestProperties,
            HttpResponseProperties, ResponseFlags as FlagsMessage, TcpAccessLogEntry,
            TlsProperties,
            http_access_log_entry::HttpVersion,
            response_flags::{Unauthorized, unauthorized::Reason},
            tls_properties::{
                CertificateProperties, TlsVersion,
                certificate_properties::{SubjectAltName, subject_alt_name::San},
            },
        },
    },
    formatter::{
        FieldName, FormatContext, HeaderView, Protocol, ResponseFlag, ResponseFlags, StreamInfo,
    },
    net::{Address, TlsInfo, tls::CertificateText},
};

use super::Content;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// Headers that every entry of a request tells.
pub(super) const REQUEST_HEADERS: [HeaderName; 5] = [
    USER_AGENT,
    REFERER,
    FORWARDED_FOR,
    REQUEST_ID,
    ORIGINAL_PATH,
];

/// The entry of a request.
pub(super) fn http(content: &Content, cx: &FormatContext<'_>) -> HttpAccessLogEntry {
    let (info, request) = (cx.info, &cx.request);
    let version = match info.protocol {
        None => HttpVersion::ProtocolUnspecified,
        Some(Protocol::Http10) => HttpVersion::Http10,
        Some(Protocol::Http11) => HttpVersion::Http11,
        Some(Protocol::Http2) => HttpVersion::Http2,
    };
    let header = |name: &HeaderName| request.headers.get(name).map(text).unwrap_or_default();
    let method = RequestMethod::from_str_name(request.method).unwrap_or_default();
    let request_properties = HttpRequestProperties {
        request_method: method.into(),
        scheme: request.scheme.to_owned(),
        authority: request.authority.to_owned(),
        // Envoy leaves it out as well.
        port: None,
        path: request.path.to_owned(),
        user_agent: header(&USER_AGENT),
        referer: header(&REFERER),
        forwarded_for: header(&FORWARDED_FOR),
        request_id: header(&REQUEST_ID),
        original_path: header(&ORIGINAL_PATH),
        request_headers_bytes: header_bytes(cx),
        request_body_bytes: info.bytes_received,
        request_headers: fields(&content.request, |name| match name {
            FieldName::Header(name) => joined(request.headers, name),
            pseudo => pseudo.pseudo(request).map(str::to_owned),
        }),
        // What headers weigh on the wire is not counted.
        upstream_header_bytes_sent: 0,
        downstream_header_bytes_received: 0,
    };
    let response_properties = HttpResponseProperties {
        response_code: info.response_code.map(|code| code.as_u16().into()),
        // Headers of a response are not kept.
        response_headers_bytes: 0,
        response_body_bytes: info.bytes_sent,
        response_headers: fields(&content.response, |name| match name {
            FieldName::Header(name) => joined(cx.response, name),
            FieldName::Status => info.response_code.map(|code| code.as_str().to_owned()),
            _ => None,
        }),
        response_trailers: content
            .trailers
            .iter()
            .filter_map(|name| Some((name.to_string(), joined(cx.trailers, name)?)))
            .collect(),
        response_code_details: info
            .response_code_details
            .clone()
            .unwrap_or_default()
            .into(),
        upstream_header_bytes_received: 0,
        downstream_header_bytes_sent: 0,
    };
    HttpAccessLogEntry {
        common_properties: Some(common(content, cx)),
        protocol_version: version.into(),
        request: Some(request_properties),
        response: Some(response_properties),
    }
}

/// The entry of a connection.
pub(super) fn tcp(content: &Content, cx: &FormatContext<'_>) -> TcpAccessLogEntry {
    TcpAccessLogEntry {
        common_properties: Some(common(content, cx)),
        connection_properties: Some(ConnectionProperties {
            received_bytes: cx.info.bytes_received,
            sent_bytes: cx.info.bytes_sent,
        }),
    }
}

/// What has no value here is not known: it is not looked at on the way.
fn common(content: &Content, cx: &FormatContext<'_>) -> AccessLogCommon {
    let info = cx.info;
    let since = |at: Option<Instant>| {
        let since = at?.saturating_duration_since(info.start);
        prost_types::Duration::try_from(since).ok()
    };
    let (connection, timing) = (&info.connection, &info.timing);
    let upstream = info.upstream_host.as_ref();
    let local = info.upstream_connection.as_ref().and_then(|c| c.local);
    let failure = info.upstream_transport_failure_reason.clone();
    let request_id = cx.request.headers.get(&REQUEST_ID);
    AccessLogCommon {
        downstream_remote_address: Some(address(info.remote())),
        downstream_direct_remote_address: Some(address(&connection.direct_remote)),
        downstream_local_address: Some(address(&connection.local)),
        tls_properties: connection.tls.as_ref().map(|tls| tls_properties(info, tls)),
        start_time: Some(info.start_time.into()),
        time_to_last_rx_byte: since(timing.last_downstream_rx),
        time_to_first_upstream_tx_byte: since(timing.first_upstream_tx),
        time_to_last_upstream_tx_byte: since(timing.last_upstream_tx),
        time_to_first_upstream_rx_byte: since(timing.first_upstream_rx),
        time_to_last_upstream_rx_byte: since(timing.last_upstream_rx),
        time_to_first_downstream_tx_byte: since(timing.first_downstream_tx),
        time_to_last_downstream_tx_byte: since(timing.last_downstream_tx),
        duration: prost_types::Duration::try_from(info.duration()).ok(),
        upstream_remote_address: upstream.map(|host| address_of(&host.address)),
        upstream_local_address: local.map(|local| address(&local.into())),
        upstream_cluster: info
            .upstream_cluster
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
        response_flags: response_flags(info.flags),
        upstream_transport_failure_reason: failure.unwrap_or_default().into(),
        route_name: info
            .route
            .as_ref()
            .map(|r| r.route().name().to_owned())
            .unwrap_or_default(),
        custom_tags: content.tags.of(cx),
        upstream_request_attempt_count: info.attempt_count,
        connection_termination_details: info
            .connection_termination_details
            .clone()
            .unwrap_or_default()
            .into(),
        stream_id: request_id.map(text).unwrap_or_default(),
        upstream_wire_bytes_sent: info.upstream_bytes.wire_sent,
        upstream_wire_bytes_received: info.upstream_bytes.wire_received,
        access_log_type: cx.log_type.into(),
        ..AccessLogCommon::default()
    }
}

/// Of all headers of a request, as long as they are at hand.
fn header_bytes(cx: &FormatContext<'_>) -> u64 {
    let HeaderView::Map(map) = cx.request.headers else {
        return 0;
    };
    // The authority stands for it.
    let fields = map.iter().filter(|(name, _)| *name != HOST);
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len());
    let request = &cx.request;
    let pseudo = [
        (":method", request.method),
        (":scheme", request.scheme),
        (":authority", request.authority),
        (":path", request.path),
    ];
    let pseudo = pseudo.iter().map(|(name, value)| name.len() + value.len());
    fields.chain(pseudo).sum::<usize>() as u64
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// All fields of a name, with commas between them, as Envoy joins them.
fn joined(headers: HeaderView<'_>, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).map(text).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn fields(
    names: &[FieldName],
    value: impl Fn(&FieldName) -> Option<String>,
) -> BTreeMap<String, String> {
    let found = names.iter().filter_map(|name| {
        let key = match name {
            FieldName::Method => ":method",
            FieldName::Scheme => ":scheme",
            FieldName::Authority => ":authority",
            FieldName::Path => ":path",
            FieldName::Status => ":status",
            FieldName::Protocol => ":protocol",
            FieldName::Header(name) => name.as_str(),
        };
        Some((key.to_owned(), value(name)?))
    });
    found.collect()
}

fn address(address: &Address) -> AddressMessage {
    let address = match address {
        Address::Ip(ip) => address::Address::SocketAddress(SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(ip.port().into())),
            ..SocketAddress::default()
        }),
        Address::Pipe(path) => address::Address::Pipe(Pipe {
            path: path.display().to_string(),
            ..Pipe::default()
        }),
    };
    AddressMessage {
        address: Some(address),
    }
}

/// A host's address as it is printed.
fn address_of(printed: &str) -> AddressMessage {
    match printed.parse::<SocketAddr>() {
        Ok(ip) => address(&Address::Ip(ip)),
        Err(_) => address(&Address::Pipe(std::path::Path::new(printed).into())),
    }
}

fn tls_properties(info: &StreamInfo, tls: &TlsInfo) -> TlsProperties {
    let version = match tls.version {
        "TLSv1.2" => TlsVersion::TlSv12,
        "TLSv1.3" => TlsVersion::TlSv13,
        _ => TlsVersion::VersionUnspecified,
    };
    let name = info.connection.server_name.as_deref();
    let local = tls.local.as_ref().and_then(|local| local.text());
    let peer = tls.peer.as_ref().and_then(|peer| peer.text());
    TlsProperties {
        tls_version: version.into(),
        tls_cipher_suite: crate::net::tls::suite_number(tls.cipher).map(u32::from),
        tls_sni_hostname: name.unwrap_or_default().to_owned(),
        local_certificate_properties: Some(match local {
            Some(text) => certificate(text, false),
            None => CertificateProperties::default(),
        }),
        peer_certificate_properties: Some(match peer {
            Some(text) => certificate(text, true),
            None => CertificateProperties::default(),
        }),
        ..TlsProperties::default()
    }
}

fn certificate(text: &CertificateText, is_peer: bool) -> CertificateProperties {
    let uris = text.uris().map(|uri| San::Uri(uri.to_owned()));
    let names = text.dns().map(|name| San::Dns(name.to_owned()));
    let sans = uris.chain(names);
    CertificateProperties {
        subject_alt_name: sans.map(|san| SubjectAltName { san: Some(san) }).collect(),
        subject: text.subject.to_string(),
        // Envoy tells the peer's alone.
        issuer: match is_peer {
            true => text.issuer.to_string(),
            false => String::new(),
        },
    }
}

fn response_flags(flags: ResponseFlags) -> Option<FlagsMessage> {
    use ResponseFlag as Flag;
    if flags.is_empty() {
        return None;
    }
    let unauthorized = flags
        .has(Flag::UnauthorizedExternalService)
        .then(|| Unauthorized {
            reason: Reason::ExternalService.into(),
        });
    Some(FlagsMessage {
        failed_local_healthcheck: flags.has(Flag::FailedLocalHealthCheck),
        no_healthy_upstream: flags.has(Flag::NoHealthyUpstream),
        upstream_request_timeout: flags.has(Flag::UpstreamRequestTimeout),
        local_reset: flags.has(Flag::LocalReset),
        upstream_remote_reset: flags.has(Flag::UpstreamRemoteReset),
        upstream_connection_failure: flags.has(Flag::UpstreamConnectionFailure),
        upstream_connection_termination: flags.has(Flag::UpstreamConnectionTermination),
        upstream_overflow: flags.has(Flag::UpstreamOverflow),
        no_route_found: flags.has(Flag::NoRouteFound),
        delay_injected: flags.has(Flag::DelayInjected),
        fault_injected: flags.has(Flag::FaultInjected),
        rate_limited: flags.has(Flag::RateLimited),
        unauthorized_details: unauthorized,
        rate_limit_service_error: flags.has(Flag::RateLimitServiceError),
        downstream_connection_termination: flags.has(Flag::DownstreamConnectionTermination),
        upstream_retry_limit_exceeded: flags.has(Flag::UpstreamRetryLimitExceeded),
        stream_idle_timeout: flags.has(Flag::StreamIdleTimeout),
        invalid_envoy_request_headers: flags.has(Flag::InvalidEnvoyRequestHeaders),
        downstream_protocol_error: flags.has(Flag::DownstreamProtocolError),
        upstream_max_stream_duration_reached: flags.has(Flag::UpstreamMaxStreamDurationReached),
        response_from_cache_filter: flags.has(Flag::ResponseFromCacheFilter),
        no_filter_config_found: flags.has(Flag::NoFilterConfigFound),
        duration_timeout: flags.has(Flag::DurationTimeout),
        upstream_protocol_error: flags.has(Flag::UpstreamProtocolError),
        no_cluster_found: flags.has(Flag::NoClusterFound),
        overload_manager: flags.has(Flag::OverloadManager),
        dns_resolution_failure: flags.has(Flag::DnsResolutionFailed),
        downstream_remote_reset: flags.has(Flag::DownstreamRemoteReset),
    })
}
