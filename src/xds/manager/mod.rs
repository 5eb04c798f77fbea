//! The state machine behind clusters, listeners and scopes: what serves, what warms,
//! what was refused.
//!
//! Each resource by itself goes through these states; an update of one never
//! depends on whether another is good.
//!
//! ```text
//!                built, and all it needs has come
//!     ┌──────────────────────────────────────────────────────▶ active
//!     │                                                          ▲
//!     │  built, but waits         ready, or initial_fetch_timeout│
//!  answer ──────────────▶ warming ───────────────────────────────┘
//!     │
//!     │  not built                 what it lacks has come
//!     └──────────────▶ refused ──────────────────────▶ built again
//! ```
//!
//! While a version is refused or warms, the active one before it goes on. Only
//! an answer in which the resource is absent takes it away. A resource is
//! compared by hash first: what is the same is neither decoded nor built.

mod apply;
mod entry;
mod index;
mod kind;
mod stale;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    admin::state::{self, Origin},
    config::{At, Report, Reported, Strictness},
};

use super::{
    dependencies::Dependencies,
    resource::{Encoded, Refused, Version},
    store::Shelf,
    subscriptions::Subscriptions,
};

pub use apply::Outcome;
use entry::{Entries, Entry, Lingering, Warming};
use index::Index;
pub use kind::{Event, Kind, Needs, Peers};

/// How long what was taken away serves on at most while requests are led to it:
/// a server that changes clusters and routes in one go sends the clusters first.
const LINGER: Duration = Duration::from_secs(2);

/// Every resource of a kind.
pub struct Manager<K: Kind> {
    kind: K,
    entries: Entries<K::Built>,
    index: Index,
    /// [`Subscriptions::files_version`] when everything was last looked through.
    files_version: u64,
    /// Taken away, but still in the last published snapshot.
    leaving: Vec<Version<K::Built>>,
    lingering: BTreeMap<Arc<str>, Lingering<K::Built>>,
    changed: bool,
    /// Resources of the last answer that were refused and that no entry stands
    /// for: the second of a name, one that is wrapped under another.
    strays: usize,
    /// Where what is accepted is kept.
    shelf: Option<Shelf>,
}

impl<K: Kind> Manager<K> {
    /// No resources yet.
    pub fn new(kind: K) -> Self {
        Self {
            kind,
            entries: Entries::new(),
            index: Index::default(),
            files_version: 0,
            leaving: Vec::new(),
            lingering: BTreeMap::new(),
            changed: false,
            strays: 0,
            shelf: None,
        }
    }

    /// Keeps what is accepted from now on.
    pub fn keep_in(&mut self, shelf: Shelf) {
        self.shelf = Some(shelf);
    }

    /// What is particular to the kind.
    pub fn kind(&self) -> &K {
        &self.kind
    }

    /// The kind, and what is in force.
    pub fn kind_and_active(&mut self) -> (&mut K, impl Iterator<Item = (&Arc<str>, &K::Built)>) {
        let active = self.entries.iter();
        let active = active.filter_map(|(name, e)| Some((name, &e.active.as_ref()?.built)));
        (&mut self.kind, active)
    }

    /// What is in force. Of two of a name the second counts: the first was taken
    /// away before it came.
    pub fn active(&self) -> impl Iterator<Item = (&Arc<str>, &K::Built)> {
        let active = self
            .entries
            .iter()
            .filter_map(|(name, entry)| Some((name, &entry.active.as_ref()?.built)));
        let lingering = self.lingering.iter();
        let lingering = lingering.map(|(name, lingering)| (name, &lingering.built));
        lingering.chain(active)
    }

    /// What is in force, as it came.
    pub fn in_force(&self) -> impl Iterator<Item = &Encoded> {
        let active = self.entries.values().filter_map(|e| e.active.as_ref());
        active.map(|version| &version.encoded)
    }

    /// Lets go of what was taken away once no request is led to it any more, or
    /// it has had its time. `held`: something is held back that would lead
    /// requests elsewhere.
    pub fn let_go(&mut self, now: Instant, held: bool, subscriptions: &Subscriptions) {
        let (kind, active) = (&self.kind, &self.index.active);
        let before = self.lingering.len();
        self.lingering.retain(|name, lingering| {
            if held {
                lingering.until = now + LINGER;
            }
            now < lingering.until && !active.contains(name) && kind.is_in_use(name, subscriptions)
        });
        self.changed |= self.lingering.len() != before;
    }

    /// Whether there is one of this name, be it that it warms.
    pub fn has(&self, name: &str) -> bool {
        self.index.active.contains(name) || self.index.warming.contains(name)
    }

    /// Whether one of this name is in force.
    pub fn is_active(&self, name: &str) -> bool {
        self.index.active.contains(name)
    }

    /// Names that have changed in any way since this was last asked.
    pub fn take_touched(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.index.touched)
    }

    /// What warms, and the targets of what each waits for, for `/init_dump`.
    pub fn warming(&self) -> impl Iterator<Item = (&Arc<str>, &K::Built, &Dependencies)> {
        self.index.warming.iter().filter_map(|name| {
            let version = &self.entries.get(name)?.warming.as_ref()?.version;
            Some((name, &version.built, &version.dependencies))
        })
    }

    /// Whether anything warms.
    pub fn is_warming(&self) -> bool {
        !self.index.warming.is_empty()
    }

    /// When the first of what warms goes on without what it waits for.
    pub fn deadline(&self) -> Option<Instant> {
        let warming = self.index.warming.iter();
        let warming = warming.filter_map(|name| self.entries.get(name)?.warming.as_ref());
        let ends = warming.filter_map(|warming| warming.deadline);
        ends.chain(self.lingering.values().map(|l| l.until)).min()
    }

    /// Whether anything was refused that may be good later without an event.
    pub fn is_to_be_tried_again(&self) -> bool {
        let refused = self.index.restless.iter();
        let mut refused = refused.filter_map(|name| self.entries.get(name)?.refused.as_ref());
        refused.any(|refused| refused.dependencies.lacks_other)
    }

    /// Whether anything of the last answer was refused that no entry shows.
    pub fn has_strays(&self) -> bool {
        self.strays > 0
    }

    /// Whether nothing of the last answer is refused.
    pub fn is_whole(&self) -> bool {
        self.strays == 0 && self.index.refused.is_empty()
    }

    /// Whether what is in force has changed since this was last asked. What was
    /// taken away until now is let go of: call it when a snapshot is published.
    pub fn take_changed(&mut self) -> bool {
        self.leaving.clear();
        std::mem::take(&mut self.changed)
    }

    /// Takes a resource of the bootstrap.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn add_static(
        &mut self,
        message: K::Message,
        at: &At<'_>,
        subscriptions: &Subscriptions,
    ) -> Result<(), Reported> {
        let name: Arc<str> = K::name(&message).into();
        if self.entries.contains_key(&name) {
            let at = at.field("name");
            return Err(at.error(format_args!("duplicate {} {name} found", K::NOUN)));
        }
        let encoded = Encoded::of(&message);
        let (built, dependencies) = self.build(&name, message, at, subscriptions);
        let version = Version {
            hash: encoded.hash(),
            encoded,
            version_info: Arc::default(),
            updated: SystemTime::now(),
            built: built?,
            dependencies,
        };
        self.accept(&name, Origin::Static, version);
        self.count_totals();
        Ok(())
    }

    /// Decodes and builds a version, or says why not.
    fn attempt(
        &mut self,
        name: &Arc<str>,
        encoded: Encoded,
        version_info: &Arc<str>,
        subscriptions: &Subscriptions,
    ) -> Result<Version<K::Built>, Box<Refused>> {
        if let Some(latest) = self.entries.get(name).and_then(Entry::latest) {
            encoded.follow(&latest.encoded);
        }
        let mut report = Report::new();
        let (built, dependencies) = match encoded.decode(subscriptions.strictness(), &report) {
            Ok(message) => self.build(name, message, &report.root(), subscriptions),
            Err(reported) => (Err(reported), Dependencies::default()),
        };
        let hash = encoded.hash();
        let version_info = version_info.clone();
        let now = SystemTime::now();
        match built {
            Ok(built) => Ok(Version {
                encoded,
                hash,
                version_info,
                updated: now,
                built,
                dependencies,
            }),
            Err(_) => {
                encoded.locate(&mut report);
                Err(Box::new(Refused {
                    encoded,
                    hash,
                    version_info,
                    at: now,
                    details: report.to_string().into(),
                    dependencies,
                }))
            }
        }
    }

    fn build(
        &mut self,
        name: &Arc<str>,
        message: K::Message,
        at: &At<'_>,
        subscriptions: &Subscriptions,
    ) -> (Result<K::Built, Reported>, Dependencies) {
        let collector = subscriptions.collector();
        let peers = Peers {
            name,
            entries: &self.entries,
            leaving: &self.leaving,
            lingering: &self.lingering,
            lacks: Cell::new(false),
        };
        let built = self.kind.build(message, &peers, &collector.context(), at);
        if peers.lacks.get() {
            collector.lacks();
        }
        (built, collector.into_dependencies())
    }

    /// Builds the last accepted version of a resource again, for what it depends on
    /// has changed.
    pub fn rebuild(&mut self, name: &Arc<str>, subscriptions: &Subscriptions) {
        let Some(entry) = self.entries.get(name) else {
            return;
        };
        let Some(latest) = entry.latest() else {
            return;
        };
        let origin = entry.origin.clone();
        let (encoded, version_info) = (latest.encoded.clone(), latest.version_info.clone());
        match self.attempt(name, encoded, &version_info, subscriptions) {
            Ok(version) => self.accept(name, origin, version),
            Err(refused) => self.refuse_again(name, *refused),
        }
        self.count_totals();
    }

    /// Whether the resource of this name warms.
    pub fn warms(&self, name: &str) -> bool {
        self.index.warming.contains(name)
    }

    /// A good version: it warms, or is in force at once.
    fn accept(&mut self, name: &Arc<str>, origin: Origin, version: Version<K::Built>) {
        let new = || Entry::new(origin);
        let entry = self.entries.entry(name.clone()).or_insert_with(new);
        if let (Some(shelf), None, false) = (&self.shelf, &entry.stale, entry.is_static()) {
            shelf.keep(name, &version.encoded, &version.version_info);
        }
        self.kind.count(match entry.built().last() {
            None => Event::Added,
            Some(old) => Event::Modified {
                old,
                new: &version.built,
            },
        });
        let timeout = version.dependencies.timeout();
        entry.refused = None;
        entry.warming = Some(Warming {
            version,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
        });
        self.changed = true;
        if !self.promote(name, false) {
            self.note(name);
        }
    }

    /// To be called whenever an entry has changed.
    fn note(&mut self, name: &Arc<str>) {
        self.index.note(name, self.entries.get(name));
    }

    /// Puts a warming version in force when it is ready. True when it did.
    fn promote(&mut self, name: &Arc<str>, waited: bool) -> bool {
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        let Some(warming) = entry.warming.take() else {
            return false;
        };
        let needs = Needs {
            dependencies: &warming.version.dependencies,
            replaces: entry.active.is_some(),
            waited,
        };
        if !self.kind.is_ready(&warming.version.built, &needs) {
            entry.warming = Some(warming);
            return false;
        }
        let previous = entry.active.as_ref().map(|version| &version.built);
        self.kind.activate(&warming.version.built, previous);
        entry.active = Some(warming.version);
        self.changed = true;
        self.note(name);
        true
    }

    /// Puts in force whatever has become ready, or has waited long enough.
    /// True when something did.
    pub fn poll(&mut self, now: Instant) -> bool {
        let warming = self.index.warming.iter().filter_map(|name| {
            let deadline = self.entries.get(name)?.warming.as_ref()?.deadline;
            Some((
                name.clone(),
                deadline.is_some_and(|deadline| deadline <= now),
            ))
        });
        let warming: Vec<_> = warming.collect();
        let mut promoted = false;
        for (name, waited) in warming {
            promoted |= self.promote(&name, waited);
        }
        if promoted {
            self.count_totals();
        }
        promoted
    }

    /// Builds again what lacked something that may have come, and what depends
    /// on a file that changed. True when something else is in force or warms.
    pub fn refresh(&mut self, subscriptions: &Subscriptions) -> bool {
        let to_refresh = |name: &Arc<str>| {
            let (encoded, version_info) = self.entries.get(name)?.to_refresh()?;
            Some((name.clone(), encoded, version_info))
        };
        let files_version = subscriptions.files_version();
        let again: Vec<_> = match files_version == self.files_version {
            true => self.index.restless.iter().filter_map(to_refresh).collect(),
            false => self.entries.keys().filter_map(to_refresh).collect(),
        };
        self.files_version = files_version;
        let mut changed = false;
        for (name, encoded, version_info) in again {
            match self.attempt(&name, encoded, &version_info, subscriptions) {
                Ok(version) => {
                    tracing::info!(target: "config", "{} '{name}' built again", K::NOUN);
                    if self.entries[&name].refused.is_some() {
                        // What an earlier run left is never refused and kept.
                        self.is_live(&name);
                    }
                    let origin = self.entries[&name].origin.clone();
                    self.accept(&name, origin, version);
                    changed = true;
                }
                Err(refused) => self.refuse_again(&name, *refused),
            }
        }
        if changed {
            self.count_totals();
        }
        changed
    }

    /// What is refused for the same reason as before is said only once.
    fn refuse_again(&mut self, name: &Arc<str>, refused: Refused) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let details = &refused.details;
        if entry.refused.as_ref().map(|old| &old.details) != Some(details) {
            tracing::warn!(target: "config", "{} '{name}' refused: {details}", K::NOUN);
        }
        entry.refused = Some(refused);
        self.note(name);
    }

    fn count_totals(&mut self) {
        let (active, warming) = (self.index.active.len(), self.index.warming.len());
        self.kind.count(Event::Totals { active, warming });
    }

    /// Every resource, for the admin; those of the bootstrap first.
    pub fn view(&self, strictness: &Strictness) -> Vec<state::Resource> {
        let (fixed, found): (Vec<_>, Vec<_>) = self
            .entries
            .iter()
            .partition(|(_, entry)| entry.is_static());
        let all = fixed.into_iter().chain(found);
        all.map(|(name, entry)| entry.view::<K>(name, strictness))
            .collect()
    }
}
