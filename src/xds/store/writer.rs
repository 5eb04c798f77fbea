//! The thread that writes the log.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::fcntl::{Flock, FlockArg};

use crate::{
    config::{RawResource, Strictness},
    stats::Block,
};

use super::{
    MAX_SIZE,
    log::{self, Kept, Key},
    store_stats as names,
};

/// When what failed is written again although nothing has changed.
const RETRY: Duration = Duration::from_secs(10);

/// A log may grow by this much beyond twice what it says before it is written
/// anew, in bytes.
const SLACK: u64 = 1 << 20;

/// Where the log is.
pub(super) fn log_path(directory: &Path) -> PathBuf {
    directory.join("resources")
}

/// Where it is written anew.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// A resource to be kept. It is shared with whoever serves it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub version: Arc<str>,
    pub at: SystemTime,
    pub resource: Arc<RawResource>,
}

type Changes = HashMap<Key, Option<Entry>>;

/// The thread that writes; it ends, with everything written, when this is dropped.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

/// What is to be written; one place for each resource, however often it changes.
#[derive(Default)]
struct Waiting {
    changes: Changes,
    stop: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Locks the directory and starts the thread; `entries` is what its log says.
    pub(super) fn start(
        directory: &Path,
        entries: HashMap<Key, Entry>,
        strictness: Strictness,
        stats: Arc<Block>,
    ) -> io::Result<Self> {
        let lock = open(&directory.join("lock"), OpenOptions::new().create(true))?;
        let lock =
            Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(
                |(_, errno)| match errno {
                    nix::errno::Errno::EWOULDBLOCK => io::Error::other("another process has it"),
                    other => other.into(),
                },
            )?;
        let shared = Arc::<Shared>::default();
        let work = Work {
            path: log_path(directory),
            shared: shared.clone(),
            sizes: HashMap::new(),
            total: 0,
            entries,
            strictness,
            stats,
            file: None,
            written: 0,
            failure: None,
            _lock: lock,
        };
        let thread = thread::Builder::new()
            .name("state-dir".to_owned())
            .spawn(move || work.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Writes these changes, together.
    pub(super) fn write(&self, changes: Changes) {
        self.shared.waiting().changes.extend(changes);
        self.shared.wake.notify_one();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.waiting().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(target: "config", "the thread that keeps resources has failed");
        }
    }
}

/// What the thread has.
struct Work {
    path: PathBuf,
    shared: Arc<Shared>,
    /// Everything that is kept.
    entries: HashMap<Key, Entry>,
    /// What each takes in the log, and all of them.
    sizes: HashMap<Key, u64>,
    total: u64,
    strictness: Strictness,
    stats: Arc<Block>,
    /// The log, open at its end. It is written anew when there is none.
    file: Option<File>,
    /// Its length.
    written: u64,
    /// Why it could not be written, said once.
    failure: Option<String>,
    _lock: Flock<File>,
}

impl Work {
    fn run(mut self) {
        // A log that was torn, or has much that is no longer so, begins clean.
        if !self.entries.is_empty() {
            self.write(&Changes::new());
        }
        loop {
            let (changes, stop) = self.wait();
            let entries = changes.iter();
            let changed: Changes = entries.map(|(k, e)| (k.clone(), e.clone())).collect();
            for (key, entry) in changes {
                match entry {
                    Some(entry) => self.entries.insert(key, entry),
                    None => self.entries.remove(&key),
                };
            }
            self.write(&changed);
            if stop {
                return;
            }
        }
    }

    /// Waits for changes, for the end, or until what failed is to be tried again.
    fn wait(&self) -> (Changes, bool) {
        let mut waiting = self.shared.waiting();
        while waiting.changes.is_empty() && !waiting.stop {
            let woken = self.shared.wake.wait_timeout(waiting, RETRY);
            let (now, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
            waiting = now;
            if timeout.timed_out() && self.failure.is_some() {
                break;
            }
        }
        (std::mem::take(&mut waiting.changes), waiting.stop)
    }

    fn write(&mut self, changes: &Changes) {
        let outcome = match &self.file {
            Some(_) if self.written <= 2 * self.total + SLACK => self.append(changes),
            _ => self.write_anew(),
        };
        let Err(error) = outcome else {
            if self.failure.take().is_some() {
                tracing::info!(target: "config", "{} is written again", self.path.display());
            }
            return;
        };
        // The next write is a whole one. On a full disk it needs the room that what was
        // written in part still takes.
        if let Some(file) = self.file.take() {
            file.set_len(self.written).ok();
        }
        fs::remove_file(beside(&self.path)).ok();
        self.stats.add_by_helper(names::write_failure, 1);
        let error = error.to_string();
        if self.failure.as_ref() != Some(&error) {
            tracing::error!(
                target: "config",
                "{} cannot be written, and is tried again: {error}", self.path.display()
            );
            self.failure = Some(error);
        }
    }

    fn append(&mut self, changes: &Changes) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut encoded = Vec::with_capacity(changes.len());
        for (key, entry) in changes {
            match entry {
                Some(entry) => {
                    let kept = self.encode(key, entry);
                    // What cannot be kept must not be remembered as it was.
                    if kept.is_none() {
                        self.total -= self.sizes.remove(key).unwrap_or_default();
                    }
                    encoded.push((key, kept));
                }
                None => {
                    self.total -= self.sizes.remove(key).unwrap_or_default();
                    encoded.push((key, None));
                }
            }
        }
        let record = log::record(encoded.into_iter()).map_err(io::Error::other)?;
        if let Some(file) = &mut self.file {
            file.write_all(&record)?;
            file.sync_data()?;
        }
        self.written += record.len() as u64;
        Ok(())
    }

    /// Writes everything to a new file and moves it into place.
    fn write_anew(&mut self) -> io::Result<()> {
        self.sizes.clear();
        self.total = 0;
        let entries = std::mem::take(&mut self.entries);
        let mut encoded = Vec::with_capacity(entries.len());
        for (key, entry) in &entries {
            if let Some(kept) = self.encode(key, entry) {
                encoded.push((key, Some(kept)));
            }
        }
        let record = log::record(encoded.into_iter());
        self.entries = entries;
        let record = record.map_err(io::Error::other)?;
        let beside = beside(&self.path);
        let mut file = open(&beside, OpenOptions::new().create(true).truncate(true))?;
        file.write_all(log::MAGIC)?;
        file.write_all(&record)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.written = (log::MAGIC.len() + record.len()) as u64;
        self.file = Some(file);
        Ok(())
    }

    /// A resource as it is written; `None` when it cannot be kept.
    fn encode(&mut self, key: &Key, entry: &Entry) -> Option<Kept> {
        let accepted = entry.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let kept = Kept {
            version: entry.version.to_string(),
            accepted: accepted.as_millis().try_into().unwrap_or(u64::MAX),
            value: match entry.resource.encode(&key.type_url, &self.strictness) {
                Some(value) => value,
                None => {
                    tracing::warn!(
                        target: "config",
                        "{}: '{}' is not kept, it cannot be encoded",
                        self.path.display(), key.name
                    );
                    return None;
                }
            },
        };
        let names = key.type_url.len() + key.source.len() + key.name.len() + kept.version.len();
        let size = (names + kept.value.len()) as u64;
        let before = self.sizes.get(key).copied().unwrap_or_default();
        let total = self.total - before + size;
        if total > MAX_SIZE {
            tracing::warn!(
                target: "config",
                "{}: '{}' is not kept, it would make more than {MAX_SIZE} bytes",
                self.path.display(), key.name
            );
            return None;
        }
        self.sizes.insert(key.clone(), size);
        self.total = total;
        Some(kept)
    }
}

/// Opens a file for writing, for its owner alone.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.write(true).mode(0o600).open(path)
}
