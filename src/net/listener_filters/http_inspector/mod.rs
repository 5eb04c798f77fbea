//! `envoy.filters.listener.http_inspector`: whether a client in clear begins
//! with HTTP, and which version.

use std::sync::Arc;

use super::{
    Stop,
    start::{Look, look},
};
use crate::{
    api::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector as Message,
    model::Context,
    net::{ConnectionInfo, Plain, http2::PREFACE},
    stats,
};

crate::stat_table! {
    /// `http_inspector.`
    pub mod http_inspector_stats {
        counters { http10_found, http11_found, http2_found, http_not_found, read_error }
        gauges {}
        histograms {}
        texts {}
    }
}
use http_inspector_stats as names;

/// How much of a request line is waited for, in bytes.
const MAX_INSPECT: usize = 8 * 1024;

/// The filter.
#[derive(Debug)]
pub struct HttpInspector {
    stats: Arc<stats::Block>,
}

impl HttpInspector {
    /// Compiles the settings, of which there are none.
    pub fn compile(message: Message, cx: &Context<'_>) -> Self {
        let Message {} = message;
        Self {
            stats: cx.stats.block("http_inspector.", &names::TABLE),
        }
    }

    /// Notes the protocol the client speaks, unless it speaks TLS.
    ///
    /// # Errors
    /// When the connection has to be closed.
    pub async fn run(&self, stream: &Plain, info: &mut ConnectionInfo) -> Result<(), Stop> {
        if info.offers_tls {
            return Ok(());
        }
        let found = look(stream, MAX_INSPECT, |bytes| match inspect(bytes) {
            None if bytes.len() < MAX_INSPECT => Look::More,
            found => Look::Done(found),
        });
        let Some(found) = found.await? else {
            self.stats.inc(names::read_error);
            return Err(Stop::Refused("the request line is too long"));
        };
        let (counter, protocol) = match found {
            Found::Nothing => (names::http_not_found, None),
            Found::Http10 => (names::http10_found, Some("http/1.0")),
            Found::Http11 => (names::http11_found, Some("http/1.1")),
            Found::Http2 => (names::http2_found, Some("h2c")),
        };
        self.stats.inc(counter);
        if let Some(protocol) = protocol {
            info.application_protocols = Box::new([protocol.as_bytes().into()]);
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Http10,
    Http11,
    Http2,
}

/// Decides by the preface of HTTP/2 or by the first line; `None` until there is
/// enough of it.
fn inspect(bytes: &[u8]) -> Option<Found> {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return (common == PREFACE.len()).then_some(Found::Http2);
    }
    let method = bytes.iter().position(|b| !is_token(*b))?;
    // Only a space ends a method; nothing that follows can make it one.
    if method == 0 || bytes[method] != b' ' {
        return Some(Found::Nothing);
    }
    memchr::memchr(b'\n', bytes).map(|end| version(&bytes[..end]))
}

/// The version of a request line, which begins with a method and a space.
fn version(line: &[u8]) -> Found {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let (Some(_), Some(_), version) = (words.next(), words.next(), words.next()) else {
        return Found::Nothing;
    };
    match (version, words.next()) {
        (None, _) => Found::Http10,
        (Some(b"HTTP/1.1"), None) => Found::Http11,
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Found::Http10
        }
        _ => Found::Nothing,
    }
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_or_the_preface_decides() {
        assert_eq!(inspect(b"GET / HTTP/1.1\r\n"), Some(Found::Http11));
        assert_eq!(inspect(b"BREW /pot HTTP/1.1\n"), Some(Found::Http11));
        assert_eq!(inspect(b"GET / HTTP/1.0\r\nx"), Some(Found::Http10));
        assert_eq!(inspect(b"GET /\r\n"), Some(Found::Http10));
        assert_eq!(inspect(b"GET / HTTP/9.9\r\n"), Some(Found::Http10));
        assert_eq!(inspect(PREFACE), Some(Found::Http2));
        assert_eq!(inspect(b"PRI * HTTP/2.0\r\n\r\n"), None);
        assert_eq!(inspect(b"PRI /x HTTP/1.1\r\n"), Some(Found::Http11));
        assert_eq!(inspect(b"GET / HTTP/1."), None);
    }

    #[test]
    fn other_protocols_are_told_as_soon_as_possible() {
        assert_eq!(inspect(b"\r\nGET / HTTP/1.1\r\n"), Some(Found::Nothing));
        assert_eq!(inspect(b"\x16\x03\x01"), Some(Found::Nothing));
        assert_eq!(inspect(b"EHLO\r\n"), Some(Found::Nothing));
        assert_eq!(inspect(b"GET / HTTP/1.1 more\r\n"), Some(Found::Nothing));
        assert_eq!(inspect(b"GET / HTTX/1.1\r\n"), Some(Found::Nothing));
    }
}
