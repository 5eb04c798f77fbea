//! TLS that ends here, and what both sides of TLS share.

mod certificate;
mod certificate_facts;
mod chain;
mod client_verifier;
mod common;
mod distinguished_name;
mod downstream;
mod in_force;
mod key_log;
mod params;
mod pem;
mod presented;
mod san;
mod server_certificates;
mod signature;
pub mod stats;
mod tickets;
mod validation;

pub use certificate::Certificate;
pub use certificate_facts::{CertificateFacts, SubjectName};
pub use common::{Common, Source, ValidationSource, secret};
pub use downstream::DownstreamTls;
pub use in_force::{InForce, Named};
pub use key_log::KeyLog;
pub use params::{Parameters, Side, suite_name, suite_number};
pub use presented::{CertificateText, Presented};
pub use san::SanMatcher;
pub use stats::SslStats;
pub use validation::{Trust, Validation, ValidationFailure};

use std::{rc::Rc, sync::Arc};

use rustls::CommonState;

/// What a handshake settled.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's OpenSSL name.
    pub cipher: &'static str,
    /// The group of the key exchange; empty in a resumed TLS 1.2 session.
    pub group: &'static str,
    /// The protocol ALPN settled on.
    pub application_protocol: Option<Box<[u8]>>,
    /// What the other end presented.
    pub peer: Option<Rc<Presented>>,
    /// What this end presented.
    pub local: Option<Arc<Certificate>>,
}

impl TlsInfo {
    /// Reads an established session.
    pub fn new(session: &CommonState, local: Option<Arc<Certificate>>) -> Self {
        let cipher = session.negotiated_cipher_suite();
        let group = session.negotiated_key_exchange_group();
        Self {
            version: stats::version_name(session),
            cipher: cipher.map_or("", |c| suite_name(c.suite())),
            group: group.map_or("", |g| stats::group_name(g.name())),
            application_protocol: session.alpn_protocol().map(Into::into),
            peer: session
                .peer_certificates()
                .and_then(Presented::new)
                .map(Rc::new),
            local,
        }
    }
}
