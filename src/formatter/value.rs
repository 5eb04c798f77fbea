//! What an operator gives.

use super::time::{Instantaneous, TimeFormat};

/// The value of an operator for one stream.
#[derive(Debug)]
pub enum Value<'a> {
    /// There is none: `-` in text, `null` in JSON.
    Absent,
    /// Text that exists already.
    Text(&'a str),
    /// A header's value or a body, which need not be UTF-8.
    Bytes(&'a [u8]),
    /// Text made for the occasion.
    Owned(String),
    /// A number, which JSON writes without quotes.
    Number(u64),
    /// A moment, written as its format says.
    Time(&'a TimeFormat, Instantaneous),
}

impl<'a> Value<'a> {
    /// Empty text counts as absent.
    pub fn text(text: &'a str) -> Self {
        match text.is_empty() {
            true => Self::Absent,
            false => Self::Text(text),
        }
    }

    /// A number that may be unknown.
    pub fn number(number: Option<u64>) -> Self {
        number.map_or(Self::Absent, Self::Number)
    }

    /// Appends it, cut to `max` bytes; false when there was nothing.
    pub fn write(&self, out: &mut Vec<u8>, max: usize) -> bool {
        let start = out.len();
        match self {
            Self::Absent => return false,
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Owned(text) => out.extend_from_slice(text.as_bytes()),
            Self::Number(n) => {
                out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes());
            }
            Self::Time(format, at) => format.write(out, *at),
        }
        if out.len() - start > max {
            out.truncate(start + max);
        }
        true
    }
}
