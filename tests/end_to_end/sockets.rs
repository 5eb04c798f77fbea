//! How listening sockets are made, and who gets what is accepted from them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::client::dial;
use crate::common::config::{address, bootstrap, cluster, listener, tcp, typed};
use crate::common::{Home, Origin, Port, Program, Proxy, Value, eventually, json, with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// A filter that says something to whoever connects, and closes.
fn says(text: &str) -> Value {
    json!({
        "name": "envoy.filters.network.direct_response",
        "typed_config": typed(
            "envoy.extensions.filters.network.direct_response.v3.Config",
            json!({ "response": { "inline_string": text } }),
        ),
    })
}

fn echo() -> Value {
    json!({
        "name": "envoy.filters.network.echo",
        "typed_config": typed("envoy.extensions.filters.network.echo.v3.Echo", json!({})),
    })
}

async fn heard(mut stream: impl AsyncReadExt + Unpin) -> String {
    let mut all = String::new();
    stream.read_to_string(&mut all).await.expect("text");
    all
}

/// What is wrong with a bootstrap of one listener.
fn refused(home: &Home, main: Value) -> String {
    home.mv_value("refused.yaml", &bootstrap(vec![main], vec![]));
    let path = home.path("refused.yaml");
    let path = path.to_str().expect("text");
    let output = Program::under_test().run(&["-c", path]);
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const TCP: i32 = 6;
const TCP_MAXSEG: i32 = 2;

fn segments_of(size: u32) -> Value {
    json!({ "level": TCP, "name": TCP_MAXSEG, "int_value": size })
}

fn segment(stream: &TcpStream) -> u32 {
    socket2::SockRef::from(stream).tcp_mss().expect("a size")
}

#[tokio::test]
async fn sockets_are_told_their_options_and_addresses_may_have_their_own() {
    let (home, ports) = (Home::new(), [Port::free(), Port::free()]);
    let own = json!({ "socket_options": { "socket_options": [segments_of(700)] } });
    let options = json!({
        "socket_options": [
            segments_of(600),
            with(segments_of(500), json!({ "type": { "datagram": {} } })),
            with(segments_of(500), json!({ "ip_version": "SOCKET_IP_VERSION_IPV6" })),
        ],
        "additional_addresses": [with(own, json!({ "address": address(ports[1].number()) }))],
    });
    let main = with(listener("main", ports[0].number(), says("hello")), options);
    let _proxy = Proxy::start(&home, &bootstrap(vec![main], vec![]), &[]).await;
    for (port, size) in ports.iter().zip([600, 700]) {
        let stream = dial(port.number()).await.expect("a connection");
        // The kernel takes something off for what it puts into each segment.
        let found = segment(&stream);
        assert!(
            found <= size && found > size - 50,
            "{found} instead of {size}"
        );
        assert_eq!(heard(stream).await, "hello");
    }
}

#[tokio::test]
async fn an_option_that_the_kernel_does_not_take_is_said() {
    let (home, port) = (Home::new(), Port::free());
    for state in ["STATE_PREBIND", "STATE_BOUND", "STATE_LISTENING"] {
        let option = with(segments_of(7_000_000), json!({ "state": state }));
        let main = listener("main", port.number(), echo());
        let said = refused(&home, with(main, json!({ "socket_options": [option] })));
        assert!(
            said.contains("TCP_MAXSEG (6/2)") && said.contains("Invalid argument"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn connections_of_both_sides_are_kept_alive() {
    let (home, port) = (Home::new(), Port::free());
    let origin = Origin::tcp_echo().await;
    let keepalive = json!({ "tcp_keepalive": { "keepalive_time": 1000 } });
    let main = with(listener("main", port.number(), tcp("t", "c")), keepalive);
    let c = json!({ "upstream_connection_options": {
        "tcp_keepalive": { "keepalive_time": 2000 },
    } });
    let c = with(cluster("c", &[origin.port()]), c);
    let _proxy = Proxy::start(&home, &bootstrap(vec![main], vec![c]), &[]).await;
    let mut stream = dial(port.number()).await.expect("a connection");
    stream.write_all(b"x").await.expect("written");
    stream.read_exact(&mut [0]).await.expect("it came back");
    let mine = stream.local_addr().expect("an address").port();
    for (local, remote, seconds) in [
        (Some(port.number()), Some(mine), 1000),
        (None, Some(origin.port()), 2000),
    ] {
        // Another timer may be in its place while data is on its way.
        eventually("the timer", || async {
            keepalive_timer(local, remote).filter(|left| (seconds - 60..=seconds).contains(left))
        })
        .await;
    }
}

/// Seconds until the next probe of an established connection.
fn keepalive_timer(local: Option<u16>, remote: Option<u16>) -> Option<u64> {
    const ESTABLISHED: &str = "01";
    const KEEPALIVE: &str = "02";
    let is = |text: &str, port: Option<u16>| {
        port.is_none_or(|port| text.ends_with(&format!(":{port:04X}")))
    };
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    table.lines().find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (kind, left) = columns.get(5)?.split_once(':')?;
        let found = is(columns[1], local)
            && is(columns[2], remote)
            && (columns[3], kind) == (ESTABLISHED, KEEPALIVE);
        let hundredths = found.then(|| u64::from_str_radix(left, 16).ok());
        Some(hundredths?? / 100)
    })
}

#[tokio::test]
async fn a_unix_socket_has_the_mode_it_is_given() {
    let (home, port) = (Home::new(), Port::free());
    let path = home.path("s.sock");
    let pipe = json!({ "pipe": { "path": path, "mode": 0o640 } });
    let hidden = format!("@nuncio-test-{}", port.number());
    let additional = json!([{ "address": { "pipe": { "path": hidden } } }]);
    let main = with(
        listener("main", 0, says("hello")),
        json!({ "address": null }),
    );
    let main = with(
        main,
        json!({ "address": pipe, "additional_addresses": additional }),
    );
    let _proxy = Proxy::start(&home, &bootstrap(vec![main.clone()], vec![]), &[]).await;
    let mode = std::fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    let stream = UnixStream::connect(&path).await.expect("a connection");
    assert_eq!(heard(stream).await, "hello");
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream as Std};
    let address = SocketAddr::from_abstract_name(&hidden[1..]).expect("a name");
    let stream = Std::connect_addr(&address).expect("a connection");
    stream.set_nonblocking(true).expect("set");
    let stream = UnixStream::from_std(stream).expect("watched");
    assert_eq!(heard(stream).await, "hello");

    let both = json!({ "address": { "pipe": { "path": hidden, "mode": 0o640 } } });
    let said = refused(&home, with(main.clone(), both));
    assert!(
        said.contains("Cannot set mode for Abstract AF_UNIX sockets"),
        "{said}"
    );
    let said = refused(&home, with(main, json!({ "transparent": true })));
    assert!(said.contains("a Unix socket cannot have it"), "{said}");
}

#[tokio::test]
async fn the_ipv6_wildcard_takes_ipv4_where_it_is_told_to() {
    if TcpListener::bind("[::1]:0").await.is_err() {
        println!("skipped: this host has no IPv6");
        return;
    }
    let (home, six, both) = (Home::new(), Port::free(), Port::free());
    let any = |port: &Port, compat: bool| {
        json!({ "address": { "socket_address": {
            "address": "::", "port_value": port.number(), "ipv4_compat": compat,
        } } })
    };
    let listeners = vec![
        with(listener("six", 0, says("six")), any(&six, false)),
        with(listener("both", 0, says("both")), any(&both, true)),
    ];
    let _proxy = Proxy::start(&home, &bootstrap(listeners, vec![]), &[]).await;
    let to = |host: &'static str, port: &Port| TcpStream::connect((host, port.number()));
    assert_eq!(heard(to("::1", &six).await.expect("open")).await, "six");
    assert!(to("127.0.0.1", &six).await.is_err());
    assert_eq!(heard(to("::1", &both).await.expect("open")).await, "both");
    let stream = to("127.0.0.1", &both).await.expect("open");
    assert_eq!(heard(stream).await, "both");
    let wrong = json!({ "address": { "socket_address": {
        "address": "::1", "port_value": 0, "ipv4_compat": true,
    } } });
    let said = refused(&home, with(listener("main", 0, echo()), wrong));
    assert!(said.contains("ipv4_compat: only the address"), "{said}");
}

#[tokio::test]
async fn an_address_of_nobody_can_be_bound_where_it_is_allowed() {
    let (home, port) = (Home::new(), Port::free());
    let nobody = json!({ "address": { "socket_address": {
        "address": "192.0.2.1", "port_value": port.number(),
    } } });
    let main = with(listener("main", 0, echo()), nobody);
    let said = refused(&home, main.clone());
    assert!(said.contains("no interface of this host has it"), "{said}");
    let main = with(main, json!({ "freebind": true }));
    let proxy = Proxy::start(&home, &bootstrap(vec![main], vec![]), &[]).await;
    let listening = proxy.admin().text("/listeners").await;
    assert_eq!(
        listening.trim(),
        format!("main::192.0.2.1:{}", port.number())
    );
}

#[tokio::test]
async fn workers_have_as_many_connections_as_the_others() {
    const WORKERS: usize = 4;
    let (home, port) = (Home::new(), Port::free());
    let exact = json!({ "connection_balance_config": { "exact_balance": {} } });
    let main = with(listener("main", port.number(), echo()), exact);
    let arguments = ["--concurrency", &WORKERS.to_string()];
    let proxy = Proxy::start(&home, &bootstrap(vec![main], vec![]), &arguments).await;
    let mut open = Vec::new();
    for _ in 0..3 * WORKERS {
        let mut stream = dial(port.number()).await.expect("a connection");
        stream.write_all(b"x").await.expect("written");
        stream.read_exact(&mut [0]).await.expect("it came back");
        open.push(stream);
    }
    for worker in 0..WORKERS {
        let active = format!(
            "listener.127.0.0.1_{}.worker_{worker}.downstream_cx_active",
            port.number()
        );
        proxy.admin().stat_until(&active, |n| n == 3).await;
    }
}

/// A listener that nobody can connect to.
fn unbound(name: &str, port: u16, ip: &str) -> Value {
    let address = json!({ "socket_address": { "address": ip, "port_value": port } });
    with(
        listener(name, port, says(name)),
        json!({ "bind_to_port": false, "address": address }),
    )
}

#[tokio::test]
async fn a_listener_that_is_not_bound_gets_what_is_meant_for_it() {
    let (home, port) = (Home::new(), Port::free());
    let filter = json!({
        "name": "envoy.filters.listener.proxy_protocol",
        "typed_config": typed(
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            json!({}),
        ),
    });
    let front = with(
        listener("front", port.number(), says("front")),
        json!({ "use_original_dst": true, "listener_filters": [filter] }),
    );
    let listeners = vec![
        front,
        unbound("ten", 80, "10.0.0.1"),
        unbound("any", 80, "0.0.0.0"),
        unbound("six", 80, "::"),
    ];
    let proxy = Proxy::start(&home, &bootstrap(listeners, vec![]), &[]).await;
    for (line, name) in [
        ("TCP4 10.9.9.9 10.0.0.1 1000 80", "ten"),
        ("TCP4 10.9.9.9 10.0.0.2 1000 80", "any"),
        ("TCP6 ::2 ::3 1000 80", "six"),
        ("TCP4 10.9.9.9 10.0.0.1 1000 81", "front"),
    ] {
        let mut stream = dial(port.number()).await.expect("a connection");
        let line = format!("PROXY {line}\r\n");
        stream.write_all(line.as_bytes()).await.expect("written");
        assert_eq!(heard(stream).await, name, "{line}");
    }
    let listening = proxy.admin().text("/listeners").await;
    assert!(listening.contains("ten::10.0.0.1:80"), "{listening}");
}

/// Set where this test runs in a network of its own.
const REDIRECTED: &str = "NUNCIO_TEST_REDIRECTED";
/// How the shell says that there can be none here.
const CANNOT: i32 = 77;

#[test]
fn what_the_packet_filter_redirects_goes_to_the_listener_it_was_meant_for() {
    if std::env::var_os(REDIRECTED).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        return runtime.block_on(redirected());
    }
    let script = "ip link set lo up && \
        iptables -t nat -A OUTPUT -p tcp -d 127.1.1.1 -j REDIRECT --to-ports 15001 || exit 77; \
        exec \"$0\" --exact \
        sockets::what_the_packet_filter_redirects_goes_to_the_listener_it_was_meant_for";
    let exe = std::env::current_exe().expect("this test");
    let mut inner = Command::new("unshare");
    inner.args(["--net", "sh", "-c", script]).arg(&exe);
    let Ok(output) = inner.env(REDIRECTED, "1").output() else {
        println!("skipped: there is no unshare");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(CANNOT) || said.contains("unshare failed") {
        println!("skipped: no network of its own with a packet filter: {said}");
        return;
    }
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{said}");
    assert!(told.contains("1 passed"), "{told}");
}

async fn redirected() {
    let home = Home::new();
    let front = with(
        listener("front", 15_001, says("front")),
        json!({ "use_original_dst": true }),
    );
    let listeners = vec![front, unbound("meant", 80, "127.1.1.1")];
    let _proxy = Proxy::start(&home, &bootstrap(listeners, vec![]), &[]).await;
    let to = |ip: &'static str, port| async move {
        heard(TcpStream::connect((ip, port)).await.expect("open")).await
    };
    assert_eq!(to("127.1.1.1", 80).await, "meant");
    assert_eq!(to("127.1.1.1", 81).await, "front");
    assert_eq!(to("127.0.0.1", 15_001).await, "front");
}

#[tokio::test]
async fn a_unix_socket_can_change_its_mode() {
    let home = Home::new();
    let path = home.path("s.sock");
    let lds = |mode: u32| {
        let pipe = json!({ "pipe": { "path": path, "mode": mode } });
        let main = with(
            listener("main", 0, says("hello")),
            json!({ "address": null }),
        );
        let main = with(main, json!({ "address": pipe }));
        crate::common::config::discovery(crate::common::config::LISTENER, vec![main])
    };
    home.mv_value("lds.yaml", &lds(0o600));
    home.mv_value("cds.yaml", &json!({ "resources": [] }));
    let (lds_path, cds_path) = (home.path("lds.yaml"), home.path("cds.yaml"));
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let watched = crate::common::config::file_watched(&text(&lds_path), &text(&cds_path));
    let _proxy = Proxy::start(&home, &watched, &[]).await;
    home.mv_value("lds.yaml", &lds(0o660));
    eventually("the mode", || async {
        let found = std::fs::metadata(&path).ok()?.permissions().mode();
        (found & 0o777 == 0o660).then_some(())
    })
    .await;
    let stream = UnixStream::connect(&path).await.expect("a connection");
    assert_eq!(heard(stream).await, "hello");
}
