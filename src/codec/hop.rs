//! What a head says about this hop: where its message ends, and what becomes of
//! its connection.
//!
//! It is noted while the headers are read, so that no header has to be looked up
//! for it; most messages have few of these.

use http::{HeaderName, HeaderValue, Version, header};

/// `connection` as some clients of proxies call it.
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What the `content-length` headers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// There is none.
    #[default]
    None,
    /// One header with this length.
    Once(u64),
    /// Several headers with the same length.
    Repeated(u64),
    /// Headers that disagree.
    Different,
    /// Something that is no length.
    Invalid,
}

impl Length {
    fn and(self, value: &HeaderValue) -> Self {
        let Some(length) = decimal(value.as_bytes()) else {
            return Self::Invalid;
        };
        match self {
            Self::None => Self::Once(length),
            Self::Once(other) | Self::Repeated(other) if other == length => Self::Repeated(length),
            Self::Once(_) | Self::Repeated(_) | Self::Different => Self::Different,
            Self::Invalid => Self::Invalid,
        }
    }
}

/// What the `transfer-encoding` headers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    /// There is none.
    #[default]
    None,
    /// One header, `chunked`.
    Chunked,
    /// Another coding, or more than one.
    Other,
}

/// What a header like `connection` says about keeping it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Persistence {
    close: bool,
    keep_alive: bool,
}

impl Persistence {
    fn note(&mut self, value: &HeaderValue) {
        if value.as_bytes() == b"keep-alive" {
            self.keep_alive = true;
            return;
        }
        for option in value.as_bytes().split(|b| *b == b',') {
            let option = option.trim_ascii();
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
}

/// The headers of a head that concern this hop alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopHeaders {
    /// `content-length`.
    pub length: Length,
    /// `transfer-encoding`.
    pub coding: Coding,
    /// `expect: 100-continue` and nothing else.
    pub expects_continue: bool,
    expects: bool,
    connection: Persistence,
    proxy_connection: Persistence,
}

impl HopHeaders {
    /// Takes note of a header, if it is one of them.
    pub(super) fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        if *name == header::CONTENT_LENGTH {
            self.length = self.length.and(value);
        } else if *name == header::CONNECTION {
            self.connection.note(value);
        } else if *name == header::TRANSFER_ENCODING {
            let chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            self.coding = match self.coding {
                Coding::None if chunked => Coding::Chunked,
                _ => Coding::Other,
            };
        } else if *name == header::EXPECT {
            // Among other expectations it is the upstream's to meet.
            let alone = !std::mem::replace(&mut self.expects, true);
            let continues = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            self.expects_continue = alone && continues;
        } else if *name == PROXY_CONNECTION {
            self.proxy_connection.note(value);
        }
    }

    /// Whether a client that sent this head means to keep the connection open
    /// after the message (RFC 9112, 9.3). Some say so in `proxy-connection`.
    pub fn client_keeps_alive(self, version: Version) -> bool {
        keeps_alive(
            version,
            Persistence {
                close: self.connection.close || self.proxy_connection.close,
                keep_alive: self.connection.keep_alive || self.proxy_connection.keep_alive,
            },
        )
    }

    /// Whether a host that sent this head means to keep the connection open after
    /// the message.
    pub fn host_keeps_alive(self, version: Version) -> bool {
        keeps_alive(version, self.connection)
    }
}

fn keeps_alive(version: Version, said: Persistence) -> bool {
    !said.close && (said.keep_alive || version == Version::HTTP_11)
}

/// Digits and nothing else (RFC 9110, 8.6).
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        n.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(headers: &[(HeaderName, &'static str)]) -> HopHeaders {
        let mut hop = HopHeaders::default();
        for (name, value) in headers {
            hop.note(name, &HeaderValue::from_static(value));
        }
        hop
    }

    #[test]
    fn lengths_are_digits_that_agree() {
        let length = |values: &[&'static str]| {
            let headers: Vec<_> = values
                .iter()
                .map(|v| (header::CONTENT_LENGTH, *v))
                .collect();
            hop(&headers).length
        };
        assert_eq!(length(&[]), Length::None);
        assert_eq!(length(&["12"]), Length::Once(12));
        assert_eq!(length(&["12", "012"]), Length::Repeated(12));
        assert_eq!(length(&["12", "13", "13"]), Length::Different);
        let max = "18446744073709551615";
        assert_eq!(length(&[max]), Length::Once(u64::MAX));
        for invalid in ["", "+1", "-1", "1 2", "0x1", "1,1", "18446744073709551616"] {
            assert_eq!(length(&[invalid]), Length::Invalid, "{invalid:?}");
            assert_eq!(length(&[invalid, "1"]), Length::Invalid, "{invalid:?}");
            assert_eq!(length(&["1", invalid]), Length::Invalid, "{invalid:?}");
        }
    }

    #[test]
    fn one_coding_is_known() {
        let coding = |values: &[&'static str]| {
            let headers: Vec<_> = values
                .iter()
                .map(|v| (header::TRANSFER_ENCODING, *v))
                .collect();
            hop(&headers).coding
        };
        assert_eq!(coding(&[]), Coding::None);
        assert_eq!(coding(&["Chunked"]), Coding::Chunked);
        assert_eq!(coding(&["chunked", "chunked"]), Coding::Other);
        assert_eq!(coding(&["gzip, chunked"]), Coding::Other);
    }

    #[test]
    fn close_is_stronger_than_keep_alive_and_the_version_decides_otherwise() {
        let keeps = |value, version| {
            let hop = hop(&[(header::CONNECTION, value)]);
            assert_eq!(
                hop.client_keeps_alive(version),
                hop.host_keeps_alive(version)
            );
            hop.host_keeps_alive(version)
        };
        assert!(keeps("te", Version::HTTP_11));
        assert!(!keeps("te", Version::HTTP_10));
        assert!(keeps("te, Keep-Alive", Version::HTTP_10));
        assert!(!keeps("keep-alive,CLOSE", Version::HTTP_11));
        let proxy = hop(&[(PROXY_CONNECTION, "close")]);
        assert!(!proxy.client_keeps_alive(Version::HTTP_11));
        assert!(proxy.host_keeps_alive(Version::HTTP_11));
    }
}
