//! `envoy.filters.http.on_demand`: a request whose route is not known waits while
//! its virtual host, or the routes of its scope, are asked for.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::filter::{Filter, FilterKind, Passage, Step, Wait};
use crate::{
    api::envoy::extensions::filters::http::on_demand::v3 as pb,
    config::unpack,
    http::{LocalReply, RequestBody, Stream},
    refuse,
};

/// The kind of filter.
pub static KIND: FilterKind = FilterKind {
    name: "envoy.filters.http.on_demand",
    message: "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    compile: |any, _, at| {
        let pb::OnDemand { odcds } = unpack(any, at)?;
        refuse!(at; odcds)?;
        Ok(Arc::new(OnDemand))
    },
    route: Some((
        "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig",
        |any, _, at| {
            let pb::PerRouteConfig { odcds } = unpack(any, at)?;
            refuse!(at; odcds)?;
            Ok(Arc::new(()))
        },
    )),
};

/// The filter.
#[derive(Debug)]
struct OnDemand;

impl Filter for OnDemand {
    fn request(&self, at: &mut Passage<'_>, _body: &mut RequestBody) -> Step {
        let stream = &mut *at.stream;
        // One that has waited already is not asked for again.
        if stream.route.is_some() || stream.rerouted {
            return Step::Continue;
        }
        match stream.session.demand(stream.manager(), &stream.view()) {
            Some(answered) => Step::Wait(Box::new(Awaiting(answered))),
            None => Step::Continue,
        }
    }
}

/// Until what was asked for is there, or known not to be.
struct Awaiting(oneshot::Receiver<()>);

impl Wait for Awaiting {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        _body: &mut RequestBody,
    ) -> Poll<Result<(), LocalReply>> {
        // An asker that is let go of has its answer too.
        Pin::new(&mut self.0).poll(cx).map(|_| {
            stream.rerouted = true;
            Ok(())
        })
    }
}
