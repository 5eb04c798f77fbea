//! Tells when a file has been replaced.
//!
//! Envoy's rule holds: only an atomic move onto the name counts, so that a
//! half-written file is never read. What makes the path lead elsewhere counts
//! as well: a symbolic link replaced anywhere on the way (a Kubernetes
//! ConfigMap's `..data`), a directory moved or made again. A file written in
//! place is not a change; it is told apart so that a person can be warned.
//!
//! There is one inotify instance, on a thread of its own that belongs to
//! `notify`. Its callback looks each event's name up in a table and drops what
//! nobody asked for without a word: a log that is written into a watched
//! directory, at whatever level, costs one look-up for each write and wakes
//! nobody. The control thread takes what is left with [`Watcher::changes`].

mod path;
mod table;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

pub use path::{Identity, identity};
use path::{Kind, absolute, resolve};
use table::{Happened, Role, Shared, Taken};

/// A file that was found in a directory made again must have rested this long
/// before it is read: somebody may still be writing it.
const SETTLE: Duration = Duration::from_millis(50);

/// How often a path is walked again because it changed while being watched.
const MAX_WALKS: usize = 8;

/// Names one [`Watch`] in [`Watcher::changes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(u64);

/// What happened to a watched path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another file stands there now: read it.
    Replaced,
    /// The file was written in place, which is not applied. Told once for each
    /// file that stands there.
    EditedInPlace,
}

/// The kernel refuses to watch.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No inotify instance.
    #[error("cannot watch files: {0}; the limit of instances is fs.inotify.max_user_instances")]
    Instance(notify::Error),
}

/// All watched paths of the process.
pub struct Watcher {
    shared: Arc<Shared>,
    state: RefCell<State>,
}

struct State {
    notify: RecommendedWatcher,
    watches: BTreeMap<WatchId, Watched>,
    folders: HashMap<PathBuf, Folder>,
    settling: HashSet<WatchId>,
    next: u64,
}

struct Watched {
    path: PathBuf,
    directory: Option<PathBuf>,
    /// The keys in the shared table under which events reach this watch.
    names: Vec<PathBuf>,
    /// Directories whose inotify watch this watch holds.
    folders: Vec<PathBuf>,
    /// The file that was there when the owner was last told.
    told: Option<Identity>,
    edit_told: bool,
}

#[derive(Default)]
struct Folder {
    users: usize,
    armed: Option<(u64, u64)>,
    refused: bool,
}

/// A path that is watched until this is dropped.
pub struct Watch {
    watcher: Rc<Watcher>,
    id: WatchId,
}

impl Watch {
    /// The name under which changes are told.
    pub fn id(&self) -> WatchId {
        self.id
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watch").field(&self.id).finish()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watcher
            .state
            .borrow_mut()
            .remove(self.id, &self.watcher.shared);
    }
}

impl Watcher {
    /// Opens the inotify instance.
    ///
    /// # Errors
    /// When the kernel has no more instances for this user.
    pub fn new() -> Result<Rc<Self>, WatchError> {
        let shared = Arc::new(Shared::default());
        let events = Arc::clone(&shared);
        let notify = notify::recommended_watcher(move |event| events.note(event))
            .map_err(WatchError::Instance)?;
        Ok(Rc::new(Self {
            shared,
            state: RefCell::new(State {
                notify,
                watches: BTreeMap::new(),
                folders: HashMap::new(),
                settling: HashSet::new(),
                next: 0,
            }),
        }))
    }

    /// Watches a path, which need not exist. With `directory`, what is moved into
    /// that directory counts as a change of `path`, and a file moved onto `path`
    /// itself does not: `watched_directory`. Read the file after this call, not
    /// before, so that no change falls between.
    ///
    /// # Errors
    /// When the working directory, by which a relative path is found, is gone.
    pub fn watch(self: &Rc<Self>, path: &Path, directory: Option<&Path>) -> io::Result<Watch> {
        let path = absolute(path)?;
        let directory = directory.map(absolute).transpose()?;
        let mut state = self.state.borrow_mut();
        let id = WatchId(state.next);
        state.next += 1;
        let watched = Watched {
            told: identity(&path),
            path,
            directory,
            names: Vec::new(),
            folders: Vec::new(),
            edit_told: false,
        };
        state.watches.insert(id, watched);
        state.arm(id, &self.shared);
        drop(state);
        Ok(Watch {
            watcher: Rc::clone(self),
            id,
        })
    }

    /// Resolves when [`Watcher::changes`] may have something to tell.
    /// Cancel safe.
    pub async fn ready(&self) {
        let settling = !self.state.borrow().settling.is_empty();
        tokio::select! {
            () = self.shared.wake.notified() => {}
            () = tokio::time::sleep(SETTLE), if settling => {}
        }
    }

    /// What changed since the last call; each path at most once.
    pub fn changes(&self) -> Vec<(WatchId, Change)> {
        let taken = self.shared.take();
        self.state.borrow_mut().changes(taken, &self.shared)
    }
}

impl State {
    fn changes(&mut self, taken: Taken, shared: &Shared) -> Vec<(WatchId, Change)> {
        for gone in &taken.gone {
            self.disarm_below(gone);
        }
        let mut happened = taken.happened;
        if taken.overflow {
            tracing::warn!(target: "file", "too many file events at once: looking at all watched paths again");
            for id in self.watches.keys() {
                happened.entry(*id).or_default().way_changed = true;
            }
        }
        for id in std::mem::take(&mut self.settling) {
            happened.entry(id).or_default().way_changed = true;
        }
        let mut changes: Vec<_> = happened
            .into_iter()
            .filter_map(|(id, what)| Some((id, self.change(id, what, shared)?)))
            .collect();
        changes.sort_by_key(|(id, _)| *id);
        changes
    }

    fn change(&mut self, id: WatchId, what: Happened, shared: &Shared) -> Option<Change> {
        // The owner may have dropped the watch since the event.
        self.watches.get(&id)?;
        if what.moved || what.way_changed || what.created {
            self.arm(id, shared);
        }
        let watched = self.watches.get_mut(&id)?;
        let now = identity(&watched.path);
        let linked = what.created
            && fs::symlink_metadata(&watched.path).is_ok_and(|found| found.is_symlink());
        let replaced = match now {
            None => false,
            Some(_) if what.moved || linked => true,
            Some(found) if what.way_changed && watched.told != now => {
                if !found.has_rested(SETTLE) {
                    self.settling.insert(id);
                    return None;
                }
                true
            }
            Some(_) => false,
        };
        if replaced {
            watched.told = now;
            watched.edit_told = false;
            return Some(Change::Replaced);
        }
        if what.edited && now.is_some() && !watched.edit_told {
            watched.edit_told = true;
            return Some(Change::EditedInPlace);
        }
        None
    }

    /// Walks the path and watches every directory on the way, until the way stays
    /// the same while it is being watched.
    fn arm(&mut self, id: WatchId, shared: &Shared) {
        for _ in 0..MAX_WALKS {
            let Some(watched) = self.watches.get(&id) else {
                return;
            };
            let (names, folders) = interests(watched);
            let old_folders = watched.folders.clone();
            let mut armed = false;
            for folder in &folders {
                self.folders.entry(folder.clone()).or_default().users += 1;
                armed |= self.arm_folder(folder);
            }
            let watched = self.watches.get_mut(&id).expect("looked up above");
            shared.replace(id, &watched.names, &names);
            watched.names = names.into_iter().map(|(name, _)| name).collect();
            watched.folders = folders;
            for folder in old_folders {
                self.release(&folder);
            }
            if !armed {
                return;
            }
        }
    }

    /// Puts an inotify watch on a directory, unless that very directory has one.
    fn arm_folder(&mut self, folder: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let inode = fs::metadata(folder).ok().map(|m| (m.dev(), m.ino()));
        let entry = self.folders.entry(folder.to_owned()).or_default();
        if inode.is_none() || entry.armed == inode {
            return false;
        }
        if entry.armed.take().is_some() {
            forget(&mut self.notify, folder);
        }
        match self.notify.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                entry.armed = inode;
                entry.refused = false;
                true
            }
            Err(error) => {
                let gone = matches!(error.kind, notify::ErrorKind::PathNotFound);
                if !gone && !std::mem::replace(&mut entry.refused, true) {
                    complain(folder, &error);
                }
                false
            }
        }
    }

    /// `notify` drops the watches of a directory that is moved or removed, and
    /// of all below it.
    fn disarm_below(&mut self, gone: &Path) {
        for (path, folder) in &mut self.folders {
            if path.starts_with(gone) && folder.armed.take().is_some() {
                forget(&mut self.notify, path);
            }
        }
    }

    fn release(&mut self, path: &Path) {
        let Some(folder) = self.folders.get_mut(path) else {
            return;
        };
        folder.users -= 1;
        if folder.users == 0 {
            if folder.armed.is_some() {
                forget(&mut self.notify, path);
            }
            self.folders.remove(path);
        }
    }

    fn remove(&mut self, id: WatchId, shared: &Shared) {
        self.settling.remove(&id);
        if let Some(watched) = self.watches.remove(&id) {
            shared.replace(id, &watched.names, &[]);
            for folder in &watched.folders {
                self.release(folder);
            }
        }
    }
}

/// The names whose events matter to a watch, and the directories they are in.
fn interests(watched: &Watched) -> (Vec<(PathBuf, Role)>, Vec<PathBuf>) {
    let mut names: Vec<(PathBuf, Role)> = Vec::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut add = |lookup: path::Lookup, role: Role| {
        let name = lookup.path();
        if !names.iter().any(|(known, _)| *known == name) {
            names.push((name, role));
        }
        if !folders.contains(&lookup.directory) {
            folders.push(lookup.directory);
        }
    };
    for lookup in resolve(&watched.path).lookups {
        let role = match (lookup.kind, lookup.last, &watched.directory) {
            (Kind::File, _, None) | (Kind::Missing, true, _) => Role::File,
            (Kind::File, _, Some(_)) => Role::FileElsewhere,
            (Kind::Symlink, _, _) => Role::Symlink,
            (Kind::Directory, _, _) | (Kind::Missing, false, _) => Role::Directory,
        };
        add(lookup, role);
    }
    if let Some(directory) = &watched.directory {
        let way = resolve(directory);
        for lookup in way.lookups {
            let role = match lookup.kind {
                Kind::Symlink => Role::Symlink,
                _ => Role::Directory,
            };
            add(lookup, role);
        }
        if let Some(target) = way.target {
            // A role of its own: the key is the directory, the event is inside.
            names.push((table::inside(&target), Role::Inside));
            if !folders.contains(&target) {
                folders.push(target);
            }
        }
    }
    (names, folders)
}

/// Takes an inotify watch away. That there is none any more is what is wanted.
fn forget(notify: &mut RecommendedWatcher, folder: &Path) {
    if let Err(error) = notify.unwatch(folder) {
        tracing::trace!(target: "file", "unwatch {}: {error}", folder.display());
    }
}

fn complain(folder: &Path, error: &notify::Error) {
    let folder = folder.display();
    match error.kind {
        notify::ErrorKind::MaxFilesWatch => tracing::warn!(
            target: "file",
            "cannot watch {folder}: the limit of watches is reached; raise fs.inotify.max_user_watches"
        ),
        // Directories far up may be closed to this user; what is replaced there goes unseen.
        _ => tracing::debug!(target: "file", "cannot watch {folder}: {error}"),
    }
}

#[cfg(test)]
mod tests;
