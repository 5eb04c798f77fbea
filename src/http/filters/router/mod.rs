//! `envoy.filters.http.router`: sends the request to the route's cluster.

mod attempt;
mod exchange;
mod failure;
mod forward;
mod mirror;
mod tcp;
mod timeout;

pub use exchange::{Exchange, SharedExchange};
pub use forward::forward;
pub use tcp::TcpExchange;

use crate::{
    api::envoy::extensions::filters::http::router::v3 as pb,
    config::{At, Reported},
    model::Context,
    refuse,
};

/// `envoy.extensions.filters.http.router.v3.Router`, compiled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Router {
    /// `suppress_envoy_headers`: none of the `x-envoy-` headers are added.
    pub suppress_envoy_headers: bool,
    /// `respect_expected_rq_timeout`.
    pub respect_expected_timeout: bool,
}

impl Router {
    /// Compiles the router's options.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(message: pb::Router, _cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let pb::Router {
            // Cluster stats are always kept.
            dynamic_stats: _,
            // Only matters to tracing, which is refused where it is configured.
            start_child_span: _,
            upstream_log,
            suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout,
            suppress_grpc_request_failure_code_stats,
            upstream_http_filters,
            upstream_log_options,
            reject_connect_request_early_data,
        } = message;
        let reject_connect_request_early_data = reject_connect_request_early_data.filter(|on| *on);
        refuse!(at;
            upstream_log, strict_check_headers, suppress_grpc_request_failure_code_stats,
            upstream_http_filters, upstream_log_options, reject_connect_request_early_data,
        )?;
        Ok(Self {
            suppress_envoy_headers,
            respect_expected_timeout: respect_expected_rq_timeout,
        })
    }
}
