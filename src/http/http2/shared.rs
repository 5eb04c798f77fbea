//! What the streams of a connection share with its task: the way out, and the
//! windows.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use bytes::{BufMut, Bytes, BytesMut};
use h2::Reason;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{outgoing::Outgoing, state::State};
use crate::{
    codec::hpack::Encoder,
    http::config::protocol::Http2Options,
    net::http2::{
        Counts, End,
        frames::{
            CONTINUATION, DATA, END_HEADERS, END_STREAM, FrameHead, HEADER, HEADERS, RST_STREAM,
            WINDOW_UPDATE,
        },
    },
    stats::Block,
};

/// Bytes of a frame's payload, at most, both ways: every peer takes as many, and none
/// is told that it may send more.
pub(super) const FRAME_MAX: usize = 16 * 1024;
/// Every window, before anybody said anything.
pub(super) const WINDOW: u32 = 65_535;
/// Bytes of a body that a stream may write in one go.
const SHARE: i64 = 64 * 1024;

/// What the streams of a connection share with its task. Nothing here is borrowed
/// while a stream is polled.
#[derive(Debug)]
pub struct Shared {
    pub(super) out: RefCell<Out>,
    /// Streams that wait for room, in their order.
    waiting: RefCell<VecDeque<Rc<State>>>,
    /// Bytes that the client may send, as far as it was told.
    pub(super) open: Cell<i64>,
    /// Bytes that were read and of which it was not told.
    owed: Cell<u32>,
    /// Bytes of a stream that may be sent before the client says more.
    pub(super) initial_window: Cell<i64>,
    /// The client's windows as configured.
    pub(super) stream_window: u32,
    pub(super) connection_window: u32,
    pub(super) stats: Arc<Block>,
}

/// The way out.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) wire: Outgoing,
    pub(super) encoder: Encoder,
    pub(super) counts: Counts,
    /// Bytes that may be sent on all streams together.
    pub(super) window: i64,
}

impl Out {
    fn put(&mut self, kind: u8, flags: u8, stream: u32, length: usize) -> FrameHead {
        let head = FrameHead {
            length: length as u32,
            kind,
            flags,
            stream,
            reason: 0,
        };
        self.wire.tail().put_slice(&head.to_bytes());
        head
    }
}

impl Shared {
    pub(super) fn new(options: &Http2Options, stats: Arc<Block>, buffer: usize) -> Self {
        Self {
            out: RefCell::new(Out {
                wire: Outgoing::up_to(buffer),
                encoder: Encoder::default(),
                counts: Counts::new(End::Server, options.limits.clone()),
                window: WINDOW.into(),
            }),
            waiting: RefCell::default(),
            open: Cell::new(WINDOW.into()),
            owed: Cell::new(0),
            initial_window: Cell::new(WINDOW.into()),
            stream_window: options.stream_window,
            connection_window: options.connection_window.max(WINDOW),
            stats,
        }
    }

    /// Writes a frame as a whole.
    pub(super) fn frame(&self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let out = &mut *self.out.borrow_mut();
        let mut head = out.put(kind, flags, stream, payload.len());
        out.wire.tail().put_slice(payload);
        if let (RST_STREAM, Some(reason)) = (kind, payload.first_chunk()) {
            head.reason = u32::from_be_bytes(*reason);
        }
        out.counts.sent(head, &self.stats);
    }

    /// Resets a stream, unless it has been.
    pub(super) fn reset(&self, state: &State, reason: Reason) {
        if state.reset.get().is_none() {
            state.reset.set(Some(reason));
            let reason = u32::from(reason).to_be_bytes();
            self.frame(RST_STREAM, 0, state.id, &reason);
        }
    }

    /// Writes the head of a response. `over`: there is nothing else.
    pub(in crate::http) fn head<'h>(
        &self,
        state: &State,
        status: StatusCode,
        headers: impl IntoIterator<Item = (&'h HeaderName, &'h HeaderValue)>,
        over: bool,
    ) {
        self.block(state, over, |encoder, out| {
            encoder.status(status, out);
            for (name, value) in headers {
                if !is_of_connection(name) {
                    encoder.header(name, value, out);
                }
            }
        });
    }

    /// Writes trailers, and with them the end.
    pub(super) fn trailers<'h>(
        &self,
        state: &State,
        trailers: impl IntoIterator<Item = (&'h HeaderName, &'h HeaderValue)>,
    ) {
        self.block(state, true, |encoder, out| {
            for (name, value) in trailers {
                encoder.header(name, value, out);
            }
        });
    }

    fn block(&self, state: &State, over: bool, write: impl FnOnce(&mut Encoder, &mut BytesMut)) {
        if state.reset.get().is_some() || state.sent.get() {
            return;
        }
        state.sent.set(over);
        let out = &mut *self.out.borrow_mut();
        let tail = out.wire.tail();
        let from = tail.len();
        tail.put_slice(&[0; HEADER]);
        out.encoder.begin(tail);
        write(&mut out.encoder, tail);
        let length = tail.len() - from - HEADER;
        let mut head = FrameHead {
            length: length.min(FRAME_MAX) as u32,
            kind: HEADERS,
            flags: if over { END_STREAM } else { 0 },
            stream: state.id,
            reason: 0,
        };
        if length <= FRAME_MAX {
            head.flags |= END_HEADERS;
            tail[from..from + HEADER].copy_from_slice(&head.to_bytes());
            return;
        }
        let mut rest = tail.split_off(from + HEADER);
        tail[from..].copy_from_slice(&head.to_bytes());
        tail.put_slice(&rest.split_to(FRAME_MAX));
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(FRAME_MAX));
            let flags = if rest.is_empty() { END_HEADERS } else { 0 };
            out.put(CONTINUATION, flags, state.id, part.len());
            out.wire.tail().put_slice(&part);
        }
    }

    /// How many bytes of its body a stream may write now; otherwise it is polled when
    /// there is room.
    pub(super) fn poll_room(&self, state: &Rc<State>) -> Poll<usize> {
        let out = self.out.borrow();
        let window = state.window.get();
        if window <= 0 {
            state.starved.set(true);
            return Poll::Pending;
        }
        if out.window <= 0 || !out.wire.has_room() {
            if !state.queued.replace(true) {
                self.waiting.borrow_mut().push_back(state.clone());
            }
            return Poll::Pending;
        }
        let room = window.min(out.window).min(SHARE);
        Poll::Ready(usize::try_from(room).unwrap_or(0))
    }

    /// The next of those that wait for room, if there is any.
    pub(super) fn next_waiting(&self) -> Option<Rc<State>> {
        let out = self.out.borrow();
        if out.window <= 0 || !out.wire.has_room() {
            return None;
        }
        let next = self.waiting.borrow_mut().pop_front()?;
        next.queued.set(false);
        Some(next)
    }

    /// Writes a piece of a body, for which there is room. `over`: it is the last.
    pub(super) fn data(&self, state: &State, mut data: Bytes, over: bool) {
        if state.reset.get().is_some() || state.sent.get() {
            return;
        }
        state.sent.set(over);
        let out = &mut *self.out.borrow_mut();
        let length = data.len() as i64;
        out.window -= length;
        state.window.set(state.window.get() - length);
        loop {
            let part = data.split_to(data.len().min(FRAME_MAX));
            let last = data.is_empty();
            let flags = if last && over { END_STREAM } else { 0 };
            let head = out.put(DATA, flags, state.id, part.len());
            out.counts.sent(head, &self.stats);
            out.wire.push(part);
            if last {
                return;
            }
        }
    }

    /// Lets the client send as many bytes of a stream as were read of it.
    pub(super) fn consumed(&self, state: &State, bytes: usize) {
        self.released(bytes);
        if state.received.get() || state.reset.get().is_some() {
            return;
        }
        let owed = state.owed.get() + bytes as u32;
        if owed < self.stream_window / 2 {
            return state.owed.set(owed);
        }
        state.owed.set(0);
        state.open.set(state.open.get() + i64::from(owed));
        self.frame(WINDOW_UPDATE, 0, state.id, &owed.to_be_bytes());
    }

    /// The same for the connection alone: what nobody will read, too.
    pub(super) fn released(&self, bytes: usize) {
        let owed = self.owed.get() + bytes as u32;
        if owed < self.connection_window / 2 {
            return self.owed.set(owed);
        }
        self.owed.set(0);
        self.open.set(self.open.get() + i64::from(owed));
        self.frame(WINDOW_UPDATE, 0, 0, &owed.to_be_bytes());
    }

    /// From now on nobody reads what comes on a stream.
    pub(super) fn ignore(&self, state: &State) {
        if !state.ignored.replace(true) {
            let unread = std::mem::take(&mut state.unread.borrow_mut().data);
            self.released(unread.iter().map(Bytes::len).sum());
        }
    }
}

/// Whether a header has no meaning in HTTP/2 (RFC 9113, 8.2.2).
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || name == "keep-alive"
        || name == "proxy-connection"
}
