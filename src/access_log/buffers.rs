//! A worker's entries on their way to files and services.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::sink::Sink;

/// The buffers of one worker: one for each sink it has written to.
///
/// An entry that comes when none was written for the flush interval goes out at
/// once, so that a person who tries something out sees it; then lines gather
/// until the interval is over or the buffer is full.
#[derive(Debug, Default)]
pub struct Buffers {
    each: RefCell<Vec<Buffer>>,
}

#[derive(Debug)]
struct Buffer {
    sink: Arc<Sink>,
    bytes: Vec<u8>,
    entries: u64,
    /// A task waits to flush.
    timed: bool,
}

impl Buffers {
    /// Nothing yet.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Lets `write` append one entry, a file's with its line feed, to a sink's buffer.
    ///
    /// To be called within a tokio `LocalSet`, where the flush timer runs.
    pub fn append(self: &Rc<Self>, sink: &Arc<Sink>, write: impl FnOnce(&mut Vec<u8>)) {
        let mut each = self.each.borrow_mut();
        let at = match each.iter().position(|b| Arc::ptr_eq(&b.sink, sink)) {
            Some(at) => at,
            None => {
                // A sink that no configuration names any more is let go of.
                each.retain(|b| !b.bytes.is_empty() || Arc::strong_count(&b.sink) > 1);
                each.push(Buffer::new(sink.clone()));
                each.len() - 1
            }
        };
        let buffer = &mut each[at];
        let before = buffer.bytes.len();
        write(&mut buffer.bytes);
        let length = buffer.bytes.len() - before;
        if length == 0 {
            return;
        }
        buffer.entries += 1;
        sink.appended(length);
        let settings = sink.settings();
        if buffer.bytes.len() >= settings.size {
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
                sink.flushed_by_timer();
                buffer.flush();
            }
        });
    }

    /// Hands everything over.
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
            bytes: Vec::new(),
            entries: 0,
            timed: false,
        }
    }

    fn flush(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        // The next buffer will likely need as much.
        let next = Vec::with_capacity(self.bytes.len().min(self.sink.settings().size));
        let bytes = std::mem::replace(&mut self.bytes, next);
        self.sink.write(bytes, std::mem::take(&mut self.entries));
    }
}
