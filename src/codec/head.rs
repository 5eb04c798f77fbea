//! Header lines off the wire.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

use super::{Headers, HopHeaders, Malformed, NameFormat, Spelling, names};

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

/// The headers of a head, with room for so many more, and what they say about
/// this hop. Their values stay where they are.
///
/// # Errors
/// When a name or a value holds what none may.
pub fn headers(
    head: &Bytes,
    places: &Places,
    room: usize,
) -> Result<(Headers, HopHeaders), Malformed> {
    let mut headers = Headers::with_capacity(places.len() + room);
    let mut hop = HopHeaders::default();
    for place in places {
        let name = names::name(&head[place.name()]);
        let value = HeaderValue::from_maybe_shared(head.slice(place.value()));
        let (Some(name), Ok(value)) = (name, value) else {
            return Err(Malformed("header"));
        };
        hop.note(&name, &value);
        headers.append(name, value);
    }
    Ok((headers, hop))
}

/// The names of a head as they stand there, where that is to be remembered.
pub fn spelling(head: &Bytes, places: &Places, format: NameFormat) -> Option<Box<Spelling>> {
    let NameFormat::Preserve(preserve) = format else {
        return None;
    };
    let names = places.iter().map(|place| head.slice(place.name()));
    Some(Box::new(Spelling::new(names.collect(), preserve)))
}
