//! Which of several certificates a client is shown.

use std::sync::Arc;

use rustls::{
    CipherSuite, SignatureAlgorithm, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{Certificate, CertificateFacts, SubjectName};

/// The certificates of one filter chain.
///
/// The server name chooses as in Envoy: the certificates that carry the exact
/// name; if none of them suits the client, those with a wildcard for it; if no
/// certificate has the name, the first, or with `full_scan` the first that suits
/// the client. A client that takes ECDSA is shown an ECDSA certificate where
/// there is one, else RSA. One that sends no name chooses among all.
#[derive(Debug)]
pub(super) struct ServerCertificates {
    certificates: Vec<ServerCertificate>,
    full_scan: bool,
}

#[derive(Debug)]
struct ServerCertificate {
    names: Names,
    key: Arc<CertifiedKey>,
}

/// The DNS names, or the common name of a certificate without any name.
#[derive(Debug)]
pub(super) struct Names(Vec<String>);

impl Names {
    pub(super) fn of(facts: Option<&CertificateFacts>) -> Self {
        let Some(facts) = facts else {
            return Self(Vec::new());
        };
        let names = facts.names.iter().filter_map(|name| match name {
            SubjectName::Dns(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let common = facts.common_name.iter().filter(|_| facts.names.is_empty());
        Self(
            names
                .chain(common.map(|n| n.to_ascii_lowercase()))
                .collect(),
        )
    }

    pub(super) fn has(&self, server_name: &str) -> bool {
        self.0.iter().any(|name| name == server_name)
    }

    pub(super) fn has_wildcard_for(&self, server_name: &str) -> bool {
        let Some((_, parent)) = server_name.split_once('.') else {
            return false;
        };
        self.0
            .iter()
            .any(|name| name.strip_prefix("*.") == Some(parent))
    }
}

/// Which kinds of certificate a client takes.
#[derive(Clone, Copy, Debug)]
struct Taken {
    ecdsa: bool,
}

impl ServerCertificates {
    pub(super) fn new(certificates: &[Arc<Certificate>], full_scan: bool) -> Self {
        let named = |c: &Arc<Certificate>| ServerCertificate {
            names: Names::of(c.facts.first()),
            key: c.key.clone(),
        };
        Self {
            certificates: certificates.iter().map(named).collect(),
            full_scan,
        }
    }

    /// Which certificate to show, and whether it has the name that was asked for.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> (usize, bool) {
        let server_name = hello.server_name().map(str::to_ascii_lowercase);
        let scan = server_name.is_none() || self.full_scan;
        let named = server_name.and_then(|name| {
            self.best(hello, |names| names.has(&name))
                .or_else(|| self.best(hello, |names| names.has_wildcard_for(&name)))
        });
        let any = || scan.then(|| self.best(hello, |_| true)).flatten();
        match named {
            Some(index) => (index, true),
            None => (any().unwrap_or(0), false),
        }
    }

    /// The best of those with a name: one of the kind the client prefers at once,
    /// else the first RSA one for a client that would rather see ECDSA.
    fn best(&self, hello: &ClientHello<'_>, of: impl Fn(&Names) -> bool) -> Option<usize> {
        let taken = Taken::of(hello);
        let mut rsa = None;
        let all = self.certificates.iter().enumerate();
        for (index, certificate) in all.filter(|(_, c)| of(&c.names)) {
            let ecdsa = certificate.is_ecdsa();
            let suits = certificate
                .key
                .key
                .choose_scheme(hello.signature_schemes())
                .is_some();
            match (taken.ecdsa, ecdsa) {
                (true, true) if suits => return Some(index),
                (false, false) => return Some(index),
                (true, false) if rsa.is_none() => rsa = Some(index),
                _ => {}
            }
        }
        rsa
    }
}

impl ServerCertificate {
    fn is_ecdsa(&self) -> bool {
        self.key.key.algorithm() != SignatureAlgorithm::RSA
    }
}

impl Taken {
    fn of(hello: &ClientHello<'_>) -> Self {
        let signs = hello.signature_schemes().iter().any(|scheme| {
            matches!(
                scheme,
                SignatureScheme::ECDSA_NISTP256_SHA256
                    | SignatureScheme::ECDSA_NISTP384_SHA384
                    | SignatureScheme::ECDSA_NISTP521_SHA512
                    | SignatureScheme::ED25519
            )
        });
        // TLS 1.3's suites say nothing of the certificate; those of 1.2 do.
        let suites = hello.cipher_suites().iter().any(|suite| {
            matches!(
                suite,
                CipherSuite::TLS13_AES_128_GCM_SHA256
                    | CipherSuite::TLS13_AES_256_GCM_SHA384
                    | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            )
        });
        Self {
            ecdsa: signs && suites,
        }
    }
}

/// One certificate for whoever asks; none for nobody.
#[derive(Debug)]
pub(super) struct Shown(pub(super) Option<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(common_name: &str, names: &[&str]) -> Names {
        let facts = CertificateFacts {
            path: String::new(),
            serial_number: String::new(),
            common_name: Some(common_name.to_owned()),
            names: names
                .iter()
                .map(|name| SubjectName::Dns((*name).to_owned()))
                .collect(),
            valid_from: std::time::UNIX_EPOCH,
            expiration: std::time::UNIX_EPOCH,
        };
        Names::of(Some(&facts))
    }

    #[test]
    fn a_common_name_counts_only_where_there_is_no_other() {
        assert!(named("a.example.com", &[]).has("a.example.com"));
        assert!(!named("a.example.com", &["b.example.com"]).has("a.example.com"));
        assert!(named("*.example.com", &[]).has_wildcard_for("a.example.com"));
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let names = named("", &["*.Example.com"]);
        assert!(names.has_wildcard_for("a.example.com"));
        assert!(!names.has_wildcard_for("a.b.example.com"));
        assert!(!names.has_wildcard_for("example.com"));
    }
}
