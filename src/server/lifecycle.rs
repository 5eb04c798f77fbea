//! What the process is doing as a whole, told to every worker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::model::listener::TrafficDirection;

use super::DrainStrategy;

/// What the process is doing as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Phase {
    /// Everything is warmed: workers accept.
    pub accepting: bool,
    /// Listeners do not accept any more.
    pub stopped: bool,
    /// Listeners of inbound traffic do not accept even then:
    /// `/drain_listeners?inboundonly`.
    pub inbound_stopped: bool,
    /// Since when connections are asked to go: `/drain_listeners?graceful`, SIGTERM.
    pub draining: Option<Instant>,
    /// The process ends when they have gone: SIGTERM. Whatever `--drain-strategy`
    /// says, they are asked at once.
    pub ending: bool,
    /// As `draining`, for listeners of inbound traffic alone.
    pub inbound_draining: Option<Instant>,
    /// `/healthcheck/fail`: responses carry `connection: close` at once.
    pub health_failed: bool,
    /// Another number each time the overload manager has changed what sleepers mind.
    pub pressure: u64,
    /// Everything that is left is cut and the workers end.
    pub closing: bool,
}

impl Phase {
    /// Whether listeners of this direction accept.
    pub fn accepts(&self, direction: TrafficDirection) -> bool {
        self.accepting && !self.has_stopped(direction)
    }

    /// Whether listeners of this direction do not accept any more.
    pub fn has_stopped(&self, direction: TrafficDirection) -> bool {
        self.stopped || (self.inbound_stopped && direction == TrafficDirection::Inbound)
    }

    /// Since when connections of listeners of this direction are asked to go.
    pub fn draining_since(&self, direction: TrafficDirection) -> Option<Instant> {
        let inbound = match direction {
            TrafficDirection::Inbound => self.inbound_draining,
            TrafficDirection::Unspecified | TrafficDirection::Outbound => None,
        };
        self.draining.or(inbound)
    }
}

/// Which listeners are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// Those of inbound traffic.
    Inbound,
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
    pub fn stop_accepting(&self, scope: Scope) {
        self.phase.send_modify(|p| match scope {
            Scope::All => p.stopped = true,
            Scope::Inbound => p.inbound_stopped = true,
        });
    }

    /// Connections are asked to go, over the drain time. The first call counts.
    pub fn drain(&self, scope: Scope) {
        self.phase.send_modify(|p| {
            let since = match scope {
                Scope::All => &mut p.draining,
                Scope::Inbound => &mut p.inbound_draining,
            };
            since.get_or_insert_with(Instant::now);
        });
    }

    /// Fails or mends the health that `/ready` and health checks show.
    pub fn set_health_failed(&self, failed: bool) {
        self.phase.send_modify(|p| p.health_failed = failed);
    }

    /// Listeners that do not accept and connections that are idle look again at the
    /// overload manager.
    pub fn pressure_changed(&self) {
        self.phase
            .send_modify(|p| p.pressure = p.pressure.wrapping_add(1));
    }

    /// The process ends: listeners stop, and connections are asked to go at
    /// once. To spread that over the drain time would leave most of them to be
    /// cut by whoever waits for the process.
    pub fn shut_down(&self) {
        self.phase.send_modify(|p| {
            p.stopped = true;
            p.ending = true;
            p.draining.get_or_insert_with(Instant::now);
        });
    }

    /// Cuts what is left and ends the workers.
    pub fn close(&self) {
        self.phase.send_modify(|p| {
            p.stopped = true;
            p.closing = true;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inbound_listeners_can_be_stopped_alone() {
        let lifecycle = Lifecycle::new(Duration::from_secs(1), DrainStrategy::Gradual);
        lifecycle.start_accepting();
        lifecycle.drain(Scope::Inbound);
        lifecycle.stop_accepting(Scope::Inbound);
        let (inbound, other) = (TrafficDirection::Inbound, TrafficDirection::Unspecified);
        let phase = lifecycle.phase();
        assert!(!phase.accepts(inbound) && phase.accepts(other));
        assert!(phase.draining_since(inbound).is_some());
        assert_eq!(phase.draining_since(other), None);
        lifecycle.drain(Scope::All);
        lifecycle.stop_accepting(Scope::All);
        let phase = lifecycle.phase();
        assert!(!phase.accepts(other));
        assert!(phase.draining_since(other).is_some());
    }
}
