//! The filters before the router, compiled, and a stream's way through them.
//!
//! A connection manager without any goes straight to the router, and nothing
//! here is touched.

use std::{any::Any, future::poll_fn, rc::Rc, sync::Arc, task::Poll};

use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;

use super::filter::{Filter, Passage, Step, Wait};
use crate::{
    codec::ResponseHead,
    formatter::ResponseFlag,
    http::{
        LocalReply, RequestBody, Stream, config::ConnectionManager, reply::DEADLINE_EXCEEDED,
        stats::http_stats, stream::Limit,
    },
    model::context::Extension,
    xds::slot::Slot,
};

/// `http_filters` but for the router.
#[derive(Debug, Default)]
pub struct FilterChain {
    elements: Box<[Element]>,
}

/// A filter at its place in a chain.
#[derive(Debug)]
pub struct Element {
    /// Its name, by which routes speak to it.
    pub name: Box<str>,
    /// It is off where a route does not turn it on.
    pub disabled: bool,
    /// Where the filter is.
    pub filter: Source,
}

/// Where a filter of a chain is.
#[derive(Debug)]
pub enum Source {
    /// In the chain itself.
    Fixed(Arc<dyn Filter>),
    /// It comes by ECDS, and may be another at the next request.
    Discovered {
        /// Where it comes to.
        slot: Arc<Slot<Extension>>,
        /// What stands in its place meanwhile.
        default: Option<Arc<dyn Filter>>,
    },
}

impl Source {
    /// The filter of this moment.
    fn now(&self) -> Option<Arc<dyn Filter>> {
        match self {
            Self::Fixed(filter) => Some(filter.clone()),
            Self::Discovered { slot, default } => match &*slot.get() {
                Some(found) => Some(found.filter.clone()),
                None => default.clone(),
            },
        }
    }

    /// Whether that is still this one.
    fn is_still(&self, filter: Option<&Arc<dyn Filter>>) -> bool {
        let is = |now: Option<&Arc<dyn Filter>>| match (now, filter) {
            (Some(now), Some(filter)) => Arc::ptr_eq(now, filter),
            (None, None) => true,
            _ => false,
        };
        match self {
            // It changes with the chain only.
            Self::Fixed(_) => true,
            Self::Discovered { slot, default } => match &*slot.get() {
                Some(found) => is(Some(&found.filter)),
                None => is(default.as_ref()),
            },
        }
    }
}

impl FilterChain {
    /// A chain of these, in the order of requests.
    pub fn new(elements: Vec<Element>) -> Self {
        Self {
            elements: elements.into(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// The filters as they are now, which a connection keeps so that its
    /// requests touch no counter that another worker touches.
    fn resolve(&self) -> Box<[Option<Arc<dyn Filter>>]> {
        let filters = self.elements.iter().map(|element| element.filter.now());
        filters.collect()
    }
}

/// The filters of a connection manager as one connection has them.
#[derive(Debug)]
pub struct Resolved {
    manager: Arc<ConnectionManager>,
    /// Those of an upgrade, see [`ConnectionManager::chain`].
    upgrade: Option<u16>,
    /// `None` for one that has not come.
    filters: Box<[Option<Arc<dyn Filter>>]>,
}

impl Resolved {
    /// Those of this manager, or of one of its upgrades.
    pub fn new(manager: &Arc<ConnectionManager>, upgrade: Option<u16>) -> Self {
        Self {
            manager: Arc::clone(manager),
            upgrade,
            filters: manager.chain(upgrade).0.resolve(),
        }
    }

    fn elements(&self) -> &[Element] {
        &self.manager.chain(self.upgrade).0.elements
    }

    /// Whether these are still the filters of this manager.
    pub fn is_current(&self, manager: &Arc<ConnectionManager>) -> bool {
        let elements = self.elements();
        Arc::ptr_eq(&self.manager, manager)
            && (elements.iter().zip(&self.filters))
                .all(|(element, filter)| element.filter.is_still(filter.as_ref()))
    }
}

/// A stream's way through the filters.
pub struct Passing {
    chain: Rc<Resolved>,
    places: SmallVec<[Place; 4]>,
    /// The place that a request comes to next.
    next: usize,
}

/// A filter that is on for this stream.
struct Place {
    index: u16,
    state: Option<Box<dyn Any>>,
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.places.iter().map(|place| self.name(place));
        f.debug_list().entries(names).finish()
    }
}

impl Passing {
    /// The way of a stream, whose route says which filters are off.
    pub fn new(stream: &Stream) -> Self {
        let manager = stream.managed.manager();
        let chain = match stream.upgrade_filters {
            None => stream.session.filters(manager),
            upgrade => Rc::new(Resolved::new(manager, upgrade)),
        };
        let is_on = |(_, element): &(u16, &Element)| {
            let said = |name| stream.route.as_ref()?.filter_disabled(name);
            !said(&element.name).unwrap_or(element.disabled)
        };
        let elements = (0..).zip(chain.elements());
        let places = elements
            .filter(is_on)
            .map(|(index, _)| Place { index, state: None });
        let places = places.collect();
        Self {
            chain,
            places,
            next: 0,
        }
    }

    fn name(&self, place: &Place) -> &str {
        &self.chain.elements()[usize::from(place.index)].name
    }

    /// Leads a request to the router. True when it has stopped on its way because its
    /// route may have come: called again, it goes on from there.
    ///
    /// # Errors
    /// The answer of the filter that keeps it.
    pub async fn request(
        &mut self,
        stream: &mut Stream,
        body: &mut RequestBody,
    ) -> Result<bool, LocalReply> {
        let Self {
            chain,
            places,
            next,
        } = self;
        while let Some(place) = places.get_mut(*next) {
            *next += 1;
            let index = usize::from(place.index);
            let mut at = Passage {
                stream,
                name: &chain.elements()[index].name,
                state: &mut place.state,
            };
            let Some(filter) = &chain.filters[index] else {
                return Err(not_found());
            };
            match filter.request(&mut at, body) {
                Step::Continue => {}
                Step::Answer(reply) => return Err(*reply),
                Step::Wait(wait) => {
                    let rerouted = stream.rerouted;
                    within_limits(wait, stream, body).await?;
                    if stream.rerouted && !rerouted {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Leads a response's head back, past the last filter first.
    pub fn response(&mut self, stream: &mut Stream, head: &mut ResponseHead) {
        self.back(stream, |filter, at| filter.response(at, head));
    }

    /// Leads a response's trailers back.
    pub fn response_trailers(&mut self, stream: &mut Stream, trailers: &mut HeaderMap) {
        self.back(stream, |filter, at| filter.response_trailers(at, trailers));
    }

    fn back(&mut self, stream: &mut Stream, mut visit: impl FnMut(&dyn Filter, &mut Passage<'_>)) {
        let Self { chain, places, .. } = self;
        for place in places.iter_mut().rev() {
            let index = usize::from(place.index);
            let Some(filter) = &chain.filters[index] else {
                continue;
            };
            let mut at = Passage {
                stream,
                name: &chain.elements()[index].name,
                state: &mut place.state,
            };
            visit(&**filter, &mut at);
        }
    }
}

/// The answer where a filter is missing.
fn not_found() -> LocalReply {
    LocalReply::empty(StatusCode::INTERNAL_SERVER_ERROR, "").flag(ResponseFlag::NoFilterConfigFound)
}

/// Waits for as long as the stream's limits allow.
async fn within_limits(
    mut wait: Box<dyn Wait>,
    stream: &mut Stream,
    body: &mut RequestBody,
) -> Result<(), LocalReply> {
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = wait.poll(cx, stream, body) {
            return Poll::Ready(outcome);
        }
        stream.received(body.received);
        stream
            .poll_limits(cx, None)
            .map(|limit| Err(exceeded(stream, limit)))
    })
    .await
}

/// The answer to a request that used up a time limit before it was forwarded.
fn exceeded(stream: &mut Stream, limit: Limit) -> LocalReply {
    let received = stream.request_received;
    let stats = &stream.manager().stats;
    let late = match received {
        true => StatusCode::GATEWAY_TIMEOUT,
        false => StatusCode::REQUEST_TIMEOUT,
    };
    match limit {
        Limit::Request => {
            stats.inc(http_stats::downstream_rq_timeout);
            let status = StatusCode::REQUEST_TIMEOUT;
            LocalReply::text(status, "request_overall_timeout", "request timeout")
        }
        Limit::Idle | Limit::TryIdle => {
            stats.inc(http_stats::downstream_rq_idle_timeout);
            LocalReply::text(late, "stream_idle_timeout", "stream timeout")
                .flag(ResponseFlag::StreamIdleTimeout)
        }
        Limit::Deadline | Limit::Try | Limit::Upstream => {
            stats.inc(http_stats::downstream_rq_max_duration_reached);
            LocalReply::text(late, "max_duration_timeout", "downstream duration timeout")
                .grpc_status(DEADLINE_EXCEEDED)
        }
    }
}
