//! `/stats` and `/stats/prometheus`.

mod histogram;
mod json;
mod page;
mod prometheus;
mod query;
mod text;

use std::rc::Rc;

use crate::stats::{
    Settings,
    listing::{Kind, Parts as Listing, Stat},
};

use super::{
    State,
    answer::{self, Answer},
    request::Request,
};
use query::{Format, Query};

pub use page::escape;

pub(super) fn answer(state: &Rc<State>, request: &Request) -> Answer {
    let query = match Query::parse(request) {
        Ok(query) => query,
        Err(error) => return Answer::bad_request(error.to_string()),
    };
    if query.format == Format::Prometheus {
        return self::prometheus(state, request);
    }
    refresh(state);
    let selection = Selection::new(state, query);
    match selection.query.format {
        Format::Json => Answer::parts(answer::JSON, json::Json::new(selection)),
        Format::Html { active } => {
            Answer::parts(answer::HTML, page::Page::new(selection, request, active))
        }
        Format::Text | Format::Prometheus => {
            Answer::parts(answer::TEXT, text::Text::new(selection))
        }
    }
}

pub(super) fn prometheus(state: &Rc<State>, request: &Request) -> Answer {
    match Query::parse_prometheus(request) {
        Ok(query) => {
            refresh(state);
            Answer::parts(answer::TEXT, prometheus::Prometheus::new(state, query))
        }
        Err(error) => Answer::bad_request(error.to_string()),
    }
}

/// Brings gauges up to date that are computed when somebody looks.
fn refresh(state: &State) {
    for cluster in state.snapshot.load().clusters.values() {
        cluster.refresh_gauges();
    }
    super::certs::refresh_gauges(state);
    if state.settings.flush_on_admin {
        state.stats.flush();
    }
}

/// The stats that were asked for, part by part in Envoy's order: texts, then
/// counters and gauges together, then histograms.
struct Selection {
    query: Query,
    settings: Rc<Settings>,
    listing: Listing,
    phases: std::vec::IntoIter<Phase>,
    phase: Option<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Texts,
    Numbers,
    Histograms,
}

impl Phase {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Texts => &[Kind::Text],
            Self::Numbers => &[Kind::Counter, Kind::Gauge],
            Self::Histograms => &[Kind::Histogram],
        }
    }
}

impl Selection {
    fn new(state: &State, query: Query) -> Self {
        Self {
            query,
            settings: Rc::clone(&state.settings),
            listing: state.stats.parts(),
            phases: vec![Phase::Texts, Phase::Numbers, Phase::Histograms].into_iter(),
            phase: None,
        }
    }

    /// The next stats that were asked for, sorted by name within their phase;
    /// an empty list begins each phase. `None` at the end.
    fn next(&mut self) -> Option<(Phase, Vec<Stat>)> {
        if let Some(phase) = self.phase {
            let kinds: Vec<Kind> = phase
                .kinds()
                .iter()
                .copied()
                .filter(|kind| self.query.kind.is_none_or(|wanted| wanted == *kind))
                .collect();
            if let Some(mut stats) = self.listing.next_stats(&kinds) {
                stats.retain(|stat| self.query.wants(stat) && self.settings.shows(&stat.name));
                return Some((phase, stats));
            }
        }
        self.phase = self.phases.next();
        self.listing.rewind();
        self.phase.map(|phase| (phase, Vec::new()))
    }
}
