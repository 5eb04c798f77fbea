//! `envoy.config.route.v3.RouteAction.HashPolicy`, compiled: what ties requests
//! to hosts under a hashing balancer.

use std::time::Duration;

use http::header::HeaderName;

use crate::{
    api::envoy::config::route::v3::route_action::{
        HashPolicy as Message,
        hash_policy::{
            ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
        },
    },
    config::{At, Reported, duration},
    model::matcher::Substitution,
};

/// One source of a hash.
#[derive(Clone, Debug)]
pub struct HashPolicy {
    /// Where it comes from.
    pub source: HashSource,
    /// When this one gives a hash, those that follow are not asked.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug)]
pub enum HashSource {
    /// A request header's values, after a rewrite.
    Header(HeaderName, Option<Substitution>),
    /// A cookie, which is made when it is missing and has a lifetime.
    Cookie(HashCookie),
    /// The client's IP address.
    SourceIp,
    /// A query parameter.
    QueryParameter(Box<str>),
}

/// A cookie that may be made.
#[derive(Clone, Debug)]
pub struct HashCookie {
    /// Its name.
    pub name: Box<str>,
    /// Its lifetime; `None` never makes it, zero makes a session cookie.
    pub ttl: Option<Duration>,
    /// Its path.
    pub path: Box<str>,
    /// Further attributes and their values.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
}

impl HashPolicy {
    pub(super) fn compile(message: Message, at: &At<'_>) -> Result<Option<Self>, Reported> {
        let Message {
            terminal,
            policy_specifier,
        } = message;
        let source = match policy_specifier {
            None => return Err(at.error("a source of the hash is required")),
            Some(PolicySpecifier::Header(Header {
                header_name,
                regex_rewrite,
            })) => {
                let at = at.field("header");
                let name = HeaderName::from_bytes(header_name.as_bytes()).map_err(|_| {
                    at.field("header_name")
                        .error(format_args!("{header_name:?} is not a valid header name"))
                })?;
                let rewrite = regex_rewrite
                    .map(|r| Substitution::compile(r, &at.field("regex_rewrite")))
                    .transpose()?;
                HashSource::Header(name, rewrite)
            }
            Some(PolicySpecifier::Cookie(Cookie {
                name,
                ttl,
                path,
                attributes,
            })) => {
                let ttl_at = at.field("cookie");
                let ttl = ttl
                    .map(|ttl| duration(&ttl, &ttl_at.field("ttl")))
                    .transpose()?;
                HashSource::Cookie(HashCookie {
                    name: name.into(),
                    ttl,
                    path: path.into(),
                    attributes: attributes
                        .into_iter()
                        .map(|CookieAttribute { name, value }| (name.into(), value.into()))
                        .collect(),
                })
            }
            Some(PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip })) => {
                match source_ip {
                    true => HashSource::SourceIp,
                    // Asks for nothing, in Envoy too.
                    false => return Ok(None),
                }
            }
            Some(PolicySpecifier::QueryParameter(QueryParameter { name })) => {
                HashSource::QueryParameter(name.into())
            }
            Some(PolicySpecifier::FilterState(_)) => {
                return Err(at.field("filter_state").unsupported());
            }
        };
        Ok(Some(Self { source, terminal }))
    }
}
