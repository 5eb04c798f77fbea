//! What carries the bytes to an origin: TLS in all its settings, the PROXY protocol
//! before it, and one or the other by endpoint.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::common::client::{header, request};
use crate::common::config::{
    address, answer, any_host, bootstrap, cluster, http, http_with, listener, route, typed,
};
use crate::common::tls::{Authority, Identity, acceptor, ends_tls};
use crate::common::{Home, Origin, Port, Proxy, Site, Value, json, with};

fn tls(context: Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            context,
        ),
    })
}

fn raw() -> Value {
    json!({
        "name": "envoy.transport_sockets.raw_buffer",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            json!({}),
        ),
    })
}

fn proxy_protocol(config: Value, inner: Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.upstream_proxy_protocol",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
            json!({ "config": config, "transport_socket": inner }),
        ),
    })
}

fn http_options(fields: Value) -> Value {
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({ "typed_extension_protocol_options": { name: typed(name, fields) } })
}

fn trusting(authority: &Authority) -> Value {
    json!({ "validation_context": {
        "trusted_ca": { "inline_string": authority.certificate() },
    } })
}

/// A cluster of one port reached like this.
fn through(port: u16, socket: Value) -> Value {
    with(
        cluster("origin", &[port]),
        json!({ "transport_socket": socket }),
    )
}

/// Endpoints, each with what it asks its transport socket for.
fn asking(endpoints: &[(u16, Value)]) -> Value {
    let endpoints = endpoints.iter().map(|(port, labels)| {
        json!({
            "endpoint": { "address": address(*port) },
            "metadata": { "filter_metadata": { "envoy.transport_socket_match": labels } },
        })
    });
    json!({ "load_assignment": {
        "cluster_name": "origin",
        "endpoints": [{ "lb_endpoints": endpoints.collect::<Vec<_>>() }],
    } })
}

async fn site(cluster: Value) -> Site {
    let filter = http(vec![any_host(vec![route("/", "origin")])]);
    Site::with_args(filter, vec![cluster], &["--concurrency", "1"]).await
}

#[tokio::test]
async fn each_endpoint_gets_the_transport_socket_that_its_metadata_matches() {
    let authority = Authority::new();
    let clear = Origin::http("clear").await;
    let secure = Origin::https("secure", &authority.issue(&["inner.example.org"])).await;
    let named = |name: &str| tls(json!({ "sni": name }));
    let cluster = with(
        cluster("origin", &[]),
        json!({ "transport_socket_matches": [
            { "name": "both", "match": { "tls": true, "level": 2 }, "transport_socket": named("b.test") },
            { "name": "one", "match": { "tls": true }, "transport_socket": named("a.test") },
        ] }),
    );
    let endpoints = [
        (clear.port(), json!({ "tls": "true" })),
        (
            secure.port(),
            json!({ "tls": true, "level": 2, "more": "x" }),
        ),
    ];
    let site = site(with(cluster, asking(&endpoints))).await;
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        let one = site.get("/").await.seen();
        seen.insert((one.origin, one.server_name));
    }
    let expected = [
        ("clear".to_owned(), None),
        ("secure".to_owned(), Some("b.test".to_owned())),
    ];
    assert_eq!(seen, BTreeSet::from(expected));
    for (name, count) in [("default", 1), ("both", 1), ("one", 0)] {
        let name = format!("cluster.origin.{name}.total_match_count");
        assert_eq!(site.admin().stat(&name).await, Some(count), "{name}");
    }
}

#[tokio::test]
async fn the_protocol_is_what_the_host_takes() {
    let authority = Authority::new();
    let identity = authority.issue(&["inner.example.org"]);
    let (old, new) = (
        Origin::https("old", &identity).await,
        Origin::https2("new", &identity).await,
    );
    for (origin, version, connections) in [(&old, "HTTP/1.1", 8), (&new, "HTTP/2.0", 1)] {
        let auto = http_options(json!({ "auto_config": { "http2_protocol_options": {} } }));
        let site = site(with(through(origin.port(), tls(json!({}))), auto)).await;
        let slow = || header(request("GET", "a", "/"), "x-origin-delay-ms", "300");
        // All at once, before anything is known of the host.
        let replies = join_all((0..8).map(|_| site.send(slow()))).await;
        for reply in replies {
            assert_eq!(reply.seen().version, version);
        }
        assert_eq!(origin.connections(), connections, "{version}");
        let counted = match version {
            "HTTP/1.1" => "cluster.origin.upstream_cx_http1_total",
            _ => "cluster.origin.upstream_cx_http2_total",
        };
        assert_eq!(site.admin().stat(counted).await, Some(connections));
    }
}

#[tokio::test]
async fn the_server_name_can_be_the_hosts_or_the_requests() {
    let authority = Authority::new();
    let identity = authority.issue(&["inner.example.org", "other.example.org"]);
    let origin = Origin::https("origin", &identity).await;
    let by_host = with(
        through(
            origin.port(),
            tls(json!({ "sni": "set.test", "auto_host_sni": true })),
        ),
        json!({ "load_assignment": { "cluster_name": "origin", "endpoints": [{ "lb_endpoints": [{
            "endpoint": { "hostname": "inner.example.org", "address": address(origin.port()) },
        }] }] } }),
    );
    let options = |fields: Value| {
        http_options(json!({
            "explicit_http_config": { "http_protocol_options": {} },
            "upstream_http_protocol_options": fields,
        }))
    };
    let trusting = |sni: &str| {
        let context = json!({ "common_tls_context": trusting(&authority), "sni": sni });
        through(origin.port(), tls(context))
    };
    let by_request = with(trusting("set.test"), options(json!({ "auto_sni": true })));
    let by_header = with(
        trusting("set.test"),
        options(json!({ "auto_sni": true, "override_auto_sni_header": "x-name" })),
    );
    let checked = with(
        trusting("set.test"),
        options(json!({ "auto_sni": true, "auto_san_validation": true })),
    );
    let only_checked = with(
        trusting("set.test"),
        options(json!({ "auto_san_validation": true })),
    );
    let cases: [(&str, Value, &str, Option<&str>); 10] = [
        (
            "auto_host_sni",
            by_host,
            "a.test",
            Some("inner.example.org"),
        ),
        ("auto_sni", by_request.clone(), "a.test:80", Some("a.test")),
        (
            "auto_sni, an address",
            by_request,
            "127.0.0.1",
            Some("set.test"),
        ),
        (
            "override",
            by_header.clone(),
            "a.test b.test",
            Some("b.test"),
        ),
        ("no override", by_header, "a.test", Some("a.test")),
        (
            "checked",
            checked.clone(),
            "other.example.org",
            Some("other.example.org"),
        ),
        ("checked, wrong", checked.clone(), "a.test", None),
        ("checked, an address", checked, "127.0.0.1", None),
        (
            "only checked",
            only_checked.clone(),
            "inner.example.org",
            Some("set.test"),
        ),
        ("only checked, wrong", only_checked, "set.test", None),
    ];
    for (case, cluster, host, expected) in cases {
        let site = site(cluster).await;
        let (host, more) = host.split_once(' ').unwrap_or((host, ""));
        // Twice, that sessions are offered again.
        for _ in 0..2 {
            let mut asked = request("GET", host, "/");
            if !more.is_empty() {
                asked = header(asked, "x-name", more);
            }
            let reply = site.send(header(asked, "connection", "close")).await;
            match expected {
                Some(_) => assert_eq!(reply.seen().server_name.as_deref(), expected, "{case}"),
                None => assert_eq!(reply.status, 503, "{case}"),
            }
        }
    }
}

#[tokio::test]
async fn tls_goes_over_unix_sockets_too() {
    let home = Home::new();
    let path = home.text("origin.sock");
    let acceptor = acceptor(&Authority::new().issue(&["a.test"]), b"http/1.1");
    let listening = UnixListener::bind(&path).expect("a socket");
    let origin = tokio::spawn(async move {
        let (stream, _) = listening.accept().await.expect("a connection");
        let mut stream = acceptor.accept(stream).await.expect("a handshake");
        let mut head = [0; 4096];
        let read = stream.read(&mut head).await.expect("a request");
        assert!(head[..read].starts_with(b"GET "));
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.expect("it takes the answer");
        // Until it has been taken.
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    let cluster = with(
        through(1, tls(json!({}))),
        json!({ "load_assignment": { "cluster_name": "origin", "endpoints": [{ "lb_endpoints": [{
            "endpoint": { "address": { "pipe": { "path": path } } },
        }] }] } }),
    );
    let site = site(cluster).await;
    assert_eq!(site.get("/").await.text(), "ok");
    drop(site);
    origin.await.expect("all went well");
}

/// A proxy whose second listener is the origin of the first, and says in the
/// headers of its answers what it knows of its client.
struct Pair {
    proxy: Proxy,
    front: Port,
    _home: Home,
}

impl Pair {
    /// `fields` say how the first reaches the second, whose filter chain has
    /// those of `chain`.
    async fn start(home: Home, fields: Value, chain: Value, listener_fields: Value) -> Self {
        let (front, back) = (Port::free(), Port::free());
        let told = |key: &str, value: &str| json!({ "header": { "key": key, "value": value }, "keep_empty_value": true });
        let host = with(
            any_host(vec![answer("/", 200, "ok")]),
            json!({ "response_headers_to_add": [
                told("x-client", "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS%"),
                told("x-peer", "%DOWNSTREAM_PEER_SUBJECT%"),
                told("x-connection", "%CONNECTION_ID%"),
            ] }),
        );
        let filter = http_with(json!({ "route_config": { "virtual_hosts": [host] } }));
        let mut behind = with(
            listener("back", back.number(), filter.clone()),
            listener_fields,
        );
        behind["filter_chains"] = json!([with(json!({ "filters": [filter] }), chain)]);
        let routes = vec![route("/", "origin")];
        let before = listener("front", front.number(), http(vec![any_host(routes)]));
        let cluster = with(cluster("origin", &[back.number()]), fields);
        let bootstrap = bootstrap(vec![before, behind], vec![cluster]);
        let args = [
            "--concurrency",
            "1",
            "--service-node",
            "n",
            "--service-cluster",
            "c",
        ];
        let proxy = Proxy::start(&home, &bootstrap, &args).await;
        Self {
            proxy,
            front,
            _home: home,
        }
    }
}

#[tokio::test]
async fn the_origin_is_told_who_the_client_is() {
    let authority = Authority::new();
    let identity = authority.issue(&["a.test"]);
    let takes = json!({ "listener_filters": [{
        "name": "envoy.filters.listener.proxy_protocol",
        "typed_config": typed(
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            json!({}),
        ),
    }] });
    let secure = json!({ "transport_socket": ends_tls(json!({
        "common_tls_context": { "tls_certificates": [identity.inline()] },
    })) });
    for (socket, chain) in [
        (proxy_protocol(json!({}), raw()), json!({})),
        (proxy_protocol(json!({ "version": "V2" }), raw()), json!({})),
        (
            proxy_protocol(json!({ "version": "V2" }), tls(json!({}))),
            secure,
        ),
    ] {
        let fields = json!({ "transport_socket": socket });
        let pair = Pair::start(Home::new(), fields, chain, takes.clone()).await;
        let port = pair.front.number();
        let mut connections = BTreeSet::new();
        for _ in 0..2 {
            let mut client = crate::common::H1::connect(port)
                .await
                .expect("a connection");
            let mut clients = BTreeSet::new();
            for _ in 0..2 {
                let reply = client
                    .send(request("GET", "a", "/"))
                    .await
                    .expect("an answer");
                let told = reply.header("x-client").to_owned();
                assert!(told.ends_with(&format!(" 127.0.0.1:{port}")), "{told}");
                clients.insert(told);
                connections.insert(reply.header("x-connection").to_owned());
            }
            assert_eq!(clients.len(), 1, "{clients:?}");
        }
        assert_eq!(connections.len(), 2, "one for each client");
    }
}

/// How a client has its certificate.
type Way<'a> = &'a dyn Fn(&Home) -> Value;

#[tokio::test]
async fn clients_present_certificates_and_resume_sessions() {
    let authority = Authority::new();
    let server = authority.issue(&["a.test"]);
    let client = authority.issue_client("Test client", &[]);
    let chain = json!({ "transport_socket": ends_tls(json!({
        "require_client_certificate": true,
        "common_tls_context": with(
            json!({ "tls_certificates": [server.inline()] }),
            trusting(&authority),
        ),
    })) });
    let home = || {
        let home = Home::new();
        home.mv("client.pem", &client.certificate);
        home.mv("client.key", &client.key);
        let secret = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "client",
            "tls_certificate": client.inline(),
        });
        home.mv_value("sds.json", &json!({ "resources": [secret] }));
        home
    };
    let by_file = |home: &Home| {
        json!({ "tls_certificates": [{
            "certificate_chain": { "filename": home.text("client.pem") },
            "private_key": { "filename": home.text("client.key") },
        }] })
    };
    let by_sds = |home: &Home| {
        json!({ "tls_certificate_sds_secret_configs": [{
            "name": "client",
            "sds_config": crate::common::config::file_source(&home.text("sds.json")),
        }] })
    };
    let inline = |_: &Home| json!({ "tls_certificates": [client.inline()] });
    let none = |_: &Home| json!({});
    // By rights of TLS 1.2, the default towards an origin, and of 1.3.
    for version in ["TLSv1_2", "TLSv1_3"] {
        let ways: [(Way<'_>, u32); 5] = [
            (&by_file, 1),
            (&by_sds, 1),
            (&inline, 1),
            (&inline, 0),
            (&none, 1),
        ];
        for (index, (way, sessions)) in ways.into_iter().enumerate() {
            let home = home();
            let certificates = with(
                way(&home),
                json!({ "tls_params": { "tls_maximum_protocol_version": version } }),
            );
            let socket = tls(json!({
                "common_tls_context": certificates,
                "max_session_keys": sessions,
                "sni": "a.test",
            }));
            let once = http_options(json!({
                "explicit_http_config": { "http_protocol_options": {} },
                "common_http_protocol_options": { "max_requests_per_connection": 1 },
            }));
            let fields = with(once, json!({ "transport_socket": socket }));
            let pair = Pair::start(home, fields, chain.clone(), json!({})).await;
            for _ in 0..3 {
                let reply = crate::common::client::get(pair.front.number(), "/").await;
                if index == 4 {
                    assert_eq!(reply.status, 503, "{version}");
                } else {
                    assert_eq!(
                        reply.header("x-peer"),
                        "CN=Test client",
                        "{version} {index}"
                    );
                }
            }
            let reused = "cluster.origin.ssl.session_reused";
            let reused = pair.proxy.admin().stat(reused).await;
            let expected = if index < 3 { 2 } else { 0 };
            assert_eq!(reused, Some(expected), "{version} {index}");
        }
    }
}

/// A certificate of X.509's version 1, which signed itself, and its key. It protects
/// nothing.
const OLD: [&str; 2] = [
    "-----BEGIN CERTIFICATE-----\n\
     MIIBLzCB1wIUNm5j/PgIUUidNysPn1q6mARKHjEwCgYIKoZIzj0EAwIwGjEYMBYG\n\
     A1UEAwwPb2xkLmV4YW1wbGUuY29tMCAXDTI2MTEyODA5MzUwMloYDzIxMjYxMTA0\n\
     MDkzNTAyWjAaMRgwFgYDVQQDDA9vbGQuZXhhbXBsZS5jb20wWTATBgcqhkjOPQIB\n\
     BggqhkjOPQMBBwNCAASsVW/Vck4KJ1G0X3Z+y+AjJ23kkyuUHcSx50iDM2PR361w\n\
     N2TxnZRcB/8dgHL0Em2AAgpWpCBkRtjKb5NHrEKyMAoGCCqGSM49BAMCA0cAMEQC\n\
     IFilyTyqE9/T1sLfltFTQDtUGhw/xr4gSNNxG3uEsmZrAiADJUSDeIcxFVLTwQWR\n\
     xyp3PVGjSGzvy3Mx9opm1ut+jQ==\n\
     -----END CERTIFICATE-----",
    "-----BEGIN PRIVATE KEY-----\n\
     MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg3/1oAYV1CImorhGf\n\
     L0wwRRYAjXLp4SmIIWn4Xhs66/uhRANCAASsVW/Vck4KJ1G0X3Z+y+AjJ23kkyuU\n\
     HcSx50iDM2PR361wN2TxnZRcB/8dgHL0Em2AAgpWpCBkRtjKb5NHrEKy\n\
     -----END PRIVATE KEY-----",
];

#[tokio::test]
async fn certificates_of_version_1_are_shown_and_taken() {
    let [certificate, key] = OLD.map(str::to_owned);
    let old = Identity { certificate, key };
    let (front, edge) = (Port::free(), Port::free());
    let trusted = json!({ "validation_context": {
        "trusted_ca": { "inline_string": old.certificate },
    } });
    let only = |version: &str| {
        let version = json!(version);
        json!({ "tls_params": {
            "tls_minimum_protocol_version": version,
            "tls_maximum_protocol_version": version,
        } })
    };
    for common in [
        json!({}),
        trusted.clone(),
        with(trusted, only("TLSv1_2")),
        only("TLSv1_3"),
    ] {
        let home = Home::new();
        let mut secure = listener(
            "edge",
            edge.number(),
            http(vec![any_host(vec![answer("/", 200, "old")])]),
        );
        let context = json!({ "common_tls_context": { "tls_certificates": [old.inline()] } });
        secure["filter_chains"][0]["transport_socket"] = ends_tls(context);
        let plain = listener(
            "front",
            front.number(),
            http(vec![any_host(vec![route("/", "edge")])]),
        );
        let socket = tls(json!({ "common_tls_context": common }));
        let clusters = vec![with(
            cluster("edge", &[edge.number()]),
            json!({ "transport_socket": socket }),
        )];
        let proxy = Proxy::start(&home, &bootstrap(vec![secure, plain], clusters), &[]).await;
        let reply = crate::common::get(front.number(), "/").await;
        assert_eq!(
            (reply.status.as_u16(), &*reply.text()),
            (200, "old"),
            "{common}"
        );
        drop(proxy);
    }
}
