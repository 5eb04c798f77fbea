//! The worker threads, from their start to the last connection's end.

use std::{
    io,
    sync::{Arc, atomic::AtomicU64},
    thread::JoinHandle,
};

use tokio::sync::{mpsc, watch};

use crate::{model::SnapshotSlot, net::accept, stats};

use super::{Lifecycle, Worker, watchdog::Watchdog};

/// Connections on their way to one worker; where there are more, the worker that
/// accepted one keeps it.
const HANDED: usize = 1024;

/// The worker threads.
#[derive(Debug)]
pub struct Workers {
    published: watch::Sender<u64>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers. They accept nothing before the lifecycle says so.
    /// `server` is the block of stats under `server.`.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(
        count: usize,
        snapshot: &SnapshotSlot,
        lifecycle: &Lifecycle,
        registry: &Arc<stats::Registry>,
        watchdog: &mut Watchdog,
    ) -> io::Result<Self> {
        let published = watch::Sender::new(0);
        let connection_ids = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::with_capacity(count);
        let (peers, doors): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(HANDED)).unzip();
        for (index, handed) in doors.into_iter().enumerate() {
            let peers = peers.clone().into_boxed_slice();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let snapshot = snapshot.clone();
            let lifecycle = lifecycle.clone();
            let connection_ids = connection_ids.clone();
            let registry = registry.clone();
            let beat = watchdog.worker(index);
            let published = published.subscribe();
            let thread = std::thread::Builder::new()
                .name(format!("wrk:worker_{index}"))
                .spawn(move || {
                    stats::set_thread(index + 1);
                    let tasks = tokio::task::LocalSet::new();
                    let seed = foldhash::fast::RandomState::default();
                    let seed = std::hash::BuildHasher::hash_one(&seed, index);
                    tasks.block_on(&runtime, async move {
                        let phase = lifecycle.subscribe();
                        tokio::task::spawn_local(beat.run());
                        let ids = connection_ids;
                        let worker =
                            Worker::new(index, snapshot, lifecycle, &registry, ids, peers, seed);
                        tokio::task::spawn_local(accept::take_in(worker.clone(), handed));
                        run(&worker, phase, published).await;
                    });
                })?;
            threads.push(thread);
        }
        Ok(Self { published, threads })
    }

    /// By which the workers are told that a snapshot of a generation is in its slot.
    pub fn publisher(&self) -> impl Fn(u64) + 'static {
        let published = self.published.clone();
        move |generation| {
            published.send_replace(generation);
        }
    }

    /// Waits for every worker to end, which they do once the lifecycle closes
    /// or drains and the last connection has gone. Blocks.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!(target: "main", "a worker thread ended by a panic");
            }
        }
    }
}

async fn run(
    worker: &std::rc::Rc<Worker>,
    mut phase: watch::Receiver<super::Phase>,
    mut published: watch::Receiver<u64>,
) {
    loop {
        let now = *phase.borrow_and_update();
        worker.refresh();
        worker.set_phase(now);
        let idle = worker.phase_changed().wait();
        if now.closing || (now.draining.is_some() && now.stopped && worker.connections() == 0) {
            return;
        }
        tokio::select! {
            changed = phase.changed() => if changed.is_err() { return },
            changed = published.changed() => if changed.is_err() { return },
            () = idle => {}
        }
    }
}
