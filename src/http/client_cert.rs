//! `x-forwarded-client-cert`: what a request tells of the certificate that its
//! client presented.

use std::cell::RefCell;

use bytes::Bytes;
use http::HeaderValue;

use super::{
    config::{CertDetails, ForwardClientCert},
    names,
    request::append,
};
use crate::{codec::Headers, net::TlsInfo};

/// The header's value for one connection, prepared at its first request.
#[derive(Debug, Default)]
pub(super) struct ClientCert(RefCell<Option<(CertDetails, Option<HeaderValue>)>>);

impl ClientCert {
    /// Applies `forward_client_cert_details`. `present` says whether the header
    /// may have come with the request.
    pub(super) fn apply(
        &self,
        headers: &mut Headers,
        present: bool,
        policy: ForwardClientCert,
        tls: Option<&TlsInfo>,
    ) {
        let peer = tls.filter(|tls| tls.peer.is_some());
        let (Some(tls), false) = (peer, policy == ForwardClientCert::Sanitize) else {
            // Whoever has no certificate cannot speak for one.
            if present && policy != ForwardClientCert::AlwaysForwardOnly {
                headers.remove(names::X_FORWARDED_CLIENT_CERT);
            }
            return;
        };
        match policy {
            ForwardClientCert::AlwaysForwardOnly
            | ForwardClientCert::ForwardOnly
            | ForwardClientCert::Sanitize => {}
            ForwardClientCert::AppendForward(details) => {
                if let Some(value) = self.value(details, tls) {
                    append(headers, names::X_FORWARDED_CLIENT_CERT, &value, b",");
                }
            }
            ForwardClientCert::SanitizeSet(details) => match self.value(details, tls) {
                Some(value) => headers.insert(names::X_FORWARDED_CLIENT_CERT, value),
                None => drop(headers.remove(names::X_FORWARDED_CLIENT_CERT)),
            },
        }
    }

    fn value(&self, details: CertDetails, tls: &TlsInfo) -> Option<HeaderValue> {
        let mut prepared = self.0.borrow_mut();
        match &*prepared {
            Some((of, value)) if *of == details => value.clone(),
            _ => {
                let value = describe(details, tls);
                let value = value.and_then(|v| HeaderValue::from_maybe_shared(v).ok());
                *prepared = Some((details, value.clone()));
                value
            }
        }
    }
}

/// One element of the header, in Envoy's order.
fn describe(details: CertDetails, tls: &TlsInfo) -> Option<Bytes> {
    let peer = tls.peer.as_deref()?;
    let text = peer.text()?;
    let mut pairs = Vec::new();
    let local = tls.local.as_deref().and_then(|local| local.text());
    for uri in local.into_iter().flat_map(|local| local.uris()) {
        pairs.push(format!("By={uri}"));
    }
    pairs.push(format!("Hash={}", text.sha256));
    if details.cert {
        pairs.push(format!("Cert=\"{}\"", peer.pem()));
    }
    if details.chain {
        pairs.push(format!("Chain=\"{}\"", peer.chain_pem()));
    }
    if details.subject {
        pairs.push(format!("Subject=\"{}\"", text.subject));
    }
    if details.uri {
        let before = pairs.len();
        pairs.extend(text.uris().map(|uri| format!("URI={uri}")));
        if pairs.len() == before {
            pairs.push("URI=".to_owned());
        }
    }
    if details.dns {
        pairs.extend(text.dns().map(|name| format!("DNS={name}")));
    }
    if details.issuer {
        pairs.push(format!("Issuer=\"{}\"", text.issuer));
    }
    Some(pairs.join(";").into())
}
