//! What the connection manager does to a request before it is routed.
//!
//! The rules of `ConnectionManagerUtility::mutateRequestHeaders`, in its order.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderName, HeaderValue, Uri, header};

use super::{
    client_cert::ClientCert,
    config::{ConnectionManager, Detection, DetectionFailed, UserAgent},
    names, request_id,
};
use crate::{
    codec::Headers,
    net::{ConnectionInfo, TlsInfo},
};

/// Headers an external client may not set.
const EXTERNAL_MAY_NOT: [HeaderName; 15] = [
    names::X_ENVOY_RETRIABLE_STATUS_CODES,
    names::X_ENVOY_RETRIABLE_HEADER_NAMES,
    names::X_ENVOY_RETRY_ON,
    names::X_ENVOY_RETRY_GRPC_ON,
    names::X_ENVOY_MAX_RETRIES,
    names::X_ENVOY_UPSTREAM_ALT_STAT_NAME,
    names::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
    names::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    names::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE,
    names::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS,
    names::X_ENVOY_FORCE_TRACE,
    names::X_ENVOY_IP_TAGS,
    names::X_ENVOY_ORIGINAL_URL,
    names::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
    names::X_ENVOY_UPSTREAM_STREAM_DURATION_MS,
];

/// Headers a client at the edge may not set.
const EDGE_MAY_NOT: [HeaderName; 5] = [
    names::X_ENVOY_DECORATOR_OPERATION,
    names::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER,
    names::X_ENVOY_DOWNSTREAM_SERVICE_NODE,
    names::X_ENVOY_ORIGINAL_HOST,
    names::X_ENVOY_ORIGINAL_PATH,
];

/// What a pass over the header names found, so that the many headers that are
/// nearly never there are not each looked up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// `connection` or `upgrade`.
    pub connection: bool,
    /// Any other that belongs to one hop, or `expect`.
    hop: bool,
    /// Any `x-envoy-`.
    envoy: bool,
    /// Any with an underscore.
    pub underscore: bool,
    /// `x-request-id`.
    request_id: bool,
    /// `x-forwarded-…`.
    forwarded: bool,
    referer: bool,
    te: bool,
}

impl Seen {
    /// Whether any `x-envoy-` header came along.
    pub fn has_envoy(self) -> bool {
        self.envoy
    }

    /// Looks over the names.
    pub fn of(headers: &Headers, underscores: bool) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            let text = name.as_str();
            match text.as_bytes()[0] {
                b'x' => {
                    seen.envoy |= text.starts_with("x-envoy-");
                    seen.forwarded |= text.starts_with("x-forwarded-");
                    seen.request_id |= *name == names::X_REQUEST_ID;
                }
                b'c' | b'u' => {
                    seen.connection |= *name == header::CONNECTION || *name == header::UPGRADE;
                }
                b't' => {
                    seen.hop |= *name == header::TRANSFER_ENCODING;
                    seen.te |= *name == header::TE;
                }
                b'k' | b'p' | b'e' => {
                    seen.hop |= *name == names::KEEP_ALIVE
                        || *name == names::PROXY_CONNECTION
                        || *name == header::EXPECT;
                }
                b'r' => seen.referer |= *name == header::REFERER,
                _ => {}
            }
            seen.underscore |= underscores && text.contains('_');
        }
        seen
    }
}

/// What was settled about a request.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client's address where a header, not the connection, tells it.
    pub remote: Option<IpAddr>,
    /// The client is internal.
    pub internal: bool,
    /// `:scheme`.
    pub scheme: &'static str,
}

/// What `connection` may name, as in Envoy.
const MAX_NOMINATED: usize = 9;

/// Removes the headers that `connection` names as belonging to this hop.
///
/// # Errors
/// When it names one that routing or trust depends on, as a request may not talk
/// this proxy out of those; or more than [`MAX_NOMINATED`].
pub fn drop_nominated(headers: &mut Headers) -> Result<(), ()> {
    const KEPT: [HeaderName; 3] = [
        names::X_FORWARDED_FOR,
        names::X_FORWARDED_HOST,
        names::X_FORWARDED_PROTO,
    ];
    let mut count = 0;
    let mut nominated = smallvec::SmallVec::<[HeaderName; 2]>::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value
            .as_bytes()
            .split(|b| *b == b',')
            .map(<[u8]>::trim_ascii)
            .filter(|token| !token.is_empty())
        {
            count += 1;
            if count > MAX_NOMINATED {
                return Err(());
            }
            if token.first() == Some(&b':') {
                return Err(());
            }
            // What is no name cannot name a header; these name none.
            let Ok(name) = HeaderName::from_bytes(token) else {
                continue;
            };
            match name.as_str() {
                "close" | "keep-alive" | "upgrade" | "te" => {}
                // Where the body ends is not the client's to take back: the origin would
                // read the body as another request.
                "content-length" => {}
                _ if KEPT.contains(&name) => return Err(()),
                _ => nominated.push(name),
            }
        }
    }
    for name in nominated {
        headers.remove(name);
    }
    Ok(())
}

/// Everything that is told about a downstream connection in every request,
/// prepared once.
#[derive(Debug)]
pub struct PeerHeaders {
    /// The peer's address.
    pub ip: Option<IpAddr>,
    /// What is appended to `x-forwarded-for`.
    forwarded_for: Option<HeaderValue>,
    /// `x-envoy-external-address` of a request without other evidence.
    external: Option<HeaderValue>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The port the client connected to.
    port: u16,
    /// `x-forwarded-client-cert`.
    client_cert: ClientCert,
}

impl PeerHeaders {
    /// Prepares them. `own` is this machine's address, told in place of a loopback one.
    pub fn new(info: &ConnectionInfo, own: Option<IpAddr>) -> Self {
        let ip = info.remote.ip().map(|a| a.ip());
        let told = ip.map(|ip| {
            if ip.is_loopback() {
                own.unwrap_or(ip)
            } else {
                ip
            }
        });
        let external = ip.and_then(address);
        Self {
            ip,
            forwarded_for: match told == ip {
                true => external.clone(),
                false => told.and_then(address),
            },
            external,
            scheme: if info.tls.is_some() { "https" } else { "http" },
            port: info.local.ip().map_or(0, |a| a.port()),
            client_cert: ClientCert::default(),
        }
    }
}

/// An address as the value of a header. Every connection needs two of them, and
/// most are of IPv4, which is written here in a fifth of the time.
fn address(ip: IpAddr) -> Option<HeaderValue> {
    let IpAddr::V4(ip) = ip else {
        return HeaderValue::from_str(&ip.to_string()).ok();
    };
    let mut text = smallvec::SmallVec::<[u8; 16]>::new();
    for octet in ip.octets() {
        text.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
        text.push(b'.');
    }
    text.pop();
    HeaderValue::from_bytes(&text).ok()
}

/// Whether a client may wait to be told to send the body (RFC 9110, 10.1.1).
pub fn expects_continue(headers: &Headers) -> bool {
    let expect = headers.get(header::EXPECT);
    expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Applies the connection manager's rules to a request's headers. `random`
/// gives random bits, for a request id.
///
/// # Errors
/// When the request is refused because it does not tell its client's address.
pub fn prepare(
    headers: &mut Headers,
    seen: Seen,
    upgrade: bool,
    manager: &ConnectionManager,
    peer: &PeerHeaders,
    tls: Option<&TlsInfo>,
    mut random: impl FnMut() -> u64,
) -> Result<Origin, DetectionFailed> {
    if seen.connection && !upgrade {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
    if seen.hop {
        headers.remove(names::KEEP_ALIVE);
        headers.remove(names::PROXY_CONNECTION);
        headers.remove(header::TRANSFER_ENCODING);
        // Answered here; any other expectation is the upstream's to meet.
        if !manager.proxy_100_continue && expects_continue(headers) {
            headers.remove(header::EXPECT);
        }
    }
    if seen.te {
        keep_te_trailers(headers);
    }
    if seen.referer {
        check_referer(headers);
    }
    if seen.envoy {
        headers.remove(names::X_ENVOY_INTERNAL);
    }
    let options = &manager.peer;
    let first_hop = !seen.forwarded || !headers.contains_key(names::X_FORWARDED_FOR);
    let mut told = None;
    if options.use_remote_address {
        if options.trusted_hops > 0 {
            told = last_address(headers, options.trusted_hops - 1).map(|(ip, _)| ip);
        }
        if !options.skip_xff_append
            && let Some(value) = &peer.forwarded_for
        {
            match first_hop {
                true => headers.append(names::X_FORWARDED_FOR, value.clone()),
                false => append(headers, names::X_FORWARDED_FOR, value, b","),
            }
        }
        if options.trusted_hops == 0
            || !seen.forwarded
            || !headers.contains_key(names::X_FORWARDED_PROTO)
        {
            let scheme = HeaderValue::from_static(peer.scheme);
            set(headers, names::X_FORWARDED_PROTO, scheme, seen.forwarded);
        }
        if options.append_forwarded_port
            && (options.trusted_hops == 0 || !headers.contains_key(names::X_FORWARDED_PORT))
        {
            headers.insert(names::X_FORWARDED_PORT, HeaderValue::from(peer.port));
        }
    }
    let mut alone = first_hop;
    if !options.use_remote_address && !manager.detection.is_empty() {
        let detected = Detection::ask(&manager.detection, headers, peer.ip)?;
        told = detected.client.map(|(ip, _)| ip);
        alone = detected.client.is_some_and(|(_, trusted)| trusted);
        if let Some(value) = peer.forwarded_for.as_ref().filter(|_| detected.append) {
            append(headers, names::X_FORWARDED_FOR, value, b",");
        }
    } else if !options.use_remote_address && seen.forwarded {
        let found = last_address(headers, options.trusted_hops);
        told = found.map(|(ip, _)| ip);
        alone = found.is_some_and(|(_, alone)| alone);
    }
    if !options.use_remote_address
        && (!seen.forwarded || !headers.contains_key(names::X_FORWARDED_PROTO))
    {
        let scheme = HeaderValue::from_static(peer.scheme);
        set(headers, names::X_FORWARDED_PROTO, scheme, seen.forwarded);
    }
    let scheme = match manager.scheme {
        Some(scheme) => {
            headers.insert(names::X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
            scheme
        }
        None => match headers
            .get(names::X_FORWARDED_PROTO)
            .map(HeaderValue::as_bytes)
        {
            Some(b"https") => "https",
            Some(b"http") => "http",
            _ => peer.scheme,
        },
    };

    let remote = match options.use_remote_address {
        true => told.or(peer.ip),
        false => told,
    };
    let internal = alone
        && (remote.is_some() || options.use_remote_address)
        && options.internal.contains(remote);
    let edge = !internal && options.use_remote_address;
    if internal {
        // The client's own has been removed.
        headers.append(names::X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    } else if seen.envoy {
        if edge {
            EDGE_MAY_NOT
                .iter()
                .for_each(|name| drop(headers.remove(name)));
        }
        EXTERNAL_MAY_NOT
            .iter()
            .for_each(|name| drop(headers.remove(name)));
    }
    if edge {
        let external = match told {
            Some(ip) => address(ip),
            None => peer.external.clone(),
        };
        if let Some(external) = external {
            let name = names::X_ENVOY_EXTERNAL_ADDRESS;
            set(headers, name, external, seen.envoy);
        }
    }
    if let Some(UserAgent { cluster, node }) = &manager.user_agent {
        headers.insert(names::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, cluster.clone());
        if headers
            .get(header::USER_AGENT)
            .is_none_or(HeaderValue::is_empty)
        {
            headers.insert(header::USER_AGENT, cluster.clone());
        }
        if let Some(node) = node {
            headers.insert(names::X_ENVOY_DOWNSTREAM_SERVICE_NODE, node.clone());
        }
    }
    if manager.request_id.generate {
        let keep = seen.request_id && (!edge || manager.request_id.preserve_external);
        if !keep {
            let id = request_id::generate(random(), random());
            set(headers, names::X_REQUEST_ID, id, seen.request_id);
        }
    }
    let policy = manager.peer.client_cert;
    peer.client_cert.apply(headers, seen.forwarded, policy, tls);
    if let Some(via) = &manager.via {
        append(headers, header::VIA, via, b", ");
    }
    Ok(Origin {
        remote: told,
        internal,
        scheme,
    })
}

/// Puts a field in place of those of its name; `seen`: there may be any.
fn set(headers: &mut Headers, name: HeaderName, value: HeaderValue, seen: bool) {
    match seen {
        true => headers.insert(name, value),
        false => headers.append(name, value),
    }
}

/// Only `trailers` means anything beyond this hop.
fn keep_te_trailers(headers: &mut Headers) {
    let trailers = headers.get_all(header::TE).any(|value| {
        value
            .as_bytes()
            .split(|b| *b == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    match trailers {
        true => headers.insert(header::TE, HeaderValue::from_static("trailers")),
        false => drop(headers.remove(header::TE)),
    }
}

/// A referer that is not one URL is removed.
fn check_referer(headers: &mut Headers) {
    let is_one_url = {
        let mut referers = headers.get_all(header::REFERER);
        let first = referers.next().and_then(|r| r.to_str().ok());
        referers.next().is_none() && first.is_some_and(|r| r.parse::<Uri>().is_ok())
    };
    if !is_one_url {
        headers.remove(header::REFERER);
    }
}

/// Appends to a header that is a list, in one line.
pub fn append(headers: &mut Headers, name: HeaderName, value: &HeaderValue, between: &[u8]) {
    if !headers.contains_key(&name) {
        return headers.append(name, value.clone());
    }
    let mut all = Vec::with_capacity(64);
    for old in headers.get_all(&name) {
        all.extend_from_slice(old.as_bytes());
        all.extend_from_slice(between);
    }
    all.extend_from_slice(value.as_bytes());
    if let Ok(all) = HeaderValue::from_maybe_shared(bytes::Bytes::from(all)) {
        headers.insert(name, all);
    }
}

/// All of `x-forwarded-for` as one list.
fn forwarded_for(headers: &Headers) -> Option<Cow<'_, str>> {
    let mut values = headers.get_all(names::X_FORWARDED_FOR);
    let first = values.next()?.to_str().ok()?;
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut text = format!("{first},{}", second.to_str().ok()?);
    for value in values {
        text.push(',');
        text.push_str(value.to_str().ok()?);
    }
    Some(Cow::Owned(text))
}

/// As many addresses of `x-forwarded-for` may be trusted.
const MOST_TRUSTED: usize = 20;

/// The last address of `x-forwarded-for` that is not trusted, and whether it stands
/// there alone; of trusted ones alone the first. `None` where something before it is no
/// address, or where it is too far from the end.
pub fn last_untrusted_address(
    headers: &Headers,
    trusts: impl Fn(IpAddr) -> bool,
) -> Option<(IpAddr, bool)> {
    let all = forwarded_for(headers)?;
    let mut last = None;
    for (index, address) in all.rsplit(',').enumerate() {
        if index == MOST_TRUSTED {
            return None;
        }
        let ip = address.trim().parse().ok()?;
        last = Some((ip, !all.contains(',')));
        if !trusts(ip) {
            break;
        }
    }
    last
}

/// The address so many places from the end of `x-forwarded-for`, and whether it
/// stands there alone.
pub fn last_address(headers: &Headers, hops: u32) -> Option<(IpAddr, bool)> {
    let all = forwarded_for(headers)?;
    let address = all.rsplit(',').nth(hops as usize)?.trim();
    let ip = address.parse().ok()?;
    Some((ip, hops == 0 && !all.contains(',')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everywhere() {
        for ip in ["0.0.0.0", "127.0.0.1", "255.20.3.100", "::1", "2001:db8::5"] {
            assert_eq!(address(ip.parse().unwrap()).unwrap(), ip);
        }
    }

    #[test]
    fn the_trusted_address_is_counted_from_the_end() {
        let mut headers = Headers::new();
        headers.append(
            names::X_FORWARDED_FOR,
            HeaderValue::from_static("1.1.1.1, 2.2.2.2"),
        );
        headers.append(names::X_FORWARDED_FOR, HeaderValue::from_static("3.3.3.3"));
        let last = |hops| last_address(&headers, hops).map(|(ip, _)| ip.to_string());
        assert_eq!(last(0).as_deref(), Some("3.3.3.3"));
        assert_eq!(last(2).as_deref(), Some("1.1.1.1"));
        assert_eq!(last(3), None);
    }

    #[test]
    fn nominated_headers_go_but_not_those_that_trust_rests_on() {
        let request = |nominated: &'static str| {
            let mut headers = Headers::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static(nominated));
            headers.insert(
                HeaderName::from_static("foo"),
                HeaderValue::from_static("1"),
            );
            drop_nominated(&mut headers).map(|()| headers.contains_key("foo"))
        };
        assert_eq!(request("close, Foo"), Ok(false));
        assert_eq!(request("keep-alive"), Ok(true));
        assert_eq!(request("X-Forwarded-For"), Err(()));
        assert_eq!(request(":path"), Err(()));
        assert_eq!(request("content-length, foo"), Ok(false));
        assert_eq!(request("foo,,,,,,,,,,,close,c,d,e,f,g,h,i,"), Ok(false));
        assert_eq!(request("foo,close,c,d,e,f,g,h,i,j"), Err(()));
        let mut headers = Headers::new();
        headers.insert(
            header::CONNECTION,
            HeaderValue::from_static("Content-Length"),
        );
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("3"));
        assert_eq!(drop_nominated(&mut headers), Ok(()));
        assert!(headers.contains_key(header::CONTENT_LENGTH));
    }

    #[test]
    fn lists_grow_in_one_line() {
        let mut headers = Headers::new();
        append(
            &mut headers,
            header::VIA,
            &HeaderValue::from_static("a"),
            b", ",
        );
        append(
            &mut headers,
            header::VIA,
            &HeaderValue::from_static("b"),
            b", ",
        );
        assert_eq!(headers["via"], "a, b");
        assert_eq!(headers.len(), 1);
    }
}
