//! What a client of HTTP/2 may do, frame by frame.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::common::client::{body, dial, header, request};
use crate::common::config::{answer, cluster, route};
use crate::common::{DEADLINE, Origin, Site, Value, json, with};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
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

/// A frame that came: its type, flags, stream and payload.
type Frame = (u8, u8, u32, Vec<u8>);

/// Takes the next frame, or gives `None` when the other side has closed.
async fn next(stream: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    let read = timeout(DEADLINE, stream.read_exact(&mut head)).await;
    read.expect("a frame or an end").ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], id, payload))
}

/// What comes in answer to frames, until a PING behind them is answered or the other
/// side closes.
async fn told(port: u16, frames: &[u8]) -> Vec<Frame> {
    let mut all = frames.to_vec();
    all.extend(frame(PING, 0, 0, b"the last"));
    let mut stream = send(port, &all).await;
    let mut told = Vec::new();
    while let Some(frame) = next(&mut stream).await {
        if frame.0 == PING && frame.3 == b"the last" {
            break;
        }
        told.push(frame);
    }
    told
}

/// The reason with which a stream, or with 0 the connection, was ended.
fn reason(told: &[Frame], id: u32) -> Option<u32> {
    let (kind, at) = match id {
        0 => (GOAWAY, 4),
        _ => (RST_STREAM, 0),
    };
    let found = told.iter().find(|frame| frame.0 == kind && frame.2 == id);
    found.map(|(.., payload)| u32::from_be_bytes(payload[at..at + 4].try_into().expect("a reason")))
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
async fn a_client_that_is_sent_away_and_does_not_go_is_left() {
    let site = answers(json!({
        "common_http_protocol_options": { "idle_timeout": "0.1s" },
        "drain_timeout": "0.1s",
    }))
    .await;
    closes(send(site.port.number(), &[]).await).await;
    let counter = "http.ingress.downstream_cx_idle_timeout";
    assert_eq!(site.admin().stat_reaches(counter, 1).await, 1);
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_given_up() {
    let site = answers(json!({ "request_headers_timeout": "0.1s" })).await;
    let begun = frame(HEADERS, END_STREAM, 1, &GET);
    let mut stream = send(site.port.number(), &begun).await;
    let mut told = Vec::new();
    while let Some(frame) = next(&mut stream).await {
        told.push(frame);
    }
    // ENHANCE_YOUR_CALM.
    assert_eq!(reason(&told, 0), Some(11), "{told:?}");
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

#[tokio::test]
async fn what_no_client_may_do_ends_its_stream_or_all() {
    let origin = Origin::http("origin").await;
    let clusters = vec![cluster("origin", &[origin.port()])];
    let site = Site::routes(vec![route("/", "origin")], clusters).await;
    let port = site.port.number();
    let post = |more: &[u8]| frame(HEADERS, END_HEADERS, 1, &[&POST, more].concat());
    let with = |more: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[&GET, more].concat());
    // `content-length: 5`.
    let five = [0x0f, 0x0d, 1, b'5'];
    for (what, id, expected, frames) in [
        ("data of no stream", 0, 1, frame(DATA, 0, 1, b"x")),
        ("an even stream", 0, 1, frame(HEADERS, END_HEADERS, 2, &GET)),
        ("a promise", 0, 1, frame(5, 0, 1, &[0, 0, 0, 2])),
        ("a short PING", 0, 6, frame(PING, 0, 0, b"short")),
        ("a frame too large", 0, 6, frame(DATA, 0, 1, &[0; 16_385])),
        (
            "no header block",
            0,
            9,
            frame(HEADERS, END_HEADERS, 1, &[0x80]),
        ),
        (
            "a header block in pieces of others",
            0,
            1,
            [frame(HEADERS, 0, 1, &GET), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        (
            "a window without end",
            0,
            3,
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        ("no SETTINGS' length", 0, 6, frame(SETTINGS, 0, 0, &[0; 5])),
        (
            "a window that stays",
            1,
            1,
            [post(&[]), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
        ),
        (
            "more than was announced",
            1,
            1,
            [post(&five), frame(DATA, 0, 1, b"123456")].concat(),
        ),
        (
            "less than was announced",
            1,
            1,
            [post(&five), frame(DATA, END_STREAM, 1, b"1234")].concat(),
        ),
        ("upper case", 1, 1, with(&[0, 1, b'A', 0])),
        ("a line's end", 1, 1, with(&[0, 1, b'a', 1, b'\n'])),
        ("connection: x", 1, 1, with(b"\0\x0aconnection\x01x")),
        ("two methods", 1, 1, with(&[0x82])),
        (
            "trailers without an end",
            1,
            1,
            [post(&[]), frame(HEADERS, END_HEADERS, 1, &[])].concat(),
        ),
    ] {
        let told = told(port, &frames).await;
        assert_eq!(reason(&told, id), Some(expected), "{what}: {told:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_reset_alone() {
    let site = answers(json!({ "max_request_headers_kb": 8 })).await;
    // 9000 bytes of `x`.
    let mut block = GET.to_vec();
    block.extend([0, 1, b'x', 0x7f]);
    block.extend([
        0x80 | ((9000 - 127) % 128) as u8,
        ((9000 - 127) / 128) as u8,
    ]);
    block.extend([b'v'; 9000]);
    let frames = [
        frame(HEADERS, END_STREAM, 1, &block[..5000]),
        frame(CONTINUATION, END_HEADERS, 1, &block[5000..]),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &GET),
    ];
    let told = told(site.port.number(), &frames.concat()).await;
    // INTERNAL_ERROR, as Envoy.
    assert_eq!(reason(&told, 1), Some(2));
    assert!(told.iter().any(|frame| (frame.0, frame.2) == (HEADERS, 3)));
}

#[tokio::test]
async fn a_body_keeps_to_the_windows_of_its_client() {
    let site = answers(json!({})).await;
    let mut client = dial(site.port.number()).await.expect("a connection");
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // INITIAL_WINDOW_SIZE of 2.
    frames.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 2]));
    frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &GET));
    client.write_all(&frames).await.expect("open");
    let mut body = Vec::new();
    for (expected, more) in [
        // A window in a SETTINGS counts for what is open, too.
        (&b"he"[..], frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 3])),
        (b"hel", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 10])),
        (b"hello", Vec::new()),
    ] {
        let mut asked = false;
        loop {
            // What is there by the answer to a PING is all there is to be.
            if body.len() >= expected.len() && !asked {
                asked = true;
                let ping = frame(PING, 0, 0, &[7; 8]);
                client.write_all(&ping).await.expect("open");
            }
            match next(&mut client).await.expect("open") {
                (DATA, _, 1, data) => body.extend(data),
                (PING, ..) => break,
                _ => {}
            }
        }
        assert_eq!(body, expected);
        client.write_all(&more).await.expect("open");
    }
}

#[tokio::test]
async fn bodies_larger_than_every_window_come_through() {
    let origin = Origin::http("origin").await;
    let clusters = vec![cluster("origin", &[origin.port()])];
    let fields = json!({ "http2_protocol_options": {
        "initial_stream_window_size": 65535, "initial_connection_window_size": 65535,
    } });
    let site = Site::manager(fields, vec![route("/", "origin")], clusters).await;
    let client = site.http2().await;
    let requests = (0..4).map(|_| {
        let posted = body(request("POST", "a", "/"), "x".repeat(600_000));
        let client = client.clone();
        async move { client.send(posted).await }
    });
    for reply in futures_util::future::join_all(requests).await {
        assert_eq!(reply.expect("a response").seen().body.len(), 600_000);
    }
}

/// Asks for an answer and takes two bytes of it; gives what made an end of that.
async fn takes_two_bytes(site: &Site) -> Option<u32> {
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // INITIAL_WINDOW_SIZE of 2.
    frames.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 2]));
    frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &GET));
    let mut client = dial(site.port.number()).await.expect("a connection");
    client.write_all(&frames).await.expect("open");
    let mut told = Vec::new();
    while reason(&told, 1).is_none() {
        told.push(next(&mut client).await.expect("a reset"));
    }
    reason(&told, 1)
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let origin = Origin::http("origin").await;
    let (idle, flush) = ("stream_idle_timeout", "stream_flush_timeout");
    for (manager, action) in [
        (json!({ idle: "0.2s" }), json!({})),
        (json!({ idle: "60s", flush: "0.2s" }), json!({})),
        (
            json!({ idle: "60s", flush: "60s" }),
            json!({ "flush_timeout": "0.2s" }),
        ),
    ] {
        let clusters = vec![cluster("origin", &[origin.port()])];
        let route = with(route("/", "origin"), json!({ "route": action }));
        let site = Site::manager(manager, vec![route], clusters).await;
        // INTERNAL_ERROR, as Envoy.
        assert_eq!(takes_two_bytes(&site).await, Some(2));
        let counter = "http2.tx_flush_timeout";
        assert_eq!(site.admin().stat_reaches(counter, 1).await, 1);
    }
}

/// Of a body that goes on at the host.
#[tokio::test]
async fn a_client_that_takes_no_more_of_a_body_is_given_up() {
    let origin = Origin::http("origin").await;
    let clusters = vec![cluster("origin", &[origin.port()])];
    let fields = json!({ "stream_idle_timeout": "0.3s" });
    let site = Site::manager(fields, vec![route("/", "origin")], clusters).await;
    let mut head = GET.to_vec();
    // A literal header without indexing (RFC 7541, 6.2.2).
    head.push(0);
    for text in ["x-origin-size", "9000000"] {
        head.push(u8::try_from(text.len()).expect("short"));
        head.extend(text.bytes());
    }
    let asked = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head);
    let mut client = send(site.port.number(), &asked).await;
    let mut told = Vec::new();
    while reason(&told, 1).is_none() {
        told.push(next(&mut client).await.expect("a reset"));
    }
    assert_eq!(reason(&told, 1), Some(2), "INTERNAL_ERROR, as Envoy");
    let counter = "http.ingress.downstream_rq_idle_timeout";
    assert_eq!(site.admin().stat_reaches(counter, 1).await, 1);
}

/// A client that did what none may do, is told so, and stays.
#[tokio::test]
async fn a_client_that_stays_is_waited_for_as_long_as_it_is_said() {
    for (timeout, counted) in [("0.05s", 1), ("0s", 0)] {
        let site = answers(json!({ "delayed_close_timeout": timeout })).await;
        // A PING is none of a stream's.
        let mut client = send(site.port.number(), &frame(PING, 0, 1, &[0; 8])).await;
        let mut told = Vec::new();
        while let Some(frame) = next(&mut client).await {
            told.push(frame);
        }
        assert_eq!(reason(&told, 0), Some(1), "PROTOCOL_ERROR");
        let admin = site.admin();
        let open = "http.ingress.downstream_cx_active";
        admin.stat_until(open, |open| open == 0).await;
        let name = "http.ingress.downstream_cx_delayed_close_timeout";
        assert_eq!(admin.stat(name).await, Some(counted), "{timeout}");
    }
}
