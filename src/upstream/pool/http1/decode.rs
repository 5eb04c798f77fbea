//! Response heads off the wire.

use std::{mem::MaybeUninit, ops::Range};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header, response};

use super::{ChunkedDecoder, HeadLimits, Http1Error};

/// How the end of a response's body is found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ResponseFraming {
    /// The head has not come yet.
    Head,
    /// After so many bytes more.
    Length(u64),
    /// By chunks.
    Chunked(ChunkedDecoder),
    /// By the end of the connection.
    Close,
    /// The connection has become a tunnel.
    Tunnel,
    /// All has been read.
    Done,
}

/// Headers parsed without an allocation; a response with more is parsed again
/// with room up to its limit.
const USUAL_HEADERS: usize = 32;

/// A parsed head: what it says, and where its values stand in the buffer.
struct Parsed {
    length: usize,
    status: StatusCode,
    version: Version,
    headers: smallvec::SmallVec<[(HeaderName, Range<usize>); USUAL_HEADERS]>,
}

/// Takes a response head off the buffer, or gives `None` when it is not all there.
pub(super) fn head(
    buffer: &mut BytesMut,
    limits: HeadLimits,
) -> Result<Option<response::Parts>, Http1Error> {
    let mut few = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
    let parsed = match parse(buffer, &mut few, limits) {
        Err(Http1Error::HeadTooLarge) if limits.headers > USUAL_HEADERS => {
            let mut many = vec![MaybeUninit::uninit(); limits.headers];
            parse(buffer, &mut many, limits)?
        }
        outcome => outcome?,
    };
    let Some(parsed) = parsed else {
        return Ok(None);
    };
    let head: Bytes = buffer.split_to(parsed.length).freeze();
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + HEADERS_ADDED);
    for (name, place) in parsed.headers {
        let value = HeaderValue::from_maybe_shared(head.slice(place))
            .map_err(|_| Http1Error::Protocol("header value"))?;
        headers.append(name, value);
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = parsed.status;
    parts.version = parsed.version;
    parts.headers = headers;
    Ok(Some(parts))
}

fn parse<'b>(
    buffer: &'b [u8],
    slots: &mut [MaybeUninit<httparse::Header<'b>>],
    limits: HeadLimits,
) -> Result<Option<Parsed>, Http1Error> {
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        buffer,
        slots,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() > limits.bytes => {
            return Err(Http1Error::HeadTooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Http1Error::HeadTooLarge),
        Err(_) => return Err(Http1Error::Protocol("malformed head")),
    };
    if length > limits.bytes {
        return Err(Http1Error::HeadTooLarge);
    }
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let mut headers = smallvec::SmallVec::new();
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| Http1Error::Protocol("header name"))?;
        let start = header.value.as_ptr() as usize - buffer.as_ptr() as usize;
        headers.push((name, start..start + header.value.len()));
    }
    Ok(Some(Parsed {
        length,
        status: status.ok_or(Http1Error::Protocol("status code"))?,
        version: if response.version == Some(0) {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        },
        headers,
    }))
}

/// Room for what the proxy adds to a response: service time, date, server, and
/// a few of the route's own.
const HEADERS_ADDED: usize = 6;

/// Whether the host means to keep the connection open after this response.
pub(super) fn keeps_alive(head: &response::Parts) -> bool {
    let mut keeps = head.version == Version::HTTP_11;
    for value in head.headers.get_all(header::CONNECTION) {
        for option in value.as_bytes().split(|b| *b == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keeps |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keeps
}

/// How the body of a response ends (RFC 9112, 6.3).
///
/// # Errors
/// When the head contradicts itself, which is how responses are smuggled.
pub(super) fn framing(
    head: &response::Parts,
    head_request: bool,
) -> Result<ResponseFraming, Http1Error> {
    if head.status == StatusCode::NO_CONTENT {
        // RFC 9110, 8.6, 15.3.5: what announces a body all the same cannot be trusted
        // about where the next response begins.
        let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
        if lengths.any(|length| length.as_bytes() != b"0") {
            return Err(Http1Error::Protocol("content-length in a 204"));
        }
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            return Err(Http1Error::Protocol("transfer-encoding in a 204"));
        }
        return Ok(ResponseFraming::Done);
    }
    if head_request || head.status == StatusCode::NOT_MODIFIED {
        return Ok(ResponseFraming::Done);
    }
    let mut length = None;
    for value in head.headers.get_all(header::CONTENT_LENGTH) {
        let digits = value.as_bytes();
        let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let value = value
            .to_str()
            .ok()
            .filter(|_| valid)
            .and_then(|v| v.parse::<u64>().ok());
        let value = value.ok_or(Http1Error::Protocol("content-length"))?;
        if length.is_some_and(|other| other != value) {
            return Err(Http1Error::Protocol("two different content-lengths"));
        }
        length = Some(value);
    }
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        if length.is_some() {
            return Err(Http1Error::Protocol(
                "content-length with transfer-encoding",
            ));
        }
        let mut encodings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
        return match (encodings.next(), encodings.next()) {
            (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                Ok(ResponseFraming::Chunked(ChunkedDecoder::default()))
            }
            _ => Err(Http1Error::Protocol("transfer-encoding other than chunked")),
        };
    }
    Ok(match length {
        Some(0) => ResponseFraming::Done,
        Some(length) => ResponseFraming::Length(length),
        None => ResponseFraming::Close,
    })
}
