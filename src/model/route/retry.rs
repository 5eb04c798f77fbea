//! `envoy.config.route.v3.RetryPolicy`, compiled: when a request is tried again.

use std::time::Duration;

use http::{HeaderName, StatusCode};

use crate::{
    api::envoy::config::route::v3::{RetryPolicy as Message, retry_policy::RetryBackOff},
    codec::Headers,
    config::{At, Reported, duration, suggest},
    formatter::{HeaderView, RequestView},
    model::matcher::HeaderMatcher,
    refuse,
};

use super::{avoid::AvoidedHosts, told_wait::ToldWait};

/// Why a request may be tried again, as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

impl RetryOn {
    /// The upstream answered 5xx, or did not answer.
    pub const SERVER_ERROR: Self = Self(1);
    /// 502, 503 or 504.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// No connection could be made.
    pub const CONNECT_FAILURE: Self = Self(1 << 2);
    /// 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 3);
    /// The stream was refused with REFUSED_STREAM.
    pub const REFUSED_STREAM: Self = Self(1 << 4);
    /// One of `retriable_status_codes`.
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 5);
    /// One of `retriable_headers`.
    pub const RETRIABLE_HEADERS: Self = Self(1 << 6);
    /// The stream was reset before an answer.
    pub const RESET: Self = Self(1 << 7);
    /// `x-envoy-ratelimited` was set: retry all the same.
    pub const ENVOY_RATE_LIMITED: Self = Self(1 << 8);
    /// HTTP/3 connections failed after the handshake.
    pub const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 9);
    /// gRPC status 1.
    pub const GRPC_CANCELLED: Self = Self(1 << 10);
    /// gRPC status 4.
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 11);
    /// gRPC status 8.
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 12);
    /// gRPC status 14.
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 13);
    /// gRPC status 13.
    pub const GRPC_INTERNAL: Self = Self(1 << 14);
    /// The stream was reset before the request was sent upstream.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 15);

    const NAMES: [(&'static str, Self); 16] = [
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-status-codes", Self::RETRIABLE_STATUS_CODES),
        ("retriable-headers", Self::RETRIABLE_HEADERS),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("envoy-ratelimited", Self::ENVOY_RATE_LIMITED),
        (
            "http3-post-connect-failure",
            Self::HTTP3_POST_CONNECT_FAILURE,
        ),
        ("cancelled", Self::GRPC_CANCELLED),
        ("deadline-exceeded", Self::GRPC_DEADLINE_EXCEEDED),
        ("resource-exhausted", Self::GRPC_RESOURCE_EXHAUSTED),
        ("unavailable", Self::GRPC_UNAVAILABLE),
        ("internal", Self::GRPC_INTERNAL),
    ];

    /// Reads a list such as `5xx,reset`; unknown words are left out, as Envoy
    /// does with a request's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
    pub fn parse(list: &str) -> Self {
        list.split(',')
            .map(str::trim)
            .filter_map(|word| Self::NAMES.iter().find(|(name, _)| *name == word))
            .fold(Self::default(), |set, (_, bit)| set.union(*bit))
    }

    fn compile(list: &str, at: &At<'_>) -> Result<Self, Reported> {
        let words = list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        for word in words {
            if Self::parse(word).is_empty() {
                let known = Self::NAMES.iter().map(|(name, _)| (*name).to_owned());
                let hint = suggest::among(word, known);
                return Err(at.error(format_args!("{word:?} is not a known condition{hint}")));
            }
        }
        Ok(Self::parse(list))
    }

    /// Whether the sets have a reason in common.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// All reasons of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it is empty: nothing is retried.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// When and how often a request is tried again.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Why.
    pub retry_on: RetryOn,
    /// How often, besides the first try. 1 by default.
    pub num_retries: u32,
    /// Time for one try; `None` when the route's timeout is all there is.
    pub per_try_timeout: Option<Duration>,
    /// Time without a byte for one try.
    pub per_try_idle_timeout: Option<Duration>,
    /// Backoff of the first retry: a random part of it is waited. 25 ms by default.
    pub base_interval: Duration,
    /// Largest backoff. Ten times the base by default.
    pub max_interval: Duration,
    /// Statuses for `retriable-status-codes`.
    pub retriable_status_codes: Box<[u32]>,
    /// Headers of a response for `retriable-headers`: one of them has to match.
    pub retriable_headers: Box<[HeaderMatcher]>,
    /// Headers of a request that is retried at all; empty is all requests.
    pub retriable_request_headers: Box<[HeaderMatcher]>,
    /// How often a host that `retry_host_predicate` rejects is chosen anew.
    pub host_selection_attempts: u32,
    /// Those hosts.
    pub avoided: AvoidedHosts,
    /// How long hosts may say to wait.
    pub told_wait: Option<ToldWait>,
}

/// Backoff of the first retry unless `retry_back_off` says otherwise.
pub const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retry_on: RetryOn::default(),
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            base_interval: DEFAULT_BASE_INTERVAL,
            max_interval: DEFAULT_BASE_INTERVAL * 10,
            retriable_status_codes: Box::default(),
            retriable_headers: Box::default(),
            retriable_request_headers: Box::default(),
            host_selection_attempts: 1,
            avoided: AvoidedHosts::default(),
            told_wait: None,
        }
    }
}

impl RetryPolicy {
    /// Compiles a policy.
    ///
    /// # Errors
    /// An unknown condition in `retry_on`, a malformed matcher, an extension.
    pub fn compile(message: Message, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            retry_on,
            num_retries,
            per_try_timeout,
            retry_priority,
            retry_host_predicate,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            retriable_headers,
            retriable_request_headers,
            rate_limited_retry_back_off,
            retry_options_predicates,
            per_try_idle_timeout,
            refresh_cluster_on_retry,
        } = message;
        let refused = refuse!(at; retry_priority, retry_options_predicates,
            refresh_cluster_on_retry);
        let mut outcome = refused;
        let mut policy = Self {
            retry_on: RetryOn::compile(&retry_on, &at.field("retry_on"))?,
            num_retries: num_retries.unwrap_or(1),
            host_selection_attempts: u32::try_from(host_selection_retry_max_attempts)
                .unwrap_or_default()
                .max(1),
            ..Self::default()
        };
        let at_hosts = at.field("retry_host_predicate");
        match AvoidedHosts::compile(retry_host_predicate, &at_hosts) {
            Ok(avoided) => policy.avoided = avoided,
            Err(reported) => outcome = Err(reported),
        }
        let told_wait = rate_limited_retry_back_off
            .map(|message| ToldWait::compile(message, &at.field("rate_limited_retry_back_off")))
            .transpose();
        match told_wait {
            Ok(told_wait) => policy.told_wait = told_wait,
            Err(reported) => outcome = Err(reported),
        }
        let mut set =
            |to: &mut Option<Duration>, field: &str, from: Option<prost_types::Duration>| {
                match from.map(|d| duration(&d, &at.field(field))).transpose() {
                    // Zero is no limit.
                    Ok(value) => *to = value.filter(|d| !d.is_zero()),
                    Err(reported) => outcome = Err(reported),
                }
            };
        set(
            &mut policy.per_try_timeout,
            "per_try_timeout",
            per_try_timeout,
        );
        set(
            &mut policy.per_try_idle_timeout,
            "per_try_idle_timeout",
            per_try_idle_timeout,
        );
        if let Some(RetryBackOff {
            base_interval,
            max_interval,
        }) = retry_back_off
        {
            let (mut base, mut max) = (None, None);
            set(&mut base, "retry_back_off.base_interval", base_interval);
            set(&mut max, "retry_back_off.max_interval", max_interval);
            policy.base_interval = base.unwrap_or(DEFAULT_BASE_INTERVAL);
            policy.max_interval = max.unwrap_or(policy.base_interval * 10);
            if policy.max_interval < policy.base_interval {
                outcome = Err(at
                    .field("retry_back_off")
                    .error("max_interval must be greater than or equal to the base_interval"));
            }
        }
        policy.retriable_status_codes = retriable_status_codes.into();
        policy.retriable_headers =
            HeaderMatcher::compile_all(retriable_headers, &at.field("retriable_headers"))?;
        policy.retriable_request_headers = HeaderMatcher::compile_all(
            retriable_request_headers,
            &at.field("retriable_request_headers"),
        )?;
        outcome.map(|()| policy)
    }

    /// The policy as a request's own headers change it: `x-envoy-retry-on`,
    /// `x-envoy-retry-grpc-on`, `x-envoy-max-retries`,
    /// `x-envoy-retriable-status-codes`, `x-envoy-retriable-header-names`,
    /// `x-envoy-upstream-rq-per-try-timeout-ms`.
    ///
    /// `None` when nothing of this request is to be retried.
    pub fn for_request(route: Option<&Self>, request: &RequestView<'_>) -> Option<RequestRetry> {
        let text = |name: &'static str| {
            let name = http::HeaderName::from_static(name);
            request.headers.get(&name)?.to_str().ok()
        };
        let asked = ["x-envoy-retry-on", "x-envoy-retry-grpc-on"]
            .into_iter()
            .filter_map(text)
            .map(RetryOn::parse)
            .reduce(RetryOn::union);
        let retry_on = route.map_or(RetryOn::default(), |r| r.retry_on);
        let retry_on = retry_on.union(asked.unwrap_or_default());
        let wanted = route.map_or(&[][..], |route| &route.retriable_request_headers);
        let is_wanted = wanted.is_empty() || wanted.iter().any(|m| m.matches_request(request));
        if retry_on.is_empty() || !is_wanted {
            return None;
        }
        let names = text("x-envoy-retriable-header-names").into_iter();
        let names = names.flat_map(|list| list.split(','));
        let names = names.filter_map(|name| HeaderName::try_from(name.trim()).ok());
        let max = text("x-envoy-max-retries").and_then(|n| n.parse().ok());
        let codes = text("x-envoy-retriable-status-codes").into_iter();
        let codes = codes.flat_map(|list| list.split(','));
        let codes = codes.filter_map(|code| code.trim().parse().ok());
        let timeout = text("x-envoy-upstream-rq-per-try-timeout-ms").and_then(|n| n.parse().ok());
        Some(RequestRetry {
            retry_on,
            remaining: max.unwrap_or_else(|| route.map_or(1, |r| r.num_retries)),
            codes: codes.collect(),
            headers: names.collect(),
            per_try_timeout: timeout
                .map(Duration::from_millis)
                .or_else(|| route.and_then(|r| r.per_try_timeout)),
        })
    }
}

/// What is left of a policy for one request.
#[derive(Clone, Debug)]
pub struct RequestRetry {
    /// Why it may be tried again.
    pub retry_on: RetryOn,
    /// How often it may be tried again.
    pub remaining: u32,
    /// Statuses that the request itself named.
    pub codes: smallvec::SmallVec<[u16; 4]>,
    /// Headers of a response that the request itself named.
    pub headers: Vec<HeaderName>,
    /// Time for one try.
    pub per_try_timeout: Option<Duration>,
}

impl RequestRetry {
    /// Whether a response of this status and headers is to be tried again, as
    /// far as the policy goes; `remaining` is the caller's to count.
    pub fn wants_response(
        &self,
        policy: Option<&RetryPolicy>,
        status: StatusCode,
        headers: &Headers,
    ) -> bool {
        let on = |reason: RetryOn| self.retry_on.intersects(reason);
        let code = status.as_u16();
        if headers.contains_key("x-envoy-ratelimited") {
            return on(RetryOn::ENVOY_RATE_LIMITED);
        }
        if (on(RetryOn::SERVER_ERROR) && (500..600).contains(&code))
            || (on(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&code))
            || (on(RetryOn::RETRIABLE_4XX) && code == 409)
        {
            return true;
        }
        if on(RetryOn::RETRIABLE_STATUS_CODES)
            && (self.codes.contains(&code)
                || policy.is_some_and(|p| p.retriable_status_codes.contains(&code.into())))
        {
            return true;
        }
        let view = HeaderView::Map(headers);
        if on(RetryOn::RETRIABLE_HEADERS) {
            let matchers = policy.map_or(&[][..], |policy| &policy.retriable_headers);
            let mut matchers = matchers.iter();
            if matchers.any(|m| m.matches_response(Some(status), view))
                || self.headers.iter().any(|name| headers.contains_key(name))
            {
                return true;
            }
        }
        let grpc = headers
            .get("grpc-status")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse::<u32>().ok());
        match grpc {
            Some(1) => on(RetryOn::GRPC_CANCELLED),
            Some(4) => on(RetryOn::GRPC_DEADLINE_EXCEEDED),
            Some(8) => on(RetryOn::GRPC_RESOURCE_EXHAUSTED),
            Some(13) => on(RetryOn::GRPC_INTERNAL),
            Some(14) => on(RetryOn::GRPC_UNAVAILABLE),
            _ => false,
        }
    }
}
