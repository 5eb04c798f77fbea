//! The one task of a connection: it reads frames, serves the streams, and writes what
//! they have to say.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use h2::Reason;
use tokio::{
    io::AsyncWrite,
    time::{Sleep, sleep},
};

use super::{
    keepalive::Keepalive,
    request::{BlockLimits, Hosts},
    shared::{Shared, WINDOW},
    state::State,
    tasks::Tasks,
};
use crate::{
    codec::{Inbound, hpack::Decoder},
    http::{
        config::ConnectionManager, downstream::DownstreamIo, session::Session, stats::http_stats,
    },
    net::{
        Stream,
        http2::{
            PREFACE,
            frames::{FrameHead, GOAWAY, PING, SETTINGS, WINDOW_UPDATE},
            stats::http2_stats,
        },
    },
};

/// Bytes of one read, at most.
const READ_MAX: usize = 64 * 1024;
/// Reads before the streams have their turn.
const READS: usize = 4;
/// Turns of the streams before other connections have theirs.
const TURNS: usize = 4;
/// How long a client may take to hear why its connection is over, where nobody waits
/// for it to close it too.
const FAREWELL: Duration = Duration::from_secs(1);
/// The PING behind the first GOAWAY: who answers it has read that.
pub(super) const NOTICE: [u8; 8] = *b"going   ";
/// The greatest of all streams.
const EVERY_STREAM: u32 = 0x7fff_ffff;

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// All is said.
    Done,
    /// There is nobody to talk to, or nobody to be talked to.
    Cut,
    /// The client did what none may do.
    Broken(Reason),
}

/// How far a connection has taken its leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    No,
    /// The client was told not to begin more streams. It hears which are the last when
    /// it has answered, and at this moment even if it does not.
    Noticed(Instant),
    /// It knows which streams are the last.
    Said,
}

/// A header block that has not come to its end.
pub(super) struct Unfinished {
    pub(super) head: FrameHead,
    pub(super) bytes: BytesMut,
    pub(super) since: Instant,
}

/// A connection.
pub(super) struct Connection<'a> {
    pub(super) session: &'a Rc<Session>,
    pub(super) manager: &'a ConnectionManager,
    io: DownstreamIo<Stream>,
    pub(super) inbound: Inbound,
    pub(super) shared: Rc<Shared>,
    pub(super) tasks: Tasks,
    pub(super) decoder: Decoder,
    pub(super) limits: BlockLimits,
    pub(super) hosts: Hosts,
    /// The open streams, in the order of their ids.
    pub(super) open: VecDeque<Rc<State>>,
    /// The last stream that was opened.
    pub(super) last: u32,
    /// Later streams are none of this connection's any more.
    pub(super) accepts: u32,
    /// What is left of the preface.
    pub(super) preface: &'static [u8],
    /// The client's SETTINGS have come.
    pub(super) settled: bool,
    /// A header block that has not come to its end.
    pub(super) block: Option<Unfinished>,
    /// Streams that were reset here, the last ones: the client may not know yet.
    pub(super) resets: VecDeque<u32>,
    /// Frames wait to be read until what has to be written is.
    pub(super) choked: bool,
    /// [`Session::hurry`] when it was last looked at.
    hurry: f64,
    goodbye: Goodbye,
    keepalive: Option<Keepalive>,
    /// Why it is over, and until when the client may hear of it.
    ending: Option<(Over, Pin<Box<Sleep>>)>,
}

impl<'a> Connection<'a> {
    /// A connection before its first byte.
    pub(super) fn new(
        session: &'a Rc<Session>,
        manager: &'a ConnectionManager,
        io: DownstreamIo<Stream>,
    ) -> Self {
        let options = &manager.http2;
        let buffer = session
            .current()
            .chain()
            .listener
            .per_connection_buffer_limit;
        let shared = Shared::new(options, manager.http2_stats().clone(), buffer);
        let mut settings = vec![
            (1, options.header_table),
            (3, options.concurrent_streams),
            (4, options.stream_window),
        ];
        if options.allow_connect {
            settings.push((8, 1));
        }
        let settings: Vec<u8> = settings
            .into_iter()
            .flat_map(|(id, value): (u16, u32)| {
                [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
            })
            .collect();
        shared.frame(SETTINGS, 0, 0, &settings);
        let more = shared.connection_window - WINDOW;
        if more > 0 {
            shared.frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
            shared.open.set(shared.connection_window.into());
        }
        Self {
            session,
            manager,
            io,
            inbound: Inbound::up_to(buffer.min(READ_MAX)),
            shared: Rc::new(shared),
            tasks: Tasks::default(),
            decoder: Decoder::default(),
            limits: BlockLimits {
                bytes: manager.max_request_head,
                fields: manager.common.max_headers,
            },
            hosts: Hosts::default(),
            open: VecDeque::new(),
            last: 0,
            accepts: EVERY_STREAM,
            preface: PREFACE,
            settled: false,
            block: None,
            resets: VecDeque::new(),
            choked: false,
            hurry: session.hurry(),
            goodbye: Goodbye::No,
            keepalive: options.keepalive.map(Keepalive::new),
            ending: None,
        }
    }

    /// Ready when the connection is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.served_by(cx.waker());
        self.tasks.attend(cx.waker());
        if self.ending.is_none() {
            let over = ready!(self.poll_turns(cx));
            match over {
                Over::Cut => return Poll::Ready(()),
                Over::Done => {}
                Over::Broken(reason) => {
                    let stats = &self.manager.stats;
                    stats.inc(http_stats::downstream_cx_protocol_error);
                    self.goaway(self.last, reason);
                }
            }
            self.end_all();
            let limit = self.manager.timeouts.delayed_close.unwrap_or(FAREWELL);
            self.ending = Some((over, Box::pin(sleep(limit))));
        }
        let Some((over, until)) = &mut self.ending else {
            return Poll::Pending;
        };
        let waits = *over != Over::Done && self.manager.timeouts.delayed_close.is_some();
        match until.as_mut().poll(cx) {
            Poll::Pending if !waits => self.poll_shutdown(cx),
            Poll::Pending => self.poll_closed(cx),
            Poll::Ready(()) => {
                if waits {
                    let stats = &self.manager.stats;
                    stats.inc(http_stats::downstream_cx_delayed_close_timeout);
                }
                Poll::Ready(())
            }
        }
    }

    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        for _ in 0..TURNS {
            if self.session.is_abused() {
                let stats = &self.manager.stats;
                stats.inc(http_stats::downstream_rq_too_many_premature_resets);
                stats.inc(http_stats::downstream_cx_protocol_error);
                return Poll::Ready(Over::Cut);
            }
            let mut again = match self.read(cx) {
                Ok(more) => more,
                Err(over) => return Poll::Ready(over),
            };
            self.serve_woken();
            if let Some(keepalive) = &mut self.keepalive
                && keepalive.poll(cx, &self.shared).is_ready()
            {
                self.shared.stats.inc(http2_stats::keepalive_timeout);
                return Poll::Ready(Over::Cut);
            }
            if self.session.is_closing() && self.goodbye == Goodbye::No {
                let managed = self.session.current();
                let timeouts = &managed.manager().timeouts;
                self.goodbye = Goodbye::Noticed(Instant::now() + timeouts.drain);
                self.goaway(EVERY_STREAM, Reason::NO_ERROR);
                self.shared.frame(PING, 0, 0, &NOTICE);
            }
            if let Goodbye::Noticed(end) = self.goodbye
                && self.session.alarms().ask(end).is_ready()
            {
                self.say_goodbye();
            }
            if self.poll_block().is_ready() {
                return Poll::Ready(Over::Broken(Reason::ENHANCE_YOUR_CALM));
            }
            match self.poll_write(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Over::Cut),
                Poll::Ready(Ok(())) if self.goodbye == Goodbye::Said && self.open.is_empty() => {
                    return Poll::Ready(Over::Done);
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            while let Some(state) = self.shared.next_waiting() {
                again = true;
                self.serve(state.place);
            }
            // Streams may have less time than they have asked for.
            let hurry = self.session.hurry();
            let hurries = std::mem::replace(&mut self.hurry, hurry) != hurry;
            if self.session.alarms().poll(cx).is_ready() || hurries {
                self.tasks.wake_all();
                again = true;
            }
            again |= self.tasks.any_woken() || self.choked && self.has_room();
            if !again {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn has_room(&self) -> bool {
        self.shared.out.borrow().wire.has_room()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let out = &mut *self.shared.out.borrow_mut();
        out.wire.poll_write(cx, &mut self.io)
    }

    /// Reads what has come, and does what it says. Tells whether there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Over> {
        for _ in 0..READS {
            self.frames()?;
            if self.choked {
                return Ok(false);
            }
            match self.inbound.poll_first(cx, &mut self.io) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Err(Over::Cut),
            }
        }
        self.frames()?;
        Ok(!self.choked)
    }

    fn serve_woken(&mut self) {
        for group in 0..self.tasks.groups() {
            let mut woken = self.tasks.take_woken(group);
            while woken != 0 {
                let place = group * 64 + woken.trailing_zeros() as usize;
                woken &= woken - 1;
                self.serve(place);
            }
        }
    }

    /// Serves the stream in a place as far as it goes.
    pub(super) fn serve(&mut self, place: usize) {
        if let Some(state) = self.tasks.poll(place) {
            self.ended(&state);
        }
    }

    /// Sees a stream off whose serving is over.
    pub(super) fn ended(&mut self, state: &State) {
        self.shared.ignore(state);
        if !state.is_closed() {
            // RFC 9113, 8.1: the answer is whole, and what else comes is not wanted.
            let reason = match state.sent.get() {
                true => Reason::NO_ERROR,
                false => Reason::CANCEL,
            };
            self.shared.reset(state, reason);
        }
        if !state.received.get() {
            self.was_reset(state.id);
        }
        if let Ok(at) = self.open.binary_search_by_key(&state.id, |open| open.id) {
            self.open.remove(at);
        }
    }

    fn end_all(&mut self) {
        while let Some(state) = self.open.pop_front() {
            self.tasks.end(state.place);
        }
    }

    pub(super) fn goaway(&self, last: u32, reason: Reason) {
        let reason = u32::from(reason);
        let payload = u64::from(last) << 32 | u64::from(reason);
        self.shared.frame(GOAWAY, 0, 0, &payload.to_be_bytes());
    }

    /// The client has answered a PING.
    pub(super) fn ponged(&mut self, payload: [u8; 8]) {
        if payload == NOTICE && matches!(self.goodbye, Goodbye::Noticed(_)) {
            self.say_goodbye();
        } else if let Some(keepalive) = &mut self.keepalive {
            keepalive.ponged(payload);
        }
    }

    fn say_goodbye(&mut self) {
        self.goodbye = Goodbye::Said;
        self.accepts = self.last;
        self.goaway(self.last, Reason::NO_ERROR);
    }

    /// Ready when a header block takes longer than a head may.
    fn poll_block(&self) -> Poll<()> {
        let Some(block) = &self.block else {
            return Poll::Pending;
        };
        let managed = self.session.current();
        let timeouts = &managed.manager().timeouts;
        let limits = [timeouts.request_headers, timeouts.stream_idle];
        match limits.into_iter().flatten().min() {
            Some(limit) => self.session.alarms().ask(block.since + limit),
            None => Poll::Pending,
        }
    }

    /// Ready when the client has been told all there was to say.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.poll_write(cx)) {
            Ok(()) => Pin::new(&mut self.io).poll_shutdown(cx).map(drop),
            Err(_) => Poll::Ready(()),
        }
    }

    /// Ready when it has closed, too: what is closed on unread bytes may lose its last
    /// words on the way.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_shutdown(cx));
        loop {
            self.inbound.bytes.clear();
            let read = self.inbound.poll_first(cx, &mut self.io);
            if !matches!(ready!(read), Ok(1..)) {
                return Poll::Ready(());
            }
        }
    }
}
