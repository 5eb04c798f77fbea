//! Request heads off the wire.

use std::{mem::MaybeUninit, ops::Range};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Uri, Version, header};

use crate::codec::{
    Coding, HopHeaders, Length, RequestHead,
    head::{Place, Places, USUAL_HEADERS, headers, place_in, spelling},
    take,
};
use crate::model::http1::Http1Wire;

/// What a request head may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes: `max_request_headers_kb`.
    pub bytes: usize,
    /// Headers: `max_headers_count`.
    pub headers: usize,
    /// HTTP/1.0 is spoken too: `accept_http_10`.
    pub http_10: bool,
    /// How it is read.
    pub wire: Http1Wire,
}

/// How the end of a request's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// By chunks.
    Chunked,
}

/// A request's head, and what it says about the connection.
#[derive(Debug)]
pub struct Head {
    /// The head itself.
    pub parts: RequestHead,
    /// How the body ends.
    pub framing: Framing,
    /// The client means to keep the connection open after this request.
    pub keeps_alive: bool,
    /// The client wants to be told to send the body.
    pub waits: bool,
}

/// Why a head is refused. The connection cannot go on: where the next request
/// begins is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// It is not HTTP/1, or can be read in two ways.
    #[error("the request is not valid HTTP/1")]
    Malformed,
    /// A version that is not spoken here.
    #[error("the version is not supported")]
    Version,
    /// A transfer coding other than chunked.
    #[error("the transfer coding is not supported")]
    Coding,
    /// A length and a transfer coding.
    #[error("the request has both a length and a transfer coding")]
    Both,
    /// The target has a fragment, which is none of a server's business.
    #[error("the target has a fragment")]
    Fragment,
    /// It is longer than the limit.
    #[error("the head is too large")]
    TooLarge,
    /// It has more headers than the limit.
    #[error("the head has too many headers")]
    TooMany,
}

/// Room for what the proxy adds to a request.
const HEADERS_ADDED: usize = 8;

struct Parsed {
    length: usize,
    method: Method,
    target: Range<usize>,
    version: Version,
}

/// Takes a request head off the buffer, or gives `None` when it is not all
/// there. Empty lines before it are passed over.
///
/// # Errors
/// Any of [`BadHead`].
pub fn head(buffer: &mut BytesMut, limits: HeadLimits) -> Result<Option<Head>, BadHead> {
    let blank = buffer
        .iter()
        .take_while(|b| matches!(b, b'\r' | b'\n'))
        .count();
    buffer.advance(blank);
    if buffer.is_empty() {
        return Ok(None);
    }
    let mut few = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
    let mut places = Places::new();
    let parsed = match parse(buffer, &mut few, &mut places, limits) {
        Err(BadHead::TooMany) if limits.headers > USUAL_HEADERS => {
            let mut many = vec![MaybeUninit::uninit(); limits.headers];
            parse(buffer, &mut many, &mut places, limits)?
        }
        outcome => outcome?,
    };
    let Some(parsed) = parsed else {
        return Ok(None);
    };
    let head = take(buffer, parsed.length);
    let uri = target(&parsed.method, head.slice(parsed.target))?;
    let (headers, hop) = headers(&head, &places, HEADERS_ADDED).map_err(|_| BadHead::Malformed)?;
    let mut parts = RequestHead {
        method: parsed.method,
        uri,
        version: parsed.version,
        scheme: None,
        headers,
        spelling: spelling(&head, &places, limits.wire.names),
    };
    if parts.version == Version::HTTP_10 && !limits.http_10 {
        return Err(BadHead::Version);
    }
    let framing = framing(hop, &parts, limits.wire.chunked_length)?;
    if framing == Framing::Chunked && hop.length != Length::None {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(Some(Head {
        framing,
        keeps_alive: hop.client_keeps_alive(parts.version),
        // Who speaks 1.0 knows no interim answers (RFC 9110, 10.1.1).
        waits: hop.expects_continue && parts.version != Version::HTTP_10,
        parts,
    }))
}

fn parse<'b>(
    buffer: &'b [u8],
    slots: &mut [MaybeUninit<httparse::Header<'b>>],
    places: &mut Places,
    limits: HeadLimits,
) -> Result<Option<Parsed>, BadHead> {
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(buffer, slots) {
        Ok(httparse::Status::Complete(length)) if length > limits.bytes => {
            return Err(BadHead::TooLarge);
        }
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() > limits.bytes => {
            return Err(BadHead::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooMany),
        Err(_) if names_other_version(buffer) => return Err(BadHead::Version),
        Err(_) => return Err(BadHead::Malformed),
    };
    let method = request.method.unwrap_or_default().as_bytes();
    if request.headers.len() > limits.headers {
        return Err(BadHead::TooMany);
    }
    places.extend(
        request
            .headers
            .iter()
            .map(|header| Place::of(buffer, header)),
    );
    Ok(Some(Parsed {
        length,
        method: Method::from_bytes(method).map_err(|_| BadHead::Malformed)?,
        target: place_in(buffer, request.path.unwrap_or_default().as_bytes()),
        version: match request.version {
            Some(0) => Version::HTTP_10,
            _ => Version::HTTP_11,
        },
    }))
}

/// The target in one of its four forms (RFC 9112, 3.2).
fn target(method: &Method, target: Bytes) -> Result<Uri, BadHead> {
    let form = match target.first() {
        _ if *method == Method::CONNECT => {
            !target.starts_with(b"/") && !target.contains(&b'?') && names_port(&target)
        }
        Some(b'/') => true,
        Some(b'*') => *method == Method::OPTIONS && target.len() == 1,
        _ => memchr::memmem::find(&target, b"://").is_some(),
    };
    if !form || !target.is_ascii() {
        return Err(BadHead::Malformed);
    }
    if target.contains(&b'#') {
        return Err(BadHead::Fragment);
    }
    Uri::from_maybe_shared(target).map_err(|_| BadHead::Malformed)
}

/// Whether an authority says which port it means, as a CONNECT has to.
fn names_port(authority: &[u8]) -> bool {
    let colon = authority.iter().rposition(|b| *b == b':');
    colon.is_some_and(|at| {
        let port = &authority[at + 1..];
        !port.is_empty() && port.iter().all(u8::is_ascii_digit)
    })
}

/// Whether the request line is one but for its version, which is not spoken here
/// or, as before HTTP/1.0, not there.
fn names_other_version(buffer: &[u8]) -> bool {
    let line = buffer.split(|b| *b == b'\n').next().unwrap_or_default();
    let mut words = line.trim_ascii_end().split(|b| *b == b' ').skip(1);
    match (words.next(), words.next(), words.next()) {
        (Some(_), None, _) => true,
        (Some(_), Some(&[b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None) => {
            let spoken = major == b'1' && matches!(minor, b'0' | b'1');
            major.is_ascii_digit() && minor.is_ascii_digit() && !spoken
        }
        _ => false,
    }
}

/// How the body of a request ends (RFC 9112, 6.3). `both` lets it have a length where
/// chunks tell its end.
///
/// # Errors
/// When the head contradicts itself, which is how requests are smuggled.
fn framing(hop: HopHeaders, head: &RequestHead, both: bool) -> Result<Framing, BadHead> {
    let connect = head.method == Method::CONNECT;
    let old = head.version == Version::HTTP_10;
    match (hop.coding, hop.length) {
        // What follows a CONNECT belongs to the tunnel (RFC 9110, 9.3.6).
        (Coding::Chunked | Coding::Other, Length::None | Length::Once(_)) if connect => {
            Err(BadHead::Coding)
        }
        (Coding::None, Length::Once(1..)) if connect => Err(BadHead::Malformed),
        (Coding::None, Length::None) => Ok(Framing::Length(0)),
        (Coding::None, Length::Once(length)) => Ok(Framing::Length(length)),
        // Who speaks 1.0 does not know of chunks (RFC 9112, 6.1).
        (Coding::Chunked, Length::None) if old => Err(BadHead::Malformed),
        (Coding::Chunked, Length::None) => Ok(Framing::Chunked),
        (Coding::Chunked, Length::Once(_)) if both && !old => Ok(Framing::Chunked),
        (Coding::Other, Length::None) => Err(BadHead::Coding),
        (Coding::Chunked | Coding::Other, Length::Once(_)) => Err(BadHead::Both),
        // Two lengths, or what is no length.
        _ => Err(BadHead::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::NameFormat;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 1000,
        headers: 50,
        http_10: false,
        wire: Http1Wire {
            names: NameFormat::Lower,
            trailers: false,
            chunked_length: false,
            absolute_url: false,
        },
    };

    fn read(input: &[u8]) -> Result<Option<Head>, BadHead> {
        head(&mut BytesMut::from(input), LIMITS)
    }

    fn framing_of(headers: &str) -> Result<Framing, BadHead> {
        let input = format!("POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        read(input.as_bytes()).map(|read| read.unwrap().framing)
    }

    #[test]
    fn a_length_is_told_once_and_in_one_way() {
        for (headers, expected) in [
            ("", Ok(Framing::Length(0))),
            ("content-length: 12\r\n", Ok(Framing::Length(12))),
            ("transfer-encoding: Chunked\r\n", Ok(Framing::Chunked)),
            (
                "content-length: 3\r\ntransfer-encoding: chunked\r\n",
                Err(BadHead::Both),
            ),
            (
                "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
                Err(BadHead::Both),
            ),
            (
                "content-length: 3\r\ncontent-length: 3\r\n",
                Err(BadHead::Malformed),
            ),
            ("content-length: 3, 3\r\n", Err(BadHead::Malformed)),
            ("content-length: +3\r\n", Err(BadHead::Malformed)),
            ("content-length: 0x3\r\n", Err(BadHead::Malformed)),
            ("content-length:\r\n", Err(BadHead::Malformed)),
            (
                "content-length: 18446744073709551616\r\n",
                Err(BadHead::Malformed),
            ),
            ("transfer-encoding: gzip, chunked\r\n", Err(BadHead::Coding)),
            ("transfer-encoding: identity\r\n", Err(BadHead::Coding)),
        ] {
            assert_eq!(framing_of(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_is_read_is_taken_and_no_more() {
        let mut buffer = BytesMut::from(&b"\r\n\nGET /a?b HTTP/1.1\r\nHost: x\r\n\r\nnext"[..]);
        let parts = head(&mut buffer, LIMITS).unwrap().unwrap().parts;
        assert_eq!(
            (&parts.method, &*parts.uri.to_string()),
            (&Method::GET, "/a?b")
        );
        assert_eq!(parts.headers["host"], "x");
        assert_eq!(buffer, "next");
    }

    #[test]
    fn what_follows_a_head_of_many_headers_is_none_of_it() {
        let mut input = b"POST / HTTP/1.1\r\nhost: a\r\n".to_vec();
        (0..40).for_each(|n| input.extend(format!("x-{n}: 1\r\n").bytes()));
        input.extend(b"content-length: 2000\r\n\r\n");
        assert!(input.len() < LIMITS.bytes);
        input.extend([b'x'; 2000]);
        let head = read(&input).expect("valid").expect("whole");
        assert_eq!(head.parts.headers.len(), 42);
    }

    #[test]
    fn limits_hold_exactly() {
        let of_size = |n: usize| {
            let empty = "GET / HTTP/1.1\r\na: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(n - empty))
        };
        assert!(read(of_size(1000).as_bytes()).unwrap().is_some());
        assert_eq!(
            read(of_size(1001).as_bytes()).unwrap_err(),
            BadHead::TooLarge
        );
        assert_eq!(read(&[b'G'; 1001]).unwrap_err(), BadHead::TooLarge);
        let of_count = |n| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert!(read(of_count(50).as_bytes()).unwrap().is_some());
        assert_eq!(read(of_count(51).as_bytes()).unwrap_err(), BadHead::TooMany);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(read(&input));
        }

        #[test]
        fn where_it_is_cut_makes_no_difference(
            line in "[A-Z]{1,6} /[a-z?=]{0,9} HTTP/1\\.[019]",
            headers in proptest::collection::vec("[a-z-]{1,9} {0,1}:[ -~]{0,9}", 0..5),
            cut in any::<proptest::sample::Index>(),
        ) {
            let input = format!("{line}\r\n{}\r\n", headers.iter().map(|h| format!("{h}\r\n")).collect::<String>());
            let whole = read(input.as_bytes());
            let mut buffer = BytesMut::from(&input.as_bytes()[..cut.index(input.len())]);
            let early = head(&mut buffer, LIMITS);
            if let Ok(None) = early {
                let seen = input.len() - (input.len() - cut.index(input.len()));
                buffer.extend_from_slice(&input.as_bytes()[seen..]);
                let late = head(&mut buffer, LIMITS);
                prop_assert_eq!(format!("{whole:?}"), format!("{late:?}"));
            } else {
                prop_assert!(early.is_err() && whole.is_err());
            }
        }
    }
}
