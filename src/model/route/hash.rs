//! `envoy.config.route.v3.RouteAction.HashPolicy`, compiled: what ties requests
//! to hosts under a hashing balancer.

use std::borrow::Cow;

use http::HeaderValue;
use xxhash_rust::xxh64::xxh64;

use crate::{
    api::envoy::config::route::v3::route_action::{
        HashPolicy as Message,
        hash_policy::{
            ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
        },
    },
    config::{At, Reported},
    formatter::{FieldName, RequestView},
    model::matcher::Substitution,
    net::Address,
};

use super::condition::cookie;

/// The hash of a request by some policies: those that have something to hash,
/// mixed in their order, up to a terminal one. `None` when none has.
///
/// A cookie that is missing, and may be given to the client, is asked for from `give`.
/// A copy of a request has no `client`.
pub fn hash(
    policies: &[HashPolicy],
    request: &RequestView<'_>,
    client: Option<&Address>,
    mut give: impl FnMut(&HashCookie) -> Option<String>,
) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        if let Some(new) = policy.source.hash(request, client, &mut give) {
            hash = Some(hash.map_or(0, |old| old.rotate_left(1)) ^ new);
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

/// The hash of a client by its IP address.
pub fn hash_of_address(client: &Address) -> Option<u64> {
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
    Cookie(HashCookie),
    /// The client's IP address.
    SourceIp,
    /// A query parameter.
    QueryParameter(Box<str>),
}

/// A cookie that ties a client to a host.
#[derive(Clone, Debug)]
pub struct HashCookie {
    name: Box<str>,
    /// A client that has none is given one: what follows its value in `set-cookie`.
    given: Option<Box<str>>,
}

impl HashCookie {
    fn compile(message: Cookie, at: &At<'_>) -> Result<Self, Reported> {
        let Cookie {
            name,
            ttl,
            path,
            attributes,
        } = message;
        let given = ttl.map(|ttl| {
            let mut given = String::new();
            // Without a time it lives as long as the client's session.
            if ttl.seconds != 0 {
                given += &format!("; Max-Age={}", ttl.seconds);
            }
            if !path.is_empty() {
                given += &format!("; Path={path}");
            }
            for CookieAttribute { name, value } in attributes {
                given += &match value.is_empty() {
                    true => format!("; {name}"),
                    false => format!("; {name}={value}"),
                };
            }
            given + "; HttpOnly"
        });
        let cookie = Self {
            name: name.into(),
            given: given.map(Into::into),
        };
        match cookie.set("") {
            Some(_) => Ok(cookie),
            None => Err(at.error("a set-cookie header cannot hold this")),
        }
    }

    /// The value of the cookie for a client of this connection: every request of it
    /// gets the same.
    pub fn value(remote: &Address, local: &Address) -> String {
        format!("{:016x}", xxh64(format!("{remote}{local}").as_bytes(), 0))
    }

    /// `set-cookie` with this value, which is to be visible ASCII.
    pub fn set(&self, value: &str) -> Option<HeaderValue> {
        let given = self.given.as_deref().unwrap_or_default();
        HeaderValue::from_str(&format!("{}=\"{value}\"{given}", self.name)).ok()
    }
}

impl HashSource {
    fn hash(
        &self,
        request: &RequestView<'_>,
        client: Option<&Address>,
        give: &mut impl FnMut(&HashCookie) -> Option<String>,
    ) -> Option<u64> {
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
            Self::Cookie(wanted) => match cookie(request, &wanted.name) {
                None | Some("") if wanted.given.is_some() => give(wanted).as_deref().map(text),
                // One that is empty is as good as none.
                value => value.filter(|value| !value.is_empty()).map(text),
            },
            Self::SourceIp => client.and_then(hash_of_address),
            Self::QueryParameter(name) => request.query_parameter(name).map(text),
        }
    }
}

impl HashPolicy {
    /// Compiles policies, in their order.
    ///
    /// # Errors
    /// Everything in them that is wrong or not supported is reported.
    pub fn compile_all(messages: Vec<Message>, at: &At<'_>) -> Result<Box<[Self]>, Reported> {
        let mut outcome = Ok(());
        let mut policies = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            match Self::compile(message, &at.index(index)) {
                Ok(policy) => policies.extend(policy),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| policies.into())
    }

    fn compile(message: Message, at: &At<'_>) -> Result<Option<Self>, Reported> {
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
            Some(PolicySpecifier::Cookie(cookie)) => {
                HashSource::Cookie(HashCookie::compile(cookie, &at.field("cookie"))?)
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
