//! HTTP/1 to the letter: bytes in, bytes out.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::client::{dial, raw};
use crate::common::config::{cluster, route};
use crate::common::{Origin, Site, Value, json};

/// Silence after which a connection has said all it had to say.
const SILENCE: Duration = Duration::from_millis(300);

async fn site(fields: Value) -> (Site, Origin) {
    let origin = Origin::http("origin").await;
    let clusters = vec![cluster("origin", &[origin.port()])];
    let site = Site::manager(fields, vec![route("/", "origin")], clusters).await;
    (site, origin)
}

async fn answer(site: &Site, bytes: &[u8]) -> String {
    let answer = raw(site.port.number(), bytes, SILENCE)
        .await
        .expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_reaches_nobody() {
    let (site, origin) = site(json!({})).await;
    for (status, bytes) in [
        (
            400,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 3\r\n\r\nabc",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\nabc",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\nabc",
        ),
        (
            501,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            501,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcX0\r\n\r\n",
        ),
        (400, "GET / HTTP/1.1\r\nhost: a\r\na : b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\na: b\0c\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\na: b\r\n c\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET foo HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "GET * HTTP/1.1\r\nhost: a\r\n\r\n"),
        (404, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "CONNECT /x HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "GET /#f HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "GET /é HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "FOO / HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "get / HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, " GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
        (426, "GET / HTTP/1.0\r\nhost: a\r\n\r\n"),
        (426, "GET / HTTP/1.2\r\nhost: a\r\n\r\n"),
        (426, "GET /\r\nhost: a\r\n\r\n"),
    ] {
        let text = answer(&site, bytes.as_bytes()).await;
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{bytes:?}: {text:?}"
        );
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{bytes:?}: {text:?}");
        if status != 404 {
            assert!(
                text.contains("\r\nconnection: close\r\n"),
                "{bytes:?}: {text:?}"
            );
        }
    }
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (site, _origin) = site(json!({})).await;
    let mut bytes = Vec::new();
    for n in 0..20 {
        bytes.extend_from_slice(
            format!("POST /{n} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").as_bytes(),
        );
    }
    let text = answer(&site, &bytes).await;
    let places: Vec<_> = (0..20)
        .map(|n| text.find(&format!("\"/{n}\"")).expect("an answer"))
        .collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on() {
    let (site, _origin) = site(json!({})).await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    let head = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.unwrap();
    let mut status = [0; 15];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn http_10_is_spoken_when_accepted() {
    let (site, _origin) = site(json!({ "http_protocol_options": {
        "accept_http_10": true, "default_host_for_http_10": "default",
    } }))
    .await;
    let text = answer(&site, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text:?}");
    assert!(text.contains("\r\nconnection: close\r\n"), "{text:?}");
    let text = answer(&site, b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    assert!(text.contains("\r\nconnection: keep-alive\r\n"), "{text:?}");
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_given_up() {
    let (site, origin) = site(json!({ "request_headers_timeout": "0.2s" })).await;
    let text = raw(
        site.port.number(),
        b"GET / HTTP/1.1\r\nho",
        Duration::from_secs(3),
    )
    .await;
    let text = String::from_utf8_lossy(&text.expect("an answer")).into_owned();
    assert!(text.starts_with("HTTP/1.1 408 "), "{text:?}");
    assert_eq!(origin.requests(), 0);
}
