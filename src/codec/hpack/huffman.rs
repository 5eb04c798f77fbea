//! The Huffman code of header strings (RFC 7541, 5.2).
//!
//! The code is canonical: among codes of one length those of greater symbols are
//! greater, and each length goes on where the shorter one ended. So the lengths are
//! all there is to it, and both directions are computed from them.

use bytes::BytesMut;

/// The end of a string, which is never written.
const EOS: usize = 256;
/// The longest code.
const LONGEST: usize = 30;
/// Codes this long are found by one look; they are those of what headers hold.
const FAST: u32 = 10;

/// The bits of each symbol's code (RFC 7541, appendix B).
const LENGTHS: [u8; EOS + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

struct Code {
    /// Of each symbol.
    codes: [u32; EOS + 1],
    /// The symbols by their codes.
    order: [u16; EOS + 1],
    /// For each length, the first code that is longer, if it stood at the left of
    /// 32 bits.
    ends: [u32; LONGEST + 1],
    /// For each length, what to add to a code for its place in `order`.
    offsets: [i32; LONGEST + 1],
}

const fn code() -> Code {
    let mut code = Code {
        codes: [0; EOS + 1],
        order: [0; EOS + 1],
        ends: [0; LONGEST + 1],
        offsets: [0; LONGEST + 1],
    };
    let (mut next, mut placed, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        code.offsets[length] = placed as i32 - next as i32;
        let mut symbol = 0;
        while symbol <= EOS {
            if LENGTHS[symbol] as usize == length {
                code.codes[symbol] = next;
                code.order[placed] = symbol as u16;
                next += 1;
                placed += 1;
            }
            symbol += 1;
        }
        // The very last code ends where 32 bits do.
        code.ends[length] = (next << (31 - length)).wrapping_mul(2);
        length += 1;
    }
    code
}

/// For each beginning of so many bits, the symbol it begins with and the bits that
/// takes; no bits where the symbol takes more.
const fn fast() -> [(u8, u8); 1 << FAST] {
    let mut fast = [(0, 0); 1 << FAST];
    let mut symbol = 0;
    while symbol < EOS {
        let length = LENGTHS[symbol] as u32;
        if length <= FAST {
            let first = CODE.codes[symbol] << (FAST - length);
            let mut rest = 0;
            while rest < 1 << (FAST - length) {
                fast[(first + rest) as usize] = (symbol as u8, length as u8);
                rest += 1;
            }
        }
        symbol += 1;
    }
    fast
}

static CODE: Code = code();
static FAST_SYMBOLS: [(u8, u8); 1 << FAST] = fast();

/// Reads a string and puts it behind `out`. `None` when it is none: it holds the
/// end, or is not padded with the beginning of the end, or with too much of it.
pub fn decode(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.reserve(bytes.len() * 8 / 5);
    let mut rest = bytes.iter();
    // The bits that were read and not understood, at the left.
    let (mut bits, mut have) = (0_u64, 0_u32);
    loop {
        while have <= 56 {
            let Some(byte) = rest.next() else { break };
            bits |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        let (mut symbol, mut length) = FAST_SYMBOLS[(bits >> (64 - FAST)) as usize];
        if length == 0 {
            let head = (bits >> 32) as u32;
            let longer = (FAST as usize + 1..LONGEST).find(|length| head < CODE.ends[*length]);
            let at = longer.unwrap_or(LONGEST);
            let code = (head >> (32 - at)) as i32;
            let place = usize::try_from(code + CODE.offsets[at]).ok()?;
            let found = *CODE.order.get(place)?;
            match u8::try_from(found) {
                Ok(found) => symbol = found,
                // The end, or the beginning of it that pads.
                Err(_) => return is_padding(bits, have),
            }
            length = at as u8;
        }
        let length = u32::from(length);
        if length > have {
            return is_padding(bits, have);
        }
        out.push(symbol);
        bits <<= length;
        have -= length;
    }
}

/// Whether so many bits are what pads a string: fewer than a byte, all of them 1.
fn is_padding(bits: u64, have: u32) -> Option<()> {
    (have < 8 && bits >> 56 == 0xff_u64 << (8 - have) & 0xff).then_some(())
}

/// The bytes that [`encode`] needs for a string.
pub fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|b| usize::from(LENGTHS[usize::from(*b)]))
        .sum();
    bits.div_ceil(8)
}

/// Writes a string, in the bytes that [`encoded_len`] gives for it.
pub fn encode(text: &[u8], length: usize, out: &mut BytesMut) {
    let from = out.len();
    out.resize(from + length, 0);
    let mut places = out[from..].iter_mut();
    let mut put = |byte: u64| {
        if let Some(place) = places.next() {
            *place = byte as u8;
        }
    };
    let (mut bits, mut have) = (0_u64, 0_u32);
    for byte in text {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        bits = bits << length | u64::from(CODE.codes[usize::from(*byte)]);
        have += length;
        while have >= 8 {
            have -= 8;
            put(bits >> have);
        }
    }
    if have > 0 {
        let pad = 8 - have;
        put(bits << pad | ((1 << pad) - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode(text, encoded_len(text), &mut out);
        out.to_vec()
    }

    fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(bytes, &mut out).map(|()| out)
    }

    /// Bit by bit, by the definition.
    fn slowly_decoded(bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut out, mut code, mut length) = (Vec::new(), 0_u32, 0_u8);
        for bit in bytes
            .iter()
            .flat_map(|b| (0..8).rev().map(move |n| b >> n & 1))
        {
            code = code << 1 | u32::from(bit);
            length += 1;
            let found = (0..=EOS).find(|s| LENGTHS[*s] == length && CODE.codes[*s] == code);
            if let Some(symbol) = found {
                out.push(u8::try_from(symbol).ok()?);
                (code, length) = (0, 0);
            }
        }
        (length < 8 && code == (1 << length) - 1).then_some(out)
    }

    #[test]
    fn codes_are_those_of_the_specification() {
        for (symbol, code, length) in [
            (b'0', 0, 5),
            (b'a', 3, 5),
            (b' ', 0x14, 6),
            (b'_', 0x22, 6),
            (b'X', 0xfc, 8),
            (0, 0x1ff8, 13),
            (128, 0xf_ffe6, 20),
            (10, 0x3fff_fffc, 30),
            (22, 0x3fff_fffe, 30),
        ] {
            let at = usize::from(symbol);
            assert_eq!((CODE.codes[at], LENGTHS[at]), (code, length), "{symbol}");
        }
        assert_eq!(CODE.codes[EOS], 0x3fff_ffff);
    }

    #[test]
    fn strings_of_the_specification() {
        // RFC 7541, C.4 and C.6.
        for (text, code) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07abe941054d444a8200595040b8166e082a62d1bff",
            ),
        ] {
            let bytes = encoded(text.as_bytes());
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, code);
            assert_eq!(decoded(&bytes).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn what_is_padded_otherwise_is_refused() {
        assert_eq!(decoded(&[]).unwrap(), b"");
        // A whole byte of padding, zeros, and the end itself.
        assert_eq!(decoded(&[0x1f]).unwrap(), b"a");
        assert_eq!(decoded(&[0x1f, 0xff]), None);
        assert_eq!(decoded(&[0x18]), None);
        assert_eq!(decoded(&[0xff]), None);
        assert_eq!(decoded(&[0xff; 4]), None);
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc]), None);
    }

    proptest! {
        #[test]
        fn every_string_comes_back(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let bytes = encoded(&text);
            prop_assert_eq!(decoded(&bytes).unwrap(), text);
        }

        #[test]
        fn bytes_are_read_by_the_definition(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xff), 0xf0_u8..], 0..12),
        ) {
            prop_assert_eq!(decoded(&bytes), slowly_decoded(&bytes));
        }
    }
}
