//! A timer that is cheap to move into the future.
//!
//! Nearly every request ends long before its time limit, so a timer armed and
//! disarmed for each would be work for nothing. An [`Alarm`] stays armed for the
//! earliest moment it was asked for and looks again when it rings: on a
//! keep-alive connection it is set once in a while, not once for each request.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

use crate::net::Bell;

/// One task's timer. Everything that waits on it has to be polled by that task.
#[derive(Debug, Default)]
pub struct Alarm(RefCell<Option<Armed>>);

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    bell: Bell,
}

impl Alarm {
    /// Ready at `deadline` or later; otherwise wakes the task by then.
    pub fn poll(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let mut slot = self.0.borrow_mut();
        let Armed { sleep, bell } = slot.get_or_insert_with(|| Armed {
            sleep: Box::pin(sleep_until(deadline.into())),
            bell: Bell::new(cx),
        });
        let too_late = deadline < sleep.deadline().into_std();
        if !bell.rang() && !too_late {
            return Poll::Pending;
        }
        if too_late {
            sleep.as_mut().reset(deadline.into());
        }
        let mut cx = Context::from_waker(bell.waker());
        while sleep.as_mut().poll(&mut cx).is_ready() {
            if Instant::now() >= deadline {
                // What is asked for next is armed anew.
                *slot = None;
                return Poll::Ready(());
            }
            // It rang for something that is over.
            sleep.as_mut().reset(deadline.into());
        }
        Poll::Pending
    }
}

/// One timer for the streams of a connection, which stays armed for the earliest
/// moment that any of them asked for. When it rings all of them have to ask again.
#[derive(Debug, Default)]
pub struct Alarms {
    next: Cell<Option<Instant>>,
    alarm: Alarm,
}

impl Alarms {
    /// Ready at `deadline` or later; otherwise [`poll`](Self::poll) is by then. To be
    /// asked before that is polled.
    pub fn ask(&self, deadline: Instant) -> Poll<()> {
        if self.next.get().is_some_and(|next| next <= deadline) {
            return Poll::Pending;
        }
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        self.next.set(Some(deadline));
        Poll::Pending
    }

    /// Ready when it rings.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(next) = self.next.get() else {
            return Poll::Pending;
        };
        self.alarm.poll(cx, next).map(|()| self.next.set(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, time::Duration};

    #[tokio::test]
    async fn it_rings_for_the_deadline_in_force() {
        let alarm = Alarm::default();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        poll_fn(|cx| {
            // For another deadline it stays armed and rings for nobody.
            assert!(alarm.poll(cx, after(5000)).is_pending());
            alarm.poll(cx, after(30))
        })
        .await;
        assert!(Instant::now() >= after(30));
        poll_fn(|cx| alarm.poll(cx, after(40))).await;
        assert!(Instant::now() >= after(40));
    }
}
