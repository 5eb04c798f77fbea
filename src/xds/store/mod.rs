//! The last known good: every resource that was accepted is kept in a directory,
//! `--state-dir`, so that a start without a management server, or without a
//! file, has something to serve.
//!
//! The store mirrors what is in force. What is accepted is kept, what is taken
//! away is forgotten, and what is refused changes nothing; so a resource that was
//! removed does not come back with the next start. It is read once, when the
//! process starts, and written by a thread of its own: the control thread only
//! notes what has changed, in a table with one place for each resource, and hands
//! that over when it publishes a snapshot. Workers have no part in it.
//!
//! # What is in the directory
//!
//! `resources` is a log: eight bytes that say what it is, then one record for
//! each set of changes that took effect together. [`log`] describes a record. A
//! log of more than twice what it says is written anew beside the old one and
//! moved into its place. `lock` is held by the process that writes; a second
//! process with the same directory reads only. Private keys are among the
//! resources, so the directory and the files are for their owner alone.
//!
//! A record that was being written when the process or the machine ended is
//! dropped: what stands before it was in force a moment earlier. Anything else
//! that is not as it was written is damage, and then nothing of the log is
//! believed, because it may be a removal that is missing. A damaged log is
//! reported, moved aside as `resources.damaged`, and the start goes on without.
//!
//! # When it is served from
//!
//! A subscription asks its source first. It falls back to the store when the
//! source fails (no connection, no file, an answer that is refused) or has said
//! nothing for [`PATIENCE`], and only for as long as there was no good answer. What
//! comes from here is stale, until live data confirms it or takes its place.

pub mod log;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    api::TYPE_URL_PREFIX,
    config::{RawResource, Strictness},
    stats::{self, Block},
};

use super::{resource::Encoded, update::Received};

use log::{Damage, Kept, Key};
use writer::{Entry, Writer};

/// How long a source may say nothing before its subscriptions are served from
/// the store.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// What all kept resources may take on disk, in bytes. What goes beyond is not
/// kept, and reported.
pub const MAX_SIZE: u64 = 512 << 20;

crate::stat_table! {
    /// `state_dir.`, of nuncio alone.
    pub mod store_stats {
        counters { damaged, write_failure }
        gauges { stale_resources, kept_resources }
        histograms {}
        texts {}
    }
}

use store_stats as names;

/// The last known good of every subscription.
pub struct Store {
    directory: PathBuf,
    /// Where it is, for people.
    place: Arc<str>,
    stats: Arc<Block>,
    /// What an earlier run left, until this one knows better.
    earlier: RefCell<HashMap<Key, Earlier>>,
    /// What has changed since the last [`Store::flush`].
    changes: RefCell<HashMap<Key, Option<Entry>>>,
    /// Everything that is kept.
    kept: RefCell<HashSet<Key>>,
    /// How many subscriptions want a resource.
    holders: RefCell<HashMap<Key, u32>>,
    /// The process ends.
    closed: Cell<bool>,
    stale: Cell<u64>,
    writer: Option<Writer>,
}

struct Earlier {
    received: Received,
    at: SystemTime,
    /// A subscription has asked for it.
    asked: Cell<bool>,
}

impl Store {
    /// Opens the store in a directory, which is made when it does not exist.
    ///
    /// Nothing here is fatal: what is wrong is logged and counted, and the
    /// process goes on without what was kept, or without keeping.
    pub fn open(
        directory: &Path,
        strictness: Strictness,
        stats: &Arc<stats::Registry>,
    ) -> Rc<Self> {
        let stats = stats.block("state_dir.", &names::TABLE);
        let place: Arc<str> = directory.display().to_string().into();
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        if let Err(error) = made {
            tracing::error!(target: "config", "state directory {place}: {error}");
        }
        let found = read(directory, &stats);
        let mut earlier = HashMap::with_capacity(found.len());
        for (key, kept) in &found {
            match remembered(key, kept) {
                Ok(found) => {
                    earlier.insert(key.clone(), found);
                }
                Err(error) => tracing::warn!(
                    target: "config",
                    "state directory {place}: {} '{}': {error}", key.type_url, key.name
                ),
            }
        }
        let entries = earlier.iter().filter_map(|(key, found)| {
            let Encoded::Raw(raw) = &found.received.resource else {
                return None;
            };
            Some((
                key.clone(),
                Entry {
                    version: found.received.version.clone(),
                    at: found.at,
                    resource: raw.clone(),
                },
            ))
        });
        let writer = Writer::start(directory, entries.collect(), strictness, stats.clone());
        let writer = writer.map_err(|error| {
            tracing::error!(
                target: "config",
                "state directory {place} is read and not written: {error}"
            );
        });
        if !earlier.is_empty() {
            tracing::info!(
                target: "config",
                "state directory {place}: {} resource(s) of an earlier run", earlier.len()
            );
        }
        let store = Self {
            directory: directory.to_owned(),
            place,
            stats,
            kept: RefCell::new(earlier.keys().cloned().collect()),
            holders: RefCell::default(),
            closed: Cell::new(false),
            stale: Cell::new(0),
            earlier: RefCell::new(earlier),
            changes: RefCell::default(),
            writer: writer.ok(),
        };
        store.count();
        store.stats.gauge_set(names::stale_resources, 0);
        Rc::new(store)
    }

    /// The resources of one type from one source. `source` tells sources apart,
    /// also across restarts.
    pub fn shelf(self: &Rc<Self>, message: &str, source: &str) -> Shelf {
        Shelf {
            store: self.clone(),
            type_url: format!("{TYPE_URL_PREFIX}{message}").into(),
            source: source.into(),
        }
    }

    /// Hands on what has changed, to be written. What changed since the last call
    /// is written together or not at all.
    pub fn flush(&self) {
        let changes = std::mem::take(&mut *self.changes.borrow_mut());
        if changes.is_empty() {
            return;
        }
        self.count();
        if let Some(writer) = &self.writer {
            writer.write(changes);
        }
    }

    /// Writes what is left and changes nothing any more: what is let go of from
    /// now on is let go of because the process ends.
    pub fn close(&self) {
        self.flush();
        self.closed.set(true);
    }

    /// Forgets what an earlier run left and nobody has asked for: call it when
    /// everything that is live has come.
    pub fn forget_unused(&self) {
        let unused: Vec<Key> = {
            let earlier = self.earlier.borrow();
            let unused = earlier.iter().filter(|(_, found)| !found.asked.get());
            unused.map(|(key, _)| key.clone()).collect()
        };
        for key in unused {
            self.forget(key);
        }
    }

    fn keep(&self, key: Key, entry: Entry) {
        self.earlier.borrow_mut().remove(&key);
        self.kept.borrow_mut().insert(key.clone());
        self.changes.borrow_mut().insert(key, Some(entry));
    }

    fn forget(&self, key: Key) {
        if self.closed.get() || !self.kept.borrow_mut().remove(&key) {
            return;
        }
        self.earlier.borrow_mut().remove(&key);
        self.changes.borrow_mut().insert(key, None);
    }

    fn count(&self) {
        let kept = self.kept.borrow().len() as u64;
        self.stats.gauge_set(names::kept_resources, kept);
    }

    fn add_stale(&self, count: u64) {
        self.stale.set(self.stale.get() + count);
        self.stats
            .gauge_set(names::stale_resources, self.stale.get());
    }

    fn take_stale(&self, count: u64) {
        self.stale.set(self.stale.get().saturating_sub(count));
        self.stats
            .gauge_set(names::stale_resources, self.stale.get());
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// What the log of an earlier run says. One that is damaged is moved aside.
fn read(directory: &Path, stats: &Block) -> HashMap<Key, Kept> {
    let path = writer::log_path(directory);
    let read = fs::metadata(&path)
        .and_then(|meta| match meta.len() > 4 * MAX_SIZE {
            true => Err(std::io::Error::other("is larger than any store")),
            false => fs::read(&path),
        })
        .map_err(Damage::Unreadable)
        .and_then(|bytes| log::read(&bytes));
    let error = match read {
        Ok(found) => {
            if found.torn > 0 {
                tracing::warn!(
                    target: "config",
                    "{}: the last {} bytes were being written when the process ended, \
                     and are dropped", path.display(), found.torn
                );
            }
            return found.resources;
        }
        Err(Damage::Unreadable(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return HashMap::new();
        }
        Err(error) => error,
    };
    stats.inc(names::damaged);
    let aside = path.with_extension("damaged");
    let moved = match fs::rename(&path, &aside) {
        Ok(()) => format!("moved to {}", aside.display()),
        Err(error) => format!("it cannot be moved aside: {error}"),
    };
    tracing::error!(
        target: "config",
        "{} is damaged, and ignored: {error}; {moved}", path.display()
    );
    HashMap::new()
}

fn remembered(key: &Key, kept: &Kept) -> Result<Earlier, String> {
    let any = prost_types::Any {
        type_url: key.type_url.to_string(),
        value: kept.value.to_vec(),
    };
    let raw = RawResource::from_any(any, &key.type_url)?;
    Ok(Earlier {
        received: Received {
            name: key.name.clone(),
            aliases: Vec::new(),
            version: kept.version.as_str().into(),
            resource: raw.into(),
        },
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(kept.accepted),
        asked: Cell::new(false),
    })
}

/// The resources of one type from one source.
#[derive(Clone)]
pub struct Shelf {
    store: Rc<Store>,
    type_url: Arc<str>,
    source: Arc<str>,
}

impl Shelf {
    fn key(&self, name: &str) -> Key {
        Key {
            type_url: self.type_url.clone(),
            source: self.source.clone(),
            name: name.into(),
        }
    }

    /// Where it is, for people.
    pub fn place(&self) -> &Arc<str> {
        &self.store.place
    }

    /// What an earlier run accepted under a name, when this one has accepted
    /// nothing yet.
    pub fn get(&self, name: &str) -> Option<Received> {
        let earlier = self.store.earlier.borrow();
        let found = earlier.get(&self.key(name))?;
        found.asked.set(true);
        Some(found.received.clone())
    }

    /// Everything an earlier run accepted of this type from this source, by name.
    pub fn all(&self) -> Vec<Received> {
        let earlier = self.store.earlier.borrow();
        let mut all: Vec<_> = earlier
            .iter()
            .filter(|(key, _)| key.type_url == self.type_url && key.source == self.source)
            .map(|(_, found)| {
                found.asked.set(true);
                found.received.clone()
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether an earlier run accepted anything of this type from this source.
    pub fn has_any(&self) -> bool {
        let earlier = self.store.earlier.borrow();
        let mut keys = earlier.keys();
        keys.any(|key| key.type_url == self.type_url && key.source == self.source)
    }

    /// Says of what is served from here that it is stale, and why.
    pub fn stale(&self, why: &str) -> Arc<str> {
        format!("stale, as an earlier run left in {}: {why}", self.place()).into()
    }

    /// A resource has been accepted.
    pub fn keep(&self, name: &str, resource: &Encoded, version: &Arc<str>) {
        // What stands in the bootstrap comes with the bootstrap.
        if let Encoded::Raw(raw) = resource {
            let entry = Entry {
                version: version.clone(),
                at: SystemTime::now(),
                resource: raw.clone(),
            };
            self.store.keep(self.key(name), entry);
        }
    }

    /// A resource has been taken away.
    pub fn forget(&self, name: &str) {
        self.store.forget(self.key(name));
    }

    /// One more subscription wants this resource.
    pub fn hold(&self, name: &str) {
        let mut holders = self.store.holders.borrow_mut();
        *holders.entry(self.key(name)).or_default() += 1;
    }

    /// A subscription that wanted this resource has ended; with the last one it
    /// has been taken away.
    pub fn let_go(&self, name: &str) {
        let key = self.key(name);
        let mut holders = self.store.holders.borrow_mut();
        if let Some(count) = holders.get_mut(&key).filter(|count| **count > 1) {
            *count -= 1;
            return;
        }
        holders.remove(&key);
        drop(holders);
        self.store.forget(key);
    }

    /// So many resources are served from here.
    pub fn served(&self, count: usize) {
        self.store.add_stale(count as u64);
    }

    /// So many resources are no longer served from here.
    pub fn relieved(&self, count: usize) {
        self.store.take_stale(count as u64);
    }
}
