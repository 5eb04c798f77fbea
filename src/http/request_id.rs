//! `x-request-id`: a random UUID, version 4.

use http::HeaderValue;

/// A new identifier from 128 random bits.
pub fn generate(high: u64, low: u64) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // RFC 9562, 5.4: version 4 in the 13th digit, variant 10 in the 17th.
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let bits = (u128::from(high) << 64) | u128::from(low);
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, slot) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            *slot = DIGITS[(bits >> shift) as usize & 15];
        }
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
