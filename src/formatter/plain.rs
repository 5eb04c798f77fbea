//! Operators without an argument.

use std::time::{Duration, Instant};

use crate::net::{
    Address, TlsInfo,
    tls::{CertificateText, Presented},
};

use super::{
    FormatContext,
    grpc::{GrpcStatusStyle, grpc_status},
    stream_info::UpstreamHost,
    value::Value,
};

type Plain = for<'a> fn(&FormatContext<'a>) -> Value<'a>;

fn optional<'a>(text: Option<&'a str>) -> Value<'a> {
    text.map_or(Value::Absent, Value::text)
}

fn address(address: &Address) -> Value<'_> {
    match address {
        Address::Ip(ip) => Value::Owned(ip.to_string()),
        Address::Pipe(path) => Value::Owned(path.display().to_string()),
    }
}

fn without_port(address: &Address) -> Value<'_> {
    match address {
        Address::Ip(ip) => Value::Owned(ip.ip().to_string()),
        Address::Pipe(path) => Value::Owned(path.display().to_string()),
    }
}

fn port(address: &Address) -> Value<'_> {
    Value::number(address.ip().map(|ip| ip.port().into()))
}

fn millis(duration: Option<Duration>) -> Value<'static> {
    Value::number(duration.and_then(|d| u64::try_from(d.as_millis()).ok()))
}

fn since_start(cx: &FormatContext<'_>, at: Option<Instant>) -> Value<'static> {
    millis(at.map(|at| at.saturating_duration_since(cx.info.start)))
}

fn upstream_local<'a>(cx: &FormatContext<'a>) -> Option<std::net::SocketAddr> {
    cx.info.upstream_connection.as_ref()?.local
}

/// The address of a host without its port.
fn host_without_port(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, _)) if !address.starts_with(['/', '@']) => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => address,
    }
}

fn host_name(host: &UpstreamHost) -> &str {
    match host.hostname.is_empty() {
        true => &host.address,
        false => &host.hostname,
    }
}

fn flags<'a>(cx: &FormatContext<'a>, long: bool) -> Value<'a> {
    let mut names = cx.info.flags.names().map(|n| if long { n.1 } else { n.0 });
    match (names.next(), names.next()) {
        (None, _) => Value::Text("-"),
        (Some(one), None) => Value::Text(one),
        (Some(one), Some(two)) => {
            let rest: String = names.flat_map(|n| [",", n]).collect();
            Value::Owned(format!("{one},{two}{rest}"))
        }
    }
}

/// Spaces would make two fields of one.
pub(super) fn with_underscores(text: &str) -> Value<'_> {
    match text.contains(char::is_whitespace) {
        true => Value::Owned(text.replace(char::is_whitespace, "_")),
        false => Value::text(text),
    }
}

pub(super) fn downstream_tls<'a>(cx: &FormatContext<'a>) -> Option<&'a TlsInfo> {
    cx.info.connection.tls.as_ref()
}

pub(super) fn upstream_tls<'a>(cx: &FormatContext<'a>) -> Option<&'a TlsInfo> {
    cx.info.upstream_connection.as_ref()?.tls.as_ref()
}

/// Of the certificate that the other end presented.
fn peer<'a>(
    tls: Option<&'a TlsInfo>,
    value: impl FnOnce(&'a CertificateText) -> Value<'a>,
) -> Value<'a> {
    let text = tls.and_then(|tls| tls.peer.as_ref()?.text());
    text.map_or(Value::Absent, value)
}

/// Of all that the other end presented.
fn presented<'a>(
    tls: Option<&'a TlsInfo>,
    value: impl FnOnce(&'a Presented) -> Value<'a>,
) -> Value<'a> {
    let peer = tls.and_then(|tls| tls.peer.as_deref());
    peer.map_or(Value::Absent, value)
}

/// Of the certificate that this end presented.
fn local<'a>(
    tls: Option<&'a TlsInfo>,
    value: impl FnOnce(&'a CertificateText) -> Value<'a>,
) -> Value<'a> {
    let text = tls.and_then(|tls| tls.local.as_ref()?.text());
    text.map_or(Value::Absent, value)
}

/// With commas between them.
fn list<'a>(values: impl Iterator<Item = impl ToString>) -> Value<'a> {
    let values: Vec<String> = values.map(|value| value.to_string()).collect();
    match values.is_empty() {
        true => Value::Absent,
        false => Value::Owned(values.join(",")),
    }
}

/// Each by its name.
pub const PLAIN: &[(&str, Plain)] = &[
    ("PROTOCOL", |cx| {
        optional(cx.info.protocol.map(|p| p.as_str()))
    }),
    ("UPSTREAM_PROTOCOL", |cx| {
        let connection = cx.info.upstream_connection.as_ref();
        optional(connection.and_then(|c| c.protocol).map(|p| p.as_str()))
    }),
    ("RESPONSE_CODE", |cx| {
        Value::Number(cx.info.response_code.map_or(0, |c| c.as_u16().into()))
    }),
    ("CONNECTION_TERMINATION_DETAILS", |cx| {
        optional(cx.info.connection_termination_details.as_deref())
    }),
    ("RESPONSE_FLAGS", |cx| flags(cx, false)),
    ("RESPONSE_FLAGS_LONG", |cx| flags(cx, true)),
    ("BYTES_RECEIVED", |cx| Value::Number(cx.info.bytes_received)),
    ("BYTES_SENT", |cx| Value::Number(cx.info.bytes_sent)),
    ("DURATION", |cx| millis(Some(cx.info.duration()))),
    ("RESPONSE_DURATION", |cx| {
        since_start(cx, cx.info.timing.first_upstream_rx)
    }),
    ("RESPONSE_TX_DURATION", |cx| {
        let t = &cx.info.timing;
        let both = t.last_downstream_tx.zip(t.first_upstream_rx);
        millis(both.map(|(last, first)| last.saturating_duration_since(first)))
    }),
    ("UPSTREAM_HOST", |cx| {
        optional(cx.info.upstream_host.as_ref().map(|h| &*h.address))
    }),
    ("UPSTREAM_HOST_NAME", |cx| {
        optional(cx.info.upstream_host.as_deref().map(host_name))
    }),
    ("UPSTREAM_HOST_NAME_WITHOUT_PORT", |cx| {
        let host = cx.info.upstream_host.as_deref();
        optional(host.map(|h| host_without_port(host_name(h))))
    }),
    ("UPSTREAM_REMOTE_ADDRESS", |cx| {
        optional(cx.info.upstream_host.as_ref().map(|h| &*h.address))
    }),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |cx| {
        let host = cx.info.upstream_host.as_ref();
        optional(host.map(|h| host_without_port(&h.address)))
    }),
    ("UPSTREAM_REMOTE_PORT", |cx| {
        let host = cx.info.upstream_host.as_ref();
        let port = host.and_then(|h| h.address.rsplit_once(':'));
        Value::number(port.and_then(|(_, port)| port.parse().ok()))
    }),
    ("UPSTREAM_LOCAL_ADDRESS", |cx| {
        upstream_local(cx).map_or(Value::Absent, |a| Value::Owned(a.to_string()))
    }),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |cx| {
        upstream_local(cx).map_or(Value::Absent, |a| Value::Owned(a.ip().to_string()))
    }),
    ("UPSTREAM_LOCAL_PORT", |cx| {
        Value::number(upstream_local(cx).map(|a| a.port().into()))
    }),
    ("UPSTREAM_CONNECTION_ID", |cx| {
        Value::Number(cx.info.upstream_connection.as_ref().map_or(0, |c| c.id))
    }),
    ("UPSTREAM_CLUSTER", |cx| {
        optional(cx.info.upstream_cluster.as_deref())
    }),
    ("UPSTREAM_CLUSTER_RAW", |cx| {
        optional(cx.info.upstream_cluster_raw.as_deref())
    }),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", |cx| {
        let reason = cx.info.upstream_transport_failure_reason.as_deref();
        reason.map_or(Value::Absent, with_underscores)
    }),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", |cx| {
        Value::Number(cx.info.attempt_count.into())
    }),
    ("UPSTREAM_TLS_VERSION", |cx| {
        let connection = cx.info.upstream_connection.as_ref();
        optional(connection.and_then(|c| c.tls.as_ref()).map(|t| t.version))
    }),
    ("UPSTREAM_TLS_CIPHER", |cx| {
        let connection = cx.info.upstream_connection.as_ref();
        optional(connection.and_then(|c| c.tls.as_ref()).map(|t| t.cipher))
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS", |cx| address(cx.info.remote())),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |cx| {
        without_port(cx.info.remote())
    }),
    ("DOWNSTREAM_REMOTE_PORT", |cx| port(cx.info.remote())),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", |cx| {
        address(&cx.info.connection.direct_remote)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", |cx| {
        without_port(&cx.info.connection.direct_remote)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", |cx| {
        port(&cx.info.connection.direct_remote)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS", |cx| {
        address(&cx.info.connection.local)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |cx| {
        without_port(&cx.info.connection.local)
    }),
    ("DOWNSTREAM_LOCAL_PORT", |cx| {
        port(&cx.info.connection.local)
    }),
    ("DOWNSTREAM_TLS_VERSION", |cx| {
        optional(cx.info.connection.tls.as_ref().map(|t| t.version))
    }),
    ("DOWNSTREAM_TLS_CIPHER", |cx| {
        optional(cx.info.connection.tls.as_ref().map(|t| t.cipher))
    }),
    ("DOWNSTREAM_TLS_GROUP", |cx| {
        optional(downstream_tls(cx).map(|tls| tls.group))
    }),
    ("DOWNSTREAM_PEER_SUBJECT", |cx| {
        peer(downstream_tls(cx), |text| Value::text(&text.subject))
    }),
    ("DOWNSTREAM_PEER_ISSUER", |cx| {
        peer(downstream_tls(cx), |text| Value::text(&text.issuer))
    }),
    ("DOWNSTREAM_PEER_SERIAL", |cx| {
        peer(downstream_tls(cx), |text| Value::text(&text.serial))
    }),
    ("DOWNSTREAM_PEER_FINGERPRINT_256", |cx| {
        peer(downstream_tls(cx), |text| Value::text(&text.sha256))
    }),
    ("DOWNSTREAM_PEER_FINGERPRINT_1", |cx| {
        peer(downstream_tls(cx), |text| Value::text(&text.sha1))
    }),
    ("DOWNSTREAM_PEER_URI_SAN", |cx| {
        peer(downstream_tls(cx), |text| list(text.uris()))
    }),
    ("DOWNSTREAM_PEER_DNS_SAN", |cx| {
        peer(downstream_tls(cx), |text| list(text.dns()))
    }),
    ("DOWNSTREAM_PEER_IP_SAN", |cx| {
        peer(downstream_tls(cx), |text| list(text.ips()))
    }),
    ("DOWNSTREAM_PEER_EMAIL_SAN", |cx| {
        peer(downstream_tls(cx), |text| list(text.emails()))
    }),
    ("DOWNSTREAM_PEER_OTHERNAME_SAN", |cx| {
        peer(downstream_tls(cx), |text| list(text.others()))
    }),
    ("DOWNSTREAM_PEER_CERT", |cx| {
        presented(downstream_tls(cx), |peer| Value::Owned(peer.pem()))
    }),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256", |cx| {
        presented(downstream_tls(cx), |peer| list(peer.chain_sha256()))
    }),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1", |cx| {
        presented(downstream_tls(cx), |peer| list(peer.chain_sha1()))
    }),
    ("DOWNSTREAM_PEER_CHAIN_SERIALS", |cx| {
        presented(downstream_tls(cx), |peer| list(peer.chain_serials()))
    }),
    ("DOWNSTREAM_LOCAL_SUBJECT", |cx| {
        local(downstream_tls(cx), |text| Value::text(&text.subject))
    }),
    ("DOWNSTREAM_LOCAL_URI_SAN", |cx| {
        local(downstream_tls(cx), |text| list(text.uris()))
    }),
    ("DOWNSTREAM_LOCAL_DNS_SAN", |cx| {
        local(downstream_tls(cx), |text| list(text.dns()))
    }),
    ("DOWNSTREAM_LOCAL_IP_SAN", |cx| {
        local(downstream_tls(cx), |text| list(text.ips()))
    }),
    ("DOWNSTREAM_LOCAL_EMAIL_SAN", |cx| {
        local(downstream_tls(cx), |text| list(text.emails()))
    }),
    ("DOWNSTREAM_LOCAL_OTHERNAME_SAN", |cx| {
        local(downstream_tls(cx), |text| list(text.others()))
    }),
    ("UPSTREAM_TLS_GROUP", |cx| {
        optional(upstream_tls(cx).map(|tls| tls.group))
    }),
    ("UPSTREAM_PEER_SUBJECT", |cx| {
        peer(upstream_tls(cx), |text| Value::text(&text.subject))
    }),
    ("UPSTREAM_PEER_ISSUER", |cx| {
        peer(upstream_tls(cx), |text| Value::text(&text.issuer))
    }),
    ("UPSTREAM_PEER_URI_SAN", |cx| {
        peer(upstream_tls(cx), |text| list(text.uris()))
    }),
    ("UPSTREAM_PEER_DNS_SAN", |cx| {
        peer(upstream_tls(cx), |text| list(text.dns()))
    }),
    ("UPSTREAM_PEER_IP_SAN", |cx| {
        peer(upstream_tls(cx), |text| list(text.ips()))
    }),
    ("UPSTREAM_PEER_EMAIL_SAN", |cx| {
        peer(upstream_tls(cx), |text| list(text.emails()))
    }),
    ("UPSTREAM_PEER_OTHERNAME_SAN", |cx| {
        peer(upstream_tls(cx), |text| list(text.others()))
    }),
    ("UPSTREAM_PEER_CERT", |cx| {
        presented(upstream_tls(cx), |peer| Value::Owned(peer.pem()))
    }),
    ("UPSTREAM_LOCAL_SUBJECT", |cx| {
        local(upstream_tls(cx), |text| Value::text(&text.subject))
    }),
    ("UPSTREAM_LOCAL_URI_SAN", |cx| {
        local(upstream_tls(cx), |text| list(text.uris()))
    }),
    ("UPSTREAM_LOCAL_DNS_SAN", |cx| {
        local(upstream_tls(cx), |text| list(text.dns()))
    }),
    ("UPSTREAM_LOCAL_IP_SAN", |cx| {
        local(upstream_tls(cx), |text| list(text.ips()))
    }),
    ("UPSTREAM_LOCAL_EMAIL_SAN", |cx| {
        local(upstream_tls(cx), |text| list(text.emails()))
    }),
    ("UPSTREAM_LOCAL_OTHERNAME_SAN", |cx| {
        local(upstream_tls(cx), |text| list(text.others()))
    }),
    ("CUSTOM_FLAGS", |_| Value::Text("")),
    ("BYTES_RETRANSMITTED", |_| Value::Number(0)),
    ("PACKETS_RETRANSMITTED", |_| Value::Number(0)),
    ("ROUNDTRIP_DURATION", |_| Value::Absent),
    ("REQUESTED_SERVER_NAME", |cx| {
        optional(cx.info.connection.server_name.as_deref())
    }),
    ("CONNECTION_ID", |cx| Value::Number(cx.info.connection.id)),
    ("ROUTE_NAME", |cx| {
        optional(cx.info.route.as_ref().map(|r| r.route().name()))
    }),
    ("VIRTUAL_CLUSTER_NAME", |cx| {
        let route = cx.info.route.as_ref().zip(cx.info.virtual_cluster);
        optional(route.map(|(route, index)| route.virtual_host().virtual_clusters.name(index)))
    }),
    ("LOCAL_REPLY_BODY", |cx| Value::Bytes(cx.local_reply_body)),
    ("ACCESS_LOG_TYPE", |cx| {
        Value::Text(cx.log_type.as_str_name())
    }),
    ("GRPC_STATUS_NUMBER", |cx| {
        grpc_status(cx, GrpcStatusStyle::Number)
    }),
];
