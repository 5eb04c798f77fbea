//! From accept to the choice of a filter chain.

use crate::common::client::dial;
use crate::common::config::{answer, any_host, bootstrap, http, listener, typed};
use crate::common::{Home, Port, Proxy, Value, get, json, with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// A filter chain that answers with its own name.
fn chain(name: &str, rule: Value) -> Value {
    json!({
        "name": name,
        "filter_chain_match": rule,
        "filters": [http(vec![any_host(vec![answer("/", 200, name)])])],
    })
}

/// A proxy with one listener of these filters and filter chains.
async fn start(filters: Vec<Value>, chains: Vec<Value>) -> (Home, Port, Proxy) {
    let (home, port) = (Home::new(), Port::free());
    let listener = with(
        listener("main", port.number(), json!({})),
        json!({
            "listener_filters": filters,
            "filter_chains": chains,
            "default_filter_chain": chain("default", Value::Null),
        }),
    );
    let proxy = Proxy::start(&home, &bootstrap(vec![listener], vec![]), &[]).await;
    (home, port, proxy)
}

fn filter(name: &str, kind: &str, fields: Value) -> Value {
    let kind = format!("envoy.extensions.filters.listener.{name}.v3.{kind}");
    let name = format!("envoy.filters.listener.{name}");
    json!({ "name": name, "typed_config": typed(&kind, fields) })
}

/// What comes back when these pieces are sent one after the other.
async fn exchange(port: &Port, pieces: &[&[u8]]) -> String {
    let mut stream = dial(port.number()).await.expect("a connection");
    for piece in pieces {
        stream.write_all(piece).await.expect("written");
        // Whether they arrive together or not makes no difference.
        tokio::task::yield_now().await;
    }
    let mut all = Vec::new();
    // In order or by a reset.
    stream.read_to_end(&mut all).await.ok();
    String::from_utf8(all).expect("text")
}

#[tokio::test]
async fn the_client_a_proxy_names_is_the_client() {
    let proxy_protocol = filter("proxy_protocol", "ProxyProtocol", json!({}));
    let ten =
        json!({ "source_prefix_ranges": [{ "address_prefix": "10.0.0.0", "prefix_len": 8 }] });
    let (_home, port, proxy) = start(vec![proxy_protocol], vec![chain("ten", ten)]).await;

    let line = |client: &str| format!("PROXY TCP4 {client} 10.9.9.9 1000 80\r\n");
    let first = exchange(&port, &[line("10.1.2.3").as_bytes(), REQUEST]).await;
    assert!(first.ends_with("ten"), "{first}");
    let (start, end) = (&b"PROXY TCP4 11.1"[..], &b".2.3 10.9.9.9 1000 80\r\n"[..]);
    let second = exchange(&port, &[start, end, REQUEST]).await;
    assert!(second.ends_with("default"), "{second}");
    let binary =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x01\x02\x03\x0a\x09\x09\x09\x03\xe8\0\x50";
    let third = exchange(&port, &[&binary[..14], &binary[14..], REQUEST]).await;
    assert!(third.ends_with("ten"), "{third}");

    assert_eq!(exchange(&port, &[REQUEST]).await, "");
    let admin = proxy.admin();
    admin
        .stat_until("proxy_proto.versions.v1.found", |n| n == 2)
        .await;
    admin
        .stat_until("proxy_proto.versions.v2.found", |n| n == 1)
        .await;
    admin
        .stat_until("proxy_proto.not_found_disallowed", |n| n == 1)
        .await;
}

#[tokio::test]
async fn the_protocol_a_client_speaks_chooses_the_chain() {
    let inspector = filter("http_inspector", "HttpInspector", json!({}));
    let chains = vec![
        chain(
            "old",
            json!({ "transport_protocol": "raw_buffer", "application_protocols": ["http/1.0"] }),
        ),
        chain(
            "new",
            json!({ "transport_protocol": "raw_buffer", "application_protocols": ["http/1.1"] }),
        ),
    ];
    let (_home, port, proxy) = start(vec![inspector], chains).await;
    let new = exchange(&port, &[&REQUEST[..7], &REQUEST[7..]]).await;
    assert!(new.ends_with("new"), "{new}");
    proxy
        .admin()
        .stat_until("http_inspector.http11_found", |n| n == 1)
        .await;
}

#[tokio::test]
async fn a_listener_holds_as_many_connections_as_the_runtime_says() {
    let (home, port) = (Home::new(), Port::free());
    let answers = http(vec![any_host(vec![answer("/", 200, "here")])]);
    let limit = json!({ "layered_runtime": { "layers": [{
        "name": "static",
        "static_layer": { "envoy.resource_limits.listener.main.connection_limit": 1 },
    }] } });
    let main = listener("main", port.number(), answers);
    let proxy = Proxy::start(&home, &with(bootstrap(vec![main], vec![]), limit), &[]).await;
    let first = dial(port.number()).await.expect("a connection");
    let stat = |name: &str| format!("listener.127.0.0.1_{}.{name}", port.number());
    let admin = proxy.admin();
    admin
        .stat_until(&stat("downstream_cx_active"), |n| n == 1)
        .await;
    assert_eq!(exchange(&port, &[REQUEST]).await, "");
    admin
        .stat_until(&stat("downstream_cx_overflow"), |n| n == 1)
        .await;
    drop(first);
    admin
        .stat_until(&stat("downstream_cx_active"), |n| n == 0)
        .await;
    assert!(exchange(&port, &[REQUEST]).await.ends_with("here"));
}

#[tokio::test]
async fn listeners_need_no_names() {
    let (home, ports) = (Home::new(), [Port::free(), Port::free()]);
    let listeners = ports.iter().enumerate().map(|(number, port)| {
        let routes = vec![answer("/", 200, &number.to_string())];
        let one = listener("", port.number(), http(vec![any_host(routes)]));
        with(one, json!({ "name": null }))
    });
    let bootstrap = bootstrap(listeners.collect(), vec![]);
    let proxy = Proxy::start(&home, &bootstrap, &[]).await;
    for (number, port) in ports.iter().enumerate() {
        assert_eq!(get(port.number(), "/").await.text(), number.to_string());
    }
    let listed = proxy.admin().text("/listeners").await;
    assert_eq!(listed.lines().count(), 2, "{listed}");
}
