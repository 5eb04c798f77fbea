//! What a route allows to other origins.

use http::HeaderValue;
use smallvec::SmallVec;

use crate::{
    api::envoy::extensions::filters::http::cors::v3::CorsPolicy,
    config::{At, Reported},
    model::{Context, matcher::StringMatcher, route::RouteHandle},
    runtime::RuntimeFraction,
};

/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`, compiled.
#[derive(Debug)]
pub struct Policy {
    origins: Box<[StringMatcher]>,
    allow_methods: Option<HeaderValue>,
    allow_headers: Option<HeaderValue>,
    expose_headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    allow_credentials: Option<bool>,
    /// On unless it says otherwise.
    enabled: Option<RuntimeFraction>,
    shadow: Option<RuntimeFraction>,
    allow_private_network: Option<bool>,
    forward_not_matching: Option<bool>,
}

impl Policy {
    /// Compiles a policy.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(message: CorsPolicy, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            filter_enabled,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
        } = message;
        let value = |text: String, field: &str| match text.is_empty() {
            true => Ok(None),
            false => HeaderValue::from_str(&text).map(Some).map_err(|_| {
                at.field(field)
                    .error(format_args!("{text:?} cannot stand in a header"))
            }),
        };
        let origins_at = at.field("allow_origin_string_match");
        let origins: Vec<_> = (allow_origin_string_match.into_iter().enumerate())
            .map(|(index, origin)| StringMatcher::compile(origin, &origins_at.index(index)))
            .collect();
        let allow_methods = value(allow_methods, "allow_methods");
        let allow_headers = value(allow_headers, "allow_headers");
        let expose_headers = value(expose_headers, "expose_headers");
        let max_age = value(max_age, "max_age");
        let fraction = |message, field: &str| {
            let compile = |message| RuntimeFraction::compile(message, cx.runtime, &at.field(field));
            Option::map(message, compile).transpose()
        };
        let enabled = fraction(filter_enabled, "filter_enabled");
        let shadow = fraction(shadow_enabled, "shadow_enabled");
        Ok(Self {
            origins: origins.into_iter().collect::<Result<_, _>>()?,
            allow_methods: allow_methods?,
            allow_headers: allow_headers?,
            expose_headers: expose_headers?,
            max_age: max_age?,
            allow_credentials,
            enabled: enabled?,
            shadow: shadow?,
            allow_private_network: allow_private_network_access,
            forward_not_matching: forward_not_matching_preflights,
        })
    }
}

/// The policies of a route, its virtual host and its table. Each question is
/// answered by the most specific that says anything to it.
pub struct Policies<'a>(SmallVec<[&'a Policy; 3]>);

impl<'a> Policies<'a> {
    /// Those of a route.
    pub fn of(route: &'a RouteHandle, filter: &str) -> Self {
        Self(route.filter_configs(filter).collect())
    }

    fn first<T>(&self, say: impl Fn(&'a Policy) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|policy| say(policy))
    }

    /// Whether the filter is on. A policy that does not say is on.
    pub fn is_enabled(&self, random: u64) -> bool {
        let first = self.0.first();
        first.is_some_and(|p| p.enabled.as_ref().is_none_or(|f| f.enabled(random)))
    }

    /// Whether origins are to be counted although the filter is off.
    pub fn is_shadowed(&self, random: u64) -> bool {
        let first = self.0.first().and_then(|policy| policy.shadow.as_ref());
        first.is_some_and(|fraction| fraction.enabled(random))
    }

    /// Whether an origin is allowed, by the first policy that lists any.
    pub fn allow(&self, origin: &HeaderValue) -> bool {
        let listed = self.first(|p| (!p.origins.is_empty()).then_some(&p.origins));
        listed.is_some_and(|origins| {
            let mut origins = origins.iter();
            origins.any(|matcher| matcher.is_match(origin.as_bytes()))
        })
    }

    /// `access-control-allow-methods`.
    pub fn allow_methods(&self) -> Option<&'a HeaderValue> {
        self.first(|policy| policy.allow_methods.as_ref())
    }

    /// `access-control-allow-headers`.
    pub fn allow_headers(&self) -> Option<&'a HeaderValue> {
        self.first(|policy| policy.allow_headers.as_ref())
    }

    /// `access-control-expose-headers`.
    pub fn expose_headers(&self) -> Option<&'a HeaderValue> {
        self.first(|policy| policy.expose_headers.as_ref())
    }

    /// `access-control-max-age`.
    pub fn max_age(&self) -> Option<&'a HeaderValue> {
        self.first(|policy| policy.max_age.as_ref())
    }

    /// Whether credentials may be sent.
    pub fn allows_credentials(&self) -> bool {
        self.first(|policy| policy.allow_credentials) == Some(true)
    }

    /// Whether a public site may reach into a private network.
    pub fn allows_private_network(&self) -> bool {
        self.first(|policy| policy.allow_private_network) == Some(true)
    }

    /// Whether a preflight request of an origin that is not allowed goes on to
    /// the upstream, which it does unless a policy says otherwise.
    pub fn forwards_not_matching(&self) -> bool {
        self.first(|policy| policy.forward_not_matching) != Some(false)
    }
}
