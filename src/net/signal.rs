//! A single-threaded broadcast: many tasks of one worker wait, one of them or
//! the worker itself wakes them all.
//!
//! Polling a waiter that has nothing to do costs a comparison and a
//! `will_wake`: a connection polls its signals each time it is woken, so this
//! stands on the request path where a lock would not belong.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

#[derive(Debug, Default)]
struct Shared {
    raised: Cell<u64>,
    waiting: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

/// The sending side; clones are the same signal.
#[derive(Clone, Debug, Default)]
pub struct Signal(Rc<Shared>);

impl Signal {
    /// A signal nobody has raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes everyone who waits now.
    pub fn raise(&self) {
        self.0.raised.set(self.0.raised.get() + 1);
        let wakers: Vec<Waker> = self
            .0
            .waiting
            .borrow_mut()
            .iter_mut()
            .filter_map(Option::take)
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Resolves at the next [`Signal::raise`] after this call.
    pub fn wait(&self) -> Wait {
        Wait {
            seen: self.0.raised.get(),
            shared: self.0.clone(),
            place: None,
        }
    }
}

/// The future of [`Signal::wait`]. Dropping it is safe at any time.
#[derive(Debug)]
pub struct Wait {
    shared: Rc<Shared>,
    seen: u64,
    place: Option<usize>,
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.raised.get() != self.seen {
            return Poll::Ready(());
        }
        let place = match self.place {
            Some(place) => place,
            None => {
                let place = self.shared.free.borrow_mut().pop();
                let place = place.unwrap_or_else(|| {
                    let mut waiting = self.shared.waiting.borrow_mut();
                    waiting.push(None);
                    waiting.len() - 1
                });
                self.place = Some(place);
                place
            }
        };
        let mut waiting = self.shared.waiting.borrow_mut();
        match &mut waiting[place] {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            slot => *slot = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.shared.waiting.borrow_mut()[place] = None;
            self.shared.free.borrow_mut().push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_raise_wakes_those_who_wait_and_not_those_who_come_later() {
        let signal = Signal::new();
        let mut early = signal.wait();
        assert!((&mut early).now_or_never().is_none());
        signal.raise();
        assert!((&mut early).now_or_never().is_some());
        assert!(signal.wait().now_or_never().is_none());
    }

    #[test]
    fn a_dropped_waiter_gives_its_place_back() {
        let signal = Signal::new();
        for _ in 0..10 {
            assert!(signal.wait().now_or_never().is_none());
        }
        assert_eq!(signal.0.waiting.borrow().len(), 1);
    }
}
