//! What a request asks for that nobody has asked for yet: a virtual host by VHDS,
//! the routes of a scope.
//!
//! A worker asks, and its request waits; the control thread subscribes, and answers
//! when what was asked for is in force, or known not to be there.

use tokio::sync::{mpsc, oneshot};

use crate::model::route::ScopeKey;

/// How many may ask before the control thread has looked at any; whoever comes
/// then goes without.
pub const MAX_UNREAD: usize = 1024;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The virtual host of a `host`, in lower case.
    Host(Box<str>),
    /// The routes of the scope with this key.
    Scope(ScopeKey),
}

/// Somebody asks.
#[derive(Debug)]
pub struct Asked {
    /// Of which set.
    pub set: u64,
    /// For what.
    pub what: What,
    /// To be told when there is no more to wait for; dropping it says the same.
    pub answered: oneshot::Sender<()>,
}

/// How workers ask a set for what is not in it.
#[derive(Clone, Debug)]
pub struct Demand {
    set: u64,
    sender: mpsc::Sender<Asked>,
}

impl Demand {
    /// Asks the set of this number.
    pub fn new(set: u64, sender: mpsc::Sender<Asked>) -> Self {
        Self { set, sender }
    }

    /// The number of the set.
    pub fn set(&self) -> u64 {
        self.set
    }

    /// One that nobody hears.
    pub fn deaf() -> Self {
        let (sender, _) = mpsc::channel(1);
        Self { set: 0, sender }
    }

    /// Asks; the receiver is ready when there is no more to wait for. `None` when
    /// too many ask.
    pub fn ask(&self, what: What) -> Option<oneshot::Receiver<()>> {
        let (answered, receiver) = oneshot::channel();
        let asked = Asked {
            set: self.set,
            what,
            answered,
        };
        self.sender.try_send(asked).ok()?;
        Some(receiver)
    }
}
