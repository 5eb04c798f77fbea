//! What a filter is: something that requests pass on their way to the router,
//! and responses on their way back.

use std::{
    any::Any,
    fmt,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use http::HeaderMap;
use prost_types::Any as AnyMessage;

use crate::{
    codec::ResponseHead,
    config::{At, Reported},
    http::{LocalReply, RequestBody, Stream},
    model::{
        Context,
        route::{RouteConfig, RouteHandle},
    },
};

/// A filter's configuration, compiled: one for all requests of a chain.
///
/// What a filter keeps from a request for its response goes to
/// [`Passage::state`], and is dropped when the stream is over.
pub trait Filter: fmt::Debug + Send + Sync {
    /// A request's head is here, and as much of its body as has come.
    fn request(&self, _at: &mut Passage<'_>, _body: &mut RequestBody) -> Step {
        Step::Continue
    }

    /// A response's head is here: the upstream's, or an answer of this proxy's
    /// own, for which [`Filter::request`] need not have been called.
    fn response(&self, _at: &mut Passage<'_>, _head: &mut ResponseHead) {}

    /// A response's trailers are here.
    fn response_trailers(&self, _at: &mut Passage<'_>, _trailers: &mut HeaderMap) {}
}

/// How a request goes on after a filter has seen it.
pub enum Step {
    /// To the next filter.
    Continue,
    /// It is answered; no other filter sees it.
    Answer(Box<LocalReply>),
    /// It waits.
    Wait(Box<dyn Wait>),
}

impl Step {
    /// Answers.
    pub fn answer(reply: LocalReply) -> Self {
        Self::Answer(Box::new(reply))
    }
}

/// What a request waits for. The stream's time limits hold meanwhile.
pub trait Wait {
    /// Ready when the request may go on, or is answered.
    fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        stream: &mut Stream,
        body: &mut RequestBody,
    ) -> Poll<Result<(), LocalReply>>;
}

/// One request or response at one filter.
pub struct Passage<'a> {
    /// The stream.
    pub stream: &'a mut Stream,
    /// The filter's name in its chain, by which routes speak to it.
    pub name: &'a str,
    /// What the filter keeps for this stream.
    pub state: &'a mut Option<Box<dyn Any>>,
}

impl Passage<'_> {
    /// The route, to ask for [`RouteHandle::filter_configs`].
    pub fn route(&self) -> Option<RouteHandle> {
        self.stream.route.clone()
    }
}

/// What a filter is compiled in.
#[derive(Clone, Copy)]
pub struct FilterContext<'a> {
    /// What every resource is compiled in.
    pub cx: &'a Context<'a>,
    /// `http.STAT_PREFIX.` of the connection manager.
    pub stat_prefix: &'a str,
}

/// A kind of filter, for the [`table`](super::table).
pub struct FilterKind {
    /// As people know it: `envoy.filters.http.router`.
    pub name: &'static str,
    /// The full name of the message that configures it.
    pub message: &'static str,
    /// Compiles that message.
    pub compile: Compile,
    /// The full name of the message by which a route configures it, and what
    /// compiles that.
    pub route: Option<(&'static str, CompileRoute)>,
}

/// Compiles a filter's message; what is wrong has been reported.
pub type Compile = fn(&AnyMessage, FilterContext<'_>, &At<'_>) -> Result<Arc<dyn Filter>, Reported>;

/// Compiles a filter's message of a route; what is wrong has been reported.
pub type CompileRoute =
    fn(&AnyMessage, &Context<'_>, &At<'_>) -> Result<Arc<dyn RouteConfig>, Reported>;
