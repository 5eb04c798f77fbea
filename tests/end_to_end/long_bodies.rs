//! Long responses from a host of HTTP/1 to a client of HTTP/1, which go from socket to
//! socket.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::client::dial;
use crate::common::config::{access_log, any_host, cluster, http, http_with, route};
use crate::common::{Home, Site, Value, eventually, json, with};

const LONG: usize = 3_000_001;
/// More than the sockets between a host and a client hold.
const LONGEST: usize = 40_000_000;

/// Bytes of which no two parts are alike.
fn bytes(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8)
        .collect()
}

/// A host that answers each request with the head for so many bytes and these first
/// ones, all on one connection. With `ends` it closes then.
async fn host(length: usize, body: Vec<u8>, ends: bool) -> (u16, tokio::task::JoinHandle<()>) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut proxy, _) = server.accept().await.unwrap();
        while read_head(&mut proxy).await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            proxy.write_all(head.as_bytes()).await.unwrap();
            if proxy.write_all(&body).await.is_err() {
                return;
            }
            if ends {
                return;
            }
        }
    });
    (port, task)
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

async fn site(port: u16, fields: Value) -> Site {
    let clusters = vec![cluster("host", &[port])];
    let routes = json!({ "virtual_hosts": [any_host(vec![route("/", "host")])] });
    let fields = with(json!({ "route_config": routes }), fields);
    let args = ["--file-flush-interval-msec", "20"];
    Site::with_args(http_with(fields), clusters, &args).await
}

async fn ask(client: &mut TcpStream) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    read_head(client).await.expect("a head")
}

#[tokio::test]
async fn what_a_slow_client_gets_is_what_the_host_sent_and_is_counted() {
    let home = Home::new();
    let format = "%BYTES_SENT% %RESPONSE_FLAGS%";
    let log = json!({ "access_log": [access_log(&home.text("log"), format)] });
    let (port, _host) = host(LONG, bytes(LONG), false).await;
    let site = site(port, log).await;
    let mut client = dial(site.port.number()).await.unwrap();
    let mut received = 0;
    for _ in 0..2 {
        received += ask(&mut client).await.len();
        let mut body = vec![0; LONG];
        let (first, rest) = body.split_at_mut(1000);
        client.read_exact(first).await.unwrap();
        // By now all that has room waits: in the sockets, and in the pipe.
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.read_exact(rest).await.unwrap();
        assert!(body == bytes(LONG), "other bytes came than were sent");
        received += LONG;
    }
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG}\r\n\r\n").len();
    let line = format!("{LONG} -");
    let lines = eventually("two lines of the log", || async {
        let log = home.read("log");
        (log.lines().count() == 2).then_some(log)
    })
    .await;
    assert!(lines.lines().all(|l| l == line), "{lines} is not {line}");
    let admin = site.admin();
    for (stat, expected) in [
        ("http.ingress.downstream_cx_tx_bytes_total", received),
        ("cluster.host.upstream_cx_rx_bytes_total", 2 * (LONG + head)),
        ("cluster.host.upstream_cx_total", 1),
    ] {
        assert_eq!(admin.stat(stat).await, Some(expected as u64), "{stat}");
    }
}

#[tokio::test]
async fn one_that_breaks_off_ends_the_connection() {
    let (port, _host) = host(LONG, bytes(1_000_001), true).await;
    let site = site(port, json!({})).await;
    let mut client = dial(site.port.number()).await.unwrap();
    ask(&mut client).await;
    let mut body = Vec::new();
    let end = client.read_to_end(&mut body).await;
    assert!(end.is_err() || body.len() <= 1_000_001);
    assert!(bytes(LONG).starts_with(&body));
    let admin = site.admin();
    let reset = "http.ingress.downstream_rq_tx_reset";
    assert_eq!(admin.stat_reaches(reset, 1).await, 1);
}

#[tokio::test]
async fn one_that_stands_still_is_given_up() {
    let home = Home::new();
    let fields = json!({
        "stream_idle_timeout": "0.3s",
        "access_log": [access_log(&home.text("log"), "%BYTES_SENT% %RESPONSE_FLAGS%")],
    });
    let (port, _host) = host(LONG, bytes(1_000_000), false).await;
    let site = site(port, fields).await;
    let mut client = dial(site.port.number()).await.unwrap();
    ask(&mut client).await;
    let mut body = vec![0; 1_000_000];
    client.read_exact(&mut body).await.unwrap();
    assert!(bytes(LONG).starts_with(&body));
    assert!(client.read_u8().await.is_err(), "it is cut");
    let line = eventually("a line of the log", || async {
        home.read("log").lines().next().map(str::to_owned)
    })
    .await;
    assert_eq!(line, "1000000 SI");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let (port, _host) = host(LONGEST, vec![0; LONGEST], false).await;
    let fields = json!({ "stream_idle_timeout": "0.3s" });
    let site = site(port, fields).await;
    let mut client = dial(site.port.number()).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    let admin = site.admin();
    let idle = "http.ingress.downstream_rq_idle_timeout";
    assert_eq!(admin.stat_reaches(idle, 1).await, 1);
    let mut body = Vec::new();
    let end = client.read_to_end(&mut body).await;
    assert!(end.is_err() || body.len() < LONGEST);
}

#[tokio::test]
async fn what_exceeds_the_announced_length_answers_nobody() {
    let mut body = vec![0; LONGEST];
    body.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale");
    let (port, _host) = host(LONGEST, body, false).await;
    let one = json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 1 }] } });
    let clusters = vec![with(cluster("host", &[port]), one)];
    let routes = http(vec![any_host(vec![route("/", "host")])]);
    // Pools are a worker's own.
    let site = Site::with_args(routes, clusters, &["--concurrency", "1"]).await;
    let mut first = dial(site.port.number()).await.unwrap();
    ask(&mut first).await;
    // Waits for the connection that the first has.
    let mut second = dial(site.port.number()).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    second.write_all(request).await.unwrap();
    let waiting = "cluster.host.upstream_rq_pending_active";
    assert_eq!(site.admin().stat_reaches(waiting, 1).await, 1);
    let mut body = vec![1; LONGEST];
    first.read_exact(&mut body).await.unwrap();
    assert!(
        body.iter().all(|b| *b == 0),
        "other bytes came than were sent"
    );
    let head = read_head(&mut second).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
}
