//! What is written in the same way by either side.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Case, Headers};

/// Writes a line for each header.
pub fn lines(headers: &Headers, case: Case<'_>, out: &mut BytesMut) {
    match case {
        Case::Lower => headers
            .iter()
            .for_each(|(name, value)| line(name, value, out)),
        case => headers.iter().for_each(|(name, value)| {
            case.put(name, out);
            end_line(value, out);
        }),
    }
}

fn line(name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
    out.put_slice(name.as_str().as_bytes());
    end_line(value, out);
}

fn end_line(value: &HeaderValue, out: &mut BytesMut) {
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

/// Writes the line before a chunk.
pub fn chunk_size(n: usize, out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut line = [0; 18];
    let mut at = line.len() - 2;
    line[at..].copy_from_slice(b"\r\n");
    let mut rest = n;
    loop {
        at -= 1;
        line[at] = DIGITS[rest & 15];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.put_slice(&line[at..]);
}

/// Writes the end of a chunked body. Names in trailers are in lower case always.
pub fn last_chunk(trailers: &HeaderMap, out: &mut BytesMut) {
    out.put_slice(b"0\r\n");
    trailers
        .iter()
        .for_each(|(name, value)| line(name, value, out));
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for (n, line) in [(1, "1\r\n"), (0x1f, "1f\r\n"), (65536, "10000\r\n")] {
            let mut out = BytesMut::new();
            chunk_size(n, &mut out);
            assert_eq!(out, line);
        }
        let mut out = BytesMut::new();
        chunk_size(usize::MAX, &mut out);
        assert_eq!(out, "ffffffffffffffff\r\n");
    }
}
