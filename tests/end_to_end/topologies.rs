//! Several proxies, origins and ways of TLS put together as people begin with
//! them: what ends here, what is passed on, and who tells which name to whom.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;

use crate::common::client::{
    self, dial, get, get_from, header, once, request, tcp_echo, websocket, websocket_echo,
};
use crate::common::config::{
    address, answer, any_host, bootstrap, cluster, http, http_with, listener, route, tcp, typed,
};
use crate::common::tls::{Authority, Identity, TlsClient, ends_tls};
use crate::common::{H2, Home, Origin, Port, Proxy, Value, json, with};

const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";

/// A proxy with a directory of its own.
struct Running {
    proxy: Proxy,
    _home: Home,
}

async fn run(listeners: Vec<Value>, clusters: Vec<Value>) -> Running {
    let home = Home::new();
    let proxy = Proxy::start(&home, &bootstrap(listeners, clusters), &[]).await;
    Running { proxy, _home: home }
}

/// A listener that looks at what clients say first and chooses one of these chains.
fn looking(port: &Port, chains: Vec<Value>) -> Value {
    let inspector = json!({
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": typed(TLS_INSPECTOR, json!({})),
    });
    json!({
        "address": address(port.number()),
        "listener_filters": [inspector],
        "filter_chains": chains,
    })
}

fn chain(rule: Value, filter: Value) -> Value {
    json!({ "filter_chain_match": rule, "filters": [filter] })
}

/// A listener of one chain that ends TLS.
fn secure(port: &Port, filter: Value, context: Value) -> Value {
    let socket = json!({ "transport_socket": ends_tls(context) });
    let plain = chain(json!(null), filter);
    json!({ "address": address(port.number()), "filter_chains": [with(plain, socket)] })
}

fn showing(identity: &Identity) -> Value {
    json!({ "common_tls_context": { "tls_certificates": [identity.inline()] } })
}

/// A cluster that speaks TLS to one port.
fn over_tls(name: &str, port: u16, context: Value) -> Value {
    let socket = json!({ "transport_socket": {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            context,
        ),
    } });
    with(cluster(name, &[port]), socket)
}

fn to(cluster: &str) -> Value {
    http(vec![any_host(vec![route("/", cluster)])])
}

/// Who answers a request by HTTP/1 over TLS, and the scheme that it was told.
async fn over_http1(port: &Port, server_name: &str) -> (String, String) {
    let answer = TlsClient::new().get(port.number(), server_name, "").await;
    let text = answer.expect("an answer").text;
    let (_, body) = text.split_once("\r\n\r\n").expect("a head");
    let seen: client::Seen = serde_json::from_str(body).expect("the origin's answer");
    let scheme = seen.header("x-forwarded-proto").to_owned();
    (seen.origin, scheme)
}

#[tokio::test]
async fn a_name_decides_whether_tls_ends_here_or_is_passed_on() {
    let authority = Authority::new();
    let (one, two) = (Origin::http("one").await, Origin::http("two").await);
    let inner = authority.issue(&["c.example.com"]);
    let three = Origin::https("three", &inner).await;
    let (edge, front) = (Port::free(), Port::free());
    let ending = |name: &str, cluster: &str| {
        let socket = ends_tls(showing(&authority.issue(&[name])));
        let chain = chain(json!({ "server_names": [name] }), to(cluster));
        with(chain, json!({ "transport_socket": socket }))
    };
    let chains = vec![
        ending("a.example.com", "one"),
        ending("b.example.com", "two"),
        chain(
            json!({ "server_names": ["c.example.com"] }),
            tcp("passed", "three"),
        ),
    ];
    let clusters = [("one", &one), ("two", &two), ("three", &three)];
    let clusters = clusters.map(|(name, origin)| cluster(name, &[origin.port()]));
    let _edge = run(vec![looking(&edge, chains)], clusters.into()).await;

    for (name, who, scheme) in [
        ("a.example.com", "one", "https"),
        ("b.example.com", "two", "https"),
        ("c.example.com", "three", ""),
    ] {
        let expected = (who.to_owned(), scheme.to_owned());
        assert_eq!(over_http1(&edge, name).await, expected, "{name}");
    }
    for nobodys in ["d.example.com", ""] {
        let answer = TlsClient::new().get(edge.number(), nobodys, "").await;
        answer.expect_err("no chain is for it");
    }

    // Another proxy chooses the name for its clients, who speak no TLS.
    let letters = ["a", "b", "c", "d"];
    let paths = letters.map(|name| route(&format!("/{name}"), name));
    let clusters = letters.map(|name| {
        let mut context = json!({ "sni": format!("{name}.example.com") });
        if name == "c" {
            context["common_tls_context"] = json!({ "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            } });
        }
        over_tls(name, edge.number(), context)
    });
    let inward = http(vec![any_host(paths.into())]);
    let inward = listener("inward", front.number(), inward);
    let _front = run(vec![inward], clusters.into()).await;
    for (path, who) in [("/a", "one"), ("/b", "two"), ("/c", "three")] {
        assert_eq!(get(front.number(), path).await.seen().origin, who);
    }
    assert_eq!(get(front.number(), "/d").await.status, 503);
}

#[tokio::test]
async fn a_look_at_the_first_bytes_tells_protocols_apart() {
    let identity = Authority::new().issue(&["a.example.com"]);
    let clear = Origin::http("clear").await;
    let old = Origin::https("old", &identity).await;
    let new = Origin::https2("new", &identity).await;
    let port = Port::free();
    let tls = |protocol: &str, cluster: &str| {
        let rule = json!({
            "transport_protocol": "tls",
            "application_protocols": [protocol],
        });
        chain(rule, tcp("secure", cluster))
    };
    let chains = vec![
        tls("h2", "new"),
        tls("http/1.1", "old"),
        chain(json!(null), tcp("clear", "clear")),
    ];
    let clusters = [("clear", &clear), ("old", &old), ("new", &new)];
    let clusters = clusters.map(|(name, origin)| cluster(name, &[origin.port()]));
    let running = run(vec![looking(&port, chains)], clusters.into()).await;

    let client = TlsClient::new().offering(&["http/1.1"]);
    let answer = client.get(port.number(), "a.example.com", "").await;
    let answer = answer.expect("an answer");
    assert!(answer.text.contains(r#""origin":"old""#), "{}", answer.text);
    let client = TlsClient::new().offering(&["h2", "http/1.1"]);
    let stream = client.connect(port.number(), "a.example.com").await;
    let connection = H2::over(stream.expect("TLS")).await.expect("HTTP/2");
    let reply = connection.send(request("GET", "a.example.com", "/")).await;
    assert_eq!(reply.expect("an answer").seen().origin, "new");
    assert_eq!(get(port.number(), "/").await.seen().origin, "clear");

    let admin = running.proxy.admin();
    for (name, count) in [
        ("alpn_found", 2),
        ("sni_found", 2),
        ("tls_found", 2),
        ("tls_not_found", 1),
        ("alpn_not_found", 0),
        ("sni_not_found", 0),
    ] {
        let found = admin.stat(&format!("tls_inspector.{name}")).await;
        assert_eq!(found, Some(count), "{name}");
    }
}

#[tokio::test]
async fn tls_is_on_either_side_on_both_or_not_for_this_proxy() {
    let identity = Authority::new().issue(&["a.example.com"]);
    let clear = Origin::http("clear").await;
    let secret = Origin::https("secret", &identity).await;
    let ports = [(); 4].map(|()| Port::free());
    let [to_clear, to_secret, from_clear, passed] = &ports;
    let listeners = vec![
        secure(to_clear, to("clear"), showing(&identity)),
        secure(to_secret, to("secret"), showing(&identity)),
        listener("from-clear", from_clear.number(), to("secret")),
        listener("passed", passed.number(), tcp("passed", "opaque")),
    ];
    let clusters = vec![
        cluster("clear", &[clear.port()]),
        over_tls("secret", secret.port(), json!({})),
        cluster("opaque", &[secret.port()]),
    ];
    let _running = run(listeners, clusters).await;
    for (port, who, scheme) in [
        (to_clear, "clear", "https"),
        (to_secret, "secret", "https"),
        (passed, "secret", ""),
    ] {
        let expected = (who.to_owned(), scheme.to_owned());
        assert_eq!(over_http1(port, "a.example.com").await, expected);
    }
    let seen = get(from_clear.number(), "/").await.seen();
    assert_eq!(
        (&*seen.origin, seen.header("x-forwarded-proto")),
        ("secret", "http")
    );
}

/// Opens a WebSocket over TLS and sends one message through it.
async fn secure_websocket(port: &Port) {
    let client = TlsClient::new();
    let stream = client.connect(port.number(), "a.example.com").await;
    let stream = stream.expect("TLS");
    let opened = tokio_tungstenite::client_async("ws://a.example.com/", stream).await;
    let mut socket: WebSocketStream<_> = opened.expect("a WebSocket").0;
    websocket_echo(&mut socket, "hello").await.expect("an echo");
    socket.close(None).await.expect("an end");
}

#[tokio::test]
async fn websockets_go_by_every_way() {
    let identity = Authority::new().issue(&["a.example.com"]);
    let origin = Origin::websocket_echo().await;
    let ports = [(); 5].map(|()| Port::free());
    let [everywhere, by_route, inner, outer, passed] = &ports;
    let upgrades = json!([{ "upgrade_type": "websocket" }]);
    let manager = |routes: Vec<Value>, upgrades: Value| {
        http_with(json!({
            "upgrade_configs": upgrades,
            "route_config": { "virtual_hosts": [any_host(routes)] },
        }))
    };
    let allowed = with(
        route("/ws", "clear"),
        json!({ "route": { "upgrade_configs": upgrades } }),
    );
    let on_routes = vec![allowed, answer("/", 200, "no WebSocket\n")];
    let to = |cluster: &str| manager(vec![route("/", cluster)], upgrades.clone());
    let listeners = vec![
        listener("everywhere", everywhere.number(), to("clear")),
        listener(
            "by-route",
            by_route.number(),
            manager(on_routes, json!(null)),
        ),
        // TLS on both sides: the inner one is the outer one's origin.
        secure(inner, to("clear"), showing(&identity)),
        secure(outer, to("secret"), showing(&identity)),
        listener("passed", passed.number(), tcp("passed", "opaque")),
    ];
    let clusters = vec![
        cluster("clear", &[origin.port()]),
        over_tls("secret", inner.number(), json!({})),
        cluster("opaque", &[inner.number()]),
    ];
    let _running = run(listeners, clusters).await;

    for (port, path) in [(everywhere, "/"), (by_route, "/ws"), (by_route, "/ws/x")] {
        let mut socket = websocket(port.number(), path).await.expect("a WebSocket");
        websocket_echo(&mut socket, "hello").await.expect("an echo");
        socket.close(None).await.expect("an end");
    }
    secure_websocket(outer).await;
    secure_websocket(passed).await;

    let refused = websocket(by_route.number(), "/").await.err();
    let refused = refused.expect("not there").to_string();
    assert!(refused.contains("403"), "{refused}");
    let reply = get(by_route.number(), "/").await;
    assert_eq!(
        (reply.status.as_u16(), &*reply.text()),
        (200, "no WebSocket\n")
    );
    let other = header(request("GET", "a", "/ws"), "connection", "upgrade");
    let other = header(other, "upgrade", "other");
    let reply = once(by_route.number(), other).await.expect("an answer");
    assert_eq!(reply.status, 403);
}

#[tokio::test]
async fn two_proxies_carry_a_connection_over_tls_that_both_check() {
    let authority = Authority::new();
    let database = Origin::tcp_echo().await;
    let (here, between, wrong) = (Port::free(), Port::free(), Port::free());
    let side = |own: &str, other: &str| {
        json!({ "common_tls_context": {
            "tls_certificates": [authority.issue(&[own]).inline()],
            "validation_context": {
                "trusted_ca": { "inline_string": authority.certificate() },
                "match_typed_subject_alt_names": [
                    { "san_type": "DNS", "matcher": { "exact": other } },
                ],
            },
        } })
    };
    let (near, far) = ("near.example.com", "far.example.com");
    let required = json!({ "require_client_certificate": true });
    let context = with(side(far, near), required);
    let behind = secure(&between, tcp("database", "database"), context);
    let behind = run(vec![behind], vec![cluster("database", &[database.port()])]).await;
    let listeners = vec![
        listener("here", here.number(), tcp("database", "far")),
        listener("wrong", wrong.number(), tcp("database", "not-me")),
    ];
    let clusters = vec![
        over_tls("far", between.number(), side(near, far)),
        over_tls("not-me", between.number(), side("other.example.com", far)),
    ];
    let front = run(listeners, clusters).await;

    let mut stream = dial(here.number()).await.expect("a connection");
    let page = vec![b'x'; 100_000];
    tcp_echo(&mut stream, b"SELECT 1").await.expect("an echo");
    tcp_echo(&mut stream, &page).await.expect("an echo");
    drop(stream);

    // Under another name, with no certificate, and in clear.
    for port in [&wrong, &between] {
        let mut stream = dial(port.number()).await.expect("a connection");
        // It may be closed already.
        stream.write_all(b"SELECT 1").await.ok();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.ok();
        assert_ne!(got, b"SELECT 1");
    }
    let plain = TlsClient::new()
        .ask(between.number(), far, "SELECT 1")
        .await;
    plain.expect_err("a certificate is required");
    let stats = [
        ("fail_verify_san", 1),
        ("fail_verify_no_cert", 1),
        ("handshake", 1),
    ];
    for (name, count) in stats {
        let name = format!("listener.127.0.0.1_{}.ssl.{name}", between.number());
        behind.proxy.admin().stat_reaches(&name, count).await;
    }
    let shaken = front.proxy.admin().stat("cluster.far.ssl.handshake").await;
    assert_eq!(shaken, Some(1));
    // Nobody who was refused has come as far.
    assert_eq!(database.connections(), 1);
}

#[tokio::test]
async fn a_front_leads_to_proxies_beside_their_services() {
    let identity = Authority::new().issue(&["front.example.com"]);
    let first = [Origin::http("first").await, Origin::http("first'").await];
    let second = Origin::http("second").await;
    let ports = [(); 4].map(|()| Port::free());
    let [clear, secret, beside_first, beside_second] = &ports;
    let beside = async |port: &Port, path: &str, origins: &[&Origin]| {
        let ports: Vec<_> = origins.iter().map(|origin| origin.port()).collect();
        let own = http(vec![any_host(vec![route(path, "service")])]);
        let own = listener("beside", port.number(), own);
        run(vec![own], vec![cluster("service", &ports)]).await
    };
    let _first = beside(beside_first, "/service/1", &[&first[0], &first[1]]).await;
    let _second = beside(beside_second, "/service/2", &[&second]).await;
    let routes = || {
        let routes = vec![route("/service/1", "one"), route("/service/2", "two")];
        http(vec![any_host(routes)])
    };
    let listeners = vec![
        listener("clear", clear.number(), routes()),
        secure(secret, routes(), showing(&identity)),
    ];
    let clusters = vec![
        cluster("one", &[beside_first.number()]),
        cluster("two", &[beside_second.number()]),
    ];
    let front = run(listeners, clusters).await;

    let mut answered = Vec::new();
    for _ in 0..4 {
        let seen = get(clear.number(), "/service/1").await.seen();
        // The one at the edge said how long and by which name; the next one believes it.
        assert!(!seen.header("x-request-id").is_empty());
        assert_eq!(seen.header("x-forwarded-proto"), "http");
        answered.push(seen.origin);
    }
    answered.sort();
    assert!(answered.contains(&"first".to_owned()), "{answered:?}");
    assert!(answered.contains(&"first'".to_owned()), "{answered:?}");
    let seen = get_from(clear.number(), "front.example.com", "/service/2").await;
    assert_eq!(seen.seen().host(), "front.example.com");
    assert_eq!(get(clear.number(), "/service/3").await.status, 404);
    let client = TlsClient::new();
    let asked = "GET /service/1/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = client.ask(secret.number(), "front.example.com", asked);
    let text = answer.await.expect("an answer").text;
    assert!(text.contains(r#""target":"/service/1/x""#), "{text}");

    let admin = front.proxy.admin();
    for (cluster, requests) in [("one", 5), ("two", 1)] {
        let name = format!("cluster.{cluster}.external.upstream_rq_200");
        assert_eq!(admin.stat(&name).await, Some(requests));
    }
    let name = "http.ingress.downstream_rq_2xx";
    assert_eq!(admin.stat(name).await, Some(6), "of both listeners");
}
