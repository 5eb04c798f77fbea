//! Requests onto the wire.

use bytes::{BufMut, BytesMut};
use http::{Method, header};

use crate::{
    codec::{Case, RequestHead, encode::lines},
    model::http1::Http1Wire,
};

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
pub(super) fn head(
    request: &RequestHead,
    scheme: &str,
    framing: RequestFraming,
    wire: Http1Wire,
    out: &mut BytesMut,
) {
    let host = request.headers.get(header::HOST);
    let host = host.map_or(&b""[..], |host| host.as_bytes());
    let target = match request.method {
        Method::CONNECT => host,
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
    if wire.absolute_url && request.method != Method::CONNECT {
        out.put_slice(scheme.as_bytes());
        out.put_slice(b"://");
        out.put_slice(host);
    }
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\n");
    let case = Case::of(request.spelling.as_deref(), wire.names);
    lines(&request.headers, case, out);
    let announced = match framing {
        RequestFraming::Chunked => {
            case.put(&header::TRANSFER_ENCODING, out);
            out.put_slice(b": chunked\r\n");
            None
        }
        RequestFraming::None => tells_empty_body(&request.method).then_some(0),
        // Whatever became of the client's own on the way here.
        RequestFraming::Length(length) => Some(length),
        RequestFraming::Upgrade | RequestFraming::Connect => None,
    };
    if let Some(length) = announced.filter(|_| !has_length(request)) {
        case.put(&header::CONTENT_LENGTH, out);
        out.put_slice(b": ");
        out.put_slice(itoa::Buffer::new().format(length).as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n");
}

fn has_length(request: &RequestHead) -> bool {
    request.headers.contains_key(header::CONTENT_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_told_also_where_no_header_says_it() {
        for (method, framing, expected) in [
            (
                "POST",
                RequestFraming::Length(3),
                "POST /a?b HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\n",
            ),
            (
                "POST",
                RequestFraming::None,
                "POST /a?b HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
            ),
            (
                "GET",
                RequestFraming::None,
                "GET /a?b HTTP/1.1\r\nhost: h\r\n\r\n",
            ),
        ] {
            let (parts, ()) = http::Request::builder()
                .method(method)
                .uri("/a?b")
                .header("host", "h")
                .body(())
                .unwrap()
                .into_parts();
            let mut out = BytesMut::new();
            head(
                &parts.into(),
                "http",
                framing,
                Http1Wire::default(),
                &mut out,
            );
            assert_eq!(out, expected);
        }
    }
}
