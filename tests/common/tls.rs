//! Certificates made for one test, and a client that uses them.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::config::typed;

/// What a client says first that asks for this name, or for none, and offers
/// these protocols.
pub fn client_hello(server_name: Option<&str>, protocols: &[&str]) -> Vec<u8> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    config.enable_sni = server_name.is_some();
    let name = server_name.unwrap_or("none.example").to_owned();
    let name = ServerName::try_from(name).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("written");
    bytes
}

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// A new authority with a self-signed certificate.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names to be wrong");
        params
            .distinguished_name
            .push(DnType::CommonName, "Test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).expect("a self-signed certificate"),
        }
    }

    /// Its certificate in PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A list, in PEM, of the serial numbers that it has revoked.
    pub fn revocation_list(&self, serial_numbers: &[u64]) -> String {
        let revoked = |number: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serial_numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("signed");
        list.pem().expect("PEM")
    }

    /// A certificate for these names, signed by this authority.
    pub fn issue(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.issue_for(
            "Test server",
            CertificateParams::new(names).expect("valid names"),
        )
    }

    /// A certificate with this common name and these URIs, for a client.
    pub fn issue_client(&self, common_name: &str, uris: &[&str]) -> Identity {
        let mut params = CertificateParams::default();
        let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
        params.subject_alt_names = uris.iter().map(uri).collect();
        self.issue_for(common_name, params)
    }

    /// A certificate with this common name, as `params` say.
    pub fn issue_for(&self, common_name: &str, params: CertificateParams) -> Identity {
        self.issue_with(common_name, params, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// The same, with another kind of key.
    pub fn issue_with(
        &self,
        common_name: &str,
        mut params: CertificateParams,
        algorithm: &'static SignatureAlgorithm,
    ) -> Identity {
        // Another subject than the issuer's, or it would count as self-signed.
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Identity {
    /// A `TlsCertificate`.
    pub fn inline(&self) -> Value {
        json!({
            "certificate_chain": { "inline_string": self.certificate },
            "private_key": { "inline_string": self.key },
        })
    }
}

/// Ends TLS with this certificate, for one protocol by ALPN.
pub fn acceptor(identity: &Identity, protocol: &[u8]) -> TlsAcceptor {
    let certificates = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .expect("PEM certificates");
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a PEM key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider supports them")
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .expect("the key belongs to the certificate");
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// The transport socket of a filter chain that ends TLS.
pub fn ends_tls(context: Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            context,
        ),
    })
}

/// A TLS client that takes any certificate and looks at it.
#[derive(Clone, Debug)]
pub struct TlsClient {
    /// Everything that a client can choose.
    pub config: ClientConfig,
}

/// How a handshake and a request came out.
#[derive(Debug)]
pub struct Answer {
    /// The common name of the certificate that was shown.
    pub shown: String,
    /// The protocol that ALPN settled on.
    pub protocol: Option<Vec<u8>>,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// The response, as it came.
    pub text: String,
}

impl TlsClient {
    /// Without a certificate, for every version.
    pub fn new() -> Self {
        Self::with_provider(aws_lc_rs::default_provider())
    }

    /// One that takes certificates with keys of this kind alone.
    pub fn taking(kind: &str) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        let mapping = provider.signature_verification_algorithms.mapping;
        let kept = mapping.iter().filter(|(scheme, _)| {
            let name = format!("{scheme:?}");
            name.starts_with(kind)
        });
        // A few hundred bytes for as long as the test runs.
        provider.signature_verification_algorithms.mapping =
            Box::leak(kept.copied().collect::<Box<[_]>>());
        Self::with_provider(provider)
    }

    fn with_provider(provider: CryptoProvider) -> Self {
        let provider = Arc::new(provider);
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything(provider)))
            .with_no_client_auth();
        Self { config }
    }

    /// Presents this certificate.
    pub fn presenting(mut self, identity: &Identity) -> Self {
        let certificates = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let provider = self.config.crypto_provider().clone();
        let key = rustls::sign::CertifiedKey::from_der(
            certificates.map(|one| one.expect("PEM")).collect(),
            key,
            &provider,
        );
        self.config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(
            key.expect("a key that fits"),
        ));
        self
    }

    /// Speaks these versions alone.
    pub fn speaking(self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let provider = self.config.crypto_provider().clone();
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything(provider)))
            .with_no_client_auth();
        config.client_auth_cert_resolver = self.config.client_auth_cert_resolver;
        config.alpn_protocols = self.config.alpn_protocols;
        Self { config }
    }

    /// Offers these protocols by ALPN.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// Does the handshake.
    pub async fn connect(
        &self,
        port: u16,
        server_name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = match server_name {
            // An address is not sent.
            "" => ServerName::try_from("127.0.0.1"),
            name => ServerName::try_from(name),
        };
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let name = name.expect("a name").to_owned();
        connector.connect(name, tcp).await
    }

    /// One GET over HTTP/1 on a connection of its own. `headers` are whole lines.
    pub async fn get(
        &self,
        port: u16,
        server_name: &str,
        headers: &str,
    ) -> std::io::Result<Answer> {
        let request =
            format!("GET / HTTP/1.1\r\nhost: a.example.com\r\nconnection: close\r\n{headers}\r\n");
        self.ask(port, server_name, &request).await
    }

    /// Sends these bytes on a connection of its own, and reads to its end.
    pub async fn ask(
        &self,
        port: u16,
        server_name: &str,
        request: &str,
    ) -> std::io::Result<Answer> {
        let mut stream = self.connect(port, server_name).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        // Some just close.
        let read = stream.read_to_end(&mut text).await;
        if text.is_empty() {
            read?;
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let session: &ClientConnection = stream.get_ref().1;
        Ok(Answer {
            shown: session
                .peer_certificates()
                .map_or_else(String::new, |c| common_name(&c[0])),
            protocol: session.alpn_protocol().map(<[u8]>::to_vec),
            resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}

impl Answer {
    /// A response header; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        let mut lines = self.text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_default()
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> String {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, x509) = X509Certificate::from_der(certificate).expect("a certificate");
    let name = x509.subject().iter_common_name().next();
    name.and_then(|name| name.as_str().ok())
        .unwrap_or_default()
        .to_owned()
}

#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
