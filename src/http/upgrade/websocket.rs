//! What a WebSocket's handshake has over HTTP/1 and not over HTTP/2 (RFC 8441, 5):
//! a key and the proof that it was read. Where the two meet, the side that
//! speaks HTTP/1 gets what it cannot do without.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderValue, header};

use crate::codec::Headers;

/// RFC 6455, 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

fn is_websocket(headers: &Headers) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    upgrade.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Gives a handshake that goes to a host of HTTP/1 a key, if it has none.
/// `random` gives random bits.
pub fn complete_request(headers: &mut Headers, mut random: impl FnMut() -> u64) {
    if !is_websocket(headers) || headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return;
    }
    let key = [random().to_be_bytes(), random().to_be_bytes()].concat();
    if let Ok(key) = HeaderValue::from_str(&BASE64_STANDARD.encode(key)) {
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
    }
}

/// Gives the answer to a client of HTTP/1 the proof that its key was read, where
/// the host was not told of it or has no need to prove it.
pub fn complete_answer(request: &Headers, answer: &mut Headers) {
    if !is_websocket(request) || answer.contains_key(header::SEC_WEBSOCKET_ACCEPT) {
        return;
    }
    if let Some(key) = request.get(header::SEC_WEBSOCKET_KEY)
        && let Ok(accept) = HeaderValue::from_str(&accept(key.as_bytes()))
    {
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
}

fn accept(key: &[u8]) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    BASE64_STANDARD.encode(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn websocket() -> Headers {
        let mut headers = Headers::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers
    }

    #[test]
    fn a_key_is_proven_as_the_protocol_says() {
        // RFC 6455, 1.3.
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let (mut request, mut answer) = (websocket(), Headers::new());
        complete_answer(&request, &mut answer);
        assert!(answer.is_empty(), "there is no key to prove");
        complete_request(&mut request, || 7);
        let key = request[header::SEC_WEBSOCKET_KEY].clone();
        complete_request(&mut request, || 8);
        assert_eq!(request[header::SEC_WEBSOCKET_KEY], key);
        complete_answer(&request, &mut answer);
        let proof = accept(key.as_bytes());
        assert_eq!(answer[header::SEC_WEBSOCKET_ACCEPT], proof.as_str());
    }
}
