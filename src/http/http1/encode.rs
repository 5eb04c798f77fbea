//! Response heads onto the wire.

use bytes::{BufMut, BytesMut};
use http::{HeaderName, StatusCode, Version, header};

use crate::codec::{Headers, encode};

/// How a response's body is told apart from what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// There is none.
    None,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// By the end of the connection: for clients that do not know of chunks.
    Close,
}

/// What a response is an answer to.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The request's version.
    pub version: Version,
    /// The request was a HEAD.
    pub head: bool,
    /// Names are written `Like-This`.
    pub proper_case: bool,
}

impl ResponseFraming {
    /// The framing of a response with a body of this length, if that is known.
    pub fn of(status: StatusCode, asked: Asked, length: Option<u64>) -> Self {
        let bodiless = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match length {
            _ if asked.head || bodiless => Self::None,
            Some(length) => Self::Length(length),
            None if asked.version == Version::HTTP_10 => Self::Close,
            None => Self::Chunked,
        }
    }
}

/// Writes the status line and the headers.
pub fn head(
    status: StatusCode,
    headers: &mut Headers,
    framing: ResponseFraming,
    length: Option<u64>,
    asked: Asked,
    out: &mut BytesMut,
) {
    let described = headers.contains_key(header::CONTENT_LENGTH);
    let mut announced = None;
    match framing {
        ResponseFraming::None => {
            let never = status.is_informational() || status == StatusCode::NO_CONTENT;
            if never && described {
                // RFC 9110, 8.6.
                headers.remove(header::CONTENT_LENGTH);
            } else if !never && !described {
                announced = length;
            }
        }
        ResponseFraming::Length(_) if !described => announced = length,
        ResponseFraming::Length(_) => {}
        ResponseFraming::Chunked | ResponseFraming::Close if described => {
            headers.remove(header::CONTENT_LENGTH);
        }
        ResponseFraming::Chunked | ResponseFraming::Close => {}
    }
    let size: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    out.reserve(size + 96);
    match status {
        StatusCode::OK => out.put_slice(b"HTTP/1.1 200 OK\r\n"),
        _ => {
            out.put_slice(b"HTTP/1.1 ");
            out.put_slice(status.as_str().as_bytes());
            out.put_u8(b' ');
            out.put_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
            out.put_slice(b"\r\n");
        }
    }
    match asked.proper_case {
        false => encode::lines(headers, out),
        true => proper_case_lines(headers, out),
    }
    if let Some(length) = announced {
        name(&header::CONTENT_LENGTH, asked.proper_case, out);
        out.put_slice(itoa::Buffer::new().format(length).as_bytes());
        out.put_slice(b"\r\n");
    }
    // Before the body that HEAD does not get, too.
    let unknown = asked.head && length.is_none() && !described;
    if framing == ResponseFraming::Chunked
        || (unknown && asked.version != Version::HTTP_10 && status != StatusCode::NO_CONTENT)
    {
        name(&header::TRANSFER_ENCODING, asked.proper_case, out);
        out.put_slice(b"chunked\r\n");
    }
    out.put_slice(b"\r\n");
}

fn name(name: &HeaderName, proper_case: bool, out: &mut BytesMut) {
    match proper_case {
        false => out.put_slice(name.as_str().as_bytes()),
        true => proper_case_name(name.as_str(), out),
    }
    out.put_slice(b": ");
}

fn proper_case_lines(headers: &Headers, out: &mut BytesMut) {
    for (key, value) in headers.iter() {
        name(key, true, out);
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
}

/// A letter at the beginning, and one after a character that is neither a letter
/// nor a digit, is upper case: `ProperCaseWords`.
fn proper_case_name(name: &str, out: &mut BytesMut) {
    let mut first = true;
    for byte in name.bytes() {
        out.put_u8(if first {
            byte.to_ascii_uppercase()
        } else {
            byte
        });
        first = !byte.is_ascii_alphanumeric();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(
        status: u16,
        asked: Asked,
        length: Option<u64>,
        headers: &[(&'static str, &str)],
    ) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        let mut map = Headers::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let framing = ResponseFraming::of(status, asked, length);
        let mut out = BytesMut::new();
        head(status, &mut map, framing, length, asked, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    const GET: Asked = Asked {
        version: Version::HTTP_11,
        head: false,
        proper_case: false,
    };

    #[test]
    fn a_body_is_announced_in_one_way() {
        let length = [("content-length", "3")];
        let head = Asked { head: true, ..GET };
        let old = Asked {
            version: Version::HTTP_10,
            ..GET
        };
        for (text, status, asked, known, headers) in [
            ("content-length: 3\r\n", 200, GET, Some(3), &length[..]),
            ("content-length: 3\r\n", 200, GET, Some(3), &[]),
            ("content-length: 0\r\n", 200, GET, Some(0), &[]),
            ("transfer-encoding: chunked\r\n", 200, GET, None, &[]),
            ("transfer-encoding: chunked\r\n", 200, GET, None, &length),
            ("", 200, old, None, &[]),
            ("content-length: 3\r\n", 200, head, None, &length),
            ("transfer-encoding: chunked\r\n", 200, head, None, &[]),
            ("", 204, GET, Some(0), &[]),
            ("", 204, GET, None, &length),
            ("content-length: 3\r\n", 304, GET, Some(0), &length),
            ("content-length: 0\r\n", 304, GET, Some(0), &[]),
        ] {
            let out = written(status, asked, known, headers);
            let (_, lines) = out.split_once("\r\n").unwrap();
            assert_eq!(lines, format!("{text}\r\n"), "{status} {asked:?} {known:?}");
        }
    }

    #[test]
    fn names_in_proper_case() {
        let asked = Asked {
            proper_case: true,
            ..GET
        };
        let out = written(200, asked, None, &[("x-a_b1c", "v")]);
        assert_eq!(
            out,
            "HTTP/1.1 200 OK\r\nX-A_B1c: v\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
    }
}
