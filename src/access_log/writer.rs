//! The thread that writes one file.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, Sender},
    },
    time::Duration,
};

use crate::stats::Block;

use super::files::{Target, stats};

/// What a writer is told, in order.
#[derive(Debug)]
pub enum Job {
    /// Write these lines.
    Write(Vec<u8>),
    /// Open the file by its name again.
    Reopen,
    /// Say when all before this is done.
    Report(Sender<()>),
}

/// How long to wait before writing again to a terminal or pipe that is full and
/// was set to non-blocking by whoever shares it.
const FULL_PIPE_PAUSE: Duration = Duration::from_millis(10);

pub struct Writer {
    file: File,
    target: Target,
    waiting: Arc<AtomicUsize>,
    stats: Arc<Block>,
    /// The last write ended inside of a line.
    torn: bool,
    /// The last write failed, and the log says so.
    failing: bool,
}

impl Writer {
    pub fn new(file: File, target: Target, waiting: Arc<AtomicUsize>, stats: Arc<Block>) -> Self {
        Self {
            file,
            target,
            waiting,
            stats,
            torn: false,
            failing: false,
        }
    }

    /// Works until nobody can give it a job.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Write(lines) => self.write(&lines),
                Job::Reopen => self.reopen(),
                // Who asked may have stopped waiting.
                Job::Report(done) => drop(done.send(())),
            }
        }
    }

    fn write(&mut self, lines: &[u8]) {
        let outcome = self.write_all(lines);
        self.waiting.fetch_sub(lines.len(), Relaxed);
        self.stats
            .gauge_sub_by_helper(stats::write_total_buffered, lines.len() as u64);
        match outcome {
            Ok(()) => {
                self.failing = false;
                self.stats.add_by_helper(stats::write_completed, 1);
            }
            Err(error) => {
                self.stats.add_by_helper(stats::write_failed, 1);
                if !self.failing {
                    self.failing = true;
                    tracing::warn!(target: "file", "cannot write the access log {:?}: {error}", self.target);
                }
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a writer has its thread to itself: nobody else waits"
    )]
    fn write_all(&mut self, mut lines: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        while !lines.is_empty() {
            match self.file.write(lines) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.torn = lines[written - 1] != b'\n';
                    lines = &lines[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(FULL_PIPE_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        self.torn = false;
        Ok(())
    }

    fn reopen(&mut self) {
        match self.target.open() {
            Ok(file) => self.file = file,
            Err(error) => {
                self.stats.add_by_helper(stats::reopen_failed, 1);
                tracing::warn!(target: "file", "cannot reopen the access log {:?}: {error}", self.target);
            }
        }
    }
}
