//! What a header block says (RFC 9113, 8.3).

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::shared::is_of_connection;
use crate::codec::{
    Headers, RequestHead,
    hpack::{Field, Pseudo},
};

/// Fields that most requests have, and those that the proxy adds.
const USUAL_FIELDS: usize = 20;

/// What a header block may be at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockLimits {
    /// Bytes of names and values: `max_request_headers_kb`.
    pub(super) bytes: usize,
    /// Fields: `max_headers_count`.
    pub(super) fields: usize,
}

/// Why a header block is none that a stream could go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadBlock {
    /// It says what none may say, or leaves out what each has to.
    Malformed,
    /// More bytes than its limit.
    TooLarge,
    /// More fields than its limit.
    TooMany,
}

/// A header block as it is read.
#[derive(Debug)]
pub(super) struct Reading {
    limits: BlockLimits,
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
    headers: Headers,
    cookies: usize,
    /// There is a `host`.
    named: bool,
    length: Option<u64>,
    bytes: usize,
    fields: usize,
    malformed: bool,
}

/// A request as far as its head tells.
#[derive(Debug)]
pub(super) struct Asked {
    /// The head, with the target in origin form.
    pub(super) head: RequestHead,
    /// `:protocol`.
    pub(super) protocol: Option<Bytes>,
    /// `content-length`.
    pub(super) length: Option<u64>,
}

impl Reading {
    pub(super) fn new(limits: BlockLimits) -> Self {
        Self {
            limits,
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            headers: Headers::with_capacity(USUAL_FIELDS),
            cookies: 0,
            named: false,
            length: None,
            bytes: 0,
            fields: 0,
            malformed: false,
        }
    }

    /// Takes the next field.
    pub(super) fn push(&mut self, field: Field) {
        self.bytes += field.size();
        self.fields += 1;
        if self.bytes > self.limits.bytes || self.fields > self.limits.fields {
            return;
        }
        match field {
            Field::Header(name, value) => {
                if name == header::CONTENT_LENGTH {
                    let again = self.length.is_some();
                    self.take_length(&value);
                    // To a host of HTTP/1 it is said once.
                    if again {
                        return;
                    }
                } else if name == header::COOKIE {
                    self.cookies += 1;
                } else if name == header::HOST {
                    self.named = true;
                } else if is_of_connection(&name) || (name == header::TE && value != "trailers") {
                    self.malformed = true;
                }
                self.headers.append(name, value);
            }
            Field::Pseudo(name, value) => {
                let place = match name {
                    Pseudo::Method => &mut self.method,
                    Pseudo::Scheme => &mut self.scheme,
                    Pseudo::Authority => &mut self.authority,
                    Pseudo::Path => &mut self.path,
                    Pseudo::Protocol => &mut self.protocol,
                    Pseudo::Status => {
                        self.malformed = true;
                        return;
                    }
                };
                // Once, and before all headers.
                self.malformed |= place.replace(value).is_some() || !self.headers.is_empty();
            }
            Field::Invalid(..) => self.malformed = true,
        }
    }

    fn take_length(&mut self, value: &HeaderValue) {
        let digits = value.as_bytes();
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let length = value.to_str().ok().and_then(|text| text.parse().ok());
        let length = length.filter(|_| plain);
        self.malformed |= length.is_none() || self.length.is_some_and(|l| Some(l) != length);
        self.length = length;
    }

    fn check(&self) -> Result<(), BadBlock> {
        if self.bytes > self.limits.bytes {
            return Err(BadBlock::TooLarge);
        }
        if self.fields > self.limits.fields {
            return Err(BadBlock::TooMany);
        }
        match self.malformed {
            true => Err(BadBlock::Malformed),
            false => Ok(()),
        }
    }

    /// The trailers that it is.
    pub(super) fn into_trailers(self) -> Result<HeaderMap, BadBlock> {
        self.check()?;
        let pseudo = [
            &self.method,
            &self.scheme,
            &self.authority,
            &self.path,
            &self.protocol,
        ];
        if pseudo.into_iter().any(Option::is_some) {
            return Err(BadBlock::Malformed);
        }
        Ok(self.headers.into())
    }

    /// The request that it is. `connect`: extended CONNECT is spoken (RFC 8441).
    pub(super) fn into_request(self, connect: bool, hosts: &mut Hosts) -> Result<Asked, BadBlock> {
        self.check()?;
        let Self {
            method,
            scheme,
            authority,
            path,
            protocol,
            mut headers,
            cookies,
            length,
            named,
            ..
        } = self;
        let malformed = BadBlock::Malformed;
        let method = method.ok_or(malformed)?;
        let method = Method::from_bytes(&method).map_err(|_| malformed)?;
        let tunnel = method == Method::CONNECT;
        if protocol.is_some() && !(tunnel && connect) {
            return Err(malformed);
        }
        let has_target = scheme.is_some() && path.is_some();
        let plain_connect = tunnel && protocol.is_none();
        let complete = match plain_connect {
            true => scheme.is_none() && path.is_none() && authority.is_some(),
            false => has_target && (authority.is_some() || !tunnel),
        };
        if !complete {
            return Err(malformed);
        }
        let scheme = match scheme.as_deref() {
            Some(b"http") => Some("http"),
            Some(b"https") => Some("https"),
            Some(other) => {
                Scheme::try_from(other).map_err(|_| malformed)?;
                None
            }
            None => None,
        };
        let uri = match path {
            None => Uri::default(),
            Some(path) if path.is_empty() => return Err(malformed),
            Some(path) => PathAndQuery::from_maybe_shared(path)
                .map_err(|_| malformed)?
                .into(),
        };
        if let Some(authority) = authority.filter(|authority| !authority.is_empty()) {
            let host = hosts.of(authority).ok_or(malformed)?;
            match named {
                true => headers.insert(header::HOST, host),
                false => headers.append(header::HOST, host),
            }
        }
        if cookies > 1 {
            join_cookies(&mut headers);
        }
        let head = RequestHead {
            method,
            uri,
            version: Version::HTTP_2,
            scheme,
            headers,
            spelling: None,
        };
        Ok(Asked {
            head,
            protocol,
            length,
        })
    }
}

/// The host that was asked for last: mostly the next request asks for it again.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    last: Option<(Bytes, HeaderValue)>,
}

impl Hosts {
    /// The host that an authority names; `None` when it is none.
    fn of(&mut self, authority: Bytes) -> Option<HeaderValue> {
        if let Some((last, host)) = &self.last
            && *last == authority
        {
            return Some(host.clone());
        }
        let host = host(authority.clone())?;
        self.last = Some((authority, host.clone()));
        Some(host)
    }
}

/// The host that an authority names. Who asks is none of its business.
fn host(authority: Bytes) -> Option<HeaderValue> {
    Authority::try_from(&authority[..]).ok()?;
    let host = match memchr::memrchr(b'@', &authority) {
        Some(at) => authority.slice(at + 1..),
        None => authority,
    };
    HeaderValue::from_maybe_shared(host).ok()
}

/// Over HTTP/2 a client may give each cookie a field of its own (RFC 9113,
/// 8.2.3); beyond it there is one for all.
fn join_cookies(headers: &mut Headers) {
    let mut all = BytesMut::new();
    for cookie in headers.get_all(header::COOKIE) {
        if !all.is_empty() {
            all.extend_from_slice(b"; ");
        }
        all.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(all.freeze()) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    const LIMITS: BlockLimits = BlockLimits {
        bytes: 1000,
        fields: 10,
    };

    fn reading(fields: &[(&str, &str)]) -> Reading {
        let mut reading = Reading::new(LIMITS);
        for (name, value) in fields {
            let value = Bytes::copy_from_slice(value.as_bytes());
            reading.push(match *name {
                ":method" => Field::Pseudo(Pseudo::Method, value),
                ":scheme" => Field::Pseudo(Pseudo::Scheme, value),
                ":authority" => Field::Pseudo(Pseudo::Authority, value),
                ":path" => Field::Pseudo(Pseudo::Path, value),
                ":protocol" => Field::Pseudo(Pseudo::Protocol, value),
                ":status" => Field::Pseudo(Pseudo::Status, value),
                name => Field::Header(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_maybe_shared(value).unwrap(),
                ),
            });
        }
        reading
    }

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/a?b"),
        (":authority", "me@host:1"),
    ];

    fn with(more: &[(&'static str, &'static str)]) -> Result<Asked, BadBlock> {
        reading(&[&GET, more].concat()).into_request(false, &mut Hosts::default())
    }

    #[test]
    fn a_request_in_origin_form() {
        let asked = with(&[("host", "other"), ("x-a", "1"), ("content-length", "3")]).unwrap();
        assert_eq!(asked.head.method, Method::GET);
        assert_eq!(asked.head.uri, "/a?b");
        assert_eq!(asked.head.scheme, Some("https"));
        assert_eq!(asked.length, Some(3));
        let host: Vec<_> = asked.head.headers.get_all(header::HOST).collect();
        assert_eq!(host, ["host:1"]);
    }

    #[test]
    fn cookies_become_one() {
        let asked = with(&[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2")]).unwrap();
        let cookies: Vec<_> = asked.head.headers.get_all(header::COOKIE).collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn a_length_said_twice_is_said_once() {
        let asked = with(&[("content-length", "1"), ("content-length", "1")]).unwrap();
        let lengths: Vec<_> = asked.head.headers.get_all(header::CONTENT_LENGTH).collect();
        assert_eq!(lengths, ["1"]);
    }

    #[test]
    fn what_none_may_say_is_refused() {
        let malformed = |more: &[(&'static str, &'static str)]| {
            assert_eq!(with(more).unwrap_err(), BadBlock::Malformed, "{more:?}");
        };
        malformed(&[(":path", "/")]);
        malformed(&[(":status", "200")]);
        malformed(&[(":protocol", "websocket")]);
        malformed(&[("x-a", "1"), (":method", "GET")]);
        malformed(&[("connection", "close")]);
        malformed(&[("keep-alive", "1")]);
        malformed(&[("proxy-connection", "close")]);
        malformed(&[("transfer-encoding", "chunked")]);
        malformed(&[("upgrade", "x")]);
        malformed(&[("te", "gzip")]);
        malformed(&[("content-length", "1"), ("content-length", "2")]);
        malformed(&[("content-length", "+1")]);
        malformed(&[("content-length", "")]);
        with(&[("te", "trailers")]).unwrap();
        for without in 0..3 {
            let mut fields = GET.to_vec();
            fields.remove(without);
            let bad = reading(&fields)
                .into_request(false, &mut Hosts::default())
                .unwrap_err();
            assert_eq!(bad, BadBlock::Malformed, "{fields:?}");
        }
    }

    #[test]
    fn a_connect_names_an_authority_or_a_protocol_and_all() {
        let request =
            |fields: &[_], connect| reading(fields).into_request(connect, &mut Hosts::default());
        let connect = [(":method", "CONNECT"), (":authority", "a:1")];
        assert_eq!(request(&connect, false).unwrap().head.uri, "/");
        request(&connect[..1], false).unwrap_err();
        let with_path = [&connect[..], &[(":path", "/"), (":scheme", "http")]].concat();
        request(&with_path, false).unwrap_err();
        let extended = [&with_path[..], &[(":protocol", "websocket")]].concat();
        request(&extended, false).unwrap_err();
        let asked = request(&extended, true).unwrap();
        assert_eq!(asked.protocol.as_deref(), Some(&b"websocket"[..]));
    }

    #[test]
    fn there_are_limits() {
        let many = [("x-a", "1"); 7];
        assert_eq!(with(&many[..6]).unwrap().head.headers.len(), 7);
        assert_eq!(with(&many).unwrap_err(), BadBlock::TooMany);
        let long = "v".repeat(980).leak();
        assert_eq!(with(&[("x-a", long)]).unwrap_err(), BadBlock::TooLarge);
    }

    #[test]
    fn trailers_have_no_pseudo_headers() {
        let trailers = reading(&[("grpc-status", "0")]).into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        reading(&[(":path", "/")]).into_trailers().unwrap_err();
        reading(&[("connection", "close")])
            .into_trailers()
            .unwrap_err();
    }
}
