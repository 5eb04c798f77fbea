//! A value that arrives from elsewhere and may change: a route table from RDS,
//! a secret from SDS, endpoints from EDS.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

/// Whether a [`Slot`] has been answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing has come, good or bad.
    Awaited,
    /// The source answered, or its `initial_fetch_timeout` ran out. The value
    /// may still be absent.
    Given,
}

/// One named, subscribed resource, shared by all who refer to it.
///
/// Workers read it with [`Slot::get`]; the subscription on the control thread
/// writes it. The last good value stays until a better one comes. Whoever
/// compiles a resource that refers to another holds its slot, and the
/// subscription ends when nobody does.
#[derive(Debug)]
pub struct Slot<T> {
    name: Arc<str>,
    value: ArcSwapOption<T>,
    changed: watch::Sender<(Answer, u64)>,
}

impl<T> Slot<T> {
    /// An empty slot that awaits its first answer.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            value: ArcSwapOption::empty(),
            changed: watch::Sender::new((Answer::Awaited, 0)),
        }
    }

    /// A slot whose value is known from the start: an inline resource.
    pub fn fixed(name: impl Into<Arc<str>>, value: Arc<T>) -> Self {
        Self {
            name: name.into(),
            value: ArcSwapOption::new(Some(value)),
            changed: watch::Sender::new((Answer::Given, 1)),
        }
    }

    /// The resource's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The value in force, without touching its reference count where possible.
    pub fn get(&self) -> arc_swap::Guard<Option<Arc<T>>> {
        self.value.load()
    }

    /// Puts a new value in force, then tells those who wait.
    pub fn set(&self, value: Arc<T>) {
        self.value.store(Some(value));
        self.changed.send_modify(|(answer, version)| {
            *answer = Answer::Given;
            *version += 1;
        });
    }

    /// Takes the value away, then tells those who wait.
    pub fn clear(&self) {
        self.value.store(None);
        self.changed.send_modify(|(answer, version)| {
            *answer = Answer::Given;
            *version += 1;
        });
    }

    /// Ends the wait without a value: refused, missing, or timed out.
    pub fn give_up(&self) {
        self.changed
            .send_modify(|(answer, _)| *answer = Answer::Given);
    }

    /// Whether the first answer has come, good or bad.
    pub fn is_answered(&self) -> bool {
        self.changed.borrow().0 == Answer::Given
    }

    /// Grows with each change of the value.
    pub fn version(&self) -> u64 {
        self.changed.borrow().1
    }

    /// Resolves at each change of the answer or value after this call.
    pub fn subscribe(&self) -> watch::Receiver<(Answer, u64)> {
        self.changed.subscribe()
    }
}
