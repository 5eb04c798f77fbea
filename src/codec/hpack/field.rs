//! What a header block is made of.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

/// A pseudo header (RFC 9113, 8.3; RFC 8441, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudo {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`
    Authority,
    /// `:path`
    Path,
    /// `:protocol`
    Protocol,
    /// `:status`
    Status,
}

impl Pseudo {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Status => ":status",
        }
    }

    fn from_bytes(name: &[u8]) -> Option<Self> {
        Some(match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            _ => return None,
        })
    }
}

/// The name of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Pseudo(Pseudo),
    Header(HeaderName),
    /// No name that a message could have, and its length.
    Invalid(usize),
}

impl Name {
    /// A name as it stands on the wire, where upper case is none.
    pub(super) fn from_bytes(name: &[u8]) -> Self {
        let pseudo = name.first() == Some(&b':');
        let known = match pseudo {
            true => Pseudo::from_bytes(name).map(Self::Pseudo),
            false => HeaderName::from_lowercase(name).ok().map(Self::Header),
        };
        known.unwrap_or(Self::Invalid(name.len()))
    }
}

/// One field of a message, as cheap to clone as its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A pseudo header.
    Pseudo(Pseudo, Bytes),
    /// A header.
    Header(HeaderName, HeaderValue),
    /// What no message may have: a name in upper case, or a value with a line's end.
    /// The lengths of name and value.
    Invalid(usize, usize),
}

impl Field {
    /// The field of this name with a copy of a value.
    pub(super) fn new(name: Name, value: &[u8]) -> Self {
        match name {
            Name::Pseudo(pseudo) => Self::Pseudo(pseudo, Bytes::copy_from_slice(value)),
            Name::Header(name) => match HeaderValue::from_bytes(value) {
                Ok(value) => Self::Header(name, value),
                Err(_) => Self::Invalid(name.as_str().len(), value.len()),
            },
            Name::Invalid(length) => Self::Invalid(length, value.len()),
        }
    }

    pub(super) fn name(&self) -> Name {
        match self {
            Self::Pseudo(pseudo, _) => Name::Pseudo(*pseudo),
            Self::Header(name, _) => Name::Header(name.clone()),
            Self::Invalid(name, _) => Name::Invalid(*name),
        }
    }

    /// Bytes of its name and value.
    pub fn size(&self) -> usize {
        match self {
            Self::Pseudo(pseudo, value) => pseudo.as_str().len() + value.len(),
            Self::Header(name, value) => name.as_str().len() + value.len(),
            Self::Invalid(name, value) => name + value,
        }
    }
}
