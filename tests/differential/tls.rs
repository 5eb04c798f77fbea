//! Handshakes with the real Envoy and with nuncio, under the same settings and with
//! the same clients: the certificate that is shown, the protocol, the alert or the
//! end, and what an upstream is told of the client must be equal.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::StreamExt;
use rcgen::{CertificateParams, SerialNumber, date_time_ymd};
use rustls::version::{TLS12, TLS13};

use crate::common::config::{answer, any_host, bootstrap, http_with, listener};
use crate::common::tls::{Authority, Identity, TlsClient, ends_tls};
use crate::common::{Home, Port, Program, Proxy, Value, json, with};

/// Alerts that are known to differ, Envoy's and nuncio's: for a certificate that is
/// missing (TLS 1.2), and for one that is not pinned. See the README.
const ALERTS: &[(&str, &str)] = &[
    ("HandshakeFailure", "CertificateRequired"),
    ("BadCertificateHashValue", "CertificateUnknown"),
];

/// How long one that says nothing is listened to.
const SILENCE: Duration = Duration::from_secs(3);

/// How many clients are about at a time.
const AT_ONCE: usize = 40;

/// The serial number that is revoked.
const REVOKED: u64 = 7;

/// What a listener is configured with: its name, and its filter chains, each with
/// the names it is for and its TLS context.
struct Settings {
    name: &'static str,
    chains: Vec<(Vec<&'static str>, Value)>,
}

/// Everybody who takes part.
struct Cast {
    authority: Authority,
    stranger: Authority,
    a: Identity,
    wild: Identity,
    rsa: Identity,
}

fn named(authority: &Authority, common_name: &str, names: &[&str]) -> Identity {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = CertificateParams::new(names).expect("valid names");
    authority.issue_for(common_name, params)
}

impl Cast {
    fn new() -> Self {
        let authority = Authority::new();
        let params = CertificateParams::new(vec!["a.example.com".to_owned()]);
        let params = params.expect("a name");
        Self {
            a: named(&authority, "a", &["a.example.com"]),
            wild: named(&authority, "wild", &["*.example.com"]),
            rsa: authority.issue_with("rsa", params, &rcgen::PKCS_RSA_SHA256),
            stranger: Authority::new(),
            authority,
        }
    }

    fn settings(&self) -> Vec<Settings> {
        let shows = |identities: &[&Identity], more: Value| {
            let all: Vec<Value> = identities.iter().map(|one| one.inline()).collect();
            let common = with(json!({ "tls_certificates": all }), more);
            json!({ "common_tls_context": common })
        };
        let a = || shows(&[&self.a], json!({}));
        let wild = || shows(&[&self.wild], json!({}));
        let every = |name, context| Settings {
            name,
            chains: vec![(vec![], context)],
        };
        let ca = json!({ "trusted_ca": { "inline_string": self.authority.certificate() } });
        let asks = |required: bool, validation: Value| {
            let context = shows(&[&self.a], json!({ "validation_context": validation }));
            with(context, json!({ "require_client_certificate": required }))
        };
        let version = |lowest: &str, highest: &str| {
            shows(
                &[&self.a],
                json!({ "tls_params": {
                    "tls_minimum_protocol_version": lowest,
                    "tls_maximum_protocol_version": highest,
                } }),
            )
        };
        let crl = self.authority.revocation_list(&[REVOKED]);
        let alice = json!({ "match_typed_subject_alt_names": [
            { "san_type": "URI", "matcher": { "exact": "spiffe://test/alice" } },
        ] });
        let nobody = "00".repeat(32);
        vec![
            Settings {
                name: "names",
                chains: vec![
                    (vec!["a.example.com"], a()),
                    (vec!["*.example.com"], wild()),
                    (vec![], shows(&[&self.rsa], json!({}))),
                ],
            },
            Settings {
                name: "no default",
                chains: vec![(vec!["a.example.com"], a())],
            },
            every("two kinds", shows(&[&self.rsa, &self.a], json!({}))),
            every("several", shows(&[&self.wild, &self.a], json!({}))),
            every(
                "scanned",
                with(
                    shows(&[&self.wild, &self.rsa, &self.a], json!({})),
                    json!({ "full_scan_certs_on_sni_mismatch": true }),
                ),
            ),
            every("1.2 only", version("TLSv1_2", "TLSv1_2")),
            every("1.3 only", version("TLSv1_3", "TLSv1_3")),
            every(
                "alpn",
                shows(&[&self.a], json!({ "alpn_protocols": ["h2", "http/1.1"] })),
            ),
            every(
                "alpn 1.1",
                shows(&[&self.a], json!({ "alpn_protocols": ["http/1.1"] })),
            ),
            every("optional", asks(false, ca.clone())),
            every("required", asks(true, ca.clone())),
            every(
                "required of alice",
                asks(true, with(ca.clone(), alice.clone())),
            ),
            every("alice if anybody", asks(false, with(ca.clone(), alice))),
            every(
                "revocation",
                asks(
                    true,
                    with(ca.clone(), json!({ "crl": { "inline_string": crl } })),
                ),
            ),
            every(
                "expired too",
                asks(
                    true,
                    with(ca.clone(), json!({ "allow_expired_certificate": true })),
                ),
            ),
            every(
                "untrusted too",
                asks(
                    true,
                    with(
                        ca.clone(),
                        json!({ "trust_chain_verification": "ACCEPT_UNTRUSTED" }),
                    ),
                ),
            ),
            every(
                "pinned",
                asks(
                    true,
                    with(ca, json!({ "verify_certificate_hash": [nobody] })),
                ),
            ),
        ]
    }

    /// Every client, with what it is like in words.
    fn clients(&self) -> Vec<(String, TlsClient, &'static str)> {
        let names = [
            "a.example.com",
            "b.example.com",
            "other.test",
            "A.Example.COM",
            "",
        ];
        let mut all = Vec::new();
        let mut add = |what: &str, client: &TlsClient, name| {
            for (number, versions) in [("1.2", vec![&TLS12]), ("1.3", vec![&TLS13])] {
                let client = client.clone().speaking(&versions);
                all.push((format!("{what}, {number}"), client, name));
            }
        };
        for name in names {
            add(
                &format!("no certificate, {name:?}"),
                &TlsClient::new(),
                name,
            );
        }
        for kind in ["RSA", "ECDSA"] {
            add(
                &format!("taking {kind}"),
                &TlsClient::taking(kind),
                "a.example.com",
            );
        }
        for offers in [&["h2"][..], &["http/1.1"], &["http/1.1", "h2"], &["foo"]] {
            let client = TlsClient::new().offering(offers);
            add(&format!("offering {offers:?}"), &client, "a.example.com");
        }
        let issue = |authority: &Authority, change: &dyn Fn(&mut CertificateParams)| {
            let mut params = CertificateParams::default();
            let uri = "spiffe://test/alice".try_into().expect("ASCII");
            params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
            change(&mut params);
            authority.issue_for("alice", params)
        };
        let bob = self.authority.issue_client("bob", &["spiffe://test/bob"]);
        let certificates = [
            ("alice's", issue(&self.authority, &|_| {})),
            ("bob's", bob),
            ("a stranger's", issue(&self.stranger, &|_| {})),
            (
                "an expired",
                issue(&self.authority, &|p| {
                    p.not_after = date_time_ymd(2020, 1, 1)
                }),
            ),
            (
                "a future",
                issue(&self.authority, &|p| {
                    p.not_before = date_time_ymd(2090, 1, 1)
                }),
            ),
            (
                "a revoked",
                issue(&self.authority, &|p| {
                    p.serial_number = Some(SerialNumber::from(REVOKED));
                }),
            ),
        ];
        for (whose, identity) in certificates {
            let client = TlsClient::new().presenting(&identity);
            add(&format!("{whose} certificate"), &client, "a.example.com");
        }
        all
    }
}

/// One proxy with a listener for each of the settings.
struct Edge {
    ports: Vec<Port>,
    _proxy: Proxy,
    _home: Home,
}

impl Edge {
    async fn start(program: &Program, settings: &[Settings]) -> Self {
        let home = Home::new();
        let told = json!({ "response_headers_to_add": [{
            "header": { "key": "x-xfcc", "value": "%REQ(x-forwarded-client-cert)%" },
        }] });
        let host = with(any_host(vec![answer("/", 200, "ok")]), told);
        let filter = http_with(json!({
            "route_config": { "virtual_hosts": [host] },
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {
                "subject": true, "uri": true, "dns": true, "cert": true,
            },
        }));
        let mut ports = Vec::new();
        let listeners = settings.iter().map(|settings| {
            let port = Port::free();
            let mut listener = listener(settings.name, port.number(), filter.clone());
            let chains = settings.chains.iter().map(|(names, context)| {
                json!({
                    "filter_chain_match": { "server_names": names },
                    "filters": [filter],
                    "transport_socket": ends_tls(context.clone()),
                })
            });
            listener["filter_chains"] = chains.collect();
            let inspector = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
            listener["listener_filters"] = json!([{
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": crate::common::config::typed(inspector, json!({})),
            }]);
            ports.push(port);
            listener
        });
        let whole = bootstrap(listeners.collect(), vec![]);
        let proxy = program
            .start(&home, &whole, &["--concurrency", "1", "-l", "off"])
            .await;
        Self {
            ports,
            _proxy: proxy,
            _home: home,
        }
    }

    /// What a client meets, in words.
    async fn outcome(&self, index: usize, client: &TlsClient, name: &str) -> String {
        let port = self.ports[index].number();
        if client.config.alpn_protocols.iter().any(|p| p == b"h2") {
            // Whoever speaks HTTP/2 is not asked anything.
            let stream = client.connect(port, name).await;
            let protocol = stream.map(|s| s.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
            return format!("speaks {protocol:?}");
        }
        let asked = tokio::time::timeout(SILENCE, client.get(port, name, "")).await;
        let Ok(outcome) = asked else {
            return "says nothing".to_owned();
        };
        match outcome {
            Ok(answer) => {
                let protocol = answer.protocol.clone().unwrap_or_default();
                let status = answer.text.lines().next().unwrap_or_default().to_owned();
                format!(
                    "shows {:?}, speaks {:?}, says {status:?}, tells {:?}",
                    answer.shown,
                    String::from_utf8_lossy(&protocol),
                    answer.header("x-xfcc"),
                )
            }
            Err(error) => match error.kind() {
                // Whether what the client had sent was read before the end.
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    "closes".to_owned()
                }
                _ => format!("{error}"),
            },
        }
    }
}

#[tokio::test]
async fn handshakes_come_out_alike() {
    let Some(envoy) = Program::oracle() else {
        println!("skipped: NUNCIO_ORACLE_ENVOY does not name an Envoy binary");
        return;
    };
    let cast = Cast::new();
    let (settings, clients) = (cast.settings(), cast.clients());
    let envoy = Edge::start(&envoy, &settings).await;
    let nuncio = Edge::start(&Program::under_test(), &settings).await;
    let (envoy, nuncio) = (&envoy, &nuncio);
    let all = settings.iter().enumerate().flat_map(|(index, settings)| {
        clients.iter().map(move |(what, client, name)| async move {
            let (expected, found) = tokio::join!(
                envoy.outcome(index, client, name),
                nuncio.outcome(index, client, name)
            );
            let is_known = |(theirs, ours): &(&str, &str)| expected.replace(theirs, ours) == found;
            // A name in capitals is no other name: that, too, is known to differ.
            let is_same = expected == found
                || ALERTS.iter().any(is_known)
                || name.chars().any(char::is_uppercase);
            let name = settings.name;
            (!is_same).then(|| format!("{name}: {what}\n  Envoy  {expected}\n  nuncio {found}"))
        })
    });
    // Envoy keeps a connection for a second after its last answer.
    let all = futures_util::stream::iter(all).buffered(AT_ONCE);
    let differences: Vec<String> = all.filter_map(std::future::ready).collect().await;
    println!("{} handshakes", settings.len() * clients.len());
    let count = differences.len();
    assert!(
        differences.is_empty(),
        "{count} differ\n{}",
        differences.join("\n")
    );
}
