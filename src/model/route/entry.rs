//! `envoy.config.route.v3.Route`, compiled: one route.

use std::sync::Arc;

use crate::{
    api::envoy::config::route::v3::{
        Decorator, DirectResponseAction, Route as Message, route::Action as ActionMessage,
    },
    config::{At, Reported},
    formatter::{RequestView, SubstitutionFormat},
    model::{Context, data_source},
    refuse,
    stats::Block,
};

use super::{
    condition::Conditions, forward::Forward, headers::HeaderRules, paths::PathMatch,
    per_filter::PerFilter, redirect::Redirect, shares,
};

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    name: Box<str>,
    pub(super) path: PathMatch,
    pub(super) case_sensitive: bool,
    pub(super) conditions: Conditions,
    /// What is done with a request.
    pub action: Action,
    pub(super) request_headers: HeaderRules,
    pub(super) response_headers: HeaderRules,
    /// `vhost.VIRTUAL_HOST.route.STAT_PREFIX.`, when that is set.
    pub stats: Option<Arc<Block>>,
    /// The most bytes of a request's body that are kept for a retry; `None`
    /// leaves it to the virtual host and the connection.
    pub body_buffer_limit: Option<u64>,
    pub(super) per_filter: PerFilter,
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends the request to an upstream.
    Forward(Box<Forward>),
    /// Sends the client elsewhere.
    Redirect(Box<Redirect>),
    /// Answers.
    DirectResponse(Box<DirectResponse>),
    /// Leaves it to the filters; a request that reaches the router has no route.
    NonForwarding,
}

/// An answer from the configuration.
#[derive(Clone, Debug)]
pub struct DirectResponse {
    /// Its status.
    pub status: http::StatusCode,
    /// Its body.
    pub body: bytes::Bytes,
    /// Makes the body instead, from the request and `%LOCAL_REPLY_BODY%`; with
    /// its content type.
    pub format: Option<(SubstitutionFormat, String)>,
}

/// Limits that hold for all routes of a table.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Limits {
    /// `max_direct_response_body_size_bytes`.
    pub direct_response_body: u64,
}

impl Route {
    pub(super) fn compile(
        message: Message,
        host: &str,
        limits: Limits,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Message {
            r#match,
            // For filters and tracing that read it; none does.
            metadata: _,
            decorator,
            request_headers_to_add,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_remove,
            typed_per_filter_config,
            name,
            tracing,
            per_request_buffer_limit_bytes,
            stat_prefix,
            request_body_buffer_limit,
            route_specifiers,
            action,
        } = message;
        let refused = refuse!(at; tracing, route_specifiers);
        // They name the span of a trace; there are no traces.
        let (None
        | Some(Decorator {
            operation: _,
            propagate: _,
        })) = decorator;
        let filters = PerFilter::compile(typed_per_filter_config, cx, at);
        let matched = match r#match {
            Some(message) => Conditions::compile(message, cx, &at.field("match")),
            None => Err(at.field("match").error("is required")),
        };
        let action = match action {
            None => Err(at.error(
                "one of route, redirect, direct_response and non_forwarding_action is required",
            )),
            Some(ActionMessage::Route(route)) => Forward::compile(route, cx, &at.field("route"))
                .map(|f| Action::Forward(Box::new(f))),
            Some(ActionMessage::Redirect(redirect)) => {
                let redirect = Redirect::compile(redirect, &at.field("redirect"));
                redirect.map(|r| Action::Redirect(Box::new(r)))
            }
            Some(ActionMessage::DirectResponse(direct)) => {
                let at = at.field("direct_response");
                DirectResponse::compile(direct, limits, cx, &at)
                    .map(|d| Action::DirectResponse(Box::new(d)))
            }
            Some(ActionMessage::FilterAction(_)) => Err(at.field("filter_action").unsupported()),
            Some(ActionMessage::NonForwardingAction(_)) => Ok(Action::NonForwarding),
        };
        let (request_headers, response_headers) = HeaderRules::compile_both(
            (request_headers_to_add, request_headers_to_remove),
            (response_headers_to_add, response_headers_to_remove),
            at,
        );
        refused?;
        let (conditions, path, case_sensitive) = matched?;
        Ok(Self {
            name: name.into(),
            path,
            case_sensitive,
            conditions,
            action: action?,
            request_headers: request_headers?,
            response_headers: response_headers?,
            stats: (!stat_prefix.is_empty())
                .then(|| shares::share(cx.stats, host, "route", &stat_prefix)),
            body_buffer_limit: request_body_buffer_limit
                .or(per_request_buffer_limit_bytes.map(u64::from)),
            per_filter: filters?,
        })
    }

    /// Its name; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How much of a path it matched, which a prefix rewrite replaces.
    pub fn matched_length(&self, path: &str) -> usize {
        match &self.path {
            PathMatch::Prefix(prefix) | PathMatch::Separated(prefix) => prefix.len(),
            PathMatch::Exact(_) | PathMatch::Regex(_) => {
                path.find(['?', '#']).unwrap_or(path.len())
            }
            PathMatch::Connect => 0,
        }
    }

    /// The `location` to which a redirect sends a request.
    pub fn location(&self, redirect: &Redirect, request: &RequestView<'_>) -> String {
        redirect.location(request, self.matched_length(request.path))
    }
}

impl DirectResponse {
    fn compile(
        message: DirectResponseAction,
        limits: Limits,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let DirectResponseAction {
            status,
            body,
            body_format,
        } = message;
        let body_at = at.field("body");
        let body = match body {
            None => Ok(Vec::new()),
            Some(source) => data_source::load(source, cx, &body_at),
        };
        let format = body_format
            .map(|format| SubstitutionFormat::compile(format, cx, &at.field("body_format")))
            .transpose();
        let code = u16::try_from(status).ok();
        let status = code
            .and_then(|code| http::StatusCode::from_u16(code).ok())
            .ok_or_else(|| {
                at.field("status")
                    .error(format_args!("{status} is not an HTTP status"))
            });
        let body = body?;
        if body.len() as u64 > limits.direct_response_body {
            return Err(body_at.error(format_args!(
                "response body size is {} bytes; maximum is {}",
                body.len(),
                limits.direct_response_body
            )));
        }
        Ok(Self {
            status: status?,
            body: body.into(),
            format: format?,
        })
    }
}
