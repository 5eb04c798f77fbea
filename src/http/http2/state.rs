//! What a stream and its connection know of each other.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;

use super::shared::Shared;
use crate::http::interim::Continue;

/// One stream.
#[derive(Debug)]
pub struct State {
    pub(super) id: u32,
    /// Where its connection serves it.
    pub(super) place: usize,
    /// What came and was not read yet.
    pub(super) unread: RefCell<Unread>,
    /// The client has sent all of it.
    pub(super) received: Cell<bool>,
    pub(super) told: Cell<Continue>,
    /// All of the answer is written.
    pub(super) sent: Cell<bool>,
    /// Why it was reset, by whomever.
    pub(super) reset: Cell<Option<Reason>>,
    /// It has become a tunnel, which sees to its end itself.
    pub(super) tunnel: Cell<bool>,
    /// Nobody will read what comes.
    pub(super) ignored: Cell<bool>,
    /// Bytes that may be sent.
    pub(super) window: Cell<i64>,
    /// It waits for that to grow.
    pub(super) starved: Cell<bool>,
    /// It stands in the line of those that wait for the connection.
    pub(super) queued: Cell<bool>,
    /// Bytes that the client may send, as far as it was told.
    pub(super) open: Cell<i64>,
    /// Bytes that were read and of which it was not told.
    pub(super) owed: Cell<u32>,
    /// Bytes that are still to come, by `content-length`.
    pub(super) left: Cell<Option<u64>>,
}

/// What came of a request's body.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pub(super) data: VecDeque<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
}

impl State {
    /// A stream that has been opened. `length`: what it says about its body; `over`:
    /// the head is all of it.
    pub(super) fn new(
        id: u32,
        place: usize,
        shared: &Shared,
        length: Option<u64>,
        over: bool,
    ) -> Self {
        Self {
            id,
            place,
            unread: RefCell::default(),
            received: Cell::new(over),
            told: Cell::default(),
            sent: Cell::new(false),
            reset: Cell::new(None),
            tunnel: Cell::new(false),
            ignored: Cell::new(false),
            window: Cell::new(shared.initial_window.get()),
            starved: Cell::new(false),
            queued: Cell::new(false),
            open: Cell::new(shared.stream_window.into()),
            owed: Cell::new(0),
            left: Cell::new(length),
        }
    }

    /// Whether neither side has anything more to say.
    pub(super) fn is_closed(&self) -> bool {
        self.reset.get().is_some() || (self.received.get() && self.sent.get())
    }

    /// Counts data that came. `false` when it is more than was announced, or less
    /// at the end.
    pub(super) fn counts(&self, bytes: u64, over: bool) -> bool {
        let Some(left) = self.left.get() else {
            return true;
        };
        let left = left.checked_sub(bytes);
        self.left.set(left);
        left.is_some_and(|left| !over || left == 0)
    }
}
