//! What a certificate says of itself, for `/certs` and for people.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::{
    der_parser::asn1_rs::Any,
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

use super::{
    distinguished_name::{decode, oid_text},
    presented::time,
};

/// The facts of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The file it came from; `<inline>` where there is none.
    pub path: String,
    /// Serial number in lower case hex.
    pub serial_number: String,
    /// The subject's common name, where it has one.
    pub common_name: Option<String>,
    /// Subject alternative names.
    pub names: Vec<SubjectName>,
    /// Valid from here.
    pub valid_from: SystemTime,
    /// Valid until here.
    pub expiration: SystemTime,
}

/// One subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// A DNS name, which may begin with `*.`.
    Dns(String),
    /// A URI.
    Uri(String),
    /// An IP address.
    Ip(std::net::IpAddr),
    /// An e-mail address.
    Email(String),
    /// A name of another kind, where its value is text.
    Other {
        /// The kind: numbers and dots.
        oid: String,
        /// The value.
        value: String,
    },
}

impl SubjectName {
    /// The name as text.
    pub fn text(&self) -> String {
        match self {
            Self::Dns(text) | Self::Uri(text) | Self::Email(text) => text.clone(),
            Self::Ip(ip) => ip.to_string(),
            Self::Other { value, .. } => value.clone(),
        }
    }
}

impl CertificateFacts {
    /// Reads a certificate; `None` when it is not one.
    pub fn read(certificate: &CertificateDer<'_>, path: &str) -> Option<Self> {
        let (_, x509) = X509Certificate::from_der(certificate).ok()?;
        let serial = x509.raw_serial();
        let serial = serial.strip_prefix(&[0]).unwrap_or(serial);
        Some(Self {
            path: path.to_owned(),
            serial_number: hex(serial),
            common_name: x509
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            names: subject_names(&x509),
            valid_from: time(x509.validity().not_before.timestamp()),
            expiration: time(x509.validity().not_after.timestamp()),
        })
    }

    /// Whole days until it expires; 0 when it has.
    pub fn days_until_expiration(&self, now: SystemTime) -> u64 {
        const DAY: u64 = 24 * 3600;
        let left = self.expiration.duration_since(now).unwrap_or_default();
        left.as_secs() / DAY
    }
}

/// The subject alternative names of a certificate, in its order.
pub fn subject_names(x509: &X509Certificate<'_>) -> Vec<SubjectName> {
    let mut names = Vec::new();
    for extension in x509.extensions() {
        if let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() {
            names.extend(san.general_names.iter().filter_map(subject_name));
        }
    }
    names
}

fn subject_name(name: &GeneralName<'_>) -> Option<SubjectName> {
    match name {
        GeneralName::DNSName(name) => Some(SubjectName::Dns((*name).to_owned())),
        GeneralName::URI(name) => Some(SubjectName::Uri((*name).to_owned())),
        GeneralName::RFC822Name(name) => Some(SubjectName::Email((*name).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let ip = match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).map(Into::into).ok(),
                16 => <[u8; 16]>::try_from(*bytes).map(Into::into).ok(),
                _ => None,
            };
            ip.map(SubjectName::Ip)
        }
        GeneralName::OtherName(oid, value) => {
            // `[0] EXPLICIT ANY`, and in it a string.
            let (_, explicit) = Any::from_der(value).ok()?;
            let (_, inner) = Any::from_der(explicit.data).ok()?;
            Some(SubjectName::Other {
                oid: oid_text(oid),
                value: decode(inner.tag(), inner.data)?,
            })
        }
        _ => None,
    }
}

/// Bytes in lower case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}
