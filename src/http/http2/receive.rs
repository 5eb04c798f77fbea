//! What a client's frames do.

use std::{rc::Rc, time::Instant};

use bytes::{Buf, Bytes, BytesMut};
use h2::Reason;

use super::{
    connection::{Connection, Over, Unfinished},
    request::{BadBlock, Reading},
    shared::FRAME_MAX,
    state::State,
    stream,
};
use crate::{
    codec::take,
    net::http2::{
        frames::{
            ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FrameHead, GOAWAY, HEADER, HEADERS,
            PADDED, PING, PRIORITIZED, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
        },
        stats::http2_stats,
    },
};

/// The greatest window (RFC 9113, 6.9.1).
const WINDOW_MAX: i64 = 0x7fff_ffff;
/// Streams that were reset here and are remembered.
const RESETS: usize = 512;
/// Bytes of a header block beyond twice its limit.
const BLOCK_MORE: usize = 64 * 1024;

const PROTOCOL: Over = Over::Broken(Reason::PROTOCOL_ERROR);
const SIZE: Over = Over::Broken(Reason::FRAME_SIZE_ERROR);

/// What becomes of a frame.
type Outcome = Result<(), Over>;

impl Connection<'_> {
    /// Does what the frames say that have come as a whole, as long as there is room
    /// for the answers.
    pub(super) fn frames(&mut self) -> Outcome {
        let mut bytes = std::mem::take(&mut self.inbound.bytes);
        let outcome = self.each_frame(&mut bytes);
        if !bytes.is_empty() {
            self.inbound.bytes = bytes;
        }
        outcome
    }

    fn each_frame(&mut self, bytes: &mut BytesMut) -> Outcome {
        if !self.preface.is_empty() {
            let n = self.preface.len().min(bytes.len());
            let (now, rest) = self.preface.split_at(n);
            if bytes[..n] != *now {
                return Err(PROTOCOL);
            }
            bytes.advance(n);
            self.preface = rest;
        }
        loop {
            self.choked = false;
            let Some(head) = FrameHead::parse(bytes) else {
                return Ok(());
            };
            let length = head.length as usize;
            if length > FRAME_MAX {
                return Err(SIZE);
            }
            let whole = HEADER + length;
            if bytes.len() < whole {
                return Ok(());
            }
            if !self.has_room() {
                self.choked = true;
                return Ok(());
            }
            self.count(head)?;
            if !std::mem::replace(&mut self.settled, true)
                && (head.kind != SETTINGS || head.flags & ACK != 0)
            {
                return Err(PROTOCOL);
            }
            if self.block.is_some() && head.kind != CONTINUATION {
                return Err(PROTOCOL);
            }
            if head.kind == DATA {
                // What waits must not keep much more than itself.
                let data = match whole * 4 < bytes.capacity() {
                    true => {
                        let data = Bytes::copy_from_slice(&bytes[HEADER..whole]);
                        bytes.advance(whole);
                        data
                    }
                    false => take(bytes, whole).slice(HEADER..),
                };
                self.data(head, data)?;
            } else {
                self.frame(head, &bytes[HEADER..whole])?;
                bytes.advance(whole);
            }
        }
    }

    fn count(&self, head: FrameHead) -> Outcome {
        let counts = &mut self.shared.out.borrow_mut().counts;
        let counted = counts.received(head, &self.shared.stats);
        counted.map_err(|_| Over::Cut)
    }

    fn frame(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        match head.kind {
            HEADERS => self.headers(head, payload),
            CONTINUATION => self.continuation(head, payload),
            PRIORITY => self.priority(head, payload),
            RST_STREAM => self.rst_stream(head),
            SETTINGS => self.settings(head, payload),
            PING => self.ping(head, payload),
            WINDOW_UPDATE => self.window_update(head, payload),
            GOAWAY if head.stream != 0 => Err(PROTOCOL),
            // The client will close when it is done.
            GOAWAY if payload.len() >= 8 => Ok(()),
            GOAWAY => Err(SIZE),
            PUSH_PROMISE => Err(PROTOCOL),
            // Whatever else there may be (RFC 9113, 5.5).
            _ => Ok(()),
        }
    }

    fn find(&self, id: u32) -> Option<Rc<State>> {
        let at = self.open.binary_search_by_key(&id, |open| open.id).ok()?;
        let state = &self.open[at];
        state.reset.get().is_none().then(|| state.clone())
    }

    /// Whether a stream has not been opened yet.
    fn is_idle(&self, id: u32) -> bool {
        id > self.last || id.is_multiple_of(2)
    }

    /// Remembers a stream that was reset here.
    pub(super) fn was_reset(&mut self, id: u32) {
        if self.resets.len() == RESETS {
            self.resets.pop_front();
        }
        self.resets.push_back(id);
    }

    /// Resets a stream for what the client did.
    fn fault(&mut self, id: u32, reason: Reason) -> Outcome {
        let faulted = self.shared.out.borrow_mut().counts.faulted();
        faulted.map_err(|_| Over::Broken(Reason::ENHANCE_YOUR_CALM))?;
        match self.find(id) {
            Some(state) => {
                self.shared.reset(&state, reason);
                self.abandon(&state);
            }
            None => {
                let reason = u32::from(reason).to_be_bytes();
                self.shared.frame(RST_STREAM, 0, id, &reason);
                self.was_reset(id);
            }
        }
        Ok(())
    }

    /// Ends what is under way for a stream that was reset.
    fn abandon(&mut self, state: &State) {
        if state.tunnel.get() {
            // It is told, for its other end has to be.
            return self.tasks.wake(state.place);
        }
        self.tasks.end(state.place);
        self.ended(state);
    }

    /// Data that comes on a stream that is over. The client may not have known.
    fn late(&mut self, id: u32) -> Outcome {
        if self.is_idle(id) {
            return Err(PROTOCOL);
        }
        match self.resets.contains(&id) {
            true => Ok(()),
            false => self.fault(id, Reason::STREAM_CLOSED),
        }
    }

    fn data(&mut self, head: FrameHead, mut data: Bytes) -> Outcome {
        let all = data.len();
        if head.stream == 0 {
            return Err(PROTOCOL);
        }
        if head.flags & PADDED != 0 {
            let pad = usize::from(*data.first().ok_or(SIZE)?);
            let end = data.len().checked_sub(pad).filter(|end| *end > 0);
            data = data.slice(1..end.ok_or(PROTOCOL)?);
        }
        let shared = self.shared.clone();
        shared.open.set(shared.open.get() - all as i64);
        if shared.open.get() < 0 {
            return Err(Over::Broken(Reason::FLOW_CONTROL_ERROR));
        }
        let Some(state) = self.find(head.stream) else {
            shared.released(all);
            return self.late(head.stream);
        };
        if state.received.get() {
            shared.released(all);
            return self.fault(state.id, Reason::STREAM_CLOSED);
        }
        state.open.set(state.open.get() - all as i64);
        if state.open.get() < 0 {
            shared.released(all);
            return self.fault(state.id, Reason::FLOW_CONTROL_ERROR);
        }
        let over = head.flags & END_STREAM != 0;
        if !state.counts(data.len() as u64, over) {
            shared.released(all);
            return self.fault(state.id, Reason::PROTOCOL_ERROR);
        }
        state.received.set(over);
        let padding = all - data.len();
        if padding > 0 {
            shared.consumed(&state, padding);
        }
        if state.ignored.get() {
            shared.released(data.len());
        } else if !data.is_empty() {
            state.unread.borrow_mut().data.push_back(data);
        }
        self.tasks.wake(state.place);
        Ok(())
    }

    fn headers(&mut self, head: FrameHead, mut payload: &[u8]) -> Outcome {
        if head.stream.is_multiple_of(2) {
            return Err(PROTOCOL);
        }
        if head.flags & PADDED != 0 {
            let (pad, rest) = payload.split_first().ok_or(SIZE)?;
            let end = rest.len().checked_sub(usize::from(*pad)).ok_or(PROTOCOL)?;
            payload = &rest[..end];
        }
        if head.flags & PRIORITIZED != 0 {
            let (priority, rest) = payload.split_first_chunk::<5>().ok_or(SIZE)?;
            if depends_on(priority) == head.stream {
                return Err(PROTOCOL);
            }
            payload = rest;
        }
        if head.flags & END_HEADERS != 0 {
            return self.block(head, payload);
        }
        self.block = Some(Unfinished {
            head,
            bytes: payload.into(),
            since: Instant::now(),
        });
        Ok(())
    }

    fn continuation(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        let Some(mut block) = self.block.take() else {
            return Err(PROTOCOL);
        };
        if block.head.stream != head.stream {
            return Err(PROTOCOL);
        }
        if block.bytes.len() + payload.len() > self.limits.bytes * 2 + BLOCK_MORE {
            return Err(Over::Broken(Reason::ENHANCE_YOUR_CALM));
        }
        block.bytes.extend_from_slice(payload);
        if head.flags & END_HEADERS != 0 {
            return self.block(block.head, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A header block has come to its end.
    fn block(&mut self, head: FrameHead, block: &[u8]) -> Outcome {
        let id = head.stream;
        let over = head.flags & END_STREAM != 0;
        let mut reading = Reading::new(self.limits);
        let decoded = self.decoder.decode(block, |field| reading.push(field));
        decoded.map_err(|_| Over::Broken(Reason::COMPRESSION_ERROR))?;
        if let Some(state) = self.find(id) {
            return self.trailers(&state, over, reading);
        }
        if id <= self.last {
            return match self.resets.contains(&id) {
                true => Ok(()),
                false => Err(Over::Broken(Reason::STREAM_CLOSED)),
            };
        }
        self.last = id;
        if id > self.accepts {
            self.was_reset(id);
            return Ok(());
        }
        if self.open.len() >= self.manager.http2.concurrent_streams as usize {
            return self.fault(id, Reason::REFUSED_STREAM);
        }
        let connect = self.manager.http2.allow_connect;
        let asked = match reading.into_request(connect, &mut self.hosts) {
            Ok(asked) => asked,
            Err(bad) => return self.refuse(id, bad),
        };
        if over && asked.length.is_some_and(|length| length > 0) {
            return self.fault(id, Reason::PROTOCOL_ERROR);
        }
        let Some(place) = self.tasks.place() else {
            return Err(Over::Cut);
        };
        let state = Rc::new(State::new(id, place, &self.shared, asked.length, over));
        self.open.push_back(state.clone());
        let (session, shared) = (self.session.clone(), self.shared.clone());
        let serving = stream::serve(session, shared, state.clone(), asked);
        self.tasks.begin(state, Box::pin(serving));
        self.serve(place);
        Ok(())
    }

    fn trailers(&mut self, state: &State, over: bool, reading: Reading) -> Outcome {
        if state.received.get() {
            return self.fault(state.id, Reason::STREAM_CLOSED);
        }
        if !over || !state.counts(0, true) {
            return self.fault(state.id, Reason::PROTOCOL_ERROR);
        }
        match reading.into_trailers() {
            Ok(trailers) => {
                state.unread.borrow_mut().trailers = Some(trailers);
                state.received.set(true);
                self.tasks.wake(state.place);
                Ok(())
            }
            Err(bad) => self.refuse(state.id, bad),
        }
    }

    fn refuse(&mut self, id: u32, bad: BadBlock) -> Outcome {
        let reason = match bad {
            BadBlock::Malformed => Reason::PROTOCOL_ERROR,
            BadBlock::TooLarge => Reason::INTERNAL_ERROR,
            BadBlock::TooMany => {
                self.shared.stats.inc(http2_stats::header_overflow);
                Reason::INTERNAL_ERROR
            }
        };
        self.fault(id, reason)
    }

    fn priority(&self, head: FrameHead, payload: &[u8]) -> Outcome {
        let priority = payload.try_into().map_err(|_| SIZE)?;
        match head.stream == 0 || depends_on(priority) == head.stream {
            true => Err(PROTOCOL),
            false => Ok(()),
        }
    }

    fn rst_stream(&mut self, head: FrameHead) -> Outcome {
        if head.length != 4 {
            return Err(SIZE);
        }
        if head.stream == 0 || self.is_idle(head.stream) {
            return Err(PROTOCOL);
        }
        if let Some(state) = self.find(head.stream) {
            state.reset.set(Some(Reason::from(head.reason)));
            // It says no more.
            state.received.set(true);
            self.abandon(&state);
        }
        Ok(())
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream != 0 {
            return Err(PROTOCOL);
        }
        if head.flags & ACK != 0 {
            if head.length != 0 {
                return Err(SIZE);
            }
            let table = self.manager.http2.header_table;
            self.decoder.set_limit(table as usize);
            return Ok(());
        }
        let (settings, []) = payload.as_chunks::<6>() else {
            return Err(SIZE);
        };
        let mut initial_window = None;
        for [i0, i1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            match u16::from_be_bytes([*i0, *i1]) {
                // HEADER_TABLE_SIZE
                1 => {
                    let encoder = &mut self.shared.out.borrow_mut().encoder;
                    encoder.set_limit(value as usize);
                }
                // ENABLE_PUSH
                2 if value > 1 => return Err(PROTOCOL),
                // INITIAL_WINDOW_SIZE
                4 if i64::from(value) > WINDOW_MAX => {
                    return Err(Over::Broken(Reason::FLOW_CONTROL_ERROR));
                }
                4 => initial_window = Some(value),
                // MAX_FRAME_SIZE
                5 if !(0x4000..0x100_0000).contains(&value) => return Err(PROTOCOL),
                // ENABLE_CONNECT_PROTOCOL is for clients to hear.
                _ => {}
            }
        }
        // Once: each visits all streams.
        if let Some(value) = initial_window {
            self.initial_window(value)?;
        }
        self.shared.frame(SETTINGS, ACK, 0, &[]);
        Ok(())
    }

    fn initial_window(&mut self, value: u32) -> Outcome {
        let value = i64::from(value);
        let more = value - self.shared.initial_window.replace(value);
        for state in &self.open {
            let window = state.window.get() + more;
            if window > WINDOW_MAX {
                return Err(Over::Broken(Reason::FLOW_CONTROL_ERROR));
            }
            state.window.set(window);
            if window > 0 && state.starved.replace(false) {
                self.tasks.wake(state.place);
            }
        }
        Ok(())
    }

    fn ping(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream != 0 {
            return Err(PROTOCOL);
        }
        let payload: [u8; 8] = payload.try_into().map_err(|_| SIZE)?;
        match head.flags & ACK {
            0 => self.shared.frame(PING, ACK, 0, &payload),
            _ => self.ponged(payload),
        }
        Ok(())
    }

    fn window_update(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        let payload: [u8; 4] = payload.try_into().map_err(|_| SIZE)?;
        let more = i64::from(u32::from_be_bytes(payload) & 0x7fff_ffff);
        if head.stream == 0 {
            let out = &mut *self.shared.out.borrow_mut();
            out.window += more;
            return match more {
                0 => Err(PROTOCOL),
                _ if out.window > WINDOW_MAX => Err(Over::Broken(Reason::FLOW_CONTROL_ERROR)),
                _ => Ok(()),
            };
        }
        if self.is_idle(head.stream) {
            return Err(PROTOCOL);
        }
        let Some(state) = self.find(head.stream) else {
            return Ok(());
        };
        if more == 0 {
            return self.fault(state.id, Reason::PROTOCOL_ERROR);
        }
        let window = state.window.get() + more;
        if window > WINDOW_MAX {
            return self.fault(state.id, Reason::FLOW_CONTROL_ERROR);
        }
        state.window.set(window);
        if window > 0 && state.starved.replace(false) {
            self.tasks.wake(state.place);
        }
        Ok(())
    }
}

/// The stream that another one is said to depend on.
fn depends_on([a, b, c, d, _]: &[u8; 5]) -> u32 {
    u32::from_be_bytes([*a, *b, *c, *d]) & 0x7fff_ffff
}
