//! What the inotify thread and the control thread share: who wants to hear of
//! which name, and what they have not been told yet.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use notify::{
    Event, EventKind,
    event::{ModifyKind, RenameMode},
};
use tokio::sync::Notify;

use super::WatchId;

/// What a name is to a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The file itself, there or missing: moving onto it counts.
    File,
    /// The file itself when `watched_directory` says where to look instead.
    FileElsewhere,
    /// A symbolic link on the way.
    Symlink,
    /// A directory on the way, there or missing.
    Directory,
    /// Any name inside the `watched_directory`.
    Inside,
}

/// What a watch has not been told yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Happened {
    /// Something was moved to where it counts.
    pub moved: bool,
    /// The file's own name was made anew.
    pub created: bool,
    /// A directory on the way came or went.
    pub way_changed: bool,
    /// The file was written.
    pub edited: bool,
    /// Who may read the file, or its time, was changed: news for nobody but those
    /// who could not read it.
    pub touched: bool,
}

#[derive(Default)]
pub(super) struct Taken {
    pub happened: HashMap<WatchId, Happened>,
    /// Directories that were moved away or removed.
    pub gone: HashSet<PathBuf>,
    /// The kernel's queue ran over: anything may have happened.
    pub overflow: bool,
}

#[derive(Default)]
pub(super) struct Shared {
    table: Mutex<Table>,
    pub wake: Notify,
}

#[derive(Default)]
struct Table {
    names: HashMap<PathBuf, BTreeMap<WatchId, Role>>,
    untold: Taken,
}

/// The key of a watched directory's inside, which no event's path is equal to.
pub(super) fn inside(directory: &Path) -> PathBuf {
    directory.join("*/")
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is complete in one step, so a panic
        // elsewhere leaves it whole.
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Exchanges the names of a watch.
    pub fn replace(&self, id: WatchId, old: &[PathBuf], new: &[(PathBuf, Role)]) {
        let mut table = self.lock();
        for name in old {
            if let Some(watches) = table.names.get_mut(name) {
                watches.remove(&id);
                if watches.is_empty() {
                    table.names.remove(name);
                }
            }
        }
        for (name, role) in new {
            table
                .names
                .entry(name.clone())
                .or_default()
                .insert(id, *role);
        }
        if new.is_empty() {
            table.untold.happened.remove(&id);
        }
    }

    /// What has not been told yet.
    pub fn take(&self) -> Taken {
        std::mem::take(&mut self.lock().untold)
    }

    /// Called on the inotify thread for every event. Never logs: the log may be
    /// what is being watched.
    pub fn note(&self, event: notify::Result<Event>) {
        let Ok(event) = event else {
            self.lock().untold.overflow = true;
            self.wake.notify_one();
            return;
        };
        let what = match event.kind {
            _ if event.need_rescan() => What::Overflow,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => What::MovedTo,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => {
                What::Gone
            }
            EventKind::Create(_) => What::Created,
            EventKind::Modify(ModifyKind::Data(_)) => What::Written,
            EventKind::Modify(ModifyKind::Metadata(_)) => What::Touched,
            _ => return,
        };
        let mut table = self.lock();
        let mut noted = what == What::Overflow;
        table.untold.overflow |= noted;
        for path in &event.paths {
            noted |= table.note(path, what);
        }
        drop(table);
        if noted {
            self.wake.notify_one();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    MovedTo,
    Gone,
    Created,
    Written,
    Touched,
    Overflow,
}

impl Table {
    fn note(&mut self, path: &Path, what: What) -> bool {
        let Self { names, untold } = self;
        let mut noted = false;
        if let Some(watches) = names.get(path) {
            for (id, role) in watches {
                let mut happened = Happened::default();
                match (what, role) {
                    (What::MovedTo, Role::FileElsewhere | Role::Inside) => {}
                    (What::MovedTo, _) => happened.moved = true,
                    (What::Created, Role::File) => happened.created = true,
                    (What::Created, Role::Symlink) => happened.way_changed = true,
                    (What::Created | What::Gone, Role::Directory) => happened.way_changed = true,
                    // A file or link that goes away is no news: the last good one stays.
                    (What::Written, Role::File | Role::FileElsewhere) => happened.edited = true,
                    (What::Touched, Role::File | Role::FileElsewhere) => happened.touched = true,
                    _ => {}
                }
                if what == What::Gone && *role == Role::Directory {
                    untold.gone.insert(path.to_owned());
                }
                noted |= untold.add(*id, happened);
            }
        }
        if what == What::MovedTo
            && let Some(parent) = path.parent()
            && let Some(watches) = names.get(&inside(parent))
        {
            let happened = Happened {
                moved: true,
                ..Happened::default()
            };
            for id in watches.keys() {
                noted |= untold.add(*id, happened);
            }
        }
        noted
    }
}

impl Taken {
    fn add(&mut self, id: WatchId, new: Happened) -> bool {
        let Happened {
            moved,
            created,
            way_changed,
            edited,
            touched,
        } = new;
        if !(moved || created || way_changed || edited || touched) {
            return false;
        }
        let known = self.happened.entry(id).or_default();
        known.moved |= moved;
        known.created |= created;
        known.way_changed |= way_changed;
        known.edited |= edited;
        known.touched |= touched;
        true
    }
}
