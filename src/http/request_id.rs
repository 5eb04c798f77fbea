//! `x-request-id`: a random UUID, version 4.

use http::HeaderValue;

/// Each byte as two digits.
const PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// A new identifier from 128 random bits.
pub fn generate(high: u64, low: u64) -> HeaderValue {
    // RFC 9562, 5.4: version 4 in the 13th digit, variant 10 in the 17th.
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let mut text = [b'-'; 36];
    for (byte, at) in high.to_be_bytes().iter().zip([0, 2, 4, 6, 9, 11, 14, 16]) {
        text[at..at + 2].copy_from_slice(&PAIRS[usize::from(*byte)]);
    }
    for (byte, at) in low
        .to_be_bytes()
        .iter()
        .zip([19, 21, 24, 26, 28, 30, 32, 34])
    {
        text[at..at + 2].copy_from_slice(&PAIRS[usize::from(*byte)]);
    }
    HeaderValue::from_bytes(&text).expect("digits and dashes can stand in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_version_4_uuid() {
        assert_eq!(generate(0, 0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(
            generate(u64::MAX, u64::MAX),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        assert_eq!(
            generate(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef),
            "01234567-89ab-4def-8123-456789abcdef"
        );
    }
}
