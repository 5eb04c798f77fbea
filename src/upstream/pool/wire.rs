//! What tells connections to one host apart on the wire.

use std::{net::IpAddr, rc::Rc, sync::Arc};

use http::{header, uri::Authority};

use super::super::{Alpn, Endpoint};
use crate::{codec::Headers, digest::Digest, model::cluster::HttpOptions, net::ConnectionInfo};

/// What a connection is like, besides the host it leads to: connections that are
/// equal in it can stand in for each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wire {
    /// What is going to be spoken.
    pub alpn: Alpn,
    /// The identity of the endpoint's transport.
    pub(in crate::upstream) transport: Digest,
    /// The TLS server name, where it is not one of the transport's settings: the
    /// host's (`auto_host_sni`) or the request's (`auto_sni`).
    pub(super) server_name: Option<Arc<str>>,
    /// The name that the certificate has to be for, where it is not the server
    /// name: `auto_san_validation`.
    pub(super) subject: Option<Arc<str>>,
    /// The header of the PROXY protocol that says who the client is.
    pub(super) header: Option<Rc<[u8]>>,
}

impl Wire {
    /// A connection to this endpoint, made for this client, where there is one.
    pub fn new(endpoint: &Endpoint, alpn: Alpn, client: Option<&ConnectionInfo>) -> Self {
        let transport = &endpoint.transport;
        let by_host = transport.tls().is_some_and(|tls| tls.auto_host_sni());
        let server_name = by_host && !endpoint.hostname.is_empty();
        let header = transport.proxy_protocol().zip(client);
        Self {
            alpn,
            transport: transport.identity(),
            server_name: server_name.then(|| Arc::clone(&endpoint.hostname)),
            subject: None,
            header: header.map(|(protocol, client)| protocol.header(client, &endpoint.asks).into()),
        }
    }

    /// The same for a request with these headers, which may name the server.
    #[must_use]
    pub fn for_request(
        mut self,
        endpoint: &Endpoint,
        options: &HttpOptions,
        headers: &Headers,
    ) -> Self {
        let may_name = options.auto_sni || options.auto_san_validation;
        if !may_name || endpoint.transport.tls().is_none() {
            return self;
        }
        let value = |name| headers.get(name).filter(|value| !value.is_empty());
        let named = options.auto_sni_header.as_ref().and_then(value);
        let named = named.or_else(|| value(&header::HOST));
        let authority = named.and_then(|value| Authority::try_from(value.as_bytes()).ok());
        let Some(authority) = authority else {
            return self;
        };
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .map_or(host, |host| host.trim_end_matches(']'));
        // An address is not a server name, but a certificate may be for it.
        let is_name = host.parse::<IpAddr>().is_err();
        if options.auto_sni && is_name {
            self.server_name = Some(host.into());
        } else if options.auto_san_validation {
            self.subject = Some(host.into());
        }
        self
    }

    /// Whether a client or its request has a part in it, so that there is no end to
    /// how many of them there may be.
    pub(in crate::upstream) fn is_particular(&self) -> bool {
        self.server_name.is_some() || self.subject.is_some() || self.header.is_some()
    }
}
