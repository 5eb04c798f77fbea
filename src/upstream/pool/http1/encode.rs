//! Requests onto the wire.

use bytes::{BufMut, BytesMut};
use http::{Method, header};

use crate::codec::{RequestHead, encode::lines};

/// How the length of a request's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFraming {
    /// There is no body, or all of it has been written.
    None,
    /// `content-length`, which stands among the headers; bytes left.
    Length(u64),
    /// `transfer-encoding: chunked`, added on the wire.
    Chunked,
    /// `connection: upgrade`: no body before the answer.
    Upgrade,
    /// A CONNECT, which has none either.
    Connect,
}

impl RequestFraming {
    /// Whether nothing is left to be asked of the body.
    pub(super) fn is_done(self) -> bool {
        matches!(
            self,
            Self::None | Self::Length(0) | Self::Upgrade | Self::Connect
        )
    }

    /// Accounts for body bytes; an error when the head promised fewer.
    pub(super) fn take(&mut self, n: u64) -> Result<(), ()> {
        if let Self::Length(left) = self {
            *left = left.checked_sub(n).ok_or(())?;
        }
        Ok(())
    }
}

/// Whether a request of this method without a body says `content-length: 0`.
fn tells_empty_body(method: &Method) -> bool {
    !matches!(
        *method,
        Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT | Method::TRACE
    )
}

/// Writes the request line and headers. The URI is in origin form and the
/// authority in `host`, as everywhere behind the connection manager; the target
/// of a CONNECT is its authority.
pub(super) fn head(request: &RequestHead, framing: RequestFraming, out: &mut BytesMut) {
    let host = request.headers.get(header::HOST);
    let target = match request.method {
        Method::CONNECT => host.map_or(&b""[..], |host| host.as_bytes()),
        _ => request
            .uri
            .path_and_query()
            .map_or("/", |p| p.as_str())
            .as_bytes(),
    };
    let method = request.method.as_str();
    let headers: usize = request
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    out.reserve(method.len() + target.len() + headers + 64);
    out.put_slice(method.as_bytes());
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\n");
    lines(&request.headers, out);
    match framing {
        RequestFraming::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        RequestFraming::None
            if tells_empty_body(&request.method)
                && !request.headers.contains_key(header::CONTENT_LENGTH) =>
        {
            out.put_slice(b"content-length: 0\r\n");
        }
        _ => {}
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_without_a_body_says_so_and_a_get_does_not() {
        for (method, expected) in [
            (
                "POST",
                "POST /a?b HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
            ),
            ("GET", "GET /a?b HTTP/1.1\r\nhost: h\r\n\r\n"),
        ] {
            let (parts, ()) = http::Request::builder()
                .method(method)
                .uri("/a?b")
                .header("host", "h")
                .body(())
                .unwrap()
                .into_parts();
            let mut out = BytesMut::new();
            head(&parts.into(), RequestFraming::None, &mut out);
            assert_eq!(out, expected);
        }
    }
}
