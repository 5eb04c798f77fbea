//! From where and to where connections to hosts are made.

use std::net::SocketAddr;

use crate::common::client::{header, once, request};
use crate::common::config::{
    address, any_host, bootstrap, cluster, http, listener, route, tcp, typed,
};
use crate::common::{Home, Origin, Port, Proxy, Value, json, with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TCP: i32 = 6;
const TCP_MAXSEG: i32 = 2;

fn segments_of(size: u32) -> Value {
    json!({ "level": TCP, "name": TCP_MAXSEG, "int_value": size })
}

fn source(ip: &str) -> Value {
    json!({ "address": ip, "port_value": 0 })
}

/// An origin that accepts by itself, so that it sees the sockets.
struct Watching(TcpListener);

impl Watching {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("bound"))
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("bound").port()
    }

    /// From where the next one comes, and its largest segment.
    async fn next(&self) -> (SocketAddr, u32) {
        let (stream, from) = self.0.accept().await.expect("accepted");
        let segment = socket2::SockRef::from(&stream).tcp_mss().expect("a size");
        (from, segment)
    }
}

/// A proxy of TCP to this cluster.
async fn carry(c: Value, more: Value) -> (Home, Port, Proxy) {
    let (home, port) = (Home::new(), Port::free());
    let main = listener("main", port.number(), tcp("t", "c"));
    let configuration = with(bootstrap(vec![main], vec![c]), more);
    let proxy = Proxy::start(&home, &configuration, &[]).await;
    (home, port, proxy)
}

async fn dial(port: &Port) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port.number())).await;
    stream.expect("a connection")
}

#[tokio::test]
async fn connections_come_from_where_they_are_told() {
    let origin = Watching::start().await;
    let bind = |bind: Value| {
        let c = cluster("c", &[origin.port()]);
        with(c, json!({ "upstream_bind_config": bind }))
    };
    let managed = |ip: &str| json!({ "cluster_manager": { "upstream_bind_config": { "source_address": source(ip) } } });
    let extra = json!({ "socket_options": { "socket_options": [segments_of(600)] } });
    let extra = with(extra, json!({ "address": source("127.0.0.6") }));
    for (c, more, ip, segments) in [
        (
            bind(
                json!({ "source_address": source("127.0.0.5"), "socket_options": [segments_of(700)] }),
            ),
            json!({}),
            "127.0.0.5",
            Some(700),
        ),
        (
            bind(json!({
                "source_address": source("::1"),
                "socket_options": [segments_of(700)],
                "extra_source_addresses": [extra],
            })),
            json!({}),
            "127.0.0.6",
            Some(600),
        ),
        (
            bind(json!({ "socket_options": [segments_of(700)] })),
            managed("127.0.0.9"),
            "127.0.0.1",
            Some(700),
        ),
        (
            cluster("c", &[origin.port()]),
            managed("127.0.0.9"),
            "127.0.0.9",
            None,
        ),
    ] {
        let (_home, port, _proxy) = carry(c, more).await;
        let _client = dial(&port).await;
        let (from, segment) = origin.next().await;
        assert_eq!(from.ip().to_string(), ip);
        if let Some(size) = segments {
            // The kernel takes something off for what it puts into each segment.
            let found = segment <= size && segment > size - 50;
            assert!(found, "{segment} instead of {size}");
        }
    }
}

#[tokio::test]
async fn a_source_from_which_one_cannot_connect_is_a_failure_of_this_host() {
    let origin = Origin::http("one").await;
    let bad = json!({ "source_address": source("127.0.0.5"), "socket_options": [segments_of(7_000_000)] });
    for bind in [
        json!({ "source_address": source("192.0.2.1") }),
        json!({ "source_address": source("::1") }),
        bad,
    ] {
        let (home, port) = (Home::new(), Port::free());
        let c = cluster("c", &[origin.port()]);
        let c = with(c, json!({ "upstream_bind_config": bind }));
        let main = listener(
            "main",
            port.number(),
            http(vec![any_host(vec![route("/", "c")])]),
        );
        let _proxy = Proxy::start(&home, &bootstrap(vec![main], vec![c]), &[]).await;
        let reply = once(port.number(), request("GET", "a", "/")).await;
        let reply = reply.expect("an answer");
        assert_eq!(reply.status.as_u16(), 503);
        assert!(
            reply.text().contains("local connection failure"),
            "{}",
            reply.text()
        );
    }
}

fn original(fields: Value) -> Value {
    let base = json!({
        "name": "c",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "2s",
    });
    with(base, fields)
}

fn proxy_protocol() -> Value {
    json!({ "listener_filters": [{
        "name": "envoy.filters.listener.proxy_protocol",
        "typed_config": typed(
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            json!({}),
        ),
    }] })
}

#[tokio::test]
async fn a_header_says_where_a_request_goes() {
    let origins = [Origin::http("one").await, Origin::http("two").await];
    let (home, port) = (Home::new(), Port::free());
    let c = original(json!({
        "original_dst_lb_config": { "use_http_header": true },
        "cleanup_interval": "0.2s",
    }));
    let main = listener(
        "main",
        port.number(),
        http(vec![any_host(vec![route("/", "c")])]),
    );
    let proxy = Proxy::start(&home, &bootstrap(vec![main], vec![c]), &[]).await;
    let number = port.number();
    let ask = |to: String| async move {
        let ask = request("GET", "a", "/");
        let ask = match to.is_empty() {
            true => ask,
            false => header(ask, "x-envoy-original-dst-host", &to),
        };
        once(number, ask).await.expect("an answer")
    };
    for (origin, name) in origins.iter().zip(["one", "two"]) {
        for _ in 0..3 {
            let reply = ask(format!("127.0.0.1:{}", origin.port())).await;
            assert_eq!((reply.status.as_u16(), &*reply.seen().origin), (200, name));
        }
    }
    let admin = proxy.admin();
    admin
        .stat_until("cluster.c.membership_total", |n| n == 2)
        .await;
    for to in ["", "junk", "127.0.0.1"] {
        let reply = ask(to.to_owned()).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text().as_str()),
            (503, "no healthy upstream")
        );
    }
    admin
        .stat_until("cluster.c.original_dst_host_invalid", |n| n == 2)
        .await;
    let refused = Port::free();
    let reply = ask(format!("127.0.0.1:{}", refused.number())).await;
    assert_eq!(reply.status.as_u16(), 503);
    // It is tidied away; the others have connections.
    admin
        .stat_until("cluster.c.membership_change", |n| n >= 4)
        .await;
    admin
        .stat_until("cluster.c.membership_total", |n| n == 2)
        .await;
    let hosts = admin.text("/clusters").await;
    assert!(
        hosts.contains(&format!("c::127.0.0.1:{}::", origins[1].port())),
        "{hosts}"
    );
    drop(origins);
    admin
        .stat_until("cluster.c.membership_total", |n| n == 0)
        .await;
}

#[tokio::test]
async fn a_connection_goes_where_it_was_meant_to() {
    let origins = [Origin::says("one").await, Origin::says("two").await];
    let (home, port) = (Home::new(), Port::free());
    let main = with(
        listener("main", port.number(), tcp("t", "c")),
        proxy_protocol(),
    );
    let elsewhere = json!({
        "original_dst_lb_config": { "upstream_port_override": origins[1].port() },
    });
    for (c, name) in [(original(json!({})), "one"), (original(elsewhere), "two")] {
        let clusters = vec![c];
        let _proxy = Proxy::start(&home, &bootstrap(vec![main.clone()], clusters), &[]).await;
        let mut stream = dial(&port).await;
        let line = format!(
            "PROXY TCP4 10.9.9.9 127.0.0.1 1000 {}\r\n",
            origins[0].port()
        );
        stream.write_all(line.as_bytes()).await.expect("written");
        let mut said = [0; 3];
        stream.read_exact(&mut said).await.expect("a name");
        assert_eq!(said, name.as_bytes());
    }
}

#[tokio::test]
async fn a_cluster_of_original_destinations_brings_its_own_balancing() {
    let refused = |fields: Value| {
        let home = Home::new();
        let c = original(fields);
        home.mv_value("refused.yaml", &bootstrap(vec![], vec![c]));
        let path = home.text("refused.yaml");
        let output = crate::common::Program::under_test().run(&["-c", &path]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (fields, expected) in [
        (
            json!({ "lb_policy": "RANDOM" }),
            "only 'CLUSTER_PROVIDED' is allowed",
        ),
        (
            json!({ "load_assignment": { "cluster_name": "c" } }),
            "must have no load assignment",
        ),
        (
            json!({ "original_dst_lb_config": { "http_header_name": "x" } }),
            "needs use_http_header",
        ),
        (json!({ "type": "STATIC" }), "CLUSTER_PROVIDED"),
    ] {
        let said = refused(fields);
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn hosts_may_be_unix_sockets_also_abstract_ones() {
    let home = Home::new();
    let name = format!("nuncio-origin-{}", std::process::id());
    let path = home.text("origin.sock");
    for (address, listener) in [
        (
            path.clone(),
            tokio::net::UnixListener::bind(&path).expect("bound"),
        ),
        (
            format!("@{name}"),
            tokio::net::UnixListener::bind(format!("\0{name}")).expect("bound"),
        ),
    ] {
        let endpoint = json!({ "endpoint": { "address": { "pipe": { "path": address } } } });
        let assignment = json!({ "endpoints": [{ "lb_endpoints": [endpoint] }] });
        let c = with(cluster("c", &[]), json!({ "load_assignment": assignment }));
        let (_home, port, _proxy) = carry(c, json!({})).await;
        let mut client = dial(&port).await;
        let (mut host, _) = listener.accept().await.expect("accepted");
        host.write_all(b"hello").await.expect("written");
        let mut said = [0; 5];
        client.read_exact(&mut said).await.expect("said");
        assert_eq!(&said, b"hello");
    }
}

#[tokio::test]
async fn a_host_is_told_what_its_metadata_asks_for() {
    let origin = Watching::start().await;
    let tlv = |kind: u32, value: &str| json!({ "type": kind, "value": value });
    let asked = typed(
        "envoy.config.core.v3.PerHostConfig",
        // "h" and "i" in base64.
        json!({ "added_tlvs": [tlv(0xe3, "aA=="), tlv(0xe1, "aQ==")] }),
    );
    let endpoint = json!({
        "endpoint": { "address": address(origin.port()) },
        "metadata": { "typed_filter_metadata": {
            "envoy.transport_sockets.proxy_protocol": asked,
        } },
    });
    let raw = typed(
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        json!({}),
    );
    let transport = typed(
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        json!({
            "config": { "version": "V2", "added_tlvs": [tlv(0xe2, "Yw=="), tlv(0xe1, "Yw==")] },
            "transport_socket": { "name": "raw", "typed_config": raw },
        }),
    );
    let c = with(
        cluster("c", &[]),
        json!({
            "load_assignment": { "endpoints": [{ "lb_endpoints": [endpoint] }] },
            "transport_socket": { "name": "proxy", "typed_config": transport },
        }),
    );
    let (_home, port, _proxy) = carry(c, json!({})).await;
    let _client = dial(&port).await;
    let (mut stream, _) = origin.0.accept().await.expect("accepted");
    let mut header = [0; 28 + 12];
    stream.read_exact(&mut header).await.expect("a header");
    assert_eq!(
        header[28..],
        *b"\xe3\0\x01h\xe1\0\x01i\xe2\0\x01c",
        "the host's come first and take the place of others"
    );
}
