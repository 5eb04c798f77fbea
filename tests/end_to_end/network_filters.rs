//! Filters that a connection passes, and small ones that serve it.

use crate::common::client::dial;
use crate::common::config::{bootstrap, cluster, listener, tcp, typed};
use crate::common::{Home, Origin, Port, Proxy, Value, json, with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn filter(name: &str, kind: &str, fields: Value) -> Value {
    let kind = format!("envoy.extensions.filters.network.{name}.v3.{kind}");
    let name = format!("envoy.filters.network.{name}");
    json!({ "name": name, "typed_config": typed(&kind, fields) })
}

/// A proxy with one listener whose chain has these filters.
async fn start(filters: Vec<Value>, clusters: Vec<Value>) -> (Home, Port, Proxy) {
    let (home, port) = (Home::new(), Port::free());
    let listener = with(
        listener("main", port.number(), json!({})),
        json!({ "filter_chains": [{ "filters": filters }] }),
    );
    let proxy = Proxy::start(&home, &bootstrap(vec![listener], clusters), &[]).await;
    (home, port, proxy)
}

fn echo() -> Value {
    filter("echo", "Echo", json!({}))
}

/// As much as `said`, or until the other side closes, of what comes back.
async fn exchange(port: &Port, said: &[u8]) -> String {
    let mut stream = dial(port.number()).await.expect("a connection");
    // It may have been closed before.
    stream.write_all(said).await.ok();
    let mut all = Vec::new();
    let length = said.len() as u64;
    stream.take(length).read_to_end(&mut all).await.ok();
    String::from_utf8(all).expect("text")
}

#[tokio::test]
async fn an_echo_says_what_it_hears() {
    let (_home, port, _proxy) = start(vec![echo()], vec![]).await;
    assert_eq!(exchange(&port, b"hello").await, "hello");
}

#[tokio::test]
async fn a_direct_response_is_said_without_being_asked() {
    let response = json!({ "response": { "inline_string": "go away" } });
    let response = filter("direct_response", "Config", response);
    let (_home, port, _proxy) = start(vec![response], vec![]).await;
    assert_eq!(exchange(&port, b"hello!!").await, "go away");
}

#[tokio::test]
async fn so_many_connections_may_be_open() {
    let limit = json!({ "stat_prefix": "two", "max_connections": 2 });
    let limit = filter("connection_limit", "ConnectionLimit", limit);
    let (_home, port, proxy) = start(vec![limit, echo()], vec![]).await;
    let admin = proxy.admin();
    let open = [
        dial(port.number()).await.expect("a connection"),
        dial(port.number()).await.expect("a connection"),
    ];
    admin
        .stat_until("connection_limit.two.active_connections", |n| n == 2)
        .await;
    assert_eq!(exchange(&port, b"third").await, "");
    admin
        .stat_until("connection_limit.two.limited_connections", |n| n == 1)
        .await;
    drop(open);
    admin
        .stat_until("connection_limit.two.active_connections", |n| n == 0)
        .await;
    assert_eq!(exchange(&port, b"fourth").await, "fourth");
}

#[tokio::test]
async fn so_many_connections_may_come() {
    let limit = json!({
        "stat_prefix": "one",
        "token_bucket": { "max_tokens": 1, "fill_interval": "3600s" },
    });
    let limit = filter("local_ratelimit", "LocalRateLimit", limit);
    let (_home, port, proxy) = start(vec![limit, echo()], vec![]).await;
    assert_eq!(exchange(&port, b"first").await, "first");
    assert_eq!(exchange(&port, b"second").await, "");
    proxy
        .admin()
        .stat_until("local_rate_limit.one.rate_limited", |n| n == 1)
        .await;
}

#[tokio::test]
async fn the_server_name_is_the_cluster() {
    let named = Origin::says("named").await;
    let other = Origin::says("other").await;
    let inspector = json!({ "listener_filters": [{
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": typed(
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            json!({}),
        ),
    }] });
    let (home, port) = (Home::new(), Port::free());
    let sni = filter("sni_cluster", "SniCluster", json!({}));
    let chains = json!({ "filter_chains": [{ "filters": [sni, tcp("t", "other")] }] });
    let main = listener("main", port.number(), json!({}));
    let main = with(with(main, inspector), chains);
    let clusters = vec![
        cluster("named.example", &[named.port()]),
        cluster("other", &[other.port()]),
    ];
    let _proxy = Proxy::start(&home, &bootstrap(vec![main], clusters), &[]).await;
    let number = port.number();
    let first = |hello: Vec<u8>| async move {
        let mut stream = dial(number).await.expect("a connection");
        stream.write_all(&hello).await.expect("written");
        let mut name = [0; 5];
        stream.read_exact(&mut name).await.expect("a name");
        String::from_utf8_lossy(&name).into_owned()
    };
    let hello = crate::common::tls::client_hello(Some("named.example"), &[]);
    assert_eq!(first(hello).await, "named");
    assert_eq!(first(b"GET / HTTP/1.1\r\n\r\n".to_vec()).await, "other");
}
