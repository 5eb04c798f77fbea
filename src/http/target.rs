//! The target of a request and its host, brought into one form whatever the
//! codec: the target in origin form, the authority in `host`.

use http::{
    HeaderValue, Method, Uri, header,
    uri::{self, PathAndQuery},
};

use super::config::{ConnectionManager, StripPort};
use crate::{
    codec::{Headers, RequestHead},
    net::Address,
};

/// Brings the target into origin form and the authority into `host`.
///
/// # Errors
/// Gives `Err` when there is no path to route by.
pub fn to_origin_form(parts: &mut RequestHead) -> Result<(), ()> {
    if parts.uri.authority().is_none() {
        return match parts.uri.path().starts_with('/') {
            true => Ok(()),
            false => Err(()),
        };
    }
    let uri::Parts {
        authority,
        path_and_query,
        ..
    } = std::mem::take(&mut parts.uri).into_parts();
    if let Some(authority) = authority {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(host) {
            parts.headers.insert(header::HOST, host);
        }
    }
    if parts.method == Method::CONNECT {
        // It has no path: see `RequestView::of`.
        parts.uri = Uri::default();
        return Ok(());
    }
    let path = path_and_query
        .filter(|p| p.path().starts_with('/'))
        .ok_or(())?;
    parts.uri = Uri::from(path);
    Ok(())
}

/// Puts another path with its query into a request.
///
/// # Errors
/// When it is not a valid one.
pub fn set_path(parts: &mut RequestHead, path: String) -> Result<(), ()> {
    let path = PathAndQuery::from_maybe_shared(bytes::Bytes::from(path)).map_err(|_| ())?;
    parts.uri = Uri::from(path);
    Ok(())
}

/// Makes the authority plain: `strip_trailing_host_dot` and the port modes.
pub fn plain_host(headers: &mut Headers, manager: &ConnectionManager, local: &Address) {
    let options = manager.host;
    if options.strip_port == StripPort::Keep && !options.strip_trailing_dot {
        return;
    }
    let Some(host) = headers.get(header::HOST).and_then(|h| h.to_str().ok()) else {
        return;
    };
    let (name, port) = split_port(host);
    let port = match (options.strip_port, port) {
        (StripPort::Any, _) => None,
        (StripPort::Matching, Some(port))
            if local.ip().is_some_and(|ip| port.parse() == Ok(ip.port())) =>
        {
            None
        }
        (_, port) => port,
    };
    let name = match options.strip_trailing_dot {
        true => name.strip_suffix('.').unwrap_or(name),
        false => name,
    };
    let plain = match port {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    if plain != host
        && let Ok(plain) = HeaderValue::from_maybe_shared(bytes::Bytes::from(plain))
    {
        headers.insert(header::HOST, plain);
    }
}

/// An authority and its port, if it has one.
pub(super) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            (name, Some(port))
        }
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str) -> RequestHead {
        http::Request::builder()
            .uri(uri)
            .header("host", "h")
            .body(())
            .unwrap()
            .into_parts()
            .0
            .into()
    }

    #[test]
    fn an_absolute_target_moves_into_host() {
        let mut p = parts("http://other.com:81/a?b");
        to_origin_form(&mut p).unwrap();
        assert_eq!(p.uri, "/a?b");
        assert_eq!(p.headers["host"], "other.com:81");
        let mut p = parts("/a?b");
        to_origin_form(&mut p).unwrap();
        assert_eq!(p.headers["host"], "h");
        assert!(to_origin_form(&mut parts("*")).is_err());
    }

    #[test]
    fn ports_are_told_from_addresses() {
        assert_eq!(split_port("a.com:80"), ("a.com", Some("80")));
        assert_eq!(split_port("a.com"), ("a.com", None));
        assert_eq!(split_port("[::1]:80"), ("[::1]", Some("80")));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("a.com:x"), ("a.com:x", None));
    }
}
