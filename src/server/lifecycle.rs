//! What the process is doing as a whole, told to every worker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::DrainStrategy;

/// What the process is doing as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Phase {
    /// Workers accept. False before everything is warmed, and from the moment
    /// listeners are stopped.
    pub accepting: bool,
    /// Since when connections are asked to go: SIGTERM, `/drain_listeners?graceful`.
    pub draining: Option<Instant>,
    /// `/healthcheck/fail`: responses carry `connection: close` at once.
    pub health_failed: bool,
    /// Everything that is left is cut and the workers end.
    pub closing: bool,
}

/// Where the control thread says what comes next. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: Arc<watch::Sender<Phase>>,
    drain_time: Duration,
    strategy: DrainStrategy,
}

impl Lifecycle {
    /// A process that does not accept yet. `drain_time` is `--drain-time-s`.
    pub fn new(drain_time: Duration, strategy: DrainStrategy) -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::default())),
            drain_time,
            strategy,
        }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves at each change after this call.
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// `--drain-time-s`.
    pub fn drain_time(&self) -> Duration {
        self.drain_time
    }

    /// `--drain-strategy`.
    pub fn strategy(&self) -> DrainStrategy {
        self.strategy
    }

    /// Everything is warmed: workers begin to accept.
    pub fn start_accepting(&self) {
        self.phase.send_modify(|p| p.accepting = true);
    }

    /// Listeners stop; connections live on.
    pub fn stop_accepting(&self) {
        self.phase.send_modify(|p| p.accepting = false);
    }

    /// Connections are asked to go, over the drain time. The first call counts.
    pub fn drain(&self) {
        self.phase.send_modify(|p| {
            p.draining.get_or_insert_with(Instant::now);
        });
    }

    /// Fails or mends the health that `/ready` and health checks show.
    pub fn set_health_failed(&self, failed: bool) {
        self.phase.send_modify(|p| p.health_failed = failed);
    }

    /// Cuts what is left and ends the workers.
    pub fn close(&self) {
        self.phase.send_modify(|p| {
            p.accepting = false;
            p.closing = true;
        });
    }
}
