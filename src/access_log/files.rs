//! A file that access logs go to, opened once for the whole process.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use crate::stats::Block;

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

/// One open file and its writer thread, which starts with the first line and
/// ends when no configuration refers to the file any more.
#[derive(Debug)]
pub struct FileSink {
    target: Target,
    /// Until the thread takes it.
    file: Mutex<Option<File>>,
    jobs: OnceLock<mpsc::Sender<Job>>,
    /// Bytes that were handed over and are not written yet.
    waiting: Arc<AtomicUsize>,
    settings: Settings,
    stats: Arc<Block>,
}

impl FileSink {
    /// Opens the target, whose stats are those of all files.
    ///
    /// # Errors
    /// When it cannot be opened for appending.
    pub(super) fn open(target: Target, settings: Settings, stats: Arc<Block>) -> io::Result<Self> {
        let file = target.open()?;
        Ok(Self {
            target,
            file: Mutex::new(Some(file)),
            jobs: OnceLock::new(),
            waiting: Arc::default(),
            settings,
            stats,
        })
    }

    /// When its buffers are written.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Where it writes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// A line of this length waits in a worker's buffer.
    pub(super) fn appended(&self, length: usize) {
        self.stats.inc(stats::write_buffered);
        self.stats
            .gauge_add(stats::write_total_buffered, length as u64);
    }

    /// A worker's buffer has waited for the interval.
    pub(super) fn flushed_by_timer(&self) {
        self.stats.inc(stats::flushed_by_timer);
    }

    /// Opens the file by its name again.
    pub(super) fn reopen(&self) {
        self.send(Job::Reopen);
    }

    /// Asks to be told when all before this is written; false when nothing was.
    pub(super) fn report(&self, done: &mpsc::Sender<()>) -> bool {
        self.jobs.get().is_some() && self.send(Job::Report(done.clone()))
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
