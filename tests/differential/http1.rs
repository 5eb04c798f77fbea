//! Options of HTTP/1 on both sides, byte for byte: what the client gets back and
//! what reaches the origin, through the real Envoy and through nuncio.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::One;
use crate::common::client::dial;
use crate::common::config::{cluster, typed};
use crate::common::{Program, with};

/// How long a proxy is listened to that says nothing, and one that has given an answer
/// and may close or give another.
const SILENCE: Duration = Duration::from_secs(3);
const MORE: Duration = Duration::from_millis(400);

/// One configuration, what an origin answers under it, and requests.
struct Case {
    name: &'static str,
    /// `http_protocol_options` of the connection manager and of the cluster.
    down: Value,
    up: Value,
    /// Other fields of the connection manager.
    manager: Value,
    answer: &'static [u8],
    requests: &'static [&'static [u8]],
}

const OK: &[u8] =
    b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-Up_Case: 1\r\nx-LOW: 2\r\nX-Up_CASE: 3\r\n\r\nok";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n";
const NAMES: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nhOsT: a\r\nx-fOO: 1\r\nX-Bar_baz.qux: 2\r\nx-foo: 3\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nconnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nconnection: Upgrade\r\nUPGRADE: foo\r\n\r\n",
];
const ABSOLUTE: &[&[u8]] = &[
    b"GET http://b:81/x?y HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET http://b HTTP/1.1\r\n\r\n",
    b"GET HTTP://b/ HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET ftp://b/ HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
];
const BOTH_LENGTHS: &[&[u8]] = &[
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: gzip\r\n\r\nabc",
];
const UPGRADES: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: TLS/1.2\r\nconnection: upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: TLS/1.2, foo\r\nconnection: upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
];
const INVALID: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: host\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a b\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
];
const OLD: &[&[u8]] = &[
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.0\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
];

fn cases() -> Vec<Case> {
    let usual = || Case {
        name: "defaults",
        down: json!({}),
        up: json!({}),
        manager: json!({}),
        answer: OK,
        requests: NAMES,
    };
    let proper = || json!({ "header_key_format": { "proper_case_words": {} } });
    let preserve = |fields: Value| {
        json!({ "header_key_format": { "stateful_formatter": {
            "name": "preserve_case",
            "typed_config": typed(
                "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
                fields,
            ),
        } } })
    };
    let all = || {
        preserve(json!({
            "forward_reason_phrase": true,
            "formatter_type_on_envoy_headers": "PROPER_CASE",
        }))
    };
    let trailers = || json!({ "enable_trailers": true });
    let old = || json!({ "accept_http_10": true, "default_host_for_http_10": "default" });
    let underscores = |action: &str| json!({ "common_http_protocol_options": { "headers_with_underscores_action": action } });
    vec![
        usual(),
        Case { name: "proper case towards clients", down: proper(), ..usual() },
        Case { name: "proper case towards hosts", up: proper(), ..usual() },
        Case { name: "clients' case preserved", down: preserve(json!({})), ..usual() },
        Case { name: "hosts' case preserved", up: preserve(json!({})), ..usual() },
        Case { name: "everything preserved", down: all(), up: all(), ..usual() },
        Case { name: "a client's case before proper case", down: all(), up: proper(), ..usual() },
        Case { name: "no trailers", answer: CHUNKED, ..usual() },
        Case { name: "trailers of clients", down: trailers(), answer: CHUNKED, ..usual() },
        Case { name: "trailers of hosts", up: trailers(), answer: CHUNKED, ..usual() },
        Case { name: "trailers", down: trailers(), up: trailers(), answer: CHUNKED, ..usual() },
        Case { name: "absolute targets", requests: ABSOLUTE, ..usual() },
        Case {
            name: "no absolute targets",
            down: json!({ "allow_absolute_url": false }),
            requests: ABSOLUTE,
            ..usual()
        },
        Case {
            name: "absolute targets to hosts",
            up: json!({ "send_fully_qualified_url": true }),
            requests: ABSOLUTE,
            ..usual()
        },
        Case {
            name: "a length and chunks",
            down: json!({ "allow_chunked_length": true }),
            requests: BOTH_LENGTHS,
            ..usual()
        },
        Case {
            name: "a length and chunks from a host",
            up: json!({ "allow_chunked_length": true }),
            answer: b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            requests: &[b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
            ..usual()
        },
        Case {
            name: "upgrades that are passed over",
            down: json!({ "ignore_http_11_upgrade": [{ "prefix": "tls/", "ignore_case": true }] }),
            requests: UPGRADES,
            ..usual()
        },
        Case { name: "what is invalid", requests: INVALID, ..usual() },
        Case {
            name: "connections go on after what is invalid",
            down: json!({ "override_stream_error_on_invalid_http_message": true }),
            requests: INVALID,
            ..usual()
        },
        Case {
            name: "the same by the connection manager",
            manager: json!({ "stream_error_on_invalid_http_message": true }),
            requests: INVALID,
            ..usual()
        },
        Case { name: "HTTP/1.0", down: old(), requests: OLD, ..usual() },
        Case { name: "HTTP/1.0 and chunks", down: old(), answer: CHUNKED, requests: OLD, ..usual() },
        Case { name: "underscores dropped", manager: underscores("DROP_HEADER"), ..usual() },
        Case { name: "underscores refused", manager: underscores("REJECT_REQUEST"), ..usual() },
    ]
}

#[tokio::test]
async fn options_of_http1_do_what_envoys_do() {
    let Some(envoy) = Program::oracle() else {
        println!("skipped: NUNCIO_ORACLE_ENVOY does not name an Envoy binary");
        return;
    };
    let mut found = Vec::new();
    for case in cases() {
        let nuncio = Program::under_test();
        let (theirs, ours) = tokio::join!(run(&envoy, &case), run(&nuncio, &case));
        for ((request, theirs), ours) in case.requests.iter().zip(theirs).zip(ours) {
            if theirs != ours {
                found.push(format!(
                    "{}: {}\n  Envoy  {theirs:?}\n  nuncio {ours:?}",
                    case.name,
                    request.escape_ascii()
                ));
            }
        }
    }
    let count = found.len();
    assert!(
        found.is_empty(),
        "{count} differ:\n\n{}",
        found.join("\n\n")
    );
}

/// What came back to the client and what reached the origin, for each request.
async fn run(program: &Program, case: &Case) -> Vec<[String; 2]> {
    let origin = Recorder::start(case.answer).await;
    let manager = with(
        json!({
            "http_protocol_options": case.down,
            "generate_request_id": false,
            "delayed_close_timeout": "0.1s",
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": typed(
                    "envoy.extensions.filters.http.router.v3.Router",
                    json!({ "suppress_envoy_headers": true }),
                ),
            }],
            "route_config": { "name": "local", "virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "one" } }],
            }] },
        }),
        case.manager.clone(),
    );
    let options = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        json!({ "explicit_http_config": { "http_protocol_options": case.up } }),
    );
    let extensions = json!({ "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options,
    } });
    let clusters = [with(cluster("one", &[origin.port]), extensions)];
    let one = One::start(program, &manager, &clusters).await;
    let mut all = Vec::new();
    for request in case.requests {
        let answer = answers(one.port.number(), request).await;
        all.push([masked(&answer), masked(&origin.take())]);
    }
    all
}

/// All that comes back.
async fn answers(port: u16, request: &[u8]) -> Vec<u8> {
    let mut stream = dial(port).await.expect("a connection");
    stream.write_all(request).await.expect("written");
    let mut received = Vec::new();
    loop {
        let patience = match received.is_empty() {
            true => SILENCE,
            false => MORE,
        };
        match tokio::time::timeout(patience, stream.read_buf(&mut received)).await {
            Ok(Ok(1..)) => {}
            // It has closed, or has nothing more to say.
            Ok(Ok(0) | Err(_)) | Err(_) => return received,
        }
    }
}

/// Without what is another at each run.
fn masked(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split("\r\n").map(|line| match line.split_once(": ") {
        Some((name, _)) if name.eq_ignore_ascii_case("date") => format!("{name}: -"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\r\n")
}

/// An origin that keeps what reaches it, and answers each request with the same bytes.
struct Recorder {
    port: u16,
    received: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    async fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port for an origin");
        let port = listener.local_addr().expect("bound").port();
        let received = Arc::new(Mutex::new(Vec::new()));
        let recording = received.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accept");
                let recording = recording.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    // However the connection ends, it is over.
                    while let Ok(1..) = stream.read_buf(&mut request).await {
                        while let Some(length) = whole(&request) {
                            let one: Vec<u8> = request.drain(..length).collect();
                            recording.lock().expect("no panic").extend(one);
                            if stream.write_all(answer).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self {
            port,
            received,
            task,
        }
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.received.lock().expect("no panic"))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The length of the first request, when all of it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let head = text.find("\r\n\r\n")? + 4;
    let lines = &text[..head];
    if lines.contains("transfer-encoding: chunked") {
        let last = text[head..].find("0\r\n")? + head;
        return Some(text[last..].find("\r\n\r\n")? + last + 4);
    }
    let length = lines.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let end = head + length.unwrap_or(0_usize);
    (bytes.len() >= end).then_some(end)
}
