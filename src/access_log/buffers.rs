//! A worker's lines on their way to the files.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::files::{Sink, stats};

/// The buffers of one worker: one for each file it has written to.
///
/// A line that comes when none was written for the flush interval goes out at
/// once, so that a person who tries something out sees it; then lines gather
/// until the interval is over or the buffer is full.
#[derive(Debug, Default)]
pub struct Buffers {
    each: RefCell<Vec<Buffer>>,
}

#[derive(Debug)]
struct Buffer {
    sink: Arc<Sink>,
    lines: Vec<u8>,
    /// A task waits to flush.
    timed: bool,
}

impl Buffers {
    /// No lines yet.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Lets `write` append one line, with its line feed, to a file's buffer.
    ///
    /// To be called within a tokio `LocalSet`, where the flush timer runs.
    pub fn append(self: &Rc<Self>, sink: &Arc<Sink>, write: impl FnOnce(&mut Vec<u8>)) {
        let mut each = self.each.borrow_mut();
        let at = match each.iter().position(|b| Arc::ptr_eq(&b.sink, sink)) {
            Some(at) => at,
            None => {
                // A file that no configuration names any more is let go of.
                each.retain(|b| !b.lines.is_empty() || Arc::strong_count(&b.sink) > 1);
                each.push(Buffer::new(sink.clone()));
                each.len() - 1
            }
        };
        let buffer = &mut each[at];
        let before = buffer.lines.len();
        write(&mut buffer.lines);
        let length = buffer.lines.len() - before;
        if length == 0 {
            return;
        }
        let block = sink.stats();
        block.inc(stats::write_buffered);
        block.gauge_add(stats::write_total_buffered, length as u64);

        let settings = sink.settings();
        if buffer.lines.len() >= settings.size {
            buffer.flush();
        } else if !buffer.timed {
            // No timer runs: nothing was written for the interval.
            buffer.flush();
            buffer.timed = true;
            self.flush_after(settings.interval, sink);
        }
    }

    fn flush_after(self: &Rc<Self>, interval: std::time::Duration, sink: &Arc<Sink>) {
        let (buffers, sink) = (Rc::downgrade(self), Arc::downgrade(sink));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(interval).await;
            let (Some(buffers), Some(sink)) = (buffers.upgrade(), sink.upgrade()) else {
                return;
            };
            let mut each = buffers.each.borrow_mut();
            let mut of_sink = each.iter_mut().filter(|b| Arc::ptr_eq(&b.sink, &sink));
            if let Some(buffer) = of_sink.next() {
                buffer.timed = false;
                sink.stats().inc(stats::flushed_by_timer);
                buffer.flush();
            }
        });
    }

    /// Hands everything over to the writer threads.
    pub fn flush(&self) {
        for buffer in self.each.borrow_mut().iter_mut() {
            buffer.flush();
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Buffer {
    fn new(sink: Arc<Sink>) -> Self {
        Self {
            sink,
            lines: Vec::new(),
            timed: false,
        }
    }

    fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        // The next buffer will likely need as much.
        let next = Vec::with_capacity(self.lines.len().min(self.sink.settings().size));
        self.sink.write(std::mem::replace(&mut self.lines, next));
    }
}
