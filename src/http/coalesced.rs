//! Requests for another server than the one their connection was made for.
//!
//! A client of HTTP/2 may send what it asks of any name that a connection's
//! certificate is for on that connection (RFC 9113, 9.1.1), though another filter
//! chain is there for the name. Such a request is served as that chain says, if the
//! connection could as well have been made to it: with the certificate that it was
//! shown, and nothing else asked of the client. Otherwise it is misdirected (RFC 9110,
//! 15.5.20), and the client makes a connection for the name.

use http::{Method, StatusCode, header};

use super::{
    LocalReply,
    session::{Managed, Session},
    target::split_port,
};
use crate::codec::RequestHead;

/// Who serves the requests for a name on a connection.
#[derive(Clone, Debug)]
pub(super) enum Serves {
    /// The connection's own chain: it is the name's as well, or none is for it.
    Own,
    /// Another one.
    Other(Managed),
    /// Nobody.
    Nobody,
}

/// What was found last, by a generation of the configuration.
#[derive(Debug)]
pub(super) struct Found {
    generation: u64,
    host: Box<str>,
    serves: Serves,
}

impl Session {
    /// The chain that serves a request, `own` being the connection's.
    ///
    /// # Errors
    /// The answer to a request that is misdirected.
    pub(super) fn chain_of(
        &self,
        own: &Managed,
        request: &RequestHead,
    ) -> Result<Managed, LocalReply> {
        let Some(host) = self.foreign(request) else {
            return Ok(own.clone());
        };
        match self.serves(host) {
            Serves::Own => Ok(own.clone()),
            Serves::Other(chain) => Ok(chain),
            Serves::Nobody => Err(LocalReply::text(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected_request",
                "this host is not served on a connection that was made for another one",
            )),
        }
    }

    /// The host of a request, where it is not the one the connection was made for.
    fn foreign<'r>(&self, request: &'r RequestHead) -> Option<&'r str> {
        if !self.is_http2() || self.info.tls.is_none() {
            return None;
        }
        let server_name = self.info.server_name.as_deref()?;
        // A CONNECT names whom to connect to; an extended one has become a GET.
        if request.method == Method::CONNECT {
            return None;
        }
        let (host, _) = split_port(request.headers.get(header::HOST)?.to_str().ok()?);
        let host = host.strip_suffix('.').unwrap_or(host);
        (!host.eq_ignore_ascii_case(server_name)).then_some(host)
    }

    fn serves(&self, host: &str) -> Serves {
        let generation = self.worker().generation();
        let mut known = self.coalesced.borrow_mut();
        if let Some(found) = &*known
            && found.generation == generation
            && *found.host == *host
        {
            return found.serves.clone();
        }
        let serves = self.find(&host.to_ascii_lowercase());
        *known = Some(Box::new(Found {
            generation,
            host: host.into(),
            serves: serves.clone(),
        }));
        serves
    }

    fn find(&self, host: &str) -> Serves {
        let Some(other) = self.chain.for_server_name(host) else {
            return Serves::Own;
        };
        let shown = self.info.tls.as_ref().and_then(|tls| tls.local.as_ref());
        let covered = shown.is_some_and(|certificate| certificate.is_for(host));
        let alike = other.filter_chain.transport_identity
            == self.chain.last().filter_chain.transport_identity;
        match Managed::new(other) {
            Some(other) if covered && alike => Serves::Other(other),
            _ => Serves::Nobody,
        }
    }
}
