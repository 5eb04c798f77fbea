//! TLS that ends at the proxy, with rustls as the client.

use std::sync::Arc;

use rcgen::CertificateParams;

use crate::common::client::request;
use crate::common::config::{self, answer, any_host, bootstrap, http_with, listener, typed};
use crate::common::tls::{Authority, Identity, TlsClient, ends_tls};
use crate::common::{H2, Home, Port, Proxy, Value, eventually, json, with};

/// A listener that ends TLS and answers by itself; the headers of its answers
/// tell what it knows of the connection.
struct Edge {
    proxy: Proxy,
    port: Port,
    _home: Home,
}

impl Edge {
    async fn start(contexts: &[Value]) -> Self {
        Self::with_manager(contexts, json!({})).await
    }

    /// One filter chain for each context; `server_names` of a context go to the
    /// match of its chain.
    async fn with_manager(contexts: &[Value], manager: Value) -> Self {
        let (home, port) = (Home::new(), Port::free());
        let told = |key: &str, value: &str| json!({ "header": { "key": key, "value": value }, "keep_empty_value": true });
        let host = with(
            any_host(vec![answer("/", 200, "ok")]),
            json!({ "response_headers_to_add": [
                told("x-xfcc", "%REQ(x-forwarded-client-cert)%"),
                told("x-peer", "%DOWNSTREAM_PEER_SUBJECT%|%DOWNSTREAM_PEER_URI_SAN%"),
                told("x-local", "%DOWNSTREAM_LOCAL_SUBJECT%|%DOWNSTREAM_LOCAL_DNS_SAN%"),
                told("x-settled", "%DOWNSTREAM_TLS_VERSION%|%DOWNSTREAM_TLS_CIPHER%"),
            ] }),
        );
        let filter = http_with(with(
            json!({ "route_config": { "virtual_hosts": [host] } }),
            manager,
        ));
        let mut listener = listener("edge", port.number(), filter.clone());
        let chains = contexts.iter().enumerate().map(|(number, context)| {
            let mut context = context.clone();
            let names = context
                .as_object_mut()
                .and_then(|c| c.remove("server_names"));
            let mut filter = filter.clone();
            filter["typed_config"]["route_config"]["response_headers_to_add"] =
                json!([told("x-chain", &number.to_string())]);
            let mut chain = json!({
                "filters": [filter],
                "transport_socket": ends_tls(context),
            });
            if let Some(names) = names {
                chain["filter_chain_match"] = json!({ "server_names": names });
            }
            chain
        });
        listener["filter_chains"] = chains.collect();
        listener["listener_filters"] = json!([{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": typed(
                "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
                json!({}),
            ),
        }]);
        listener["stat_prefix"] = "edge".into();
        let node = json!({ "node": { "id": "edge", "cluster": "test" } });
        let bootstrap = with(bootstrap(vec![listener], vec![]), node);
        let proxy = Proxy::start(&home, &bootstrap, &[]).await;
        Self {
            proxy,
            port,
            _home: home,
        }
    }

    /// The common name of the certificate that this client is shown.
    async fn shown(&self, client: &TlsClient, server_name: &str) -> String {
        let answer = client.get(self.port.number(), server_name, "").await;
        answer.expect("an answer").shown
    }

    async fn stat(&self, name: &str) -> u64 {
        let name = format!("listener.edge.ssl.{name}");
        self.proxy.admin().stat(&name).await.unwrap_or(0)
    }
}

fn named(authority: &Authority, common_name: &str, names: &[&str]) -> Identity {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = CertificateParams::new(names).expect("valid names");
    authority.issue_for(common_name, params)
}

fn showing(identities: &[&Identity]) -> Value {
    let all: Vec<Value> = identities
        .iter()
        .map(|identity| identity.inline())
        .collect();
    json!({ "common_tls_context": { "tls_certificates": all } })
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let authority = Authority::new();
    let first = named(&authority, "first", &["first.example.com"]);
    let exact = named(&authority, "exact", &["a.example.com"]);
    let wild = named(&authority, "wild", &["*.example.com"]);
    let common = named(&authority, "common.example.com", &[]);
    let edge = Edge::start(&[showing(&[&first, &wild, &exact, &common])]).await;
    let client = TlsClient::new();
    for (server_name, shown) in [
        ("a.example.com", "exact"),
        ("b.example.com", "wild"),
        ("common.example.com", "common.example.com"),
        ("a.b.example.com", "first"),
        ("other.test", "first"),
        ("", "first"),
    ] {
        assert_eq!(
            edge.shown(&client, server_name).await,
            shown,
            "{server_name}"
        );
    }
}

#[tokio::test]
async fn what_the_client_takes_chooses_among_equals() {
    let authority = Authority::new();
    let names = || CertificateParams::new(vec!["a.example.com".to_owned()]).expect("a name");
    let rsa = authority.issue_with("rsa", names(), &rcgen::PKCS_RSA_SHA256);
    let ecdsa = authority.issue_for("ecdsa", names());
    let edge = Edge::start(&[showing(&[&rsa, &ecdsa])]).await;
    assert_eq!(
        edge.shown(&TlsClient::new(), "a.example.com").await,
        "ecdsa"
    );
    let old = TlsClient::taking("RSA");
    assert_eq!(edge.shown(&old, "a.example.com").await, "rsa");
}

#[tokio::test]
async fn no_name_in_common_is_the_first_certificate_or_with_a_full_scan_the_best() {
    let authority = Authority::new();
    let name = |name: &str| CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let rsa = authority.issue_with("rsa", name("a.example.com"), &rcgen::PKCS_RSA_SHA256);
    let ecdsa = authority.issue_for("ecdsa", name("b.example.com"));
    for (full_scan, shown) in [(false, "rsa"), (true, "ecdsa")] {
        let scan = json!({ "full_scan_certs_on_sni_mismatch": full_scan });
        let edge = Edge::start(&[with(showing(&[&rsa, &ecdsa]), scan)]).await;
        assert_eq!(edge.shown(&TlsClient::new(), "c.test").await, shown);
    }
}

#[tokio::test]
async fn a_name_may_be_required() {
    let authority = Authority::new();
    let context = with(
        showing(&[&named(&authority, "a", &["a.example.com"])]),
        json!({ "require_sni": true }),
    );
    let edge = Edge::start(&[context]).await;
    let (client, port) = (TlsClient::new(), edge.port.number());
    assert!(client.get(port, "a.example.com", "").await.is_ok());
    assert!(client.get(port, "b.example.com", "").await.is_err());
    assert!(client.get(port, "", "").await.is_err());
}

#[tokio::test]
async fn a_client_certificate_is_told_to_the_upstream() {
    let authority = Authority::new();
    let alice = authority.issue_client("alice", &["spiffe://test/alice"]);
    let uri = rcgen::SanType::URI("spiffe://test/edge".try_into().expect("ASCII"));
    let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).expect("a name");
    params.subject_alt_names.push(uri);
    let server = authority.issue_for("server", params);
    let context = with(
        showing(&[&server]),
        json!({ "common_tls_context": { "validation_context": {
            "trusted_ca": { "inline_string": authority.certificate() },
        } } }),
    );
    for (policy, with_certificate, without) in [
        ("SANITIZE", "", ""),
        ("FORWARD_ONLY", "By=x", ""),
        ("APPEND_FORWARD", "By=x,By=spiffe://test/edge;Hash=", ""),
        ("SANITIZE_SET", "By=spiffe://test/edge;Hash=", ""),
        ("ALWAYS_FORWARD_ONLY", "By=x", "By=x"),
    ] {
        let manager = json!({
            "forward_client_cert_details": policy,
            "set_current_client_cert_details": { "subject": true, "uri": true, "issuer": true },
        });
        let edge = Edge::with_manager(std::slice::from_ref(&context), manager).await;
        let sends = "x-forwarded-client-cert: By=x\r\n";
        let client = TlsClient::new().presenting(&alice);
        let answer = client.get(edge.port.number(), "a.example.com", sends).await;
        let answer = answer.expect("an answer");
        let told = answer.header("x-xfcc");
        assert!(told.starts_with(with_certificate), "{policy}: {told}");
        if with_certificate.ends_with("Hash=") {
            let rest = ";Subject=\"CN=alice\";URI=spiffe://test/alice;Issuer=\"CN=Test authority\"";
            assert!(told.ends_with(rest), "{told}");
        } else {
            assert_eq!(told, with_certificate);
        }
        assert_eq!(answer.header("x-peer"), "CN=alice|spiffe://test/alice");
        assert_eq!(answer.header("x-local"), "CN=server|a.example.com");
        assert_eq!(answer.header("x-settled"), "TLSv1.3|TLS_AES_256_GCM_SHA384");
        let client = TlsClient::new();
        let answer = client.get(edge.port.number(), "a.example.com", sends).await;
        assert_eq!(
            answer.expect("an answer").header("x-xfcc"),
            without,
            "{policy}"
        );
    }
}

#[tokio::test]
async fn a_client_certificate_has_to_be_what_was_asked_for() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = named(&authority, "server", &["a.example.com"]);
    let ca = json!({ "trusted_ca": { "inline_string": authority.certificate() } });
    let uri = |exact: &str| {
        json!({ "match_typed_subject_alt_names": [
            { "san_type": "URI", "matcher": { "exact": exact } },
        ] })
    };
    let alice = authority.issue_client("alice", &["spiffe://test/alice"]);
    let bob = authority.issue_client("bob", &["spiffe://test/bob"]);
    let mallory = stranger.issue_client("mallory", &["spiffe://test/alice"]);
    // Who gets in: nobody in particular, alice, bob, mallory.
    for (asked, required, expected) in [
        (ca.clone(), false, [true, true, true, false]),
        (ca.clone(), true, [false, true, true, false]),
        (
            with(ca.clone(), uri("spiffe://test/alice")),
            false,
            [false, true, false, false],
        ),
        (
            with(
                with(ca.clone(), uri("spiffe://test/alice")),
                json!({ "trust_chain_verification": "ACCEPT_UNTRUSTED" }),
            ),
            false,
            [true, true, true, true],
        ),
        (
            with(ca.clone(), json!({ "max_verify_depth": 0 })),
            false,
            [true, true, true, false],
        ),
    ] {
        let context = with(
            showing(&[&server]),
            json!({
                "common_tls_context": { "validation_context": asked },
                "require_client_certificate": required,
            }),
        );
        let edge = Edge::start(&[context]).await;
        let clients = [
            TlsClient::new(),
            TlsClient::new().presenting(&alice),
            TlsClient::new().presenting(&bob),
            TlsClient::new().presenting(&mallory),
        ];
        let mut found = [false; 4];
        for (client, found) in clients.iter().zip(&mut found) {
            let answer = client.get(edge.port.number(), "a.example.com", "").await;
            *found = answer.is_ok();
        }
        assert_eq!(found, expected, "{asked} {required}");
        let handshakes = expected.iter().filter(|good| **good).count();
        assert_eq!(edge.stat("handshake").await, handshakes as u64);
        let no_cert = u64::from(!expected[0]);
        assert_eq!(edge.stat("fail_verify_no_cert").await, no_cert);
        assert_eq!(edge.stat("no_certificate").await, 1 - no_cert);
        assert_eq!(edge.stat("fail_verify_error").await, 1);
        assert_eq!(edge.stat("versions.TLSv1.3").await, handshakes as u64);
    }
}

#[tokio::test]
async fn protocols_without_one_in_common_are_as_if_not_offered() {
    let authority = Authority::new();
    let context = with(
        showing(&[&named(&authority, "a", &["a.example.com"])]),
        json!({ "common_tls_context": { "alpn_protocols": ["h2", "http/1.1"] } }),
    );
    let edge = Edge::start(&[context]).await;
    for (offered, settled) in [
        (&["http/1.1"][..], Some(&b"http/1.1"[..])),
        (&["foo"], None),
        (&[], None),
    ] {
        let client = TlsClient::new().offering(offered);
        let answer = client.get(edge.port.number(), "a.example.com", "").await;
        assert_eq!(answer.expect("an answer").protocol.as_deref(), settled);
    }
}

#[tokio::test]
async fn a_session_is_resumed_where_the_same_is_asked() {
    let authority = Authority::new();
    let server = named(&authority, "server", &["a.example.com", "b.example.com"]);
    let keys = json!({ "session_ticket_keys": { "keys": [{ "inline_bytes": "QUFB".repeat(26) + "QUE=" }] } });
    let free = with(
        with(showing(&[&server]), keys.clone()),
        json!({ "server_names": ["a.example.com"] }),
    );
    let strict = with(
        with(showing(&[&server]), keys),
        json!({
            "server_names": ["b.example.com"],
            "common_tls_context": { "validation_context": {
                "trusted_ca": { "inline_string": authority.certificate() },
            } },
            "require_client_certificate": true,
        }),
    );
    let edge = Edge::start(&[free, strict.clone()]).await;
    let client = TlsClient::new();
    let port = edge.port.number();
    let first = client
        .get(port, "a.example.com", "")
        .await
        .expect("an answer");
    let second = client
        .get(port, "a.example.com", "")
        .await
        .expect("an answer");
    assert_eq!((first.resumed, second.resumed), (false, true));
    assert_eq!(edge.stat("session_reused").await, 1);
    // Another process with the same keys takes the session up, and asks for a
    // certificate where that is asked.
    let other = Edge::start(&[with(strict, json!({ "server_names": ["a.example.com"] }))]).await;
    assert!(
        client
            .get(other.port.number(), "a.example.com", "")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn resumption_can_be_turned_off() {
    let authority = Authority::new();
    let context = with(
        showing(&[&named(&authority, "a", &["a.example.com"])]),
        json!({ "disable_stateless_session_resumption": true, "disable_stateful_session_resumption": true }),
    );
    let edge = Edge::start(&[context]).await;
    let client = TlsClient::new();
    for _ in 0..2 {
        let answer = client.get(edge.port.number(), "a.example.com", "").await;
        assert!(!answer.expect("an answer").resumed);
    }
}

/// What a client learns of its session, in the format in which it is logged.
#[derive(Debug, Default)]
struct Told(std::sync::Mutex<Vec<String>>);

impl rustls::KeyLog for Told {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let line = format!("{label} {} {}", hex(client_random), hex(secret));
        self.0.lock().expect("no panic").push(line);
    }
}

#[tokio::test]
async fn session_secrets_are_logged_for_the_addresses_that_are_named() {
    let authority = Authority::new();
    let home = Home::new();
    let server = named(&authority, "a", &["a.example.com"]);
    let range = |prefix: &str| json!([{ "address_prefix": prefix, "prefix_len": 8 }]);
    for (name, local, remote, covered) in [
        ("all", json!([]), json!([]), true),
        ("both", range("127.0.0.0"), range("127.0.0.0"), true),
        ("local", range("10.0.0.0"), json!([]), false),
        ("remote", range("127.0.0.0"), range("10.0.0.0"), false),
    ] {
        let context = with(
            showing(&[&server]),
            json!({ "common_tls_context": { "key_log": {
                "path": home.text(name),
                "local_address_range": local,
                "remote_address_range": remote,
            } } }),
        );
        let edge = Edge::start(&[context]).await;
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let told = Arc::new(Told::default());
            let mut client = TlsClient::new().speaking(&[version]);
            client.config.key_log = told.clone();
            let answer = client.get(edge.port.number(), "a.example.com", "").await;
            answer.expect("an answer");
            let told = told.0.lock().expect("no panic").clone();
            assert!(!told.is_empty());
            if covered {
                eventually("the secrets in the log", || async {
                    let logged = home.read(name);
                    told.iter()
                        .all(|line| logged.lines().any(|logged| logged == line))
                        .then_some(())
                })
                .await;
            }
        }
        drop(edge);
        assert_eq!(home.read(name).is_empty(), !covered, "{name}");
    }
}

#[tokio::test]
async fn when_certificates_end_is_told_by_their_names() {
    let authority = Authority::new();
    let ending = |year: i32| {
        let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        authority.issue_for("a", params)
    };
    let home = Home::new();
    let secret = |identity: &Identity| {
        json!({ "resources": [with(
            json!({ "@type": config::SECRET, "name": "web" }),
            json!({ "tls_certificate": identity.inline() }),
        )] })
    };
    home.mv_value("web.yaml", &secret(&ending(2040)));
    let context = with(
        showing(&[&ending(2060), &ending(2050)]),
        json!({ "common_tls_context": { "tls_certificate_sds_secret_configs": [
            { "name": "web", "sds_config": config::file_source(&home.text("web.yaml")) },
        ] } }),
    );
    let edge = Edge::start(&[context]).await;
    let ends = async |name: &str| {
        let name = format!("certificate.{name}.expiration_unix_time_seconds");
        edge.stat(&name).await
    };
    // 2050-01-01: the first to end of those that have no name.
    assert_eq!(ends("unnamed_cert_e3b0c442").await, 2_524_608_000);
    assert_eq!(ends("web").await, 2_208_988_800);
    home.mv_value("web.yaml", &secret(&ending(2041)));
    eventually("the new certificate", || async {
        (ends("web").await == 2_240_611_200).then_some(())
    })
    .await;
    let page = edge.proxy.admin().text("/stats/prometheus").await;
    let line = r#"envoy_listener_ssl_certificate_expiration_unix_time_seconds{envoy_tls_certificate="web",envoy_listener_address="edge"} 2240611200"#;
    assert!(page.contains(line), "{page}");
}

/// Every connection below is made for a.example.com, and asks for another host.
async fn asks(edge: &Edge, host: &str) -> (u16, String) {
    let client = TlsClient::new().offering(&["h2"]);
    let stream = client.connect(edge.port.number(), "a.example.com").await;
    let connection = H2::over(stream.expect("TLS")).await.expect("HTTP/2");
    let reply = connection.send(request("GET", host, "/")).await;
    let reply = reply.expect("an answer");
    // The connection goes on, whatever became of the request.
    let own = connection.send(request("GET", "a.example.com", "/")).await;
    assert_eq!(own.expect("an answer").header("x-chain"), "0");
    (reply.status.as_u16(), reply.header("x-chain").to_owned())
}

#[tokio::test]
async fn a_request_for_another_chains_name_is_served_there_or_sent_back() {
    let authority = Authority::new();
    let wild = named(&authority, "wild", &["*.example.com"]);
    let a = named(&authority, "a", &["a.example.com"]);
    let b = named(&authority, "b", &["b.example.com"]);
    let for_names = |names: Value, identity: &Identity| {
        let context = with(
            showing(&[identity]),
            json!({ "common_tls_context": { "alpn_protocols": ["h2", "http/1.1"] } }),
        );
        with(context, json!({ "server_names": names }))
    };
    let strict = json!({
        "common_tls_context": { "validation_context": {
            "trusted_ca": { "inline_string": authority.certificate() },
        } },
        "require_client_certificate": true,
    });
    let [a_name, b_name] = [json!(["a.example.com"]), json!(["b.example.com"])];
    for (case, first, second, expected) in [
        (
            "one certificate",
            for_names(a_name.clone(), &wild),
            for_names(b_name.clone(), &wild),
            (200, "1"),
        ),
        (
            "another certificate, but the one that was shown is for it too",
            for_names(a_name.clone(), &wild),
            for_names(b_name.clone(), &b),
            (200, "1"),
        ),
        (
            "another certificate",
            for_names(a_name.clone(), &a),
            for_names(b_name.clone(), &b),
            (421, ""),
        ),
        (
            "a client certificate is asked for",
            for_names(a_name.clone(), &wild),
            with(for_names(b_name.clone(), &wild), strict.clone()),
            (421, ""),
        ),
        (
            "a chain for everybody",
            for_names(a_name.clone(), &a),
            with(for_names(json!([]), &b), strict),
            (200, "0"),
        ),
        (
            "a wildcard",
            for_names(a_name.clone(), &wild),
            for_names(json!(["*.example.com"]), &wild),
            (200, "1"),
        ),
    ] {
        let edge = Edge::start(&[first, second]).await;
        let (status, chain) = asks(&edge, "b.example.com").await;
        assert_eq!((status, chain.as_str()), expected, "{case}");
        let own = asks(&edge, "A.example.com:443").await;
        assert_eq!(own, (200, "0".to_owned()), "{case}");
        // HTTP/1 shares no connections: what its client says, it means.
        let client = TlsClient::new();
        let request = "GET / HTTP/1.1\r\nhost: b.example.com\r\nconnection: close\r\n\r\n";
        let answer = client.ask(edge.port.number(), "a.example.com", request);
        assert_eq!(answer.await.expect("an answer").header("x-chain"), "0");
    }
}
