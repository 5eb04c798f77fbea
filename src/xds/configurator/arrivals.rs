//! What streams bring: answers on their way to whom they are for.

use std::rc::Rc;

use super::{Configurator, State};
use crate::xds::{
    feed::Feed,
    mux::Push,
    stream::{Arrival, Event, Stream},
};

impl Configurator {
    /// A stream tells something.
    pub(super) fn arrived(&self, arrival: Arrival) {
        let Arrival { stream, event } = arrival;
        let Some(stream) = stream.upgrade() else {
            return;
        };
        let state = self.state.borrow();
        let feeds = state.cds.iter().chain(&state.lds);
        let feeds = feeds.filter(|feed| feed.is_by(&stream));
        match event {
            Event::Answer(response) => {
                drop(state);
                if let Some(push) = stream.receive(response) {
                    self.take(&stream, push);
                }
            }
            Event::Fetched(answer) => {
                drop(state);
                if let Some(push) = stream.fetched(answer) {
                    self.take(&stream, push);
                }
            }
            Event::Unchanged => {
                feeds.for_each(Feed::unchanged);
                self.subscriptions.unchanged(&stream);
            }
            Event::Connected => {
                stream.note_failure(None);
                feeds.for_each(Feed::reached);
                self.subscriptions.reached(&stream);
            }
            Event::Failed(details) => {
                feeds.for_each(|feed| feed.unreachable(&details));
                drop(state);
                stream.note_failure(Some(details.clone()));
                self.fall_back(&stream, &details);
                self.subscriptions.unreachable(&stream, &details);
            }
        }
    }

    /// Serves what an earlier run accepted of the feeds that this stream is for.
    pub(super) fn fall_back(&self, stream: &Rc<Stream>, why: &str) {
        let mut state = self.state.borrow_mut();
        let State {
            clusters,
            listeners,
            cds,
            lds,
            lds_begun,
            ..
        } = &mut *state;
        if let Some(cds) = cds.as_ref().filter(|feed| feed.is_by(stream)) {
            cds.fall_back(why, clusters, &self.subscriptions);
        }
        if let Some(lds) = lds.as_ref().filter(|feed| *lds_begun && feed.is_by(stream)) {
            lds.fall_back(why, listeners, &self.subscriptions);
        }
    }

    /// Applies what a server says. The verdict is only noted: it goes out when
    /// what was applied has been published.
    pub(super) fn take(&self, stream: &Rc<Stream>, push: Push) {
        let answered = push.answered();
        let mut state = self.state.borrow_mut();
        let State {
            clusters,
            listeners,
            cds,
            lds,
            ..
        } = &mut *state;
        let takes = |feed: &Option<Feed>| {
            feed.as_ref()
                .is_some_and(|feed| feed.takes(stream, &push.type_url))
        };
        let (is_cds, is_lds) = (takes(cds), takes(lds));
        let verdict = match (cds, lds) {
            (Some(cds), _) if is_cds => cds.take(push, clusters, &self.subscriptions),
            (_, Some(lds)) if is_lds => lds.take(push, listeners, &self.subscriptions),
            _ => {
                drop(state);
                self.subscriptions.take(stream, push)
            }
        };
        stream.verdict(&answered, &verdict);
    }
}
