//! The files that access logs go to, each opened once for the whole process.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use crate::stats::{Block, Registry};

use super::writer::{Job, Writer};

crate::stat_table! {
    /// Stats of all files together, under `filesystem.`.
    pub mod stats {
        counters { flushed_by_timer, reopen_failed, write_buffered, write_completed, write_failed }
        gauges { write_total_buffered }
        histograms {}
        texts {}
    }
}

/// The most bytes that wait for one file. When its disk or reader is so slow
/// that there are more, lines are dropped and counted in `write_failed`.
pub const MAX_WAITING: usize = 16 << 20;

/// When buffers are written.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `--file-flush-interval-msec`: how long a line may wait.
    pub interval: Duration,
    /// `--file-flush-min-size-kb`, in bytes: a buffer of this size does not wait.
    pub size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            size: 64 << 10,
        }
    }
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Appended to a file, which is made when it is not there.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Target {
    /// The target of a path; `/dev/stdout` and `/dev/stderr` are the streams
    /// themselves, which also works where they are sockets.
    pub fn of_path(path: &str) -> Self {
        match path {
            "/dev/stdout" => Self::Stdout,
            "/dev/stderr" => Self::Stderr,
            path => Self::File(Path::new(path).to_owned()),
        }
    }

    pub(super) fn open(&self) -> io::Result<File> {
        match self {
            Self::File(path) => OpenOptions::new().append(true).create(true).open(path),
            Self::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Self::Stderr => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
        }
    }
}

/// Every access log file of the process.
#[derive(Debug)]
pub struct Files {
    sinks: Mutex<Vec<Weak<Sink>>>,
    settings: Settings,
    stats: Arc<Block>,
}

impl Default for Files {
    /// Files whose stats nobody sees.
    fn default() -> Self {
        Self::new(Settings::default(), &Registry::new(0))
    }
}

impl Files {
    /// No files yet.
    pub fn new(settings: Settings, registry: &Registry) -> Self {
        Self {
            sinks: Mutex::default(),
            settings,
            stats: registry.block("filesystem.", &stats::TABLE),
        }
    }

    fn sinks(&self) -> MutexGuard<'_, Vec<Weak<Sink>>> {
        self.sinks.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Opens a target, or gives the sink it has already.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(&self, target: Target) -> io::Result<Arc<Sink>> {
        let mut sinks = self.sinks();
        sinks.retain(|sink| sink.strong_count() > 0);
        let known = sinks.iter().filter_map(Weak::upgrade);
        if let Some(sink) = known.into_iter().find(|sink| sink.target == target) {
            return Ok(sink);
        }
        let file = target.open()?;
        let sink = Arc::new(Sink {
            target,
            file: Mutex::new(Some(file)),
            jobs: OnceLock::new(),
            waiting: Arc::default(),
            settings: self.settings,
            stats: self.stats.clone(),
        });
        sinks.push(Arc::downgrade(&sink));
        Ok(sink)
    }

    /// Opens every file by its name again, as SIGUSR1 asks after a rotation.
    /// A file that cannot be opened goes on as it was, and is counted.
    pub fn reopen(&self) {
        for sink in self.sinks().iter().filter_map(Weak::upgrade) {
            sink.send(Job::Reopen);
        }
    }

    /// Waits until everything that was handed over is written, for the end of
    /// the process. Blocks, but not longer than the timeout.
    pub fn finish(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let (done, all_done) = mpsc::channel();
        let mut waiting = 0;
        for sink in self.sinks().iter().filter_map(Weak::upgrade) {
            if sink.jobs.get().is_some() {
                sink.send(Job::Report(done.clone()));
                waiting += 1;
            }
        }
        for _ in 0..waiting {
            let left = deadline.saturating_duration_since(Instant::now());
            if all_done.recv_timeout(left).is_err() {
                return;
            }
        }
    }
}

/// One open file and its writer thread, which starts with the first line and
/// ends when no configuration refers to the file any more.
#[derive(Debug)]
pub struct Sink {
    target: Target,
    /// Until the thread takes it.
    file: Mutex<Option<File>>,
    jobs: OnceLock<mpsc::Sender<Job>>,
    /// Bytes that were handed over and are not written yet.
    waiting: Arc<AtomicUsize>,
    settings: Settings,
    stats: Arc<Block>,
}

impl Sink {
    /// When its buffers are written.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Where it writes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Stats of all files.
    pub(super) fn stats(&self) -> &Block {
        &self.stats
    }

    /// Hands over whole lines, which are written by one call. They are dropped
    /// when more than [`MAX_WAITING`] bytes wait already.
    pub(super) fn write(&self, lines: Vec<u8>) {
        let length = lines.len();
        if self.waiting.fetch_add(length, Relaxed) + length > MAX_WAITING {
            self.drop_lines(length);
            return;
        }
        if !self.send(Job::Write(lines)) {
            self.drop_lines(length);
        }
    }

    fn drop_lines(&self, length: usize) {
        self.waiting.fetch_sub(length, Relaxed);
        self.stats.inc(stats::write_failed);
        self.stats
            .gauge_sub(stats::write_total_buffered, length as u64);
    }

    fn send(&self, job: Job) -> bool {
        let jobs = self.jobs.get_or_init(|| {
            let (sender, receiver) = mpsc::channel();
            let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(file) = file.take() {
                let writer = Writer::new(
                    file,
                    self.target.clone(),
                    self.waiting.clone(),
                    self.stats.clone(),
                );
                let thread = std::thread::Builder::new().name("AccessLogFlush".to_owned());
                if let Err(error) = thread.spawn(move || writer.run(&receiver)) {
                    tracing::error!(target: "file", "cannot start a thread for an access log: {error}");
                }
            }
            sender
        });
        jobs.send(job).is_ok()
    }
}
