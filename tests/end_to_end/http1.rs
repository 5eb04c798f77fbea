//! HTTP/1 to the letter: bytes in, bytes out.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::client::{dial, header, raw, request};
use crate::common::config::{access_log, cluster, route, typed};
use crate::common::{Home, Origin, Site, Value, eventually, json, with};

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
    assert!(text.starts_with("HTTP/1.0 200 "), "{text:?}");
    assert!(text.contains("\r\nconnection: close\r\n"), "{text:?}");
    let text = answer(&site, b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    assert!(text.contains("\r\nconnection: keep-alive\r\n"), "{text:?}");
}

#[tokio::test]
async fn a_client_that_takes_no_more_of_a_body_is_given_up() {
    let (site, _origin) = site(json!({ "stream_idle_timeout": "0.3s" })).await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    // More than the buffers of both sockets take.
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nx-origin-size: 30000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let counter = "http.ingress.downstream_rq_idle_timeout";
    assert_eq!(site.admin().stat_reaches(counter, 1).await, 1);
    let mut body = Vec::new();
    // A reset is as good as an end.
    stream.read_to_end(&mut body).await.ok();
    assert!(body.len() < 30_000_000, "{}", body.len());
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

/// A site whose cluster has these options of HTTP/1.
async fn site_with(manager: Value, host: Value, answer: &'static [u8]) -> (Site, Origin) {
    let origin = Origin::canned(answer).await;
    (site_of(&origin, manager, host).await, origin)
}

async fn site_of(origin: &Origin, manager: Value, host: Value) -> Site {
    let options = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        with(
            json!({ "explicit_http_config": { "http_protocol_options": {} } }),
            host,
        ),
    );
    let extension = json!({ "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options,
    } });
    let clusters = vec![with(cluster("origin", &[origin.port()]), extension)];
    Site::manager(manager, vec![route("/", "origin")], clusters).await
}

fn preserve() -> Value {
    json!({ "header_key_format": { "stateful_formatter": {
        "name": "preserve_case",
        "typed_config": typed(
            "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
            json!({ "forward_reason_phrase": true }),
        ),
    } } })
}

#[tokio::test]
async fn names_and_the_reason_stay_as_they_came() {
    let (site, _origin) = site_with(
        json!({ "http_protocol_options": preserve() }),
        json!({ "explicit_http_config": { "http_protocol_options": preserve() } }),
        b"HTTP/1.1 200 Why Not\r\nContent-LENGTH: 0\r\nX-aB: 1\r\n\r\n",
    )
    .await;
    let text = answer(&site, b"GET / HTTP/1.1\r\nHOST: a\r\n\r\n").await;
    let begins = "HTTP/1.1 200 Why Not\r\nContent-LENGTH: 0\r\nX-aB: 1\r\n";
    assert!(text.starts_with(begins), "{text:?}");
    assert!(text.contains("\r\nserver: envoy\r\n"), "{text:?}");
}

#[tokio::test]
async fn a_client_cannot_hide_where_its_body_ends() {
    let (site, origin) = site(json!({})).await;
    let bytes = b"POST /1 HTTP/1.1\r\nhost: a\r\nconnection: content-length\r\ncontent-length: 28\r\n\r\nGET /2 HTTP/1.1\r\nhost: b\r\n\r\n";
    let text = answer(&site, bytes).await;
    assert!(text.contains("\"body\":\"GET /2 HTTP/1.1"), "{text:?}");
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_in_its_body_is_missed_at_once() {
    let origin = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let clusters = vec![cluster(
        "origin",
        &[origin.local_addr().expect("bound").port()],
    )];
    let site = Site::manager(json!({}), vec![route("/", "origin")], clusters).await;
    let mut client = dial(site.port.number()).await.expect("a connection");
    let begun = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
    client.write_all(begun).await.expect("written");
    let (mut host, _) = origin.accept().await.expect("accepted");
    let mut heard = Vec::new();
    while !heard.ends_with(b"1\r\na\r\n") {
        heard.push(host.read_u8().await.expect("the request"));
    }
    // The answer has begun and goes on as the request does.
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nb\r\n";
    host.write_all(answer).await.expect("written");
    let mut heard = Vec::new();
    while !heard.ends_with(b"1\r\nb\r\n") {
        heard.push(client.read_u8().await.expect("the answer"));
    }
    drop(client);
    assert_eq!(host.read(&mut [0; 9]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn what_is_refused_is_logged_and_counted() {
    let home = Home::new();
    let format =
        "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%";
    let (site, _origin) = site(json!({
        "request_headers_timeout": "0.2s",
        "access_log": [access_log(&home.text("log"), format)],
    }))
    .await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost a\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HT",
    ] {
        answer(&site, bytes).await;
    }
    // One that leaves in the middle of a head.
    let mut stream = dial(site.port.number()).await.expect("a connection");
    stream.write_all(b"GET").await.unwrap();
    drop(stream);
    let lines = eventually("seven lines", || async {
        let log = home.read("log");
        (log.lines().count() == 7).then_some(log)
    })
    .await;
    // Of two workers, each has its own buffer.
    let mut lines: Vec<_> = lines.lines().collect();
    lines.sort_unstable();
    let expected = [
        "- - 0 DC downstream_remote_disconnect",
        "- - 400 DPE http1.codec_error",
        "- - 400 DPE http1.content_length_and_chunked_not_allowed",
        "- - 408 - request_header_timeout",
        "- - 426 DPE low_version",
        "- - 501 DPE http1.invalid_transfer_encoding",
        "POST /x 400 DPE http1.codec_error",
    ];
    assert_eq!(lines, expected);
    for (name, count) in [
        ("downstream_rq_total", 7),
        ("downstream_rq_completed", 6),
        ("downstream_rq_4xx", 5),
        ("downstream_rq_5xx", 1),
        ("downstream_cx_protocol_error", 5),
        ("downstream_rq_header_timeout", 1),
        ("downstream_rq_rx_reset", 7),
    ] {
        let name = format!("http.ingress.{name}");
        assert_eq!(site.admin().stat(&name).await, Some(count), "{name}");
    }
}

#[tokio::test]
async fn the_limits_of_a_cluster_hold() {
    let limits = json!({ "common_http_protocol_options": {
        "max_headers_count": 3,
        "max_stream_duration": "0.2s",
    } });
    let many = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n";
    let (site, _origin) = site_with(json!({}), limits.clone(), many).await;
    let text = answer(&site, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 502 "), "{text:?}");
    let name = "cluster.origin.upstream_cx_protocol_error";
    assert_eq!(site.admin().stat(name).await, Some(1));

    // The origin never answers in time.
    let origin = Origin::http("origin").await;
    let site = site_of(&origin, json!({}), limits).await;
    let slow = header(request("GET", "a", "/"), "x-origin-delay-ms", "60000");
    let reply = site.try_send(slow).await.expect("an answer");
    assert_eq!(reply.status, 504);
    assert_eq!(reply.text(), "upstream max stream duration reached");
    let name = "cluster.origin.upstream_rq_max_duration_reached";
    assert_eq!(site.admin().stat(name).await, Some(1));
}

#[tokio::test]
async fn a_connection_that_is_old_is_given_time_for_one_more_request() {
    for (safe, closes) in [(false, true), (true, false)] {
        let (site, _origin) = site(json!({
            "common_http_protocol_options": { "max_connection_duration": "0.3s" },
            "http1_safe_max_connection_duration": safe,
            "drain_timeout": "0.3s",
        }))
        .await;
        let name = "http.ingress.downstream_cx_max_duration_reached";
        // One that sends a request in the meantime is told with its response.
        let mut connection = site.http1().await;
        let request = || request("GET", "a", "/");
        let reply = connection.send(request()).await.expect("an answer");
        assert_eq!(reply.header("connection"), "");
        site.admin().stat_reaches(name, 1).await;
        let reply = connection.send(request()).await.expect("an answer");
        assert_eq!(reply.header("connection"), "close");
        // One that does not is closed, unless that is not safe.
        let mut connection = site.http1().await;
        connection.send(request()).await.expect("an answer");
        site.admin().stat_reaches(name, 2).await;
        if closes {
            eventually("the end of the connection", || async {
                connection.is_closed().then_some(())
            })
            .await;
        } else {
            tokio::time::sleep(Duration::from_millis(600)).await;
            let reply = connection.send(request()).await.expect("an answer");
            assert_eq!(reply.header("connection"), "close");
        }
    }
}
