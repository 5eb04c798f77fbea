//! What an HTTP/1 request may not say though its head can be read, because the
//! next server on its way could take it in another way.

use http::{HeaderValue, StatusCode, header};

use super::LocalReply;
use crate::{codec::RequestHead, formatter::ResponseFlag, model::http1::Http1Options};

/// Methods that pass without `allow_custom_methods`: Envoy's list.
const METHODS: [&str; 34] = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LINK",
    "LOCK",
    "M-SEARCH",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// Checks a request as it came off the wire.
///
/// # Errors
/// The answer to give, after which the connection closes.
pub fn check(request: &RequestHead, options: &Http1Options) -> Result<(), LocalReply> {
    let headers = &request.headers;
    let method = request.method.as_str();
    let common = matches!(method, "GET" | "POST" | "PUT" | "HEAD" | "DELETE");
    if !common && !options.custom_methods && !METHODS.contains(&method) {
        return Err(bad_request("http1.codec_error"));
    }
    if !headers.get_all(header::HOST).all(is_authority) {
        return Err(bad_request("http.invalid_authority"));
    }
    if options.absolute_targets
        && let Some(scheme) = request.uri.scheme_str()
        && !matches!(scheme, "http" | "https")
    {
        return Err(bad_request("http1.invalid_scheme"));
    }
    Ok(())
}

/// Whether it has only characters of an authority (RFC 3986, 3.2), if any.
fn is_authority(host: &HeaderValue) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(b);
    host.as_bytes().iter().all(allowed)
}

fn bad_request(details: &'static str) -> LocalReply {
    LocalReply::text(StatusCode::BAD_REQUEST, details, "Bad Request")
        .flag(ResponseFlag::DownstreamProtocolError)
        .closing()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &str, headers: &[(&str, &str)], custom_methods: bool) -> u16 {
        let mut request = http::Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0.into();
        let options = Http1Options {
            custom_methods,
            ..Http1Options::default()
        };
        check(&parts, &options).map_or_else(|reply| reply.status.as_u16(), |()| 200)
    }

    #[test]
    fn methods_nobody_knows_pass_only_when_asked() {
        assert_eq!(status("GET", &[], false), 200);
        assert_eq!(status("PROPFIND", &[], false), 200);
        assert_eq!(status("FOO", &[], false), 400);
        assert_eq!(status("get", &[], false), 400);
        assert_eq!(status("FOO", &[], true), 200);
    }

    #[test]
    fn a_host_is_an_authority() {
        for (headers, expected) in [
            (&[("host", "a.com:80")][..], 200),
            (&[("host", "[::1]:80")], 200),
            (&[("host", "")], 200),
            (&[("host", "a b")], 400),
            (&[("host", "a/b")], 400),
        ] {
            assert_eq!(status("POST", headers, false), expected, "{headers:?}");
        }
    }
}
