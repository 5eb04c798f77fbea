//! Response heads off the wire.

use std::{mem::MaybeUninit, ops::Range};

use bytes::BytesMut;
use http::{StatusCode, Version, header};

use super::{ChunkedDecoder, HeadLimits, Http1Error};
use crate::codec::{
    Coding, HopHeaders, Length, NameFormat, ResponseHead,
    head::{Place, Places, USUAL_HEADERS, headers, place_in, spelling},
    take,
};

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

/// A response's head.
pub(super) struct Head {
    pub(super) parts: ResponseHead,
    hop: HopHeaders,
}

impl Head {
    /// Whether another head follows for the same request.
    pub(super) fn is_interim(&self) -> bool {
        let status = self.parts.status;
        status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Whether the host means to keep the connection open after this response.
    pub(super) fn keeps_alive(&self) -> bool {
        self.hop.host_keeps_alive(self.parts.version)
    }
}

/// What a head says beside its headers.
struct Parsed {
    length: usize,
    status: StatusCode,
    version: Version,
    reason: Range<usize>,
}

/// Takes a response head off the buffer, or gives `None` when it is not all there.
pub(super) fn head(buffer: &mut BytesMut, limits: HeadLimits) -> Result<Option<Head>, Http1Error> {
    let mut few = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
    let mut places = Places::new();
    let parsed = match parse(buffer, &mut few, &mut places, limits) {
        Err(Http1Error::HeadTooLarge) if limits.headers > USUAL_HEADERS => {
            let mut many = vec![MaybeUninit::uninit(); limits.headers];
            parse(buffer, &mut many, &mut places, limits)?
        }
        outcome => outcome?,
    };
    let Some(parsed) = parsed else {
        return Ok(None);
    };
    let head = take(buffer, parsed.length);
    let (headers, hop) = headers(&head, &places, HEADERS_ADDED)?;
    let mut spelling = spelling(&head, &places, limits.wire.names);
    if let (NameFormat::Preserve(preserve), Some(spelling)) = (limits.wire.names, &mut spelling) {
        let passed = preserve.reason_phrase && !parsed.reason.is_empty();
        spelling.reason_phrase = passed.then(|| head.slice(parsed.reason));
    }
    let parts = ResponseHead {
        status: parsed.status,
        version: parsed.version,
        headers,
        spelling,
    };
    Ok(Some(Head { parts, hop }))
}

fn parse<'b>(
    buffer: &'b [u8],
    slots: &mut [MaybeUninit<httparse::Header<'b>>],
    places: &mut Places,
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
    if length > limits.bytes || response.headers.len() > limits.headers {
        return Err(Http1Error::HeadTooLarge);
    }
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    places.extend(
        response
            .headers
            .iter()
            .map(|header| Place::of(buffer, header)),
    );
    Ok(Some(Parsed {
        length,
        reason: match response.reason {
            Some(reason) if !reason.is_empty() => place_in(buffer, reason.as_bytes()),
            _ => 0..0,
        },
        status: status.ok_or(Http1Error::Protocol("status code"))?,
        version: if response.version == Some(0) {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        },
    }))
}

/// Room for what the proxy adds to a response: service time, date, server, and
/// a few of the route's own.
const HEADERS_ADDED: usize = 6;

/// How the body of a response ends (RFC 9112, 6.3). `both` lets it have a length where
/// chunks tell its end.
///
/// # Errors
/// When the head contradicts itself, which is how responses are smuggled.
pub(super) fn framing(
    head: &mut Head,
    head_request: bool,
    both: bool,
) -> Result<ResponseFraming, Http1Error> {
    let Head { parts: head, hop } = head;
    if head.status == StatusCode::NO_CONTENT {
        // RFC 9110, 8.6, 15.3.5: what announces a body all the same cannot be trusted
        // about where the next response begins.
        if !matches!(
            hop.length,
            Length::None | Length::Once(0) | Length::Repeated(0)
        ) {
            return Err(Http1Error::Protocol("content-length in a 204"));
        }
        if hop.coding != Coding::None {
            return Err(Http1Error::Protocol("transfer-encoding in a 204"));
        }
        return Ok(ResponseFraming::Done);
    }
    if head_request || head.status == StatusCode::NOT_MODIFIED {
        return Ok(ResponseFraming::Done);
    }
    let length = match hop.length {
        Length::None => None,
        Length::Once(length) | Length::Repeated(length) => Some(length),
        Length::Different => return Err(Http1Error::Protocol("two different content-lengths")),
        Length::Invalid => return Err(Http1Error::Protocol("content-length")),
    };
    match (hop.coding, length) {
        (Coding::None, Some(0)) => Ok(ResponseFraming::Done),
        (Coding::None, Some(length)) => Ok(ResponseFraming::Length(length)),
        (Coding::None, None) => Ok(ResponseFraming::Close),
        (Coding::Chunked, Some(_)) if both => {
            head.headers.remove(header::CONTENT_LENGTH);
            Ok(ResponseFraming::Chunked(ChunkedDecoder::default()))
        }
        (_, Some(_)) => Err(Http1Error::Protocol(
            "content-length with transfer-encoding",
        )),
        (Coding::Chunked, None) => Ok(ResponseFraming::Chunked(ChunkedDecoder::default())),
        (Coding::Other, None) => Err(Http1Error::Protocol("transfer-encoding other than chunked")),
    }
}
