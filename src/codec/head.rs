//! Header lines off the wire.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::Malformed;

/// Headers parsed without an allocation; a message with more is parsed again
/// with room up to its limit.
pub const USUAL_HEADERS: usize = 32;

/// Where the headers of a head stand in its buffer.
pub type Places = smallvec::SmallVec<[Place; USUAL_HEADERS]>;

/// Where one header stands: its name and its value. A head is far shorter than
/// 4 GiB.
#[derive(Clone, Copy, Debug)]
pub struct Place([u32; 4]);

impl Place {
    /// The place of a header that was parsed from `buffer`.
    pub fn of(buffer: &[u8], header: &httparse::Header<'_>) -> Self {
        let name = place_in(buffer, header.name.as_bytes());
        let value = place_in(buffer, header.value);
        Self([name.start, name.end, value.start, value.end].map(|at| at as u32))
    }

    fn name(self) -> Range<usize> {
        self.0[0] as usize..self.0[1] as usize
    }

    fn value(self) -> Range<usize> {
        self.0[2] as usize..self.0[3] as usize
    }
}

/// Where a part of a buffer stands in it.
pub fn place_in(buffer: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - buffer.as_ptr() as usize;
    start..start + part.len()
}

/// Which headers there are of those that say how a message ends and what becomes
/// of its connection: most messages have few of them, and need not be asked for
/// the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// `content-length`.
    pub length: bool,
    /// `transfer-encoding`.
    pub coding: bool,
    /// `connection` or `proxy-connection`.
    pub connection: bool,
    /// `expect`.
    pub expect: bool,
}

impl Marks {
    fn note(&mut self, name: &HeaderName) {
        match name.as_str() {
            "content-length" => self.length = true,
            "transfer-encoding" => self.coding = true,
            "connection" | "proxy-connection" => self.connection = true,
            "expect" => self.expect = true,
            _ => {}
        }
    }
}

/// The headers of a head, with room for so many more. Their values stay where
/// they are.
///
/// # Errors
/// When a name or a value holds what none may.
pub fn headers(
    head: &Bytes,
    places: &Places,
    room: usize,
) -> Result<(HeaderMap, Marks), Malformed> {
    let mut headers = HeaderMap::with_capacity(places.len() + room);
    let mut marks = Marks::default();
    for place in places {
        let name = HeaderName::from_bytes(&head[place.name()]);
        let value = HeaderValue::from_maybe_shared(head.slice(place.value()));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Malformed("header"));
        };
        marks.note(&name);
        headers.append(name, value);
    }
    Ok((headers, marks))
}

/// Whether who sent a head means to keep the connection open after the message
/// (RFC 9112, 9.3). `names` are those of the headers that say so.
pub fn keeps_alive(
    version: Version,
    headers: &HeaderMap,
    marks: Marks,
    names: &[HeaderName],
) -> bool {
    let mut keeps = version == Version::HTTP_11;
    if !marks.connection {
        return keeps;
    }
    for value in names.iter().flat_map(|name| headers.get_all(name)) {
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
