//! Which of several certificates a client is shown.

use std::sync::Arc;

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{Certificate, CertificateFacts, SubjectName};

/// The certificates of one filter chain.
///
/// The server name chooses: an exact name of a certificate first, then a
/// wildcard; among those the first whose key the client can verify. When no
/// certificate has the name, the first that the client can verify is shown, as
/// Envoy does.
#[derive(Debug)]
pub(super) struct ServerCertificates(Vec<(Names, Arc<CertifiedKey>)>);

#[derive(Debug)]
struct Names(Vec<String>);

impl Names {
    fn of(facts: Option<&CertificateFacts>) -> Self {
        let names = facts
            .map(|facts| facts.names.as_slice())
            .unwrap_or_default();
        let names = names.iter().filter_map(|name| match name {
            SubjectName::Dns(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        Self(names.collect())
    }

    fn has(&self, server_name: &str) -> bool {
        self.0.iter().any(|name| name == server_name)
    }

    fn has_wildcard_for(&self, server_name: &str) -> bool {
        let Some((_, parent)) = server_name.split_once('.') else {
            return false;
        };
        self.0
            .iter()
            .any(|name| name.strip_prefix("*.") == Some(parent))
    }
}

impl ServerCertificates {
    pub(super) fn new(certificates: &[Arc<Certificate>]) -> Self {
        let named = |c: &Arc<Certificate>| (Names::of(c.facts.first()), c.key.clone());
        Self(certificates.iter().map(named).collect())
    }
}

impl ResolvesServerCert for ServerCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let usable = || {
            self.0
                .iter()
                .filter(|(_, k)| k.key.choose_scheme(schemes).is_some())
        };
        let server_name = hello.server_name().map(str::to_ascii_lowercase);
        let named = server_name.and_then(|name| {
            let exact = usable().find(|(names, _)| names.has(&name));
            exact.or_else(|| usable().find(|(names, _)| names.has_wildcard_for(&name)))
        });
        named
            .or_else(|| usable().next())
            .map(|(_, key)| key.clone())
    }
}
