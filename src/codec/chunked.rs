//! The chunked transfer coding, read as it comes.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;

/// Bytes of one chunk-size line, extensions included, at most.
const SIZE_LINE_MAX: usize = 4 * 1024;
/// Bytes of all trailers, at most.
const TRAILERS_MAX: usize = 60 * 1024;
/// Trailers, at most.
const TRAILERS_COUNT_MAX: usize = 100;

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
}

/// Reads one chunked body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChunkedDecoder {
    state: State,
}

/// What [`ChunkedDecoder::decode`] found.
#[derive(Debug)]
pub enum Step {
    /// Bytes of the body.
    Data(Bytes),
    /// The end, with trailers.
    Trailers(HeaderMap),
    /// The end.
    End,
    /// More bytes have to be read first.
    More,
}

impl ChunkedDecoder {
    /// Takes the next data or the end off the buffer.
    ///
    /// # Errors
    /// When what is there can be read in two ways or exceeds a limit.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match self.state {
                State::Size => match size_line(buffer)? {
                    None => return Ok(Step::More),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Data(size),
                },
                State::Data(left) => {
                    let n = buffer
                        .len()
                        .min(usize::try_from(left).unwrap_or(usize::MAX));
                    if n == 0 {
                        return Ok(Step::More);
                    }
                    let data = buffer.split_to(n).freeze();
                    self.state = match left - n as u64 {
                        0 => State::DataEnd,
                        left => State::Data(left),
                    };
                    return Ok(Step::Data(data));
                }
                State::DataEnd => {
                    if buffer.len() < 2 {
                        return Ok(Step::More);
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err(Malformed("end of chunk"));
                    }
                    buffer.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => return trailers(buffer),
            }
        }
    }

    /// As [`decode`](Self::decode), but only over the end of a chunk and of the
    /// body, never into the next data or into trailers.
    ///
    /// # Errors
    /// None: what is not the end is left to `decode`.
    pub fn decode_end(&mut self, buffer: &mut BytesMut) -> Result<Step, Malformed> {
        if self.state == State::DataEnd && &buffer[..] == b"\r\n0\r\n\r\n" {
            buffer.clear();
            self.state = State::Trailers;
            return Ok(Step::End);
        }
        Ok(Step::More)
    }
}

/// Takes a chunk-size line off the buffer.
fn size_line(buffer: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return match buffer.len() > SIZE_LINE_MAX {
            true => Err(Malformed("chunk size line too long")),
            false => Ok(None),
        };
    };
    let line = &buffer[..end];
    let line = line
        .strip_suffix(b"\r")
        .ok_or(Malformed("chunk size line"))?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let extension = line[digits..].trim_ascii_start();
    let valid = (1..=16).contains(&digits)
        && line.len() <= SIZE_LINE_MAX
        && (extension.is_empty() || extension[0] == b';')
        && !line.contains(&b'\r');
    if !valid {
        return Err(Malformed("chunk size line"));
    }
    let size = line[..digits].iter().fold(0u64, |size, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        (size << 4) | u64::from(digit)
    });
    buffer.advance(end + 1);
    Ok(Some(size))
}

fn trailers(buffer: &mut BytesMut) -> Result<Step, Malformed> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Step::End);
    }
    let mut slots = [httparse::EMPTY_HEADER; TRAILERS_COUNT_MAX];
    match httparse::parse_headers(buffer, &mut slots) {
        Ok(httparse::Status::Complete((length, headers))) => {
            let mut trailers = HeaderMap::with_capacity(headers.len());
            for header in headers {
                let name = HeaderName::from_bytes(header.name.as_bytes());
                let value = HeaderValue::from_bytes(header.value);
                let (Ok(name), Ok(value)) = (name, value) else {
                    return Err(Malformed("trailers"));
                };
                trailers.append(name, value);
            }
            buffer.advance(length);
            Ok(Step::Trailers(trailers))
        }
        Ok(httparse::Status::Partial) if buffer.len() <= TRAILERS_MAX => Ok(Step::More),
        _ => Err(Malformed("trailers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(input: &[u8], pieces: usize) -> Result<(Vec<u8>, HeaderMap, usize), Malformed> {
        let mut decoder = ChunkedDecoder::default();
        let mut buffer = BytesMut::new();
        let mut rest = input;
        let mut body = Vec::new();
        loop {
            match decoder.decode(&mut buffer)? {
                Step::Data(data) => body.extend_from_slice(&data),
                Step::Trailers(trailers) => return Ok((body, trailers, buffer.len() + rest.len())),
                Step::End => return Ok((body, HeaderMap::new(), buffer.len() + rest.len())),
                Step::More if rest.is_empty() => return Err(Malformed("incomplete")),
                Step::More => {
                    let (piece, later) = rest.split_at(pieces.min(rest.len()));
                    buffer.extend_from_slice(piece);
                    rest = later;
                }
            }
        }
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        let input = b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-T: 1\r\n\r\nnext";
        for pieces in 1..input.len() {
            let (body, trailers, left) = read(input, pieces).unwrap();
            assert_eq!(body, b"abcdefg");
            assert_eq!(trailers["x-t"], "1");
            assert!(left >= 4);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for input in [
            "3\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "3 a\r\nabc\r\n0\r\n\r\n",
            "\r\nabc\r\n0\r\n\r\n",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
        ] {
            assert!(
                read(input.as_bytes(), 99).is_err_and(|e| e.0 != "incomplete"),
                "{input:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(input in proptest::collection::vec(any::<u8>(), 0..200), pieces in 1usize..50) {
            // Either outcome is fine; it must not panic nor loop.
            drop(read(&input, pieces));
        }

        #[test]
        fn any_body_comes_through(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10), pieces in 1usize..50) {
            let mut input = BytesMut::new();
            for chunk in &chunks {
                super::super::encode::chunk_size(chunk.len(), &mut input);
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            super::super::encode::last_chunk(&HeaderMap::new(), &mut input);
            let (body, _, left) = read(&input, pieces).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(left, 0);
        }
    }
}
