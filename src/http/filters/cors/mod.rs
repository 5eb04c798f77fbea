//! `envoy.filters.http.cors`: answers preflight requests, and tells browsers
//! which origins may read a response (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

mod policy;

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};

use super::filter::{Filter, FilterKind, Passage, Step};
use crate::{
    api::envoy::extensions::filters::http::cors::v3 as pb,
    codec::ResponseHead,
    config::unpack,
    http::{LocalReply, RequestBody},
    model::route::{Action, RouteHandle},
    stats::Block,
};

use policy::Policies;
pub use policy::Policy;

/// The kind of filter.
pub static KIND: FilterKind = FilterKind {
    name: "envoy.filters.http.cors",
    message: "envoy.extensions.filters.http.cors.v3.Cors",
    compile: |any, cx, at| {
        let pb::Cors {} = unpack(any, at)?;
        let prefix = format!("{}cors.", cx.stat_prefix);
        Ok(Arc::new(Cors {
            stats: cx.cx.stats.block(&prefix, &cors_stats::TABLE),
        }))
    },
    route: Some((
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        |any, cx, at| Ok(Arc::new(Policy::compile(unpack(any, at)?, cx, at)?)),
    )),
};

crate::stat_table! {
    /// `http.STAT_PREFIX.cors.`
    pub mod cors_stats {
        counters { origin_invalid, origin_valid }
        gauges {}
        histograms {}
        texts {}
    }
}

const REQUEST_PRIVATE_NETWORK: &str = "access-control-request-private-network";
const ALLOW_PRIVATE_NETWORK: http::HeaderName =
    http::HeaderName::from_static("access-control-allow-private-network");

/// The filter; what is allowed stands at the routes.
#[derive(Debug)]
struct Cors {
    stats: Arc<Block>,
}

/// A request from an allowed origin, for its response.
struct Allowed {
    route: RouteHandle,
    origin: HeaderValue,
}

impl Filter for Cors {
    fn request(&self, at: &mut Passage<'_>, _body: &mut RequestBody) -> Step {
        let request = &at.stream.request;
        let Some(origin) = request
            .headers
            .get(header::ORIGIN)
            .filter(|o| !o.is_empty())
        else {
            return Step::Continue;
        };
        // What is not forwarded is answered as if there were no policy, as in Envoy.
        let forwards = |route: &RouteHandle| matches!(route.route().action, Action::Forward(_));
        let Some(route) = at.route().filter(forwards) else {
            return Step::Continue;
        };
        let policies = Policies::of(&route, at.name);
        let random = at.stream.session.worker().random();
        let enabled = policies.is_enabled(random);
        if !enabled && !policies.is_shadowed(random) {
            return Step::Continue;
        }
        let allowed = policies.allow(origin);
        self.stats.inc(match allowed {
            true => cors_stats::origin_valid,
            false => cors_stats::origin_invalid,
        });
        if !enabled {
            return Step::Continue;
        }
        let is_preflight = request.method == Method::OPTIONS
            && request
                .headers
                .get(header::ACCESS_CONTROL_REQUEST_METHOD)
                .is_some_and(|method| !method.is_empty());
        let step = match is_preflight {
            true if allowed || !policies.forwards_not_matching() => {
                let asks = |name| request.headers.get(name).is_some_and(|v| v == "true");
                let private_network = allowed && asks(REQUEST_PRIVATE_NETWORK);
                Step::answer(preflight(&policies, allowed, private_network))
            }
            _ => Step::Continue,
        };
        if allowed {
            *at.state = Some(Box::new(Allowed {
                origin: origin.clone(),
                route: route.clone(),
            }));
        }
        step
    }

    fn response(&self, at: &mut Passage<'_>, head: &mut ResponseHead) {
        let Some(allowed) = at.state.as_ref().and_then(|s| s.downcast_ref::<Allowed>()) else {
            return;
        };
        let policies = Policies::of(&allowed.route, at.name);
        let headers = &mut head.headers;
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed.origin.clone());
        if policies.allows_credentials() {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        if let Some(expose) = policies.expose_headers() {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

/// The answer to a preflight request. What it says of the origin is added to it
/// as to any response.
fn preflight(policies: &Policies<'_>, allowed: bool, private_network: bool) -> LocalReply {
    let details = match allowed {
        true => "cors_response",
        false => "cors_rejected",
    };
    let mut reply = LocalReply::empty(StatusCode::OK, details);
    for (name, value) in [
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            policies.allow_methods(),
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            policies.allow_headers(),
        ),
        (header::ACCESS_CONTROL_MAX_AGE, policies.max_age()),
    ] {
        if let Some(value) = value {
            reply = reply.header(name, value.clone());
        }
    }
    if private_network && policies.allows_private_network() {
        reply = reply.header(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    reply
}
