//! Plain TCP proxying.

use std::{collections::HashSet, io::ErrorKind, time::Duration};

use crate::common::client::{dial, tcp_echo};
use crate::common::config::{access_log, bootstrap, cluster, listener, tcp, with};
use crate::common::{Home, Origin, Port, Proxy, Site, Value, eventually, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A proxy whose TCP filter has these fields, and writes a log.
struct Logged {
    proxy: Proxy,
    port: Port,
    home: Home,
}

impl Logged {
    async fn start(fields: Value, clusters: Vec<Value>) -> Self {
        let (home, port) = (Home::new(), Port::free());
        let format = "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %ACCESS_LOG_TYPE% \
                      %UPSTREAM_REQUEST_ATTEMPT_COUNT%";
        let log = json!({ "access_log": [access_log(&home.text("log"), format)] });
        let filter = with(tcp("tcp", "origin"), json!({ "typed_config": log }));
        let filter = with(filter, json!({ "typed_config": fields }));
        let listeners = vec![listener("main", port.number(), filter)];
        let args = ["--file-flush-interval-msec", "20"];
        let proxy = Proxy::start(&home, &bootstrap(listeners, clusters), &args).await;
        Self { proxy, port, home }
    }

    async fn dial(&self) -> TcpStream {
        dial(self.port.number()).await.expect("a connection")
    }

    /// The lines of the log, once there are so many.
    async fn lines(&self, count: usize) -> Vec<String> {
        eventually("lines of the log", || async {
            let lines: Vec<_> = self.home.read("log").lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }
}

/// What comes until the other side closes, and how it does.
async fn rest(stream: &mut TcpStream) -> Result<String, ErrorKind> {
    let mut text = String::new();
    match stream.read_to_string(&mut text).await {
        Ok(_) => Ok(text),
        Err(error) => Err(error.kind()),
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let origin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = origin.local_addr().expect("bound").port();
    let site = Logged::start(json!({}), vec![cluster("origin", &[port])]).await;

    let mut client = site.dial().await;
    let (mut server, _) = origin.accept().await.expect("accepted");
    client.write_all(b"x").await.expect("written");
    assert_eq!(server.read_u8().await.ok(), Some(b'x'));
    server.set_zero_linger().expect("set");
    drop(server);
    assert_eq!(rest(&mut client).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(site.lines(1).await, ["UR 1 0 TcpConnectionEnd 1"]);

    let mut client = site.dial().await;
    let (mut server, _) = origin.accept().await.expect("accepted");
    client.write_all(b"x").await.expect("written");
    assert_eq!(server.read_u8().await.ok(), Some(b'x'));
    client.set_zero_linger().expect("set");
    drop(client);
    assert_eq!(rest(&mut server).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(site.lines(2).await[1], "- 1 0 TcpConnectionEnd 1");
}

#[tokio::test]
async fn the_log_says_why_there_is_no_upstream() {
    let nobody = cluster("origin", &[Port::free().number()]);
    let full = json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 0 }] } });
    for (fields, clusters, line) in [
        (
            json!({ "max_connect_attempts": 3 }),
            vec![nobody.clone()],
            "UF,URX 0 0 TcpConnectionEnd 3",
        ),
        (
            json!({}),
            vec![cluster("origin", &[])],
            "UH 0 0 TcpConnectionEnd 0",
        ),
        (
            json!({}),
            vec![with(nobody, full)],
            "UO 0 0 TcpConnectionEnd 0",
        ),
        (json!({}), vec![], "NC 0 0 TcpConnectionEnd 0"),
    ] {
        let site = Logged::start(fields, clusters).await;
        assert_eq!(
            rest(&mut site.dial().await).await,
            Ok(String::new()),
            "{line}"
        );
        assert_eq!(site.lines(1).await, [line]);
    }
}

#[tokio::test]
async fn a_connection_is_logged_while_it_lives() {
    let origin = Origin::tcp_echo().await;
    let options = json!({ "access_log_options": {
        "flush_access_log_on_start": true,
        "flush_access_log_on_connected": true,
        "access_log_flush_interval": "0.05s",
    } });
    let site = Logged::start(options, vec![cluster("origin", &[origin.port()])]).await;
    let mut client = site.dial().await;
    tcp_echo(&mut client, b"hello").await.expect("an echo");
    let lines = site.lines(4).await;
    assert_eq!(lines[0], "- 0 0 TcpConnectionStart 0");
    assert_eq!(lines[1], "- 0 0 TcpUpstreamConnected 1");
    assert!(
        lines[2..].iter().any(|line| line == "- 5 5 TcpPeriodic 1"),
        "{lines:?}"
    );
    drop(client);
    eventually("the last line", || async {
        let log = site.home.read("log");
        log.ends_with("- 5 5 TcpConnectionEnd 1\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn silence_and_age_end_a_connection() {
    let origin = Origin::tcp_echo().await;
    let clusters = || vec![cluster("origin", &[origin.port()])];
    let site = Logged::start(json!({ "idle_timeout": "0.05s" }), clusters()).await;
    assert_eq!(rest(&mut site.dial().await).await, Ok(String::new()));
    assert_eq!(site.lines(1).await, ["- 0 0 TcpConnectionEnd 1"]);
    site.proxy
        .admin()
        .stat_reaches("tcp.tcp.idle_timeout", 1)
        .await;

    let aged = json!({
        "max_downstream_connection_duration": "0.05s",
        "max_downstream_connection_duration_jitter_percentage": { "value": 50 },
    });
    let site = Logged::start(aged, clusters()).await;
    assert_eq!(rest(&mut site.dial().await).await, Ok(String::new()));
    assert_eq!(site.lines(1).await, ["DT 0 0 TcpConnectionEnd 1"]);
    let stat = "tcp.tcp.max_downstream_connection_duration";
    site.proxy.admin().stat_reaches(stat, 1).await;
}

#[tokio::test]
async fn a_host_is_looked_for_when_the_client_has_spoken() {
    let origin = Origin::tcp_echo().await;
    let mode = json!({ "upstream_connect_mode": "ON_DOWNSTREAM_DATA", "max_early_data_bytes": 4 });
    let site = Logged::start(mode, vec![cluster("origin", &[origin.port()])]).await;
    let mut client = site.dial().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(origin.connections(), 0);
    tcp_echo(&mut client, b"more than four")
        .await
        .expect("an echo");
    drop(client);
    assert_eq!(site.lines(1).await, ["- 14 14 TcpConnectionEnd 1"]);
    // One that never speaks is nobody's.
    drop(site.dial().await);
    assert_eq!(site.lines(2).await[1], "- 0 0 TcpConnectionEnd 0");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn weights_share_connections_out() {
    let (a, b) = (Origin::tcp_echo().await, Origin::tcp_echo().await);
    let clusters = vec![cluster("a", &[a.port()]), cluster("b", &[b.port()])];
    let weights = json!({ "cluster": null, "weighted_clusters": { "clusters": [
        { "name": "a", "weight": 1 }, { "name": "b", "weight": 3 },
    ] } });
    let site = Logged::start(weights, clusters).await;
    for _ in 0..60 {
        tcp_echo(&mut site.dial().await, b"x")
            .await
            .expect("an echo");
    }
    let shares = [a.connections(), b.connections()];
    assert_eq!(shares.iter().sum::<u64>(), 60);
    assert!(shares[0] > 0 && shares[0] < shares[1], "{shares:?}");
    let lines: HashSet<_> = site.lines(60).await.into_iter().collect();
    assert_eq!(
        lines,
        HashSet::from(["- 1 1 TcpConnectionEnd 1".to_owned()])
    );
}

#[tokio::test]
async fn bytes_pass_both_ways() {
    let origin = Origin::tcp_echo().await;
    let site = Site::filter(
        tcp("tcp", "origin"),
        vec![cluster("origin", &[origin.port()])],
    )
    .await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    for size in [1, 100, 70_000] {
        tcp_echo(&mut stream, &vec![7; size])
            .await
            .expect("an echo");
    }
    let admin = site.admin();
    admin
        .stat_until("tcp.tcp.downstream_cx_total", |value| value == 1)
        .await;
    admin
        .stat_until("cluster.origin.upstream_cx_active", |value| value == 1)
        .await;
    drop(stream);
    admin
        .stat_until("cluster.origin.upstream_cx_active", |value| value == 0)
        .await;
    admin
        .stat_until("tcp.tcp.downstream_cx_rx_bytes_total", |value| {
            value == 70_101
        })
        .await;
}

#[tokio::test]
async fn one_side_may_finish_first() {
    let origin = Origin::tcp_echo().await;
    let site = Site::filter(
        tcp("tcp", "origin"),
        vec![cluster("origin", &[origin.port()])],
    )
    .await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    stream.write_all(b"last words").await.expect("written");
    stream.shutdown().await.expect("half closed");
    let mut echo = String::new();
    stream.read_to_string(&mut echo).await.expect("read");
    assert_eq!(echo, "last words");
}

#[tokio::test]
async fn nobody_behind_closes_the_connection() {
    let nobody = Port::free();
    let site = Site::filter(
        tcp("tcp", "origin"),
        vec![cluster("origin", &[nobody.number()])],
    )
    .await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    let mut rest = Vec::new();
    // In order or by a reset.
    stream.read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty());
    site.admin()
        .stat_reaches("cluster.origin.upstream_cx_connect_fail", 1)
        .await;
}
