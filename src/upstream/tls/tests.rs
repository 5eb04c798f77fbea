use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    config::Report,
    model::{
        secret::SecretKind,
        testing::{World, read},
    },
    net::tls::stats::ssl_stats,
};

/// An authority, and a certificate it signed for `origin.test`.
struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

fn pki() -> Pki {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["origin.test".to_owned(), "*.wild.test".to_owned()];
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    Pki {
        authority,
        key,
        certificate,
    }
}

fn indented(pem: &str) -> String {
    pem.lines()
        .map(|line| format!("        {line}\n"))
        .collect()
}

fn compile(world: &World, yaml: &str) -> Result<UpstreamTls, String> {
    let report = Report::new();
    UpstreamTls::compile(
        read(yaml),
        false,
        "cluster.web.",
        &world.cx(),
        &report.root(),
    )
    .map_err(|_| report.to_string())
}

fn trusting(pki: &Pki, more: &str) -> String {
    format!(
        "sni: origin.test\ncommon_tls_context:\n  validation_context:\n    trusted_ca:\n      inline_string: |\n{}{more}",
        indented(&pki.authority.pem())
    )
}

/// What the server of a handshake saw, and what the client got.
async fn handshake(
    tls: &UpstreamTls,
    pki: &Pki,
    alpn: Alpn,
) -> (Result<TlsStream<DuplexStream>, TlsError>, Option<String>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![pki.certificate.der().clone()],
            PrivateKeyDer::try_from(pki.key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (client, server) = tokio::io::duplex(64 * 1024);
    let server = async move {
        let accepted = TlsAcceptor::from(Arc::new(config)).accept(server).await;
        let mut stream = accepted.ok()?;
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        // Ignored where the client has refused the certificate.
        let _answered = stream.write_all(b"hello").await;
        Some(name.unwrap_or_default())
    };
    let address = Address::Ip(([127, 0, 0, 1], 443).into());
    let target = TlsTarget {
        address: &address,
        local: None,
        server_name: tls.auto_host_sni().then_some("host.test"),
        subject: None,
        alpn,
    };
    tokio::join!(tls.connect(client, &target), server)
}

#[tokio::test]
async fn without_a_validation_context_anything_goes() {
    let (world, pki) = (World::new(), pki());
    let tls = compile(&world, "{}").unwrap();
    let (stream, server_name) = handshake(&tls, &pki, Alpn::None).await;
    let mut stream = stream.unwrap();
    assert_eq!(server_name.as_deref(), Some(""), "no name is sent");
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    assert_eq!(tls.stats.block().counter(ssl_stats::handshake), 1);
}

#[tokio::test]
async fn what_is_spoken_is_offered_unless_configured() {
    let (world, pki) = (World::new(), pki());
    let tls = compile(&world, "sni: a.test").unwrap();
    let (stream, server_name) = handshake(&tls, &pki, Alpn::Http2).await;
    assert_eq!(
        stream.unwrap().get_ref().1.alpn_protocol(),
        Some(&b"h2"[..])
    );
    assert_eq!(server_name.as_deref(), Some("a.test"));
    let tls = compile(&world, "common_tls_context: {alpn_protocols: [http/1.1]}").unwrap();
    let (stream, _) = handshake(&tls, &pki, Alpn::Http2).await;
    assert_eq!(
        stream.unwrap().get_ref().1.alpn_protocol(),
        Some(&b"http/1.1"[..])
    );
}

#[tokio::test]
async fn a_chain_has_to_lead_to_the_authority_and_the_name_does_not_count() {
    let (world, good, other) = (World::new(), pki(), pki());
    let tls = compile(
        &world,
        &trusting(&good, "").replace("origin.test", "else.test"),
    )
    .unwrap();
    assert!(handshake(&tls, &good, Alpn::None).await.0.is_ok());
    let refused = handshake(&tls, &other, Alpn::None).await.0;
    assert!(matches!(refused, Err(TlsError::Handshake(_))));
    assert_eq!(tls.stats.block().counter(ssl_stats::fail_verify_error), 1);
    let authorities = tls.in_force().authorities.unwrap();
    assert_eq!(authorities.part.facts().len(), 1);
}

#[tokio::test]
async fn a_name_counts_where_it_is_asked_for() {
    let (world, pki) = (World::new(), pki());
    let san = |name: &str| {
        let matcher = format!(
            "    match_typed_subject_alt_names:\n    - {{san_type: DNS, matcher: {{exact: {name}}}}}\n"
        );
        compile(&world, &trusting(&pki, &matcher)).unwrap()
    };
    assert!(
        handshake(&san("origin.test"), &pki, Alpn::None)
            .await
            .0
            .is_ok()
    );
    assert!(
        handshake(&san("any.wild.test"), &pki, Alpn::None)
            .await
            .0
            .is_ok()
    );
    let tls = san("other.test");
    assert!(handshake(&tls, &pki, Alpn::None).await.0.is_err());
    assert_eq!(tls.stats.block().counter(ssl_stats::fail_verify_san), 1);

    let auto = "auto_sni_san_validation: true\n";
    let tls = compile(&world, &format!("{auto}{}", trusting(&pki, ""))).unwrap();
    assert!(handshake(&tls, &pki, Alpn::None).await.0.is_ok());
    let yaml = trusting(&pki, "").replace("origin.test", "else.test");
    let tls = compile(&world, &format!("{auto}{yaml}")).unwrap();
    assert!(handshake(&tls, &pki, Alpn::None).await.0.is_err());
}

#[tokio::test]
async fn a_certificate_may_be_trusted_itself() {
    let world = World::new();
    let mut params = CertificateParams::new(vec!["origin.test".to_owned()]).unwrap();
    // As `openssl req -x509` makes them.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let pki = Pki {
        key,
        certificate,
        ..pki()
    };
    let yaml = format!(
        "common_tls_context:\n  validation_context:\n    trusted_ca:\n      inline_string: |\n{}",
        indented(&pki.certificate.pem())
    );
    let tls = compile(&world, &yaml).unwrap();
    let (stream, _) = handshake(&tls, &pki, Alpn::None).await;
    assert!(stream.is_ok(), "{stream:?}");
}

#[tokio::test]
async fn a_secret_is_awaited_and_then_used() {
    let (world, pki) = (World::new(), pki());
    let yaml = "common_tls_context: {validation_context_sds_secret_config: {name: ca, sds_config: {path: x}}}";
    let tls = compile(&world, yaml).unwrap();
    let refused = handshake(&tls, &pki, Alpn::None).await.0;
    assert!(matches!(refused, Err(TlsError::NotReady(_))));
    let slot = Arc::clone(&world.sources.secrets.borrow()[0]);
    let give = |pem: String| {
        let report = Report::new();
        let yaml = format!(
            "name: ca\nvalidation_context:\n  trusted_ca:\n    inline_string: |\n{}",
            indented(&pem)
        );
        let secret = Secret::compile(read(&yaml), &world.cx(), &report.root()).unwrap();
        assert!(matches!(secret.kind, SecretKind::Validation(_)));
        slot.set(Arc::new(secret));
    };
    give(pki.authority.pem());
    assert!(handshake(&tls, &pki, Alpn::None).await.0.is_ok());
    give(self::pki().authority.pem());
    assert!(handshake(&tls, &pki, Alpn::None).await.0.is_err());
}

#[test]
fn mistakes_are_told_with_their_place() {
    let (world, one, two) = (World::new(), pki(), pki());
    let yaml = format!(
        "common_tls_context:\n  tls_certificates:\n  - certificate_chain:\n      inline_string: |\n{}    private_key:\n      inline_string: |\n{}",
        indented(&one.certificate.pem()),
        indented(&two.key.serialize_pem())
    );
    let errors = compile(&world, &yaml).unwrap_err();
    assert_eq!(
        errors,
        "common_tls_context.tls_certificates[0]: the private_key (<inline>) does not belong to the first certificate of certificate_chain (<inline>)"
    );
    let yaml = "common_tls_context: {tls_params: {tls_minimum_protocol_version: TLSv1_0, cipher_suites: [AES128-SHA]}, validation_context: {trusted_ca: {filename: /nonexistent}}}";
    let errors = compile(&world, yaml).unwrap_err();
    assert!(
        errors.contains("tls_params.tls_minimum_protocol_version: TLSv1_0 is not supported"),
        "{errors}"
    );
    assert!(
        errors.contains("tls_params.cipher_suites[0]: \"AES128-SHA\" is not supported"),
        "{errors}"
    );
    assert!(
        errors.contains("trusted_ca.filename: /nonexistent: No such file"),
        "{errors}"
    );
    let yaml = "common_tls_context: {validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]}}";
    let errors = compile(&world, yaml).unwrap_err();
    assert!(
        errors.contains("without trusted CA is insecure"),
        "{errors}"
    );
}

#[test]
fn equal_settings_share_one_configuration() {
    let (world, pki) = (World::new(), pki());
    let one = compile(&world, &trusting(&pki, "")).unwrap();
    let two = compile(&world, &trusting(&pki, "")).unwrap();
    assert_eq!(one.identity(), two.identity());
    assert!(Arc::ptr_eq(&one.client().unwrap(), &two.client().unwrap()));
}
