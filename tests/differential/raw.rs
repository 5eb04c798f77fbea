//! Bytes as they stand, through the real Envoy and through nuncio: what one
//! takes, the other must take in the same way. What could be read in two ways is
//! where requests are smuggled, so nuncio may refuse more, never take more.

use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use serde_json::json;

use crate::One;
use crate::common::client::{Reply, raw};
use crate::common::config::cluster;
use crate::common::{Origin, Program};
use crate::compare::difference;

/// How long a proxy that says nothing more is listened to.
const SILENCE: Duration = Duration::from_millis(1500);

/// Both must answer alike, and an origin must see the same.
const ALIKE: &[&[u8]] = &[
    // Request lines.
    b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b" GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"garbage\r\n\r\n",
    b"get / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"G@T / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"FOO / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"PURGE / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"PRI * HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /\r\nhost: a\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / http/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.10\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.2\r\nhost: a\r\n\r\n",
    b"GET / HTTP/2.0\r\nhost: a\r\n\r\n",
    b"GET / HTTP/0.9\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nhost: a\r\n\r\n",
    // Targets.
    b"GET foo HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET * HTTP/1.1\r\nhost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET http://x.example/y?z HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET http://x.example HTTP/1.1\r\nhost: a\r\n\r\n",
    b"CONNECT /x HTTP/1.1\r\nhost: a\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /#part HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /\x7f HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /\xc3\xa9 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /%2e%2e/\"^{|} HTTP/1.1\r\nhost: a\r\n\r\n",
    // Hosts.
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: \r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
    // Header lines.
    b"GET / HTTP/1.1\r\nhost: a\r\nx: b\0c\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx: b\x01c\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx: b\tc\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx\x01: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx : b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx y: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx(y: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx:\r\ny:   b  \r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx_y: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nX-Mixed-Case: B\r\n\r\n",
    b"GET / HTTP/1.1\r\n x: b\r\nhost: a\r\n\r\n",
    // Lengths.
    b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 003\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3a\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551616\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999999\r\n\r\nabc",
    // Codings.
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\ncontent-length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    // Chunks.
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n03\r\nabc\r\n00\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcX0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
    // More than one request, and what is between.
    b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\ngarbage\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nhost: a\r\nx-origin-size: 5\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nhost: a\r\nexpect: other\r\ncontent-length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n",
];

/// Envoy takes these in some way; nuncio refuses them, and no origin sees them.
const REFUSED: &[&[u8]] = &[
    // A host of two.
    b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    // A path of what stands around paths (RFC 3986, appendix C).
    b"GET /<x> HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /`x HTTP/1.1\r\nhost: a\r\n\r\n",
    // Lines that another reader takes for two, or for one.
    b"GET / HTTP/1.1\r\nhost: a\r\nx: b\r\n c\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx: b\rc\r\n\r\n",
    b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
    b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
];

#[tokio::test]
async fn nuncio_takes_no_bytes_that_envoy_refuses() {
    let Some(envoy) = Program::oracle() else {
        println!("skipped: NUNCIO_ORACLE_ENVOY does not name an Envoy binary");
        return;
    };
    let origin = Origin::http("one").await;
    let manager = json!({"route_config": {"name": "local", "virtual_hosts": [{
        "name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "one"}}],
    }]}});
    let clusters = [cluster("one", &[origin.port()])];
    let envoy = One::start(&envoy, &manager, &clusters).await;
    let nuncio = One::start(&Program::under_test(), &manager, &clusters).await;

    let mut found = Vec::new();
    let alike = join_all(ALIKE.iter().map(|bytes| async {
        let (theirs, ours) = tokio::join!(answers(&envoy, bytes), answers(&nuncio, bytes));
        if theirs.len() != ours.len() {
            return Some(format!("Envoy answers {theirs:?}, nuncio {ours:?}"));
        }
        let pairs = theirs.into_iter().zip(ours);
        let differing = pairs.filter_map(|(theirs, ours)| difference(&Ok(theirs), &Ok(ours)));
        let differing: Vec<_> = differing.collect();
        (!differing.is_empty()).then(|| differing.join("\n"))
    }));
    for (bytes, differing) in ALIKE.iter().zip(alike.await) {
        found.extend(differing.map(|how| format!("{}\n{how}", bytes.escape_ascii())));
    }
    let refused = join_all(REFUSED.iter().map(|bytes| answers(&nuncio, bytes)));
    for (bytes, answers) in REFUSED.iter().zip(refused.await) {
        if !matches!(&answers[..], [one] if one.status == 400 && one.header("connection") == "close")
        {
            found.push(format!(
                "{}: not refused: {answers:?}",
                bytes.escape_ascii()
            ));
        }
    }
    assert!(
        found.is_empty(),
        "{} differ:\n\n{}",
        found.len(),
        found.join("\n\n")
    );
}

/// The answers to some bytes, one after the other.
async fn answers(to: &One, bytes: &[u8]) -> Vec<Reply> {
    let received = raw(to.port.number(), bytes, SILENCE).await;
    let received = received.unwrap_or_default();
    let mut rest = &received[..];
    let head_only = bytes.starts_with(b"HEAD ");
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let (reply, length) = answer(rest, head_only);
        answers.push(reply);
        rest = &rest[length..];
    }
    answers
}

/// The first answer of some bytes, and its length.
fn answer(bytes: &[u8], head_only: bool) -> (Reply, usize) {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut slots);
    let Ok(httparse::Status::Complete(head)) = response.parse(bytes) else {
        panic!("no answer: {}", bytes.escape_ascii());
    };
    let mut headers = HeaderMap::new();
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).expect("a name");
        headers.append(
            name,
            HeaderValue::from_bytes(header.value).expect("a value"),
        );
    }
    let status = StatusCode::from_u16(response.code.expect("a status")).expect("a status");
    let length = headers.get("content-length").filter(|_| !head_only);
    let length = length.map_or(0, |length| {
        length
            .to_str()
            .expect("digits")
            .parse::<usize>()
            .expect("digits")
    });
    let body = bytes[head..head + length].to_vec();
    let version = Version::HTTP_11;
    let reply = Reply {
        version,
        status,
        headers,
        body: body.into(),
    };
    (reply, head + length)
}
