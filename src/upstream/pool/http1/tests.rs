use std::future::poll_fn;

use http::Request;
use http_body_util::{Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

type Nothing = Empty<Bytes>;

fn request(method: &str) -> RequestHead {
    let request = Request::builder()
        .method(method)
        .uri("/x")
        .header("host", "h");
    request.body(()).unwrap().into_parts().0.into()
}

fn pair() -> (Http1Connection<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    (
        Http1Connection::new(near, HeadLimits::default(), usize::MAX),
        far,
    )
}

/// Sends a request without a body, has the host answer, reads the response.
async fn exchange(
    method: &str,
    answer: &[u8],
    close: bool,
) -> (
    Result<(ResponseHead, Vec<u8>), Http1Error>,
    Http1Connection<DuplexStream>,
) {
    let (mut connection, mut far) = pair();
    connection.start(&request(method), "http", RequestFraming::None);
    far.write_all(answer).await.unwrap();
    if close {
        far.shutdown().await.unwrap();
    }
    let outcome = receive(&mut connection, &mut Nothing::new()).await;
    (outcome, connection)
}

async fn receive<B>(
    connection: &mut Http1Connection<DuplexStream>,
    body: &mut B,
) -> Result<(ResponseHead, Vec<u8>), Http1Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let head = poll_fn(|cx| connection.poll_head(cx, Pin::new(body), drop)).await?;
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|cx| connection.poll_body(cx, Pin::new(body))).await {
        if let Ok(data) = frame?.into_data() {
            all.extend_from_slice(&data);
        }
    }
    Ok((head, all))
}

#[tokio::test]
async fn a_body_ends_where_its_length_says() {
    let (outcome, connection) = exchange(
        "GET",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\r\n\r\nabc",
        false,
    )
    .await;
    let (head, body) = outcome.unwrap();
    assert_eq!((head.status.as_u16(), &body[..]), (200, &b"abc"[..]));
    assert_eq!(head.headers["x-a"], "1");
    assert!(connection.is_reusable());
}

#[tokio::test]
async fn a_chunked_body_and_its_trailers() {
    let answer =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n";
    let (outcome, connection) = exchange("GET", answer, false).await;
    assert_eq!(outcome.unwrap().1, b"abc");
    assert!(connection.is_reusable());
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_the_connection() {
    let (outcome, connection) = exchange("GET", b"HTTP/1.1 200 OK\r\n\r\nabc", true).await;
    assert_eq!(outcome.unwrap().1, b"abc");
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn some_responses_have_no_body_whatever_they_say() {
    for (method, status) in [("HEAD", "200"), ("GET", "304")] {
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\n");
        let (outcome, connection) = exchange(method, answer.as_bytes(), false).await;
        assert_eq!(outcome.unwrap().1, b"");
        assert!(connection.is_reusable());
    }
}

#[tokio::test]
async fn a_204_that_announces_a_body_is_an_error() {
    for head in ["Content-Length: 3", "Transfer-Encoding: chunked"] {
        let answer = format!("HTTP/1.1 204 X\r\n{head}\r\n\r\n");
        let (outcome, _) = exchange("GET", answer.as_bytes(), false).await;
        assert!(matches!(outcome, Err(Http1Error::Protocol(_))), "{head}");
    }
    let (outcome, _) = exchange("GET", b"HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n", false).await;
    assert_eq!(outcome.unwrap().1, b"");
}

#[tokio::test]
async fn interim_responses_are_passed_over() {
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (outcome, _) = exchange("GET", answer, false).await;
    assert_eq!(outcome.unwrap().0.status.as_u16(), 200);
}

#[tokio::test]
async fn what_a_failure_says_tells_whether_anything_was_seen() {
    let (outcome, _) = exchange("GET", b"", true).await;
    assert!(matches!(outcome, Err(Http1Error::Closed)));
    let (outcome, _) = exchange("GET", b"HTTP/1.1 2", true).await;
    assert!(matches!(outcome, Err(Http1Error::Incomplete)));
    let (outcome, _) = exchange(
        "GET",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        true,
    )
    .await;
    assert!(matches!(outcome, Err(Http1Error::Incomplete)));
}

#[tokio::test]
async fn heads_that_could_be_read_in_two_ways_are_refused() {
    for headers in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Content-Length: +3",
        "Content-Length: 3 3",
        "X A: 1",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\nabc");
        let (outcome, _) = exchange("GET", answer.as_bytes(), false).await;
        assert!(matches!(outcome, Err(Http1Error::Protocol(_))), "{headers}");
    }
    let (outcome, _) = exchange("GET", b"SSH-2.0\r\n\r\n", false).await;
    assert!(matches!(outcome, Err(Http1Error::Protocol(_))));
}

#[tokio::test]
async fn heads_are_limited_in_bytes_and_number() {
    let many = |n: usize| {
        let headers: String = (0..n).map(|i| format!("x-{i}: 1\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{headers}\r\n")
    };
    assert!(exchange("GET", many(99).as_bytes(), false).await.0.is_ok());
    let outcome = exchange("GET", many(100).as_bytes(), false).await.0;
    assert!(matches!(outcome, Err(Http1Error::HeadTooLarge)));
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(61 * 1024));
    let outcome = exchange("GET", long.as_bytes(), false).await.0;
    assert!(matches!(outcome, Err(Http1Error::HeadTooLarge)));
}

#[tokio::test]
async fn what_comes_after_a_response_spoils_the_connection() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc";
    let (outcome, connection) = exchange("GET", answer, false).await;
    assert_eq!(outcome.unwrap().1, b"a");
    assert!(!connection.is_reusable());
    let close = b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n";
    let (_, connection) = exchange("GET", close, false).await;
    assert!(!connection.is_reusable());
    let old = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (_, connection) = exchange("GET", old, false).await;
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn an_idle_connection_notices_the_host() {
    let (_, connection) = pair();
    drop(connection);
    let (mut connection, far) = pair();
    let idle = |cx: &mut Context<'_>, c: &mut Http1Connection<_>| c.poll_idle(cx).is_pending();
    assert!(poll_fn(|cx| Poll::Ready(idle(cx, &mut connection))).await);
    drop(far);
    assert!(!poll_fn(|cx| Poll::Ready(idle(cx, &mut connection))).await);
}

#[tokio::test]
async fn a_request_body_goes_out_as_it_is_framed() {
    for (framing, expected) in [
        (RequestFraming::Length(10_000), String::new()),
        (RequestFraming::Chunked, "2710\r\n".to_owned()),
    ] {
        let (mut connection, mut far) = pair();
        let mut body = Full::new(Bytes::from(vec![b'x'; 10_000]));
        connection.start(&request("POST"), "http", framing);
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        receive(&mut connection, &mut body).await.unwrap();
        assert!(connection.is_reusable());
        drop(connection);
        let mut sent = String::new();
        far.read_to_string(&mut sent).await.unwrap();
        let (_, sent) = sent.split_once("\r\n\r\n").unwrap();
        let end = if expected.is_empty() {
            ""
        } else {
            "\r\n0\r\n\r\n"
        };
        assert_eq!(sent, format!("{expected}{}{end}", "x".repeat(10_000)));
    }
}

#[tokio::test]
async fn a_body_shorter_than_its_length_fails() {
    let (mut connection, _far) = pair();
    connection.start(&request("POST"), "http", RequestFraming::Length(5));
    let frames = [Ok::<_, std::convert::Infallible>(Frame::data(
        Bytes::from_static(b"abc"),
    ))];
    let mut body = StreamBody::new(futures_util::stream::iter(frames));
    let outcome = receive(&mut connection, &mut body).await;
    assert!(matches!(outcome, Err(Http1Error::RequestBody)));
}

#[tokio::test]
async fn an_upgrade_gives_the_stream_back_with_what_came_early() {
    let (mut connection, mut far) = pair();
    connection.start(&request("GET"), "http", RequestFraming::Upgrade);
    far.write_all(b"HTTP/1.1 101 X\r\nupgrade: websocket\r\n\r\nearly")
        .await
        .unwrap();
    let (head, _) = receive(&mut connection, &mut Nothing::new()).await.unwrap();
    assert_eq!(head.status.as_u16(), 101);
    assert!(!connection.is_reusable());
    assert_eq!(connection.into_tunnel().1, "early");
    let (outcome, _) = exchange("GET", b"HTTP/1.1 101 X\r\n\r\n", false).await;
    assert!(matches!(outcome, Err(Http1Error::Protocol(_))));
}

#[tokio::test]
async fn a_response_that_has_begun_was_seen() {
    for answer in [
        &b"HTTP/1.1 100 Continue\r\n\r\n"[..],
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nx: y\r\n",
    ] {
        let (outcome, _) = exchange("GET", answer, true).await;
        assert!(
            matches!(outcome, Err(Http1Error::Incomplete)),
            "{outcome:?}"
        );
    }
    let (outcome, _) = exchange("GET", b"", true).await;
    assert!(matches!(outcome, Err(Http1Error::Closed)), "{outcome:?}");
}
