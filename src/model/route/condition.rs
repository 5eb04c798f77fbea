//! `envoy.config.route.v3.RouteMatch`, compiled: the path, which
//! [`Paths`](super::paths::Paths) looks up, and everything else, which is asked of
//! the candidates one by one.

use crate::{
    api::envoy::config::route::v3::{
        CookieMatcher as CookieMessage, QueryParameterMatcher as QueryMessage, RouteMatch,
        query_parameter_matcher::QueryParameterMatchSpecifier,
        route_match::{ConnectMatcher, GrpcRouteMatchOptions, PathSpecifier},
    },
    config::{At, Reported},
    formatter::RequestView,
    model::{
        Context,
        matcher::{HeaderMatcher, Regex, StringMatcher},
    },
    refuse,
    runtime::RuntimeFraction,
};

use super::paths::PathMatch;

/// What a request has to be like besides its path.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    headers: Box<[HeaderMatcher]>,
    query: Box<[QueryMatcher]>,
    cookies: Box<[CookieMatcher]>,
    grpc: bool,
    fraction: Option<RuntimeFraction>,
}

#[derive(Clone, Debug)]
struct QueryMatcher {
    name: Box<str>,
    /// `None` asks only whether it is there.
    value: Option<StringMatcher>,
    /// `present_match: false`.
    absent: bool,
}

#[derive(Clone, Debug)]
struct CookieMatcher {
    name: Box<str>,
    value: StringMatcher,
    invert: bool,
}

impl Conditions {
    /// Compiles a match; gives the path condition and whether its case matters beside it.
    ///
    /// # Errors
    /// A malformed pattern, a kind of match that is not supported.
    pub fn compile(
        message: RouteMatch,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<(Self, PathMatch, bool), Reported> {
        let RouteMatch {
            case_sensitive,
            headers,
            query_parameters,
            grpc,
            runtime_fraction,
            tls_context,
            dynamic_metadata,
            filter_state,
            cookies,
            path_specifier,
        } = message;
        let refused = refuse!(at; tls_context, dynamic_metadata, filter_state);
        let path = match path_specifier {
            None => {
                Err(at
                    .error("one of prefix, path, safe_regex, connect_matcher and path_separated_prefix is required"))
            }
            Some(PathSpecifier::Prefix(prefix)) => Ok(PathMatch::Prefix(prefix.into())),
            Some(PathSpecifier::Path(path)) => Ok(PathMatch::Exact(path.into())),
            Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
                Ok(PathMatch::Separated(prefix.into()))
            }
            Some(PathSpecifier::SafeRegex(regex)) => {
                Regex::compile(regex, &at.field("safe_regex")).map(PathMatch::Regex)
            }
            Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})) => Ok(PathMatch::Connect),
            Some(PathSpecifier::PathMatchPolicy(_)) => {
                Err(at.field("path_match_policy").unsupported())
            }
        };
        let headers = HeaderMatcher::compile_all(headers, &at.field("headers"));
        let query = all(
            query_parameters,
            &at.field("query_parameters"),
            QueryMatcher::compile,
        );
        let cookies = all(cookies, &at.field("cookies"), CookieMatcher::compile);
        let fraction = runtime_fraction
            .map(|fraction| {
                RuntimeFraction::compile(fraction, cx.runtime, &at.field("runtime_fraction"))
            })
            .transpose();
        refused?;
        let conditions = Self {
            headers: headers?,
            query: query?,
            cookies: cookies?,
            grpc: matches!(grpc, Some(GrpcRouteMatchOptions {})),
            fraction: fraction?,
        };
        Ok((conditions, path?, case_sensitive.unwrap_or(true)))
    }

    /// Whether a request meets them. `random` is the request's random number,
    /// the same for all routes.
    pub fn hold(&self, request: &RequestView<'_>, random: u64) -> bool {
        self.fraction
            .as_ref()
            .is_none_or(|fraction| fraction.enabled(random))
            && self.headers.iter().all(|m| m.matches_request(request))
            && self.query.iter().all(|m| m.is_match(request))
            && self.cookies.iter().all(|m| m.is_match(request))
            && (!self.grpc || is_grpc(request))
    }
}

fn all<M, T>(
    messages: Vec<M>,
    at: &At<'_>,
    compile: fn(M, &At<'_>) -> Result<T, Reported>,
) -> Result<Box<[T]>, Reported> {
    let mut outcome = Ok(());
    let mut compiled = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        match compile(message, &at.index(index)) {
            Ok(one) => compiled.push(one),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| compiled.into())
}

fn is_grpc(request: &RequestView<'_>) -> bool {
    request
        .headers
        .get(&http::header::CONTENT_TYPE)
        .is_some_and(|v| crate::formatter::is_grpc_content_type(v.as_bytes()))
}

impl QueryMatcher {
    fn compile(message: QueryMessage, at: &At<'_>) -> Result<Self, Reported> {
        let QueryMessage {
            name,
            query_parameter_match_specifier,
        } = message;
        let (value, absent) = match query_parameter_match_specifier {
            None => (None, false),
            Some(QueryParameterMatchSpecifier::PresentMatch(present)) => (None, !present),
            Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
                let matcher = StringMatcher::compile(matcher, &at.field("string_match"))?;
                (Some(matcher), false)
            }
        };
        Ok(Self {
            name: name.into(),
            value,
            absent,
        })
    }

    fn is_match(&self, request: &RequestView<'_>) -> bool {
        let value = request.query_parameter(&self.name);
        match (&self.value, value) {
            (None, value) => value.is_some() != self.absent,
            (Some(_), None) => false,
            (Some(matcher), Some(value)) => matcher.is_match(value.as_bytes()),
        }
    }
}

impl CookieMatcher {
    fn compile(message: CookieMessage, at: &At<'_>) -> Result<Self, Reported> {
        let CookieMessage {
            name,
            string_match,
            invert_match,
        } = message;
        let Some(matcher) = string_match else {
            return Err(at.field("string_match").error("is required"));
        };
        Ok(Self {
            name: name.into(),
            value: StringMatcher::compile(matcher, &at.field("string_match"))?,
            invert: invert_match,
        })
    }

    fn is_match(&self, request: &RequestView<'_>) -> bool {
        let matched =
            cookie(request, &self.name).is_some_and(|value| self.value.is_match(value.as_bytes()));
        matched != self.invert
    }
}

/// The first cookie of a name in a request, without its quotes.
pub fn cookie<'a>(request: &RequestView<'a>, name: &str) -> Option<&'a str> {
    request
        .headers
        .get_all(&http::header::COOKIE)
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.trim_start().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| {
            value
                .strip_prefix('"')
                .and_then(|v| v.strip_suffix('"'))
                .unwrap_or(value)
        })
}
