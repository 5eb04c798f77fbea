//! Header blocks onto the wire.

use std::{collections::VecDeque, hash::BuildHasher};

use bytes::{BufMut, BytesMut};
use foldhash::fast::FixedState;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{
    huffman,
    table::{OVERHEAD, STATIC, static_index},
};

/// Bytes of the table when the other side says nothing, and at most.
const TABLE_MAX: usize = 4096;
/// Names whose last value is remembered, at most.
const SLOTS: usize = 64;

/// Writes the header blocks of one direction of a connection.
///
/// It remembers the last value of each name, and a value that comes twice in a row
/// goes into the table the second time: what differs from message to message never
/// gets there, and one comparison tells whether a field stands in it.
#[derive(Debug)]
pub struct Encoder {
    slots: Slots,
    /// What each field in the table takes of it, the oldest first.
    sizes: VecDeque<usize>,
    size: usize,
    limit: usize,
    /// Fields that ever went into the table.
    inserted: u64,
    /// The smallest limit since the last block, when the next one has to tell.
    shrunk: Option<usize>,
}

#[derive(Debug)]
struct Slot {
    name: HeaderName,
    /// Of the name in the static table; otherwise 0.
    index: usize,
    /// Never to stand in a table, which others may probe for it.
    secret: bool,
    seen: Seen,
}

#[derive(Debug)]
enum Seen {
    /// The hash of the last value.
    Once(u64),
    /// The last value went into the table, as the field of this number.
    Kept(Box<[u8]>, u64),
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            sizes: VecDeque::new(),
            size: 0,
            limit: TABLE_MAX,
            inserted: 0,
            shrunk: None,
        }
    }
}

impl Encoder {
    /// Keeps to the `SETTINGS_HEADER_TABLE_SIZE` of the other side.
    pub fn set_limit(&mut self, limit: usize) {
        let limit = limit.min(TABLE_MAX);
        if limit != self.limit {
            self.shrunk = Some(self.shrunk.unwrap_or(limit).min(limit));
            self.limit = limit;
            self.evict(limit);
        }
    }

    /// Begins a block; to be called before all that is written of it.
    pub fn begin(&mut self, out: &mut BytesMut) {
        if let Some(least) = self.shrunk.take() {
            if least < self.limit {
                integer(least, 5, 0x20, out);
            }
            integer(self.limit, 5, 0x20, out);
        }
    }

    /// Writes the status.
    pub fn status(&mut self, status: StatusCode, out: &mut BytesMut) {
        let index = match status.as_u16() {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                integer(8, 4, 0, out);
                return string(status.as_str().as_bytes(), out);
            }
        };
        out.put_u8(0x80 | index);
    }

    /// Writes a header.
    pub fn header(&mut self, name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
        let bytes = value.as_bytes();
        let oldest = self.inserted - self.sizes.len() as u64;
        let slot = self.slots.of(name);
        let index = slot.index;
        let hash = match &slot.seen {
            Seen::Kept(kept, number) if *number >= oldest && **kept == *bytes => {
                let younger = (self.inserted - number) as usize;
                return integer(STATIC.len() + younger, 7, 0x80, out);
            }
            _ if slot.secret || value.is_sensitive() => {
                return literal(index, 4, 0x10, name, bytes, out);
            }
            Seen::Kept(..) => None,
            Seen::Once(hash) => Some(*hash),
        };
        let again = FixedState::default().hash_one(bytes);
        let size = name.as_str().len() + bytes.len() + OVERHEAD;
        if hash != Some(again) || size > self.limit / 2 {
            slot.seen = Seen::Once(again);
            return literal(index, 4, 0, name, bytes, out);
        }
        slot.seen = Seen::Kept(bytes.into(), self.inserted);
        self.evict(self.limit - size);
        self.sizes.push_back(size);
        self.size += size;
        self.inserted += 1;
        literal(index, 6, 0x40, name, bytes, out);
    }

    fn evict(&mut self, limit: usize) {
        while self.size > limit
            && let Some(size) = self.sizes.pop_front()
        {
            self.size -= size;
        }
    }
}

/// Where the last value of each name is remembered. Names that share a place forget
/// each other's.
#[derive(Debug)]
struct Slots {
    /// For each place, 0 or the number of its slot.
    places: [u8; SLOTS],
    slots: Vec<Slot>,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            places: [0; SLOTS],
            slots: Vec::new(),
        }
    }
}

impl Slots {
    fn of(&mut self, name: &HeaderName) -> &mut Slot {
        let place = &mut self.places[place(name.as_str().as_bytes())];
        if *place == 0 {
            self.slots.push(Slot::new(name));
            *place = self.slots.len() as u8;
        }
        let slot = &mut self.slots[usize::from(*place) - 1];
        if slot.name != *name {
            *slot = Slot::new(name);
        }
        slot
    }
}

/// The place of a name: by its length and three of its letters, and by a factor that
/// keeps the names apart that most responses have.
fn place(name: &[u8]) -> usize {
    let (Some(first), Some(last)) = (name.first(), name.last()) else {
        return 0;
    };
    let letters = [name.len() as u8, *first, name[name.len() / 2], *last];
    let mixed = u32::from_le_bytes(letters).wrapping_mul(1_851_772_923);
    (mixed >> (u32::BITS - SLOTS.trailing_zeros())) as usize
}

impl Slot {
    fn new(name: &HeaderName) -> Self {
        Self {
            index: static_index(name).unwrap_or(0),
            secret: [
                header::AUTHORIZATION,
                header::PROXY_AUTHORIZATION,
                header::COOKIE,
                header::SET_COOKIE,
            ]
            .contains(name),
            name: name.clone(),
            // What is no value's hash will be met rarely, and do no harm.
            seen: Seen::Once(0),
        }
    }
}

/// Writes a field by its value, whose name stands at an index if not 0.
fn literal(
    index: usize,
    prefix: u32,
    kind: u8,
    name: &HeaderName,
    value: &[u8],
    out: &mut BytesMut,
) {
    integer(index, prefix, kind, out);
    if index == 0 {
        string(name.as_str().as_bytes(), out);
    }
    string(value, out);
}

/// Writes an integer that shares its first byte with `first` (RFC 7541, 5.1).
fn integer(value: usize, prefix: u32, first: u8, out: &mut BytesMut) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        return out.put_u8(first | value as u8);
    }
    out.put_u8(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Writes a string, in the shorter form (RFC 7541, 5.2).
fn string(text: &[u8], out: &mut BytesMut) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        integer(coded, 7, 0x80, out);
        huffman::encode(text, coded, out);
    } else {
        integer(text.len(), 7, 0, out);
        out.put_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::hpack::{Decoder, Field};
    use proptest::prelude::*;

    fn block(encoder: &mut Encoder, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut out = BytesMut::new();
        encoder.begin(&mut out);
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            let value = HeaderValue::from_str(value).unwrap();
            encoder.header(&name, &value, &mut out);
        }
        out.to_vec()
    }

    #[test]
    fn what_comes_again_becomes_an_index() {
        let mut encoder = Encoder::default();
        let server = [("server", "envoy")];
        let lengths: Vec<_> = (0..4).map(|_| block(&mut encoder, &server).len()).collect();
        assert_eq!(lengths, [7, 6, 1, 1]);
        // Another value leaves the one in the table where it is, but is not it.
        assert!(block(&mut encoder, &[("server", "other")]).len() > 1);
        assert!(block(&mut encoder, &server).len() > 1);
    }

    #[test]
    fn usual_names_have_places_of_their_own() {
        let mut places = [
            "server",
            "date",
            "content-type",
            "content-length",
            "cache-control",
            "etag",
            "vary",
            "x-envoy-upstream-service-time",
            "last-modified",
            "content-encoding",
            "location",
            "expires",
            "x-request-id",
            "accept-ranges",
            "age",
            "via",
            "grpc-status",
        ]
        .map(|name| place(name.as_bytes()));
        places.sort_unstable();
        assert!(
            places.windows(2).all(|pair| pair[0] != pair[1]),
            "{places:?}"
        );
    }

    #[test]
    fn secrets_never_stand_in_a_table() {
        let mut encoder = Encoder::default();
        let cookie = [("set-cookie", "a=b")];
        for _ in 0..3 {
            assert_eq!(block(&mut encoder, &cookie)[0], 0x10 | 0x0f);
        }
        assert_eq!(encoder.inserted, 0);
    }

    #[test]
    fn a_smaller_table_is_told_of_once() {
        let mut encoder = Encoder::default();
        encoder.set_limit(0);
        encoder.set_limit(100);
        assert_eq!(block(&mut encoder, &[]), [0x20, 0x3f, 69]);
        assert!(block(&mut encoder, &[]).is_empty());
        // There is no more than the usual.
        encoder.set_limit(1 << 20);
        assert_eq!(block(&mut encoder, &[]), [0x3f, 0xe1, 0x1f]);
    }

    #[test]
    fn statuses() {
        for status in [200, 204, 206, 304, 400, 404, 500, 503, 999] {
            let (mut out, mut decoder) = (BytesMut::new(), Decoder::default());
            let status = StatusCode::from_u16(status).unwrap();
            Encoder::default().status(status, &mut out);
            let mut read = Vec::new();
            decoder.decode(&out, |field| read.push(field)).unwrap();
            let text = bytes::Bytes::copy_from_slice(status.as_str().as_bytes());
            assert_eq!(read, [Field::Pseudo(super::super::Pseudo::Status, text)]);
        }
    }

    proptest! {
        /// Few names and values, so that they come again; small tables, so that
        /// they have to go.
        #[test]
        fn every_block_comes_back(
            blocks in proptest::collection::vec(
                (
                    proptest::option::of(0_usize..400),
                    proptest::collection::vec((0_u8..12, 0_usize..4, 0_usize..3), 0..12),
                ),
                0..20,
            ),
        ) {
            let names = [
                "server", "date", "set-cookie", "x-a", "x-b", "content-length", "via", "x-longer-name",
                "etag", "vary", "location", "x-c",
            ];
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for (limit, fields) in blocks {
                limit.into_iter().for_each(|limit| encoder.set_limit(limit));
                let mut out = BytesMut::new();
                encoder.begin(&mut out);
                let mut expected = Vec::new();
                for (name, value, length) in fields {
                    let name = HeaderName::from_static(names[usize::from(name)]);
                    let value = value.to_string().repeat(1 + length * 60);
                    let value = HeaderValue::from_str(&value).unwrap();
                    encoder.header(&name, &value, &mut out);
                    expected.push(Field::Header(name, value));
                }
                let mut read = Vec::new();
                decoder.decode(&out, |field| read.push(field)).unwrap();
                prop_assert_eq!(read, expected);
            }
        }
    }
}
