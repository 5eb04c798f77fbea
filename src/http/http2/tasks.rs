//! The streams of a connection as tasks inside of its own.
//!
//! A stream that is woken sets a bit and wakes the connection's task, unless another
//! has done so before it; that task polls the streams whose bits are set. Many that
//! are woken at once cost it one turn, and what they write goes out together.

use std::{
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::state::State;

const GROUP: usize = u64::BITS as usize;

/// What serves one stream.
type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// The bits of some streams.
#[derive(Debug)]
struct Group {
    bits: AtomicU64,
    task: Waker,
}

/// One stream's bit.
struct Bit {
    group: Arc<Group>,
    mask: u64,
}

impl Wake for Bit {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Who set a bit before has woken the task, which has not looked since.
        if self.group.bits.fetch_or(self.mask, Ordering::AcqRel) == 0 {
            self.group.task.wake_by_ref();
        }
    }
}

struct Place {
    waker: Waker,
    serving: Option<(Rc<State>, Serving)>,
}

/// The streams that are being served.
#[derive(Default)]
pub(super) struct Tasks {
    groups: Vec<Arc<Group>>,
    places: Vec<Place>,
    free: Vec<usize>,
    task: Option<Waker>,
}

impl Tasks {
    /// Names the task that is to be woken, before all else.
    pub(super) fn attend(&mut self, task: &Waker) {
        if self
            .task
            .as_ref()
            .is_some_and(|known| known.will_wake(task))
        {
            return;
        }
        self.task = Some(task.clone());
        self.groups.clear();
        for place in 0..self.places.len() {
            self.places[place].waker = self.waker(place, task);
            self.wake(place);
        }
    }

    fn waker(&mut self, place: usize, task: &Waker) -> Waker {
        if self.groups.len() <= place / GROUP {
            self.groups.push(Arc::new(Group {
                bits: AtomicU64::new(0),
                task: task.clone(),
            }));
        }
        let group = self.groups[place / GROUP].clone();
        let mask = 1 << (place % GROUP);
        Waker::from(Arc::new(Bit { group, mask }))
    }

    /// Finds a place for one more. `None` before [`attend`](Self::attend).
    pub(super) fn place(&mut self) -> Option<usize> {
        if let Some(place) = self.free.pop() {
            return Some(place);
        }
        let task = self.task.clone()?;
        let place = self.places.len();
        let waker = self.waker(place, &task);
        let serving = None;
        self.places.push(Place { waker, serving });
        Some(place)
    }

    /// Begins to serve a stream in a place found for it. It has to be polled.
    pub(super) fn begin(&mut self, state: Rc<State>, serving: Serving) {
        let place = state.place;
        self.places[place].serving = Some((state, serving));
    }

    /// Polls the stream in a place; gives it when it is over.
    pub(super) fn poll(&mut self, place: usize) -> Option<Rc<State>> {
        let Place { waker, serving } = self.places.get_mut(place)?;
        let mut cx = Context::from_waker(waker);
        match serving.as_mut()?.1.as_mut().poll(&mut cx) {
            Poll::Ready(()) => self.end(place),
            Poll::Pending => None,
        }
    }

    /// Ends the serving of the stream in a place, wherever it is.
    pub(super) fn end(&mut self, place: usize) -> Option<Rc<State>> {
        let (state, _) = self.places[place].serving.take()?;
        self.free.push(place);
        Some(state)
    }

    /// Has the stream in a place polled.
    pub(super) fn wake(&self, place: usize) {
        let mask = 1 << (place % GROUP);
        self.groups[place / GROUP]
            .bits
            .fetch_or(mask, Ordering::AcqRel);
    }

    /// Has all of them polled.
    pub(super) fn wake_all(&self) {
        for (place, at) in self.places.iter().enumerate() {
            if at.serving.is_some() {
                self.wake(place);
            }
        }
    }

    /// Whether any is to be polled.
    pub(super) fn any_woken(&self) -> bool {
        self.groups
            .iter()
            .any(|group| group.bits.load(Ordering::Acquire) != 0)
    }

    /// The number of groups of 64 places.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Takes the bits of those of a group that are to be polled. Bit 0 is the place
    /// of 64 times the group.
    pub(super) fn take_woken(&self, group: usize) -> u64 {
        let bits = &self.groups[group].bits;
        match bits.load(Ordering::Acquire) {
            0 => 0,
            _ => bits.swap(0, Ordering::AcqRel),
        }
    }
}
