//! What an answer does to the resources of a kind.

use std::{cell::Cell, collections::HashMap, sync::Arc, time::SystemTime};

use tokio::time::Instant;

use super::{
    Event, Kind, LINGER, Manager, Peers,
    entry::{Entry, Lingering},
};
use crate::{
    admin::state::Origin,
    config::Report,
    xds::{
        dependencies::Dependencies,
        resource::{Encoded, Refused, Version},
        subscriptions::Subscriptions,
        update::{self, Gone, Received},
    },
};

/// What came of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was refused, by name, and why.
    pub refused: Vec<(Arc<str>, Arc<str>)>,
    /// Names that are new or have another version.
    pub changed: usize,
    /// How many were taken away.
    pub removed: usize,
    /// How many stayed as they were.
    pub unchanged: usize,
}

/// An answer that is being applied.
pub(super) struct Update {
    pub(super) place: Arc<str>,
    /// What the answer names, and whether it has been met.
    pub(super) named: HashMap<Box<str>, Option<Encoded>, foldhash::fast::RandomState>,
    pub(super) outcome: Outcome,
}

impl<K: Kind> Manager<K> {
    /// Takes an answer: what it takes away goes, unless it is of the bootstrap.
    pub fn apply(
        &mut self,
        answer: update::Update,
        place: &Arc<str>,
        subscriptions: &Subscriptions,
    ) -> Outcome {
        let peers = Peers {
            name: "",
            entries: &self.entries,
            leaving: &self.leaving,
            lingering: &self.lingering,
            lacks: Cell::new(false),
        };
        self.kind
            .prepare(&answer, &peers, subscriptions.strictness());
        let update::Update {
            // Each resource has its own.
            version_info: _,
            resources,
            gone,
        } = answer;
        let names = resources.iter().map(|r| (K::key(r).into(), None));
        let mut update = Update {
            place: place.clone(),
            named: names.collect(),
            outcome: Outcome::default(),
        };
        self.strays = resources.len() - update.named.len();
        if K::REMOVE_FIRST {
            self.remove(&gone, &mut update, subscriptions);
        }
        for received in resources {
            self.put(received, &mut update, subscriptions);
        }
        if !K::REMOVE_FIRST {
            self.remove(&gone, &mut update, subscriptions);
        }
        self.count_totals();
        update.outcome
    }

    fn put(&mut self, received: Received, update: &mut Update, subscriptions: &Subscriptions) {
        let key: Arc<str> = match K::key(&received) {
            name if *name == *received.name => received.name.clone(),
            name => name.into(),
        };
        let Received {
            name: wanted,
            // For those who asked.
            aliases: _,
            version: version_info,
            resource: encoded,
        } = received;
        if wanted != key {
            self.strays += 1;
            return misnamed::<K>(&wanted, &encoded, update);
        }
        if let Some(Some(first)) = update.named.insert((*key).into(), Some(encoded.clone())) {
            return duplicate::<K>(&first, &encoded, update);
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.is_static() {
                skip::<K>(entry, encoded, &version_info);
                return self.note(&key);
            }
            let was = (entry.warming.is_some(), entry.refused.is_some());
            if entry.keep(&encoded) {
                let is = (entry.warming.is_some(), entry.refused.is_some());
                self.changed |= was.0 != is.0;
                if let Some(shelf) = &self.shelf {
                    let was_stale = entry.stale.take().is_some();
                    if was_stale {
                        entry.confirm(&version_info);
                        shelf.relieved(1);
                    }
                    // What warmed until now was kept, and is no longer wanted.
                    if was_stale || was.0 != is.0 {
                        shelf.keep(&wanted, &encoded, &version_info);
                    }
                }
                update.outcome.unchanged += 1;
                if was != is {
                    self.note(&key);
                }
                return;
            }
        }
        let name = key;
        match self.attempt(&name, encoded, &version_info, subscriptions) {
            Ok(version) => {
                self.is_live(&name);
                self.accept(&name, Origin::Dynamic(update.place.clone()), version);
                update.outcome.changed += 1;
            }
            Err(refused) => {
                let details = refused.details.clone();
                tracing::warn!(target: "config", "{} '{name}' refused: {details}", K::NOUN);
                let origin = || Entry::new(Origin::Dynamic(update.place.clone()));
                let entry = self.entries.entry(name.clone()).or_insert_with(origin);
                entry.refused = Some(*refused);
                self.note(&name);
                update.outcome.refused.push((name, details));
            }
        }
    }

    pub(super) fn remove(
        &mut self,
        gone: &Gone,
        update: &mut Update,
        subscriptions: &Subscriptions,
    ) {
        let absent: Vec<Arc<str>> = match gone {
            Gone::Absent => {
                let named = &update.named;
                let absent = self
                    .entries
                    .iter()
                    .filter(|(name, entry)| !entry.is_static() && !named.contains_key(&***name));
                absent.map(|(name, _)| name.clone()).collect()
            }
            Gone::Named(names) => names.clone(),
        };
        for name in &absent {
            if let Some(entry) = self.entries.get_mut(name)
                && entry.is_static()
            {
                entry.unskip();
                self.note(name);
                continue;
            }
            if let Some(shelf) = &self.shelf {
                shelf.forget(name);
            }
            let Some(entry) = self.entries.remove(name) else {
                continue;
            };
            self.note(name);
            let Entry {
                origin: _,
                active,
                warming,
                refused: _,
                stale,
            } = entry;
            if let (Some(_), Some(shelf)) = (stale, &self.shelf) {
                shelf.relieved(1);
            }
            if active.is_none() && warming.is_none() {
                continue;
            }
            match active {
                Some(Version { built, .. }) if self.kind.is_in_use(name, subscriptions) => {
                    let until = Instant::now() + LINGER;
                    let lingering = Lingering { built, until };
                    self.lingering.insert(name.clone(), lingering);
                }
                active => self.leaving.extend(active),
            }
            self.leaving.extend(warming.map(|warming| warming.version));
            self.changed = true;
            self.kind.count(Event::Removed);
            update.outcome.removed += 1;
        }
        if *gone == Gone::Absent {
            let fixed = self.index.fixed.iter();
            let unskipped = fixed.filter(|name| !update.named.contains_key(&***name));
            for name in unskipped.cloned().collect::<Vec<_>>() {
                if let Some(entry) = self.entries.get_mut(&name) {
                    entry.unskip();
                }
                self.note(&name);
            }
        }
    }
}

/// The first of a name stands; the second is refused.
fn duplicate<K: Kind>(first: &Encoded, second: &Encoded, update: &mut Update) {
    let mut report = Report::new();
    let name = second.name();
    let first = first.place();
    report.root().field("name").error(format_args!(
        "duplicate {} {name} found, the first is at {first}",
        K::NOUN
    ));
    second.locate(&mut report);
    let details = report.to_string();
    tracing::warn!(target: "config", "{details}");
    update.outcome.refused.push((name.into(), details.into()));
}

/// A server calls a resource otherwise than it is called.
fn misnamed<K: Kind>(wanted: &Arc<str>, encoded: &Encoded, update: &mut Update) {
    let details = format!(
        "{} '{}' is wrapped under another name: '{wanted}'",
        K::NOUN,
        encoded.name()
    );
    tracing::warn!(target: "config", "{details}");
    update
        .outcome
        .refused
        .push((wanted.clone(), details.into()));
}

/// A resource of the bootstrap cannot be replaced. Envoy skips what wants to,
/// and says nothing.
fn skip<K: Kind>(entry: &mut Entry<K::Built>, encoded: Encoded, version_info: &Arc<str>) {
    let hash = encoded.hash();
    let details: Arc<str> = format!(
        "{}: {} '{}' is skipped: the bootstrap has a static one of that name",
        encoded.place(),
        K::NOUN,
        encoded.name(),
    )
    .into();
    if entry.refused.as_ref().is_none_or(|old| old.hash != hash) {
        tracing::info!(target: "config", "{details}");
    }
    entry.refused = Some(Refused {
        encoded,
        hash,
        version_info: version_info.clone(),
        at: SystemTime::now(),
        details,
        dependencies: Dependencies::default(),
    });
}
