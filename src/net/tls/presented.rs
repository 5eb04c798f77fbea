//! What a certificate says, as formats and headers print it.

use std::{
    cell::OnceCell,
    fmt::Write,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    SubjectName,
    certificate_facts::{hex, subject_names},
    distinguished_name::rfc2253,
};

/// A line of PEM has this many characters.
const PEM_LINE: usize = 64;

/// The certificates one end of a connection presented, its own first.
#[derive(Debug)]
pub struct Presented {
    chain: Box<[CertificateDer<'static>]>,
    text: OnceCell<Option<CertificateText>>,
}

/// The facts of one certificate in words.
#[derive(Debug)]
pub struct CertificateText {
    /// In the form of RFC 2253.
    pub subject: String,
    /// In the form of RFC 2253.
    pub issuer: String,
    /// Lower case hex.
    pub serial: String,
    /// SHA-256 of the certificate, lower case hex.
    pub sha256: String,
    /// SHA-1 of the certificate, lower case hex.
    pub sha1: String,
    /// Subject alternative names, in the certificate's order.
    pub names: Vec<SubjectName>,
    /// Valid from here.
    pub valid_from: SystemTime,
    /// Valid until here.
    pub expiration: SystemTime,
}

impl Presented {
    /// `None` when there is no certificate.
    pub fn new(chain: &[CertificateDer<'static>]) -> Option<Self> {
        (!chain.is_empty()).then(|| Self {
            chain: chain.into(),
            text: OnceCell::new(),
        })
    }

    /// What its own certificate says, read when it is first asked for; `None`
    /// when it cannot be read.
    pub fn text(&self) -> Option<&CertificateText> {
        let read = || CertificateText::read(&self.chain[0]);
        self.text.get_or_init(read).as_ref()
    }

    /// Its own certificate in PEM, with percent signs for what a header or a
    /// URL would not take.
    pub fn pem(&self) -> String {
        url_encoded(&pem(&self.chain[0]))
    }

    /// The whole chain, as [`Presented::pem`].
    pub fn chain_pem(&self) -> String {
        let chain: String = self.chain.iter().map(|one| pem(one)).collect();
        url_encoded(&chain)
    }

    /// The SHA-256 of each certificate, lower case hex.
    pub fn chain_sha256(&self) -> impl Iterator<Item = String> {
        self.chain.iter().map(|one| fingerprint(&SHA256, one))
    }

    /// The SHA-1 of each certificate, lower case hex.
    pub fn chain_sha1(&self) -> impl Iterator<Item = String> {
        let algorithm = &SHA1_FOR_LEGACY_USE_ONLY;
        self.chain
            .iter()
            .map(move |one| fingerprint(algorithm, one))
    }

    /// The serial number of each certificate, lower case hex.
    pub fn chain_serials(&self) -> impl Iterator<Item = String> {
        let text = |one| Some(CertificateText::read(one)?.serial);
        self.chain.iter().filter_map(text)
    }
}

impl CertificateText {
    /// Reads a certificate; `None` when it is not one.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, x509) = X509Certificate::from_der(certificate).ok()?;
        let serial = x509.raw_serial();
        let serial = serial.strip_prefix(&[0]).unwrap_or(serial);
        Some(Self {
            subject: rfc2253(x509.subject()),
            issuer: rfc2253(x509.issuer()),
            serial: hex(serial),
            sha256: fingerprint(&SHA256, certificate),
            sha1: fingerprint(&SHA1_FOR_LEGACY_USE_ONLY, certificate),
            names: subject_names(&x509),
            valid_from: time(x509.validity().not_before.timestamp()),
            expiration: time(x509.validity().not_after.timestamp()),
        })
    }

    /// DNS names.
    pub fn dns(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| match name {
            SubjectName::Dns(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// URIs.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| match name {
            SubjectName::Uri(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// E-mail addresses.
    pub fn emails(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| match name {
            SubjectName::Email(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// IP addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.names.iter().filter_map(|name| match name {
            SubjectName::Ip(ip) => Some(*ip),
            _ => None,
        })
    }

    /// The values of other names.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| match name {
            SubjectName::Other { value, .. } => Some(value.as_str()),
            _ => None,
        })
    }
}

/// A time of a certificate, which may be before 1970.
pub(super) fn time(seconds: i64) -> SystemTime {
    let offset = Duration::from_secs(seconds.unsigned_abs());
    match seconds < 0 {
        true => UNIX_EPOCH - offset,
        false => UNIX_EPOCH + offset,
    }
}

fn fingerprint(algorithm: &'static Algorithm, certificate: &CertificateDer<'_>) -> String {
    hex(digest(algorithm, certificate).as_ref())
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let encoded = BASE64_STANDARD.encode(certificate);
    let mut text = String::with_capacity(encoded.len() + encoded.len() / PEM_LINE + 64);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(PEM_LINE) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn url_encoded(pem: &str) -> String {
    let mut text = String::with_capacity(pem.len() + pem.len() / 8);
    for byte in pem.bytes() {
        match byte {
            b'\n' | b' ' | b'+' | b'/' | b'=' => {
                write!(text, "%{byte:02X}").expect("a string takes any text");
            }
            _ => text.push(byte.into()),
        }
    }
    text
}
