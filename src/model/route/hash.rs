//! `envoy.config.route.v3.RouteAction.HashPolicy`, compiled: what ties requests
//! to hosts under a hashing balancer.

use std::borrow::Cow;

use xxhash_rust::xxh64::xxh64;

use crate::{
    api::envoy::config::route::v3::route_action::{
        HashPolicy as Message,
        hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter},
    },
    config::{At, Reported},
    formatter::{FieldName, RequestView},
    model::matcher::Substitution,
    net::Address,
};

use super::condition::{cookie, parameter};

/// The hash of a request by some policies: those that have something to hash,
/// mixed in their order, up to a terminal one. `None` when none has.
///
/// A cookie that is missing gives no hash.
pub fn hash(policies: &[HashPolicy], request: &RequestView<'_>, client: &Address) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        if let Some(new) = policy.source.hash(request, client) {
            hash = Some(hash.map_or(0, |old| old.rotate_left(1)) ^ new);
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

/// The hash of a client by its IP address.
fn hash_of_address(client: &Address) -> Option<u64> {
    let ip = client.ip()?.ip().to_string();
    Some(xxh64(ip.as_bytes(), 0))
}

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
    Header(FieldName, Option<Substitution>),
    /// A cookie.
    Cookie(Box<str>),
    /// The client's IP address.
    SourceIp,
    /// A query parameter.
    QueryParameter(Box<str>),
}

impl HashSource {
    fn hash(&self, request: &RequestView<'_>, client: &Address) -> Option<u64> {
        let text = |text: &str| xxh64(text.as_bytes(), 0);
        match self {
            Self::Header(name, rewrite) => {
                let mut values: Vec<Cow<'_, [u8]>> = match name {
                    FieldName::Header(name) => request
                        .headers
                        .get_all(name)
                        .map(|value| value.as_bytes().into())
                        .collect(),
                    pseudo => pseudo
                        .in_request(request)
                        .map(Cow::from)
                        .into_iter()
                        .collect(),
                };
                if let Some(rewrite) = rewrite {
                    for value in &mut values {
                        let text = String::from_utf8_lossy(value);
                        *value = rewrite.apply(&text).into_bytes().into();
                    }
                }
                // The order in which a client repeats a header is no matter.
                values.sort_unstable();
                let hashed = values.iter().fold(0, |seed, value| xxh64(value, seed));
                (!values.is_empty()).then_some(hashed)
            }
            Self::Cookie(name) => cookie(request, name).map(text),
            Self::SourceIp => hash_of_address(client),
            Self::QueryParameter(name) => parameter(request.path, name).map(text),
        }
    }
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
                let name = FieldName::parse(&header_name)
                    .map_err(|error| at.field("header_name").error(error))?;
                let rewrite = regex_rewrite
                    .map(|r| Substitution::compile(r, &at.field("regex_rewrite")))
                    .transpose()?;
                HashSource::Header(name, rewrite)
            }
            Some(PolicySpecifier::Cookie(Cookie {
                name,
                // A cookie is only made for a cluster whose balancer hashes, in Envoy too.
                ttl: _,
                path: _,
                attributes: _,
            })) => HashSource::Cookie(name.into()),
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
