//! Certificates and private keys in PEM. What is something else is named, for it
//! is mostly the right file in the wrong place or form.

use std::fmt;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::config::{At, Reported};

/// The certificates of a text; there has to be one. `from` is where it stands.
///
/// # Errors
/// What is not PEM, or not a certificate.
pub(super) fn certificates(
    pem: &[u8],
    from: &str,
    at: &At<'_>,
) -> Result<Vec<CertificateDer<'static>>, Reported> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(at.error(format_args!(
            "{from} {}; a PEM certificate is needed",
            Found::of(pem)
        ))),
    }
}

/// The private key of a text. `from` is where it stands.
///
/// # Errors
/// What is not PEM, not a private key, or encrypted.
pub(super) fn private_key(
    pem: &[u8],
    from: &str,
    at: &At<'_>,
) -> Result<PrivateKeyDer<'static>, Reported> {
    let key = PrivateKeyDer::from_pem_slice(pem);
    key.map_err(|_| {
        at.error(format_args!(
            "{from} {}; an unencrypted PEM private key is needed",
            Found::of(pem)
        ))
    })
}

/// What stands in a file that is not what was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found<'a> {
    Nothing,
    /// An ASN.1 sequence in binary.
    Der,
    /// Neither.
    Other,
    /// PEM of which a section does not end, or is not base64.
    Broken,
    /// Sections of PEM, of which this is the last.
    Section(&'a str),
    /// A private key that needs a password.
    Encrypted,
}

impl<'a> Found<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        if bytes.trim_ascii().is_empty() {
            return Self::Nothing;
        }
        if matches!(bytes, [0x30, 0x80..=0x84, ..]) {
            return Self::Der;
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Self::Other;
        };
        let mut labels = text.lines().filter_map(|line| {
            let label = line.trim_end().strip_prefix("-----BEGIN ")?;
            label.strip_suffix("-----")
        });
        let Some(label) = labels.next_back() else {
            return Self::Other;
        };
        if label == "ENCRYPTED PRIVATE KEY" || text.contains("\nProc-Type: 4,ENCRYPTED") {
            return Self::Encrypted;
        }
        // Sections of every kind are read on the way to those that are looked for.
        match CertificateDer::pem_slice_iter(bytes).any(|section| section.is_err()) {
            true => Self::Broken,
            false => Self::Section(label),
        }
    }
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("is empty"),
            Self::Der => f.write_str(
                "is in binary form, DER (openssl x509 -inform der, or openssl pkey -inform der, \
                 makes PEM of it)",
            ),
            Self::Other => f.write_str("is not PEM"),
            Self::Broken => f.write_str("has a section that is cut off or not well-formed"),
            Self::Section("CERTIFICATE") => f.write_str("holds a certificate"),
            Self::Section(label) if label.ends_with("PRIVATE KEY") => {
                f.write_str("holds a private key")
            }
            Self::Section(label) => write!(f, "holds a PEM section {label:?}"),
            Self::Encrypted => f.write_str(
                "holds an encrypted private key (openssl pkey -in FILE -out NEW decrypts it)",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Found<'_> {
        Found::of(text.as_bytes())
    }

    #[test]
    fn what_is_found_is_named() {
        let section = |label| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        assert_eq!(found(" \n"), Found::Nothing);
        assert_eq!(Found::of(b"\x30\x82\x01\xa2\x30"), Found::Der);
        assert_eq!(found("a: b"), Found::Other);
        let certificate = section("CERTIFICATE");
        assert_eq!(found(&certificate), Found::Section("CERTIFICATE"));
        let request = section("CERTIFICATE REQUEST");
        assert_eq!(found(&request), Found::Section("CERTIFICATE REQUEST"));
        let encrypted = section("ENCRYPTED PRIVATE KEY");
        assert_eq!(found(&encrypted), Found::Encrypted);
        let old = section("EC PRIVATE KEY").replace("-\nAAAA", "-\nProc-Type: 4,ENCRYPTED\n\nAAAA");
        assert_eq!(found(&old), Found::Encrypted);
        let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert_eq!(found(cut), Found::Broken);
    }
}
