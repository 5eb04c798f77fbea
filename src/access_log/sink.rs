//! Where logs go, from every worker: each place is opened once for the process.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, Weak, mpsc},
    time::{Duration, Instant},
};

use crate::stats::{Block, Registry};

use super::{
    files::{FileSink, Settings, Target, stats},
    grpc::ServiceSink,
};

/// Where a log goes.
#[derive(Debug)]
pub enum Sink {
    /// A file, or a standard stream.
    File(FileSink),
    /// A gRPC service.
    Service(ServiceSink),
}

impl Sink {
    /// When a worker's buffer for it is handed over.
    pub fn settings(&self) -> Settings {
        match self {
            Self::File(file) => file.settings(),
            Self::Service(service) => service.settings(),
        }
    }

    /// An entry of this length waits in a worker's buffer.
    pub(super) fn appended(&self, length: usize) {
        match self {
            Self::File(file) => file.appended(length),
            Self::Service(service) => service.appended(),
        }
    }

    /// Writes a line, with its line feed, that waits in no buffer.
    pub fn write_line(&self, line: Vec<u8>) {
        self.appended(line.len());
        self.write(line, 1);
    }

    /// A worker's buffer has waited for the interval.
    pub(super) fn flushed_by_timer(&self) {
        match self {
            Self::File(file) => file.flushed_by_timer(),
            // Envoy does not count it.
            Self::Service(_) => {}
        }
    }

    /// Hands over a worker's buffer, which holds so many entries.
    pub(super) fn write(&self, buffer: Vec<u8>, entries: u64) {
        match self {
            Self::File(file) => file.write(buffer),
            Self::Service(service) => service.send(buffer, entries),
        }
    }
}

/// Every place that access logs of the process go to.
#[derive(Debug)]
pub struct Sinks {
    open: Mutex<Vec<Weak<Sink>>>,
    settings: Settings,
    stats: Arc<Block>,
}

impl Default for Sinks {
    /// Sinks whose stats nobody sees.
    fn default() -> Self {
        Self::new(Settings::default(), &Registry::new(0))
    }
}

impl Sinks {
    /// None yet. The settings are those of files.
    pub fn new(settings: Settings, registry: &Registry) -> Self {
        Self {
            open: Mutex::default(),
            settings,
            stats: registry.block("filesystem.", &stats::TABLE),
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Weak<Sink>>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn live(&self) -> Vec<Arc<Sink>> {
        self.open().iter().filter_map(Weak::upgrade).collect()
    }

    /// The sink that is meant, if it is open, or a new one.
    fn join<E>(
        &self,
        is_meant: impl Fn(&Sink) -> bool,
        new: impl FnOnce() -> Result<Sink, E>,
    ) -> Result<Arc<Sink>, E> {
        let mut open = self.open();
        open.retain(|sink| sink.strong_count() > 0);
        let mut known = open.iter().filter_map(Weak::upgrade);
        if let Some(sink) = known.find(|sink| is_meant(sink)) {
            return Ok(sink);
        }
        let sink = Arc::new(new()?);
        open.push(Arc::downgrade(&sink));
        Ok(sink)
    }

    /// Opens a file, or gives the sink it has already.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open_file(&self, target: Target) -> io::Result<Arc<Sink>> {
        let is_meant = |sink: &Sink| matches!(sink, Sink::File(file) if *file.target() == target);
        let new = || FileSink::open(target.clone(), self.settings, self.stats.clone());
        self.join(is_meant, || new().map(Sink::File))
    }

    /// The sink of a service that is configured like this, or a new one.
    pub(super) fn open_service(
        &self,
        config: &[u8],
        new: impl FnOnce() -> ServiceSink,
    ) -> Arc<Sink> {
        let is_meant =
            |sink: &Sink| matches!(sink, Sink::Service(service) if service.config() == config);
        let Ok(sink) = self.join(is_meant, || {
            Ok::<_, std::convert::Infallible>(Sink::Service(new()))
        });
        sink
    }

    /// Opens every file by its name again, as SIGUSR1 asks after a rotation.
    /// A file that cannot be opened goes on as it was, and is counted.
    pub fn reopen(&self) {
        for sink in self.live() {
            if let Sink::File(file) = &*sink {
                file.reopen();
            }
        }
    }

    /// Waits until services have taken everything that was handed over, then
    /// until it is written to files: for the end of the process. Files block;
    /// neither takes longer than the timeout.
    pub async fn finish(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let live = self.live();
        for sink in &live {
            if let Sink::Service(service) = &**sink {
                let left = deadline.saturating_duration_since(Instant::now());
                // What a service does not take now is lost, as the log of the
                // stream says.
                tokio::time::timeout(left, service.finish()).await.ok();
            }
        }
        let (done, all_done) = mpsc::channel();
        let is_written = |sink: &&Arc<Sink>| matches!(&***sink, Sink::File(f) if f.report(&done));
        for _ in live.iter().filter(is_written) {
            let left = deadline.saturating_duration_since(Instant::now());
            if all_done.recv_timeout(left).is_err() {
                return;
            }
        }
    }
}
