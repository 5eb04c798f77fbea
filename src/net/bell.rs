//! Futures of a busy task that are asked only when they have something to say.
//!
//! The task of a connection is woken several times for each request. What it waits
//! for all its life, a drain or a timer, need not be polled each time: it says
//! itself when it wants to be.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// A waker for one task that notes that it was used.
#[derive(Debug)]
pub struct Bell {
    inner: Arc<Inner>,
    waker: Waker,
}

#[derive(Debug)]
struct Inner {
    rang: AtomicBool,
    task: Waker,
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task is woken, which may be on another thread.
        self.rang.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Bell {
    /// One that wakes the task of `cx`. It counts as rung, for nobody has been asked
    /// yet.
    pub fn new(cx: &Context<'_>) -> Self {
        let inner = Arc::new(Inner {
            rang: AtomicBool::new(true),
            task: cx.waker().clone(),
        });
        Self {
            waker: inner.clone().into(),
            inner,
        }
    }

    /// Whether it was rung since this was asked last.
    #[inline]
    pub fn rang(&self) -> bool {
        self.inner.rang.load(Ordering::Relaxed) && self.inner.rang.swap(false, Ordering::Acquire)
    }

    /// What rings it.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// A future that is polled only when it has woken its task. All polls have to come
/// from the same task.
#[derive(Debug)]
pub struct Quietly<F> {
    future: F,
    bell: Option<Bell>,
}

impl<F: Future + Unpin> Quietly<F> {
    /// Wraps a future.
    pub fn new(future: F) -> Self {
        Self { future, bell: None }
    }
}

impl<F: Future + Unpin> Future for Quietly<F> {
    type Output = F::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let bell = this.bell.get_or_insert_with(|| Bell::new(cx));
        if !bell.rang() {
            return Poll::Pending;
        }
        let mut cx = Context::from_waker(bell.waker());
        Pin::new(&mut this.future).poll(&mut cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, future::poll_fn, pin::pin};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn it_is_asked_when_it_has_something_to_say() {
        let asked = Cell::new(0);
        let (say, mut said) = oneshot::channel();
        let future = poll_fn(|cx| {
            asked.set(asked.get() + 1);
            Pin::new(&mut said).poll(cx)
        });
        let mut quiet = pin!(Quietly::new(future));
        let mut say = Some(say);
        let mut polls = 0;
        let outcome = poll_fn(|cx| {
            polls += 1;
            if polls < 5 {
                cx.waker().wake_by_ref();
            } else if let Some(say) = say.take() {
                say.send(7).unwrap();
            }
            quiet.as_mut().poll(cx)
        })
        .await;
        assert_eq!((outcome, asked.get()), (Ok(7), 2));
    }
}
