//! `envoy.config.route.v3.VirtualHost`, compiled.

use std::sync::Arc;

use crate::{
    api::{
        Lazy,
        envoy::config::route::v3::{VirtualHost as Message, virtual_host::TlsRequirementType},
    },
    config::{At, Reported},
    digest::Digest,
    formatter::RequestView,
    model::Context,
    refuse,
};

use super::{
    entry::{Action, Limits, Route},
    headers::HeaderRules,
    mirror::{MIRRORS, Mirror},
    paths::Paths,
    per_filter::PerFilter,
    retry::RetryPolicy,
    shares::VirtualClusters,
};

/// One virtual host: an ordered list of routes.
#[derive(Debug)]
pub struct VirtualHost {
    name: Arc<str>,
    domains: Box<[Arc<str>]>,
    pub(super) routes: Box<[Route]>,
    paths: Paths,
    require_tls: TlsRequirementType,
    pub(super) request_headers: HeaderRules,
    pub(super) response_headers: HeaderRules,
    /// Tell the upstream which try this is, in `x-envoy-attempt-count`.
    pub include_request_attempt_count: bool,
    /// Tell the upstream whether another try is for a timeout, in
    /// `x-envoy-is-timeout-retry`.
    pub include_is_timeout_retry: bool,
    /// Tell the client how many tries there were.
    pub include_attempt_count_in_response: bool,
    /// The most bytes of a request's body that are kept for a retry.
    pub body_buffer_limit: Option<u64>,
    /// What is counted of requests by what they ask for.
    pub virtual_clusters: VirtualClusters,
    /// Who gets a copy of requests; empty leaves it to the table.
    pub(super) mirrors: Box<[Mirror]>,
    pub(super) per_filter: PerFilter,
}

impl VirtualHost {
    /// The virtual host of a message. One that depends on nothing but what it says is
    /// compiled once for all tables that have it, and for all their versions.
    pub(super) fn shared(
        message: &Lazy<Message>,
        limits: Limits,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Arc<Self>, Reported> {
        let key = Digest::of((message.bytes(), limits));
        let shared = &cx.shared.virtual_hosts;
        if let Some(known) = shared.known(key) {
            return Ok(known);
        }
        let so_far = || (cx.sources.asked(), at.report().marker());
        let before = so_far();
        let message = message.decode().map_err(|error| at.error(error))?;
        let host = Arc::new(Self::compile(message, limits, cx, at)?);
        let depends = before.0.is_none() || so_far() != before;
        // What filters are told may hold their state, which is for one table.
        if !depends && !host.configures_filters() {
            shared.keep(key, &host);
        }
        Ok(host)
    }

    fn configures_filters(&self) -> bool {
        let mut routes = self.routes.iter();
        !self.per_filter.is_empty() || routes.any(|route| !route.per_filter.is_empty())
    }

    pub(super) fn compile(
        message: Message,
        limits: Limits,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Message {
            name,
            domains,
            routes,
            require_tls,
            virtual_clusters,
            rate_limits,
            request_headers_to_add,
            cors,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_remove,
            include_request_attempt_count,
            typed_per_filter_config,
            retry_policy,
            hedge_policy,
            per_request_buffer_limit_bytes,
            include_attempt_count_in_response,
            retry_policy_typed_config,
            matcher,
            request_mirror_policies,
            include_is_timeout_retry_header,
            // For filters that read it; none does.
            metadata: _,
            request_body_buffer_limit,
            route_specifiers,
        } = message;
        let refused = refuse!(at; rate_limits, cors, hedge_policy,
            retry_policy_typed_config, matcher,
            route_specifiers);
        let mut outcome = refused;
        let per_filter = PerFilter::compile(typed_per_filter_config, cx, at);
        let mirrors = Mirror::compile_all(request_mirror_policies, cx, &at.field(MIRRORS));
        let retry = retry_policy
            .map(|policy| RetryPolicy::compile(policy, &at.field("retry_policy")))
            .transpose();
        let (request_headers, response_headers) = HeaderRules::compile_both(
            (request_headers_to_add, request_headers_to_remove),
            (response_headers_to_add, response_headers_to_remove),
            at,
        );
        let at_clusters = at.field("virtual_clusters");
        let virtual_clusters = VirtualClusters::compile(virtual_clusters, &name, cx, &at_clusters);
        let mut compiled = Vec::with_capacity(routes.len());
        let routes_at = at.field("routes");
        for (index, route) in routes.into_iter().enumerate() {
            match Route::compile(route, &name, limits, cx, &routes_at.index(index)) {
                Ok(route) => compiled.push(route),
                Err(reported) => outcome = Err(reported),
            }
        }
        let retry = retry?;
        outcome?;
        if let Some(retry) = retry {
            for route in &mut compiled {
                if let Action::Forward(forward) = &mut route.action {
                    forward.retry.get_or_insert_with(|| retry.clone());
                }
            }
        }
        let paths = Paths::new(compiled.iter().map(|r| (&r.path, r.case_sensitive)));
        Ok(Self {
            name: name.into(),
            domains: lower(domains),
            routes: compiled.into(),
            paths,
            require_tls: TlsRequirementType::try_from(require_tls).unwrap_or_default(),
            request_headers: request_headers?,
            response_headers: response_headers?,
            include_request_attempt_count,
            include_is_timeout_retry: include_is_timeout_retry_header,
            include_attempt_count_in_response,
            body_buffer_limit: request_body_buffer_limit
                .or(per_request_buffer_limit_bytes.map(u64::from)),
            virtual_clusters: virtual_clusters?,
            mirrors: mirrors?,
            per_filter: per_filter?,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its domains, in lower case.
    pub fn domains(&self) -> &[Arc<str>] {
        &self.domains
    }

    /// Whether `require_tls` sends this request to https.
    pub(super) fn wants_tls(&self, request: &RequestView<'_>) -> bool {
        const INTERNAL: http::HeaderName = http::HeaderName::from_static("x-envoy-internal");
        match self.require_tls {
            TlsRequirementType::None => false,
            _ if request.scheme == "https" => false,
            TlsRequirementType::All => true,
            TlsRequirementType::ExternalOnly => request
                .headers
                .get(&INTERNAL)
                .is_none_or(|value| value != "true"),
        }
    }

    /// The first route that a request matches. `path` is the request's without
    /// its query.
    pub(super) fn find(&self, request: &RequestView<'_>, path: &str, random: u64) -> Option<u32> {
        let holds = |route: &u32| {
            let conditions = &self.routes[*route as usize].conditions;
            conditions.hold(request, random)
        };
        if request.is_connect() {
            return self.paths.connect().iter().copied().find(holds);
        }
        let connect_udp = !self.paths.connect().is_empty() && is_connect_udp(request);
        let mut candidates = self.paths.candidates(path.as_bytes(), connect_udp);
        candidates.find(holds)
    }
}

/// The domains of a message, in lower case.
pub(super) fn lower_domains(message: Message) -> Box<[Arc<str>]> {
    lower(message.domains)
}

fn lower(domains: Vec<String>) -> Box<[Arc<str>]> {
    let domains = domains.into_iter().map(|mut domain| {
        domain.make_ascii_lowercase();
        domain.into()
    });
    domains.collect()
}

/// Whether it asks to be upgraded to `connect-udp` (RFC 9298).
fn is_connect_udp(request: &RequestView<'_>) -> bool {
    let upgrade = request.headers.get(&http::header::UPGRADE);
    upgrade.is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(b"connect-udp"))
}
