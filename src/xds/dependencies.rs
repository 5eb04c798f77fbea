//! What a compiled resource needs besides its own message, found while it was
//! compiled.

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use xxhash_rust::xxh64::xxh64;

use crate::config::{MAX_CONTENT, read_file};

use super::{
    cluster_names::Reference,
    config_source::DEFAULT_INITIAL_FETCH_TIMEOUT,
    set::AnySet,
    watcher::{Identity, Watch, identity},
};

/// How often a file is read until two reads in a row agree.
const MAX_READS: usize = 8;

/// A subscription whose first answer a resource waits for.
pub trait Awaited {
    /// As `/init_dump` names it.
    fn target(&self) -> String;
    /// Whether it has been answered, be it without a value.
    fn is_answered(&self) -> bool;
    /// Whether there is a value.
    fn has_value(&self) -> bool;
    /// How long it may be awaited; `None` is forever.
    fn timeout(&self) -> Option<Duration>;
}

/// A subscription in whose place a default stands until it has a value.
pub(super) struct WithDefault {
    /// The subscription.
    pub named: Rc<dyn Awaited>,
    /// The default need not wait for the first answer.
    pub at_once: bool,
}

impl Awaited for WithDefault {
    fn target(&self) -> String {
        self.named.target()
    }

    fn is_answered(&self) -> bool {
        self.at_once || self.named.is_answered()
    }

    fn has_value(&self) -> bool {
        self.is_answered()
    }

    fn timeout(&self) -> Option<Duration> {
        match self.at_once {
            true => Some(Duration::ZERO),
            false => self.named.timeout(),
        }
    }
}

/// What a compiled resource needs besides its own message. Subscriptions end
/// when no resource holds them here.
#[derive(Default)]
pub struct Dependencies {
    pub(super) subscriptions: Vec<Rc<dyn Awaited>>,
    /// Files that are part of it, or would be if they were there.
    pub(super) files: Vec<FileSeen>,
    /// Sets that are part of it, and which version of each.
    pub(super) parts: Vec<(Rc<dyn AnySet>, u64)>,
    /// Names of clusters that it cannot be without and that there are not.
    pub(super) unknown: Vec<Arc<str>>,
    /// Something is missing that nothing tells of.
    pub(super) lacks_other: bool,
    /// Clusters that it leads to, by name.
    pub(super) clusters: HashMap<Arc<str>, Reference, foldhash::fast::RandomState>,
}

impl Dependencies {
    /// Whether every subscription has been answered, good or bad.
    pub fn answered(&self) -> bool {
        self.subscriptions.iter().all(|s| s.is_answered())
    }

    /// Whether every subscription has a value.
    pub fn complete(&self) -> bool {
        self.subscriptions.iter().all(|s| s.has_value())
    }

    /// Whether a cluster it leads to warms still.
    pub fn await_clusters(&self) -> bool {
        self.clusters.values().any(Reference::is_warming)
    }

    /// What has not been answered yet, as `/init_dump` names it.
    pub fn awaited(&self) -> impl Iterator<Item = String> {
        let open = self.subscriptions.iter().filter(|s| !s.has_value());
        let clusters = self.clusters.values().filter(|c| c.is_warming());
        open.map(|s| s.target())
            .chain(clusters.map(Reference::target))
    }

    /// How long to wait for the slowest of them; `None` is forever. Clusters,
    /// which have limits of their own, are awaited no longer than a source is by
    /// default.
    pub fn timeout(&self) -> Option<Duration> {
        let clusters = match self.await_clusters() {
            true => DEFAULT_INITIAL_FETCH_TIMEOUT,
            false if self.subscriptions.is_empty() => return None,
            false => Duration::ZERO,
        };
        let mut timeouts = self.subscriptions.iter().map(|s| s.timeout());
        timeouts.try_fold(clusters, |longest, next| Some(longest.max(next?)))
    }

    /// Whether a file, or a set that is part of it, has changed since.
    pub fn stale(&self) -> bool {
        let mut files = self.files.iter();
        let mut parts = self.parts.iter();
        files.any(FileSeen::has_changed) || parts.any(|(part, seen)| part.version() != *seen)
    }

    /// Whether something was missing that may come.
    pub fn lacking(&self) -> bool {
        self.lacks_other
            || !self.unknown.is_empty()
            || self.files.iter().any(|seen| seen.file.is_missing())
    }

    /// Whether something may have come that was missing.
    pub fn may_have_come(&self) -> bool {
        let exists = |name: &Arc<str>| self.clusters.get(name).is_none_or(Reference::exists);
        self.lacks_other
            || self.unknown.iter().any(exists)
            || self.files.iter().any(FileSeen::may_have_come)
    }
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependencies")
            .field("awaited", &self.awaited().collect::<Vec<_>>())
            .field("stale", &self.stale())
            .field("lacking", &self.lacking())
            .finish()
    }
}

/// A file as it was when something that it belongs to was compiled.
pub(super) struct FileSeen {
    file: Rc<TrackedFile>,
    version: u64,
    sightings: u64,
}

impl FileSeen {
    pub(super) fn new(file: Rc<TrackedFile>) -> Self {
        Self {
            version: file.version.get(),
            sightings: file.sightings.get(),
            file,
        }
    }

    fn has_changed(&self) -> bool {
        self.file.version.get() != self.version
    }

    fn may_have_come(&self) -> bool {
        self.file.is_missing() && self.file.sightings.get() != self.sightings
    }
}

/// A file whose content is part of a resource (a certificate, a key, a body), or
/// that a subscription is waiting for.
#[derive(Debug)]
pub struct TrackedFile {
    path: PathBuf,
    _watch: Watch,
    let_go: Rc<Cell<bool>>,
    /// Hash of the content; `None` when there is no such file, or none that can be
    /// read.
    content: Cell<Option<u64>>,
    /// Grows by one with each change of the content.
    version: Cell<u64>,
    /// What stood there when it was last looked for.
    stands: Cell<Option<Identity>>,
    /// Grows by one whenever something else stands there than before, for as long
    /// as there is no content.
    sightings: Cell<u64>,
}

impl TrackedFile {
    pub(super) fn new(path: &Path, watch: Watch, let_go: Rc<Cell<bool>>) -> Self {
        Self {
            path: path.to_owned(),
            _watch: watch,
            let_go,
            // Before it is read: what comes between is seen later.
            stands: Cell::new(identity(path)),
            content: Cell::new(settled_hash(path)),
            version: Cell::new(0),
            sightings: Cell::new(0),
        }
    }

    /// Whether there is no content of it.
    pub(super) fn is_missing(&self) -> bool {
        self.content.get().is_none()
    }

    /// Looks whether one has come that was missing, be it written in place, and
    /// whether one that could not be read is another one now.
    pub(super) fn look_for(&self) {
        let stands = identity(&self.path);
        if self.stands.replace(stands) != stands && stands.is_some() {
            self.sightings.set(self.sightings.get() + 1);
        }
    }

    /// Reads the file again. One that is gone is no change: the last good
    /// content stays in use. True when it has changed.
    pub(super) fn reload(&self) -> bool {
        let changed = settled_hash(&self.path)
            .is_some_and(|found| self.content.replace(Some(found)) != Some(found));
        if changed {
            self.version.set(self.version.get() + 1);
        }
        changed
    }

    pub(super) fn edited_in_place(&self) {
        let path = self.path.display();
        tracing::warn!(
            target: "file",
            "{path} was edited in place, which is not applied; \
             move a new file onto it, or send SIGHUP"
        );
    }
}

impl Drop for TrackedFile {
    fn drop(&mut self) {
        self.let_go.set(true);
    }
}

/// The content's hash, once two reads agree.
fn settled_hash(path: &Path) -> Option<u64> {
    let read = || {
        read_file(path, MAX_CONTENT)
            .ok()
            .map(|content| xxh64(&content, 0))
    };
    let mut last = read();
    for _ in 0..MAX_READS {
        let next = read();
        if next == last {
            break;
        }
        last = next;
    }
    last
}
