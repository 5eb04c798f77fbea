//! A copy of a request's body, read by another while the body itself passes by.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::BodyAborted;

/// What both ends know.
#[derive(Debug, Default)]
struct Passed {
    frames: VecDeque<Frame<Bytes>>,
    /// Bytes in them.
    waiting: usize,
    /// With more of them the reader lags.
    limit: usize,
    end: Option<End>,
    reader: Option<Waker>,
    /// Who waits until the reader lags no more.
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    CutOff,
}

impl Passed {
    fn push(&mut self, frame: Frame<Bytes>) {
        if self.end.is_none() {
            self.waiting += frame.data_ref().map_or(0, Bytes::len);
            self.frames.push_back(frame);
            self.wake();
        }
    }

    fn pop(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.frames.pop_front()?;
        self.waiting -= frame.data_ref().map_or(0, Bytes::len);
        if self.waiting <= self.limit {
            self.wake_writer();
        }
        Some(frame)
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn ends(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// How long a body waits for a reader that lags behind and does not move.
const PATIENCE: Duration = Duration::from_secs(1);

/// Those who copy a body as it passes. Dropped before its end, they leave copies
/// that are cut off.
#[derive(Debug, Default)]
pub struct Copiers {
    all: Vec<Copier>,
    /// Runs while a reader lags.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Copiers {
    /// Another copy of what has not passed yet. With more than `limit` bytes that wait
    /// for its reader it lags. `length` is the body's, where that is known.
    pub fn copy(&mut self, length: Option<u64>, limit: usize) -> CopiedBody {
        let passed = Rc::new(RefCell::new(Passed {
            limit,
            ..Passed::default()
        }));
        self.all.push(Copier(passed.clone()));
        CopiedBody { passed, length }
    }

    /// Ready when no reader lags. One that does not move for a second loses the rest,
    /// so that it cannot hold up whom the body is for.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lagging: Vec<_> = self.all.iter().filter(|copier| copier.lags()).collect();
        if lagging.is_empty() {
            self.patience = None;
            return Poll::Ready(());
        }
        for Copier(passed) in &lagging {
            passed.borrow_mut().writer = Some(cx.waker().clone());
        }
        let start = || Box::pin(tokio::time::sleep(PATIENCE));
        let patience = self.patience.get_or_insert_with(start);
        ready!(patience.as_mut().poll(cx));
        self.patience = None;
        for Copier(passed) in &lagging {
            let mut passed = passed.borrow_mut();
            passed.frames.clear();
            passed.ends(End::CutOff);
        }
        Poll::Ready(())
    }

    /// Passes data on.
    pub fn data(&self, data: &Bytes) {
        for copier in self.all.iter().filter(|copier| copier.is_read()) {
            copier.0.borrow_mut().push(Frame::data(data.clone()));
        }
    }

    /// Passes trailers on.
    pub fn trailers(&self, trailers: &HeaderMap) {
        for Copier(passed) in &self.all {
            passed.borrow_mut().push(Frame::trailers(trailers.clone()));
        }
    }

    /// That was all.
    pub fn finish(&self) {
        for Copier(passed) in &self.all {
            passed.borrow_mut().ends(End::Whole);
        }
    }
}

#[derive(Debug)]
struct Copier(Rc<RefCell<Passed>>);

impl Copier {
    /// Nobody reads what nobody else holds.
    fn is_read(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    fn lags(&self) -> bool {
        let passed = self.0.borrow();
        self.is_read() && passed.end.is_none() && passed.waiting > passed.limit
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.0.borrow_mut().ends(End::CutOff);
    }
}

/// A copy, to be read by who is not served by the same task.
#[derive(Debug)]
pub struct CopiedBody {
    passed: Rc<RefCell<Passed>>,
    length: Option<u64>,
}

impl CopiedBody {
    /// Ready when it is cut off, however much of it is still to be read.
    pub fn poll_cut_off(&self, cx: &Context<'_>) -> Poll<()> {
        let mut passed = self.passed.borrow_mut();
        match passed.end {
            Some(End::CutOff) => Poll::Ready(()),
            Some(End::Whole) => Poll::Pending,
            None => {
                passed.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Body for CopiedBody {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        let mut passed = self.passed.borrow_mut();
        if let Some(frame) = passed.pop() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match passed.end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::CutOff) => Poll::Ready(Some(Err(BodyAborted::Left))),
            None => {
                passed.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let passed = self.passed.borrow();
        passed.frames.is_empty() && passed.end == Some(End::Whole)
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for CopiedBody {
    fn drop(&mut self) {
        self.passed.borrow_mut().wake_writer();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    fn next(body: &mut CopiedBody) -> Option<Option<Result<Bytes, BodyAborted>>> {
        let frame = body.frame().now_or_never()?;
        Some(frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())))
    }

    #[test]
    fn what_passes_is_read_to_its_end() {
        let mut copiers = Copiers::default();
        let mut body = copiers.copy(Some(5), 100);
        assert_eq!(next(&mut body), None);
        copiers.data(&Bytes::from_static(b"hello"));
        assert!(!body.is_end_stream());
        assert_eq!(next(&mut body), Some(Some(Ok("hello".into()))));
        copiers.finish();
        drop(copiers);
        assert!(body.is_end_stream());
        assert_eq!(next(&mut body), Some(None));
    }

    #[test]
    fn a_body_that_ends_early_is_cut_off() {
        let mut copiers = Copiers::default();
        let mut body = copiers.copy(None, 100);
        copiers.data(&Bytes::from_static(b"hello"));
        drop(copiers);
        assert_eq!(next(&mut body), Some(Some(Ok("hello".into()))));
        assert_eq!(next(&mut body), Some(Some(Err(BodyAborted::Left))));
    }

    #[tokio::test]
    async fn a_reader_is_waited_for_unless_it_does_not_move() {
        let mut copiers = Copiers::default();
        let mut body = copiers.copy(None, 8);
        let gone = copiers.copy(None, 8);
        for _ in 0..2 {
            copiers.data(&Bytes::from_static(b"hello"));
        }
        drop(gone);
        let waits = |copiers: &mut Copiers| poll_fn(|cx| copiers.poll_room(cx)).now_or_never();
        assert_eq!(waits(&mut copiers), None);
        assert_eq!(next(&mut body), Some(Some(Ok("hello".into()))));
        assert_eq!(waits(&mut copiers), Some(()));
        copiers.data(&Bytes::from_static(b"hello"));
        let cut_off = poll_fn(|cx| body.poll_cut_off(cx));
        tokio::join!(cut_off, poll_fn(|cx| copiers.poll_room(cx)));
        copiers.finish();
        assert_eq!(next(&mut body), Some(Some(Err(BodyAborted::Left))));
    }
}
