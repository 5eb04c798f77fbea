//! Response heads onto the wire.

use bytes::{BufMut, BytesMut};
use http::{HeaderName, StatusCode, Version, header};

use crate::codec::{Case, NameFormat, ResponseHead, encode};

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
    /// How names are written that did not come from a host.
    pub names: NameFormat,
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

    /// What is left after `n` bytes of body; `None` when that was all.
    ///
    /// # Errors
    /// When it is more than was announced: the rest would be taken for the next response.
    pub fn after(self, n: u64) -> Result<Option<Self>, TooMuch> {
        let Self::Length(left) = self else {
            return Ok(Some(self));
        };
        let left = left.checked_sub(n).ok_or(TooMuch)?;
        Ok((left > 0).then_some(Self::Length(left)))
    }
}

/// A body is longer than its head announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

/// Writes the status line and the headers.
pub fn head(
    head: &mut ResponseHead,
    framing: ResponseFraming,
    length: Option<u64>,
    asked: Asked,
    out: &mut BytesMut,
) {
    let (status, headers) = (head.status, &mut head.headers);
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
    let spelling = head.spelling.as_deref();
    let reason = spelling.and_then(|spelling| spelling.reason_phrase.as_deref());
    match (status, reason, asked.version) {
        (StatusCode::OK, None, Version::HTTP_11) => out.put_slice(b"HTTP/1.1 200 OK\r\n"),
        _ => {
            out.put_slice(version(asked.version));
            out.put_u8(b' ');
            out.put_slice(status.as_str().as_bytes());
            out.put_u8(b' ');
            out.put_slice(reason.unwrap_or_else(|| phrase(status).as_bytes()));
            out.put_slice(b"\r\n");
        }
    }
    let case = Case::of(spelling, asked.names);
    encode::lines(headers, case, out);
    if let Some(length) = announced {
        name(&header::CONTENT_LENGTH, case, out);
        out.put_slice(itoa::Buffer::new().format(length).as_bytes());
        out.put_slice(b"\r\n");
    }
    // Before the body that HEAD does not get, too.
    let unknown = asked.head && length.is_none() && !described;
    if framing == ResponseFraming::Chunked
        || (unknown && asked.version != Version::HTTP_10 && status != StatusCode::NO_CONTENT)
    {
        name(&header::TRANSFER_ENCODING, case, out);
        out.put_slice(b"chunked\r\n");
    }
    out.put_slice(b"\r\n");
}

/// What Envoy calls a status.
fn phrase(status: StatusCode) -> &'static str {
    match status.as_u16() {
        102 | 103 | 418 => "Unknown",
        203 => "Non-Authoritative Information",
        599 => "Last Unassigned Server Error Code",
        _ => status.canonical_reason().unwrap_or("Unknown"),
    }
}

/// The version of answers: never one above the request's.
pub fn version(asked: Version) -> &'static [u8] {
    match asked {
        Version::HTTP_10 => b"HTTP/1.0",
        _ => b"HTTP/1.1",
    }
}

fn name(name: &HeaderName, case: Case<'_>, out: &mut BytesMut) {
    case.put(name, out);
    out.put_slice(b": ");
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
        let mut response = ResponseHead {
            status,
            ..ResponseHead::default()
        };
        for (name, value) in headers {
            let name = HeaderName::from_static(name);
            response.headers.append(name, value.parse().unwrap());
        }
        let framing = ResponseFraming::of(status, asked, length);
        let mut out = BytesMut::new();
        head(&mut response, framing, length, asked, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    const GET: Asked = Asked {
        version: Version::HTTP_11,
        head: false,
        names: NameFormat::Lower,
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
            names: NameFormat::ProperCase,
            ..GET
        };
        let out = written(200, asked, None, &[("x-a_b1c", "v")]);
        assert_eq!(
            out,
            "HTTP/1.1 200 OK\r\nX-A_B1c: v\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
    }

    /// Observed at Envoy 1.40, which does not know every code that is registered.
    #[test]
    fn a_status_is_called_what_envoy_calls_it() {
        for (status, phrase) in [
            (203, "Non-Authoritative Information"),
            (218, "Unknown"),
            (413, "Payload Too Large"),
            (418, "Unknown"),
            (425, "Too Early"),
            (510, "Not Extended"),
            (599, "Last Unassigned Server Error Code"),
        ] {
            let line = format!("HTTP/1.1 {status} {phrase}\r\n");
            let text = written(status, GET, Some(0), &[]);
            assert!(text.starts_with(&line), "{text:?}");
        }
    }
}
