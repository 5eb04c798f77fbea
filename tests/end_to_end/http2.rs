//! What a client of HTTP/2 may do, frame by frame.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::common::client::{dial, header, request};
use crate::common::config::{answer, cluster, route};
use crate::common::{DEADLINE, Origin, Site, Value, json};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// GET / and POST / of http, as HPACK's static table has them (RFC 7541, appendix A).
const GET: [u8; 6] = [0x82, 0x86, 0x84, 0x41, 1, b'a'];
const POST: [u8; 6] = [0x83, 0x86, 0x84, 0x41, 1, b'a'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Sends frames on a new connection.
async fn send(port: u16, frames: &[u8]) -> TcpStream {
    let mut stream = dial(port).await.expect("a connection");
    let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    all.extend(frame(SETTINGS, 0, 0, &[]));
    all.extend(frames);
    // The other side may close before it has read all.
    stream.write_all(&all).await.ok();
    stream
}

/// Waits until the other side closes, however it does.
async fn closes(mut stream: TcpStream) {
    let mut read = Vec::new();
    let closed = timeout(DEADLINE, stream.read_to_end(&mut read)).await;
    // A reset is as good as an end.
    drop(closed.expect("it closes"));
}

async fn answers(fields: Value) -> Site {
    Site::manager(fields, vec![answer("/", 200, "hello")], Vec::new()).await
}

#[tokio::test]
async fn floods_end_a_connection() {
    let many = |count, frame: Vec<u8>| frame.repeat(count);
    let post = frame(HEADERS, END_HEADERS, 1, &POST);
    for (what, frames, counter) in [
        (
            "PRIORITY",
            many(200, frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
            "inbound_priority_frames_flood",
        ),
        (
            "WINDOW_UPDATE",
            many(50, frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
            "inbound_window_update_frames_flood",
        ),
        (
            "empty DATA",
            [post, many(2, frame(DATA, 0, 1, &[]))].concat(),
            "inbound_empty_frames_flood",
        ),
        (
            "empty CONTINUATION",
            [
                frame(HEADERS, 0, 1, &GET),
                many(2, frame(CONTINUATION, 0, 1, &[])),
            ]
            .concat(),
            "inbound_empty_frames_flood",
        ),
    ] {
        let site = answers(json!({})).await;
        closes(send(site.port.number(), &frames).await).await;
        let counter = format!("http2.{counter}");
        let counted = site.admin().stat(&counter).await;
        assert_eq!(counted, Some(1), "{what}: {counter}");
    }
}

#[tokio::test]
async fn limits_against_floods_are_configured() {
    let limits = json!({ "http2_protocol_options": {
        "max_inbound_priority_frames_per_stream": 1000,
        "max_consecutive_inbound_frames_with_empty_payload": 10,
    } });
    let site = answers(limits).await;
    let mut frames = frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(500);
    frames.extend(frame(HEADERS, END_HEADERS, 1, &POST));
    frames.extend(frame(DATA, 0, 1, &[]).repeat(10));
    frames.extend(frame(DATA, END_STREAM, 1, b"x"));
    let mut stream = send(site.port.number(), &frames).await;
    let mut read = Vec::new();
    while !read.windows(5).any(|window| window == b"hello") {
        let more = timeout(DEADLINE, stream.read_buf(&mut read)).await;
        assert!(more.expect("an answer").expect("open") > 0);
    }
}

#[tokio::test]
async fn a_client_that_resets_what_it_asks_for_is_sent_away() {
    // It accepts and never answers.
    let origin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = origin.local_addr().expect("bound").port();
    let clusters = vec![cluster("origin", &[port])];
    let site = Site::routes(vec![route("/", "origin")], clusters).await;
    let mut client = send(site.port.number(), &[]).await;
    let mut read = Vec::new();
    // Never more at a time than the codec lets wait.
    for batch in 0..10 {
        let mut frames = Vec::new();
        for number in 0..60 {
            let stream = 2 * (60 * batch + number) + 1;
            frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &GET));
            frames.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        }
        let mark = format!("batch {batch:02}");
        frames.extend(frame(PING, 0, 0, mark.as_bytes()));
        if client.write_all(&frames).await.is_err() {
            break;
        }
        let pong = |read: &[u8]| read.windows(8).any(|window| window == mark.as_bytes());
        while !pong(&read) {
            match timeout(DEADLINE, client.read_buf(&mut read)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => break,
                Err(_) => panic!("neither a PING's answer nor an end"),
            }
        }
    }
    closes(client).await;
    let counter = "http.ingress.downstream_rq_too_many_premature_resets";
    assert_eq!(site.admin().stat_reaches(counter, 1).await, 1);
    assert!(site.admin().stat_reaches("http2.rx_reset", 250).await >= 250);
}

#[tokio::test]
async fn a_request_with_too_many_headers_is_reset_alone() {
    let site = answers(json!({})).await;
    let client = site.http2().await;
    let of = |count: usize| {
        (0..count).fold(request("GET", "a", "/"), |request, number| {
            header(request, &format!("x-{number}"), "1")
        })
    };
    // Four stand in the pseudo header.
    assert_eq!(client.send(of(96)).await.expect("a response").status, 200);
    assert!(client.send(of(97)).await.is_err());
    assert_eq!(client.send(of(0)).await.expect("a response").status, 200);
    let admin = site.admin();
    assert_eq!(admin.stat("http2.header_overflow").await, Some(1));
    assert_eq!(admin.stat("http2.tx_reset").await, Some(1));
    admin
        .stat_until("http2.streams_active", |value| value == 0)
        .await;
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_gone() {
    let keepalive = json!({ "http2_protocol_options": {
        "connection_keepalive": { "interval": "0.05s", "timeout": "0.05s" },
    } });
    let site = answers(keepalive).await;
    closes(send(site.port.number(), &[]).await).await;
    let counter = "http2.keepalive_timeout";
    assert_eq!(site.admin().stat_reaches(counter, 1).await, 1);
}

#[tokio::test]
async fn streams_and_goodbyes_are_counted_on_both_sides() {
    let origin = Origin::http2("origin").await;
    let http2 = crate::common::config::http2_upstream();
    let clusters = vec![crate::common::with(
        cluster("origin", &[origin.port()]),
        http2,
    )];
    let fields = json!({ "common_http_protocol_options": { "max_requests_per_connection": 2 } });
    let site = Site::manager(fields, vec![route("/", "origin")], clusters).await;
    let client = site.http2().await;
    for _ in 0..2 {
        let reply = client.send(request("GET", "a", "/")).await;
        assert_eq!(reply.expect("a response").status, 200);
    }
    let admin = site.admin();
    admin.stat_reaches("http2.goaway_sent", 1).await;
    // A request that its client gives up is given up at the host, too.
    let client = site.http2().await;
    let slow = header(request("GET", "a", "/"), "x-origin-delay-ms", "60000");
    let given_up = timeout(Duration::from_millis(200), client.send(slow)).await;
    assert!(given_up.is_err());
    admin.stat_reaches("http2.rx_reset", 1).await;
    admin.stat_reaches("cluster.origin.http2.tx_reset", 1).await;
    for gauge in [
        "http2.streams_active",
        "cluster.origin.http2.streams_active",
    ] {
        admin.stat_until(gauge, |value| value == 0).await;
    }
}
