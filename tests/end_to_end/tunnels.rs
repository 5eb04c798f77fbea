//! WebSockets and CONNECT, over HTTP/1 and HTTP/2 on either side.

use std::{io::ErrorKind, time::Duration};

use http::Version;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::common::client::{
    H2, connect, connect_http1, dial, raw, request, tcp_echo, websocket, websocket_echo,
};
use crate::common::config::{
    CLUSTER, LISTENER, access_log, any_host, bootstrap, cluster, discovery, file_watched,
    http_with, http2_upstream, listener, route, tcp, with,
};
use crate::common::{Home, Origin, Port, Proxy, Site, Value, eventually, json};

/// The part of a connection manager that lets WebSockets pass.
fn websockets() -> Value {
    json!({
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "http2_protocol_options": { "allow_connect": true },
    })
}

/// A virtual host for CONNECT to this authority, with these settings of the upgrade.
fn connect_host(authority: &str, cluster: &str, upgrade: Value) -> Value {
    let upgrade = with(json!({ "upgrade_type": "CONNECT" }), upgrade);
    json!({
        "name": authority,
        "domains": [authority],
        "routes": [{
            "match": { "connect_matcher": {} },
            "route": { "cluster": cluster, "upgrade_configs": [upgrade] },
        }],
    })
}

fn http2_cluster(name: &str, port: u16) -> Value {
    with(cluster(name, &[port]), http2_upstream())
}

async fn site(hosts: Vec<Value>, clusters: Vec<Value>) -> Site {
    let fields = json!({
        "route_config": { "virtual_hosts": hosts },
        "http2_protocol_options": { "allow_connect": true },
    });
    Site::filter(http_with(fields), clusters).await
}

#[tokio::test]
async fn websockets_pass_between_every_two_versions() {
    let one = Origin::websocket_echo().await;
    let two = Origin::tunnels(Version::HTTP_2).await;
    let routes = vec![route("/one", "one"), route("/two", "two")];
    let clusters = vec![
        cluster("one", &[one.port()]),
        http2_cluster("two", two.port()),
    ];
    let site = Site::manager(websockets(), routes, clusters).await;
    let shared = site.http2().await;
    for path in ["/one", "/two"] {
        let mut first = websocket(site.port.number(), path).await.expect(path);
        let mut second = shared.websocket(path).await.expect(path);
        for text in ["one", "two", &"long".repeat(50_000)] {
            let echo = websocket_echo(&mut first, text).await;
            echo.unwrap_or_else(|error| panic!("HTTP/1 to {path}: {error}"));
            let echo = websocket_echo(&mut second, text).await;
            echo.unwrap_or_else(|error| panic!("HTTP/2 to {path}: {error}"));
        }
        first.close(None).await.expect("closed");
        second.close(None).await.expect("closed");
    }
    let admin = site.admin();
    let active = "http.ingress.downstream_cx_upgrades_active";
    admin.stat_until(active, |value| value == 0).await;
    let total = "http.ingress.downstream_cx_upgrades_total";
    assert_eq!(admin.stat(total).await, Some(4));
    let switched = "cluster.two.upstream_rq_101";
    assert_eq!(admin.stat(switched).await, Some(2));
    let requests = "cluster.two.upstream_rq_active";
    admin.stat_until(requests, |value| value == 0).await;
}

/// A tunnel outlives a change of its listener, but not its removal: then it is cut
/// at the end of the drain time.
#[tokio::test]
async fn tunnels_of_a_removed_listener_are_cut_after_the_drain_time() {
    let (home, port) = (Home::new(), Port::free());
    let origin = Origin::websocket_echo().await;
    let present = |prefix: &str| {
        let routes = vec![route("/", "origin")];
        let fields = json!({
            "stat_prefix": prefix,
            "route_config": { "virtual_hosts": [any_host(routes)] },
            "access_log": [access_log(
                &home.text("access.log"),
                "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n",
            )],
        });
        vec![listener(
            "web",
            port.number(),
            http_with(with(websockets(), fields)),
        )]
    };
    let listeners = |listeners| home.mv_value("lds.yaml", &discovery(LISTENER, listeners));
    listeners(present("first"));
    let clusters = vec![cluster("origin", &[origin.port()])];
    home.mv_value("cds.yaml", &discovery(CLUSTER, clusters));
    let bootstrap = file_watched(&home.text("lds.yaml"), &home.text("cds.yaml"));
    let proxy = Proxy::start(&home, &bootstrap, &["--drain-time-s", "1"]).await;
    let admin = proxy.admin();
    let mut over_http1 = websocket(port.number(), "/").await.expect("HTTP/1");
    let shared = H2::connect(port.number()).await.expect("HTTP/2");
    let mut over_http2 = shared.websocket("/").await.expect("HTTP/2");

    listeners(present("second"));
    let modified = "listener_manager.listener_modified";
    admin.stat_reaches(modified, 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let kept = websocket_echo(&mut over_http1, "kept").await;
    kept.expect("a changed listener keeps HTTP/1's");
    let kept = websocket_echo(&mut over_http2, "kept").await;
    kept.expect("a changed listener keeps HTTP/2's");

    listeners(vec![]);
    admin
        .stat_reaches("listener_manager.listener_removed", 1)
        .await;
    let drains = websocket_echo(&mut over_http1, "drains").await;
    drains.expect("it drains for a second");
    let cut = tokio::time::timeout(Duration::from_secs(10), async {
        while websocket_echo(&mut over_http1, "more").await.is_ok() {}
    });
    cut.await.expect("HTTP/1's is cut");
    let cut = tokio::time::timeout(Duration::from_secs(10), async {
        while websocket_echo(&mut over_http2, "more").await.is_ok() {}
    });
    cut.await.expect("HTTP/2's is cut");
    eventually("the log of HTTP/1's", || async {
        let log = home.read("access.log");
        log.contains("101 DC downstream_local_disconnect")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refused_upgrade_leaves_the_other_streams_alone() {
    let origin = Origin::http("origin").await;
    let routes = vec![
        with(
            route("/never", "origin"),
            json!({ "route": { "upgrade_configs": [
                { "upgrade_type": "websocket", "enabled": false },
            ] } }),
        ),
        route("/", "origin"),
    ];
    let clusters = vec![cluster("origin", &[origin.port()])];
    let site = Site::manager(websockets(), routes, clusters).await;
    let shared = site.http2().await;
    let refused = shared.websocket("/never").await.expect_err("refused");
    assert_eq!(refused.to_string(), "403 Forbidden");
    // The origin answers, but not with a tunnel: what it says is passed on.
    assert!(shared.websocket("/answered").await.is_err());
    let reply = shared.send(request("GET", "a.com", "/")).await;
    assert_eq!(reply.expect("a response").seen().target, "/");
    let refused = "http.ingress.downstream_rq_ws_on_non_ws_route";
    site.admin().stat_reaches(refused, 1).await;
}

#[tokio::test]
async fn a_host_that_refuses_an_upgrade_is_not_taken_at_its_word() {
    let origin = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let clusters = vec![cluster(
        "origin",
        &[origin.local_addr().expect("bound").port()],
    )];
    let site = Site::manager(websockets(), vec![route("/", "origin")], clusters).await;
    let port = site.port.number();
    // To the host the second request would be the body of the first.
    let upgrade = b"POST /1 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\ncontent-length: 24\r\n\r\nGET /2 HTTP/1.1\r\nhost: b";
    let silence = Duration::from_millis(300);
    let asking = tokio::spawn(async move { raw(port, upgrade, silence).await });
    let (head, mut first) = accept(&origin).await;
    assert!(head.starts_with("POST /1 "), "{head}");
    let refusal = b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n";
    first.write_all(refusal).await.expect("written");
    // That connection has no more to say; the client's neither.
    assert_eq!(first.read(&mut [0; 9]).await.expect("an end"), 0);
    let answer = asking.await.expect("no panic").expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    tokio::spawn(async move { raw(port, b"GET /3 HTTP/1.1\r\nhost: a\r\n\r\n", silence).await });
    let (head, _second) = accept(&origin).await;
    assert!(head.starts_with("GET /3 "), "{head}");
}

#[tokio::test]
async fn what_follows_the_head_of_an_upgrade_belongs_to_the_tunnel() {
    let origin = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let clusters = vec![cluster(
        "origin",
        &[origin.local_addr().expect("bound").port()],
    )];
    let site = Site::manager(websockets(), vec![route("/", "origin")], clusters).await;
    let mut client = dial(site.port.number()).await.expect("a connection");
    let upgrade = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\ncontent-length: 5\r\n\r\nhello";
    client.write_all(upgrade).await.expect("written");
    let (_, mut host) = accept(&origin).await;
    let accepted =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    host.write_all(accepted).await.expect("written");
    let mut said = [0; 5];
    host.read_exact(&mut said)
        .await
        .expect("the tunnel's first bytes");
    assert_eq!(&said, b"hello");
    host.write_all(b"world").await.expect("written");
    let mut heard = Vec::new();
    while !heard.ends_with(b"world") {
        heard.push(client.read_u8().await.expect("the tunnel is open"));
    }
}

#[tokio::test]
async fn a_connect_ends_here_or_passes_on() {
    let bytes = Origin::tcp_echo().await;
    let (one, two) = (
        Origin::tunnels(Version::HTTP_11).await,
        Origin::tunnels(Version::HTTP_2).await,
    );
    let hosts = vec![
        connect_host("ends.com:1", "bytes", json!({ "connect_config": {} })),
        connect_host("one.com:1", "one", json!({})),
        connect_host("two.com:1", "two", json!({})),
    ];
    let clusters = vec![
        cluster("bytes", &[bytes.port()]),
        cluster("one", &[one.port()]),
        http2_cluster("two", two.port()),
    ];
    let site = site(hosts, clusters).await;
    let shared = site.http2().await;
    for authority in ["ends.com:1", "one.com:1", "two.com:1"] {
        let connected = connect_http1(site.port.number(), authority).await;
        let (status, mut first) = connected.expect(authority);
        assert_eq!(status, 200, "{authority}");
        let mut second = shared.tunnel(connect(authority)).await.expect(authority);
        for text in ["one", "two", &"long".repeat(50_000)] {
            let echo = tcp_echo(&mut first, text.as_bytes()).await;
            echo.unwrap_or_else(|error| panic!("HTTP/1 to {authority}: {error}"));
            let echo = tcp_echo(&mut second, text.as_bytes()).await;
            echo.unwrap_or_else(|error| panic!("HTTP/2 to {authority}: {error}"));
        }
        // The end of what one side says is told to the other.
        let mut rest = Vec::new();
        first.shutdown().await.expect("shut");
        assert_eq!(first.read_to_end(&mut rest).await.ok(), Some(0));
        second.shutdown().await.expect("shut");
        assert_eq!(second.read_to_end(&mut rest).await.ok(), Some(0));
    }
    for gauge in [
        "http.ingress.downstream_cx_upgrades_active",
        "cluster.bytes.upstream_cx_active",
        "cluster.bytes.upstream_rq_active",
        "cluster.one.upstream_cx_active",
        "cluster.two.upstream_rq_active",
    ] {
        site.admin().stat_until(gauge, |value| value == 0).await;
    }
    let sent = 2 * "onetwo".len() as u64 + 400_000;
    let counted = "cluster.bytes.upstream_cx_tx_bytes_total";
    assert_eq!(site.admin().stat(counted).await, Some(sent));
}

#[tokio::test]
async fn the_host_is_told_of_the_client_first() {
    let origin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = origin.local_addr().expect("bound").port();
    let upgrade = json!({ "connect_config": { "proxy_protocol_config": { "version": "V1" } } });
    let hosts = vec![connect_host("ends.com:1", "origin", upgrade)];
    let site = site(hosts, vec![cluster("origin", &[port])]).await;
    let connected = connect_http1(site.port.number(), "ends.com:1").await;
    let (_, mut client) = connected.expect("a tunnel");
    let (mut host, _) = origin.accept().await.expect("accepted");
    client.write_all(b"hello").await.expect("written");
    let from = client.local_addr().expect("bound").port();
    let to = site.port.number();
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\nhello");
    let mut read = vec![0; expected.len()];
    host.read_exact(&mut read).await.expect("read");
    assert_eq!(String::from_utf8_lossy(&read), expected);
}

#[tokio::test]
async fn a_connect_goes_only_where_it_may() {
    let origin = Origin::http("origin").await;
    let refuses = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let refuses = Origin::canned(refuses).await;
    let ends = || json!({ "connect_config": {} });
    let hosts = vec![
        connect_host("off.com:1", "origin", json!({ "enabled": false })),
        connect_host("dead.com:1", "dead", ends()),
        connect_host("refused.com:1", "refuses", json!({})),
        any_host(vec![route("/", "origin")]),
    ];
    let clusters = vec![
        cluster("origin", &[origin.port()]),
        cluster("dead", &[Port::free().number()]),
        cluster("refuses", &[refuses.port()]),
    ];
    let site = site(hosts, clusters).await;
    let shared = site.http2().await;
    for (authority, expected) in [
        ("off.com:1", 403),
        ("dead.com:1", 503),
        ("refused.com:1", 400),
        // Other routes do not match what has no path.
        ("elsewhere.com:1", 404),
    ] {
        let connected = connect_http1(site.port.number(), authority).await;
        assert_eq!(connected.expect(authority).0, expected, "{authority}");
        let refused = shared.tunnel(connect(authority)).await.err();
        let refused = refused.expect("refused").to_string();
        assert!(refused.starts_with(&expected.to_string()), "{refused}");
    }
    for (head, expected) in [
        ("CONNECT off.com HTTP/1.1\r\nhost: off.com\r\n", "400"),
        ("CONNECT /off HTTP/1.1\r\nhost: off.com\r\n", "400"),
        (
            "CONNECT off.com:1 HTTP/1.1\r\nhost: off.com:1\r\ncontent-length: 1\r\n",
            "400",
        ),
        (
            "CONNECT off.com:1 HTTP/1.1\r\nhost: off.com:1\r\ntransfer-encoding: chunked\r\n",
            "501",
        ),
    ] {
        let head = format!("{head}\r\n");
        let answer = raw(site.port.number(), head.as_bytes(), Duration::from_secs(5)).await;
        let answer = String::from_utf8(answer.expect("an answer")).expect("text");
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{head}: {answer}");
    }
}

#[tokio::test]
async fn the_body_of_a_post_is_a_tunnel_where_that_is_allowed() {
    let origin = Origin::tcp_echo().await;
    let upgrade = json!({
        "upgrade_type": "CONNECT",
        "connect_config": { "allow_post": true },
    });
    let routes = vec![with(
        route("/", "origin"),
        json!({ "route": { "upgrade_configs": [upgrade] } }),
    )];
    let clusters = vec![cluster("origin", &[origin.port()])];
    let site = Site::routes(routes, clusters).await;
    let post = || crate::common::client::body(request("POST", "a.com", "/"), "to and fro");
    let reply = site.send(post()).await;
    assert_eq!((reply.status.as_u16(), &*reply.text()), (200, "to and fro"));
    let reply = site.http2().await.send(post()).await.expect("a response");
    assert_eq!((reply.status.as_u16(), &*reply.text()), (200, "to and fro"));
}

#[tokio::test]
async fn a_tunnel_that_breaks_is_not_taken_for_one_that_ends() {
    let origin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = origin.local_addr().expect("bound").port();
    let upgrade = json!({ "connect_config": {} });
    let hosts = vec![connect_host("ends.com:1", "origin", upgrade)];
    let site = site(hosts, vec![cluster("origin", &[port])]).await;

    let connected = connect_http1(site.port.number(), "ends.com:1").await;
    let (_, mut first) = connected.expect("a tunnel");
    let (host, _) = origin.accept().await.expect("accepted");
    host.set_zero_linger().expect("set");
    drop(host);
    let read = first.read_u8().await.map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset));

    let shared = H2::connect(site.port.number()).await.expect("connected");
    let mut second = shared
        .tunnel(connect("ends.com:1"))
        .await
        .expect("a tunnel");
    let (host, _) = origin.accept().await.expect("accepted");
    host.set_zero_linger().expect("set");
    drop(host);
    assert!(
        second
            .read_u8()
            .await
            .is_err_and(|e| e.kind() != ErrorKind::UnexpectedEof)
    );

    // And the other way round.
    let second = shared
        .tunnel(connect("ends.com:1"))
        .await
        .expect("a tunnel");
    let (mut host, _) = origin.accept().await.expect("accepted");
    drop(second);
    let read = host.read_u8().await.map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn silence_and_age_end_a_tunnel() {
    let origin = Origin::tcp_echo().await;
    let with_fields = |authority: &str, fields: Value| {
        let upgrade = json!({ "connect_config": {} });
        let mut host = connect_host(authority, "origin", upgrade);
        host["routes"][0]["route"] = with(host["routes"][0]["route"].clone(), fields);
        host
    };
    let hosts = vec![
        with_fields("silent.com:1", json!({ "idle_timeout": "0.1s" })),
        with_fields(
            "old.com:1",
            json!({ "max_stream_duration": { "max_stream_duration": "0.1s" } }),
        ),
        with_fields("slow.com:1", json!({ "timeout": "0.1s" })),
    ];
    let site = site(hosts, vec![cluster("origin", &[origin.port()])]).await;
    let shared = site.http2().await;
    for (authority, counter) in [
        ("silent.com:1", "downstream_rq_idle_timeout"),
        ("old.com:1", "downstream_rq_max_duration_reached"),
    ] {
        let connected = connect_http1(site.port.number(), authority).await;
        let (_, mut first) = connected.expect(authority);
        assert!(first.read_u8().await.is_err(), "{authority}");
        let mut second = shared.tunnel(connect(authority)).await.expect(authority);
        assert!(second.read_u8().await.is_err(), "{authority}");
        let counter = format!("http.ingress.{counter}");
        assert_eq!(site.admin().stat_reaches(&counter, 2).await, 2, "{counter}");
    }
    // The route's timeout is for the answer.
    let mut slow = shared
        .tunnel(connect("slow.com:1"))
        .await
        .expect("a tunnel");
    tokio::time::sleep(Duration::from_millis(200)).await;
    tcp_echo(&mut slow, b"still there").await.expect("an echo");
}

/// A TCP proxy to `cluster` whose bytes go inside of HTTP.
fn tunneling(cluster: &str, config: Value) -> Value {
    let config = with(json!({ "hostname": "far.com:443" }), config);
    let fields = json!({ "typed_config": { "tunneling_config": config } });
    with(tcp("tcp", cluster), fields)
}

#[tokio::test]
async fn a_connection_goes_through_http() {
    let (one, two) = (
        Origin::tunnels(Version::HTTP_11).await,
        Origin::tunnels(Version::HTTP_2).await,
    );
    let clusters = || {
        vec![
            cluster("one", &[one.port()]),
            http2_cluster("two", two.port()),
        ]
    };
    for (name, config) in [
        ("one", json!({})),
        ("two", json!({})),
        ("one", json!({ "use_post": true })),
        ("two", json!({ "use_post": true, "post_path": "/here" })),
    ] {
        let what = format!("{name} {config}");
        let site = Site::filter(tunneling(name, config), clusters()).await;
        let mut client = dial(site.port.number()).await.expect("a connection");
        for text in ["one", "two", &"long".repeat(50_000)] {
            let echo = tcp_echo(&mut client, text.as_bytes()).await;
            echo.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        client.shutdown().await.expect("shut");
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).await.ok(), Some(0), "{what}");
        let active = format!("cluster.{name}.upstream_rq_active");
        site.admin().stat_until(&active, |value| value == 0).await;
    }
}

/// Accepts a connection and reads the head of a request from it.
async fn accept(origin: &TcpListener) -> (String, TcpStream) {
    let (mut host, _) = origin.accept().await.expect("accepted");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(host.read_u8().await.expect("read"));
    }
    (String::from_utf8(head).expect("text"), host)
}

#[tokio::test]
async fn the_request_for_a_tunnel_tells_of_the_client() {
    let origin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = origin.local_addr().expect("bound").port();
    let config = json!({
        "hostname": "%DOWNSTREAM_LOCAL_PORT%.far.com:443",
        "headers_to_add": [{
            "header": { "key": "x-from", "value": "%DOWNSTREAM_REMOTE_PORT%" },
        }],
        "request_id_extension": { "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
        } },
        "request_id_header": "x-my-id",
    });
    let filter = tunneling("origin", config);
    let site = Site::filter(filter, vec![cluster("origin", &[port])]).await;
    let client = dial(site.port.number()).await.expect("a connection");
    let (head, _host) = accept(&origin).await;
    let lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    let far = format!("{}.far.com:443", site.port.number());
    assert_eq!(lines[0], format!("CONNECT {far} HTTP/1.1"));
    assert_eq!(lines[1], format!("host: {far}"));
    let from = client.local_addr().expect("bound").port();
    assert_eq!(lines[2], format!("x-from: {from}"));
    let id = lines[3].strip_prefix("x-my-id: ").expect(lines[3]);
    assert_eq!(id.len(), 36, "{id}");
}

#[tokio::test]
async fn a_refused_tunnel_is_asked_for_again() {
    let origin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = origin.local_addr().expect("bound").port();
    let (home, listening) = (Home::new(), Port::free());
    let format = "%RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT% \
                  %UPSTREAM_TRANSPORT_FAILURE_REASON%";
    let fields = json!({
        "access_log": [access_log(&home.text("log"), format)],
        "max_connect_attempts": 2,
    });
    let filter = with(
        tunneling("origin", json!({})),
        json!({ "typed_config": fields }),
    );
    let listeners = vec![listener("main", listening.number(), filter)];
    let bootstrap = bootstrap(listeners, vec![cluster("origin", &[port])]);
    let args = ["--file-flush-interval-msec", "20"];
    let _proxy = Proxy::start(&home, &bootstrap, &args).await;
    let refuse = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";

    let mut client = dial(listening.number()).await.expect("a connection");
    let (_, mut host) = accept(&origin).await;
    host.write_all(refuse).await.expect("written");
    let (_, mut host) = accept(&origin).await;
    host.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello")
        .await
        .expect("written");
    let mut read = [0; 5];
    client.read_exact(&mut read).await.expect("read");
    assert_eq!(&read, b"hello");
    drop((client, host));
    eventually("the first line of the log", || async {
        (home.read("log").lines().count() == 1).then_some(())
    })
    .await;

    let mut client = dial(listening.number()).await.expect("a connection");
    for _ in 0..2 {
        let (_, mut host) = accept(&origin).await;
        host.write_all(refuse).await.expect("written");
    }
    assert!(matches!(client.read(&mut read).await, Ok(0) | Err(_)));
    let lines = eventually("two lines of the log", || async {
        let lines: Vec<_> = home.read("log").lines().map(str::to_owned).collect();
        (lines.len() == 2).then_some(lines)
    })
    .await;
    assert_eq!(lines[0], "UF 2 tunnel_response:503");
    assert_eq!(lines[1], "UF,URX 2 tunnel_response:503");
}
