//! What hosts say before their response.

use bytes::Bytes;
use h2::{client, server};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::common::client::dial;
use crate::common::config::{cluster, http2_upstream, route};
use crate::common::{DEADLINE, Origin, Site, Value, json, with};

const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nkeep-alive: 1\r\n\r\n\
    HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
const ASKS: &[u8] =
    b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";

async fn site(fields: Value, host: u16, upstream: Value) -> Site {
    let clusters = vec![with(cluster("origin", &[host]), upstream)];
    let routes = vec![with(
        route("/", "origin"),
        json!({ "route": { "retry_policy": { "retry_on": "5xx", "num_retries": 2 } } }),
    )];
    Site::manager(fields, routes, clusters).await
}

/// All that comes until the connection is closed.
async fn told(site: &Site, request: &[u8]) -> String {
    let mut stream = dial(site.port.number()).await.expect("a connection");
    stream.write_all(request).await.expect("sent");
    let mut told = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut told)).await;
    read.expect("an end").expect("an answer");
    String::from_utf8(told).expect("text")
}

#[tokio::test]
async fn the_first_is_passed_on_as_it_is() {
    let origin = Origin::canned(HINTS).await;
    let fields = json!({ "proxy_100_continue": true, "via": "me",
        "always_set_request_id_in_response": true });
    let site = site(fields, origin.port(), json!({})).await;
    let told = told(
        &site,
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: 1\r\n\r\n",
    )
    .await;
    let first = "HTTP/1.1 103 Unknown\r\nlink: </a>\r\nx-request-id: ";
    assert!(told.starts_with(first), "{told:?}");
    let (first, response) = told.split_once("\r\n\r\n").expect("two heads");
    assert_eq!(first.lines().count(), 3, "{first:?}");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{told:?}");
    for (name, count) in [
        ("http.ingress.downstream_rq_1xx", 1),
        ("http.ingress.downstream_rq_2xx", 1),
        ("http.ingress.downstream_rq_completed", 2),
        ("cluster.origin.upstream_rq_103", 1),
        ("cluster.origin.upstream_rq_200", 1),
        ("cluster.origin.upstream_rq_completed", 2),
    ] {
        assert_eq!(site.admin().stat(name).await, Some(count), "{name}");
    }
}

#[tokio::test]
async fn clients_get_none_unless_they_are_to() {
    let origin = Origin::canned(HINTS).await;
    let plain = site(json!({}), origin.port(), json!({})).await;
    let answer = told(&plain, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    // RFC 9110, 15.2.
    let fields = json!({ "proxy_100_continue": true,
        "http_protocol_options": { "accept_http_10": true } });
    let passing = site(fields, origin.port(), json!({})).await;
    let answer = told(&passing, b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer:?}");
}

#[tokio::test]
async fn the_host_decides_whether_the_body_is_sent() {
    let origin =
        Origin::canned(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n").await;
    let asked = site(
        json!({ "proxy_100_continue": true }),
        origin.port(),
        json!({}),
    )
    .await;
    let answer = told(&asked, ASKS).await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer:?}");
    let not_asked = site(json!({}), origin.port(), json!({})).await;
    let answer = told(&not_asked, ASKS).await;
    let first = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 417 ";
    assert!(answer.starts_with(first), "{answer:?}");
}

/// As in Envoy, whether the client has been told or not.
#[tokio::test]
async fn nothing_is_tried_again_once_the_response_has_begun() {
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 Internal Server Error\r\n\
        content-length: 0\r\n\r\n";
    let origin = Origin::canned(answer).await;
    for pass in [true, false] {
        let site = site(
            json!({ "proxy_100_continue": pass }),
            origin.port(),
            json!({}),
        )
        .await;
        let told = told(&site, GET).await;
        assert!(told.contains("HTTP/1.1 500 "), "{told:?}");
        let stat = async |name: &str| site.admin().stat(name).await;
        assert_eq!(stat("cluster.origin.upstream_rq_total").await, Some(1));
        assert_eq!(stat("cluster.origin.upstream_rq_retry").await, Some(0));
    }
}

/// Says this with a header of its own, waits for the body, and answers with what the
/// request expected.
async fn http2_host(says: StatusCode) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.expect("HTTP/2");
                while let Some(Ok((request, mut answer))) = connection.accept().await {
                    let mut first = Response::new(());
                    *first.status_mut() = says;
                    let mine = HeaderValue::from_static("1");
                    first.headers_mut().insert("x-mine", mine);
                    answer.send_informational(first).expect("sent");
                    tokio::spawn(async move {
                        let (head, mut body) = request.into_parts();
                        while let Some(Ok(_)) = body.data().await {}
                        let mut response = Response::new(());
                        if let Some(expected) = head.headers.get("expect") {
                            let headers = response.headers_mut();
                            headers.insert("x-expected", expected.clone());
                        }
                        // Nobody may wait for it any more.
                        answer.send_response(response, true).ok();
                    });
                }
            });
        }
    });
    port
}

/// Sends a body once it has been told to; gives the head of that, and of the response.
async fn ask(port: u16) -> (HeaderMap, HeaderMap) {
    let stream = dial(port).await.expect("a connection");
    let (sender, connection) = client::handshake(stream).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("room");
    let request = Request::post("http://a/").header("expect", "100-continue");
    let request = request.body(()).expect("a request");
    let (mut answer, mut body) = sender.send_request(request, false).expect("sent");
    let told = std::future::poll_fn(|cx| answer.poll_informational(cx)).await;
    let told = told.expect("told before the answer").expect("told");
    assert_eq!(told.status(), StatusCode::CONTINUE);
    body.send_data(Bytes::from_static(b"abc"), true)
        .expect("sent");
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    driver.abort();
    (told.headers().clone(), answer.headers().clone())
}

#[tokio::test]
async fn over_http2_too() {
    let host = http2_host(StatusCode::CONTINUE).await;
    for passes in [true, false] {
        let fields = json!({ "proxy_100_continue": passes });
        let site = site(fields, host, http2_upstream()).await;
        let asked = timeout(DEADLINE, ask(site.port.number())).await;
        let (told, answer) = asked.expect("in time");
        assert_eq!(told.contains_key("x-mine"), passes);
        assert_eq!(answer.contains_key("x-expected"), passes);
        let stat = async |name: &str| site.admin().stat(name).await;
        assert_eq!(stat("http.ingress.downstream_rq_1xx").await, Some(1));
        assert_eq!(stat("http.ingress.downstream_rq_completed").await, Some(2));
    }
}

/// RFC 9113, 8.6.
#[tokio::test]
async fn over_http2_there_is_nothing_to_switch_to() {
    let host = http2_host(StatusCode::SWITCHING_PROTOCOLS).await;
    let fields = json!({ "proxy_100_continue": true });
    let site = site(fields, host, http2_upstream()).await;
    let answer = told(&site, GET).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer:?}");
}
