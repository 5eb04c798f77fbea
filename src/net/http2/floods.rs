//! What a peer may do without asking for anything: limits against floods, as
//! Envoy's, and the stats of a connection.
//!
//! The codecs bound what a peer can make this process keep: they answer a PING or
//! SETTINGS before they read on, bound header blocks and their CONTINUATIONs, and
//! end a connection on too many streams that they had to reset. These limits bound
//! the work: frames that cost their sender nothing.

use std::time::Instant;

use h2::Reason;

use super::{
    frames::{
        CONTINUATION, DATA, END_STREAM, FrameHead, GOAWAY, HEADERS, PRIORITY, RST_STREAM,
        WINDOW_UPDATE,
    },
    stats::http2_stats,
};
use crate::stats::{Block, Counter};

/// Limits of `Http2ProtocolOptions`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FrameLimits {
    /// `max_consecutive_inbound_frames_with_empty_payload`: 1 unless set. Frames that
    /// end a stream do not count.
    pub empty: u32,
    /// `max_inbound_priority_frames_per_stream`: 100 unless set.
    pub priority: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`: 10 unless set.
    pub window_update: u32,
    /// `stream_reset_burst`: so many streams may be reset at once, 1000 unless set.
    pub reset_burst: u64,
    /// `stream_reset_rate`: and so many each second after that, 33 unless set.
    pub reset_rate: u64,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self {
            empty: 1,
            priority: 100,
            window_update: 10,
            reset_burst: 1000,
            reset_rate: 33,
        }
    }
}

impl FrameLimits {
    /// The same with what a configuration sets; `resets` are burst and rate.
    pub fn with(
        self,
        empty: Option<u32>,
        priority: Option<u32>,
        window_update: Option<u32>,
        resets: [Option<u64>; 2],
    ) -> Self {
        Self {
            empty: empty.unwrap_or(self.empty),
            priority: priority.unwrap_or(self.priority),
            window_update: window_update.unwrap_or(self.window_update),
            reset_burst: resets[0].unwrap_or(self.reset_burst),
            reset_rate: resets[1].unwrap_or(self.reset_rate),
        }
    }
}

/// A limit that a peer has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    /// Frames without a payload.
    #[error("too many consecutive frames with an empty payload")]
    Empty,
    /// PRIORITY frames.
    #[error("too many PRIORITY frames")]
    Priority,
    /// WINDOW_UPDATE frames.
    #[error("too many WINDOW_UPDATE frames")]
    WindowUpdate,
    /// RST_STREAM frames.
    #[error("too many streams are reset")]
    Reset,
}

impl Flood {
    fn counter(self) -> Option<Counter> {
        match self {
            Self::Empty => Some(http2_stats::inbound_empty_frames_flood),
            Self::Priority => Some(http2_stats::inbound_priority_frames_flood),
            Self::WindowUpdate => Some(http2_stats::inbound_window_update_frames_flood),
            Self::Reset => None,
        }
    }
}

/// Which end of a connection this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A client's requests come in.
    Server,
    /// Requests go out to a host.
    Client,
}

/// What has gone by on a connection.
#[derive(Debug)]
pub struct Counts {
    end: End,
    limits: FrameLimits,
    /// Streams that were opened, and the last of them.
    streams: u64,
    last_stream: u32,
    /// Empty frames in a row.
    empty: u32,
    priority: u64,
    window_update: u64,
    data_sent: u64,
    /// Resets that are left, as of a moment.
    resets: u64,
    refilled: Option<Instant>,
}

impl Counts {
    /// A connection on which nothing has.
    pub fn new(end: End, limits: FrameLimits) -> Self {
        Self {
            end,
            resets: limits.reset_burst,
            limits,
            streams: 0,
            last_stream: 0,
            empty: 0,
            priority: 0,
            window_update: 0,
            data_sent: 0,
            refilled: None,
        }
    }

    /// Whether it is the first of its stream.
    fn opens(&mut self, stream: u32) -> bool {
        let new = stream > self.last_stream;
        if new {
            self.last_stream = stream;
            self.streams += 1;
        }
        new
    }

    /// Counts a frame from the peer.
    ///
    /// # Errors
    /// When it is one too many; that has been counted, too.
    pub fn received(&mut self, frame: FrameHead, stats: &Block) -> Result<(), Flood> {
        self.admit(frame, stats).inspect_err(|flood| {
            if let Some(counter) = flood.counter() {
                stats.inc(counter);
            }
        })
    }

    fn admit(&mut self, frame: FrameHead, stats: &Block) -> Result<(), Flood> {
        if matches!(frame.kind, DATA | HEADERS | CONTINUATION) {
            // On a CONTINUATION that flag says nothing.
            let ends = frame.kind != CONTINUATION && frame.flags & END_STREAM != 0;
            let empty = frame.length == 0 && !ends;
            self.empty = if empty { self.empty + 1 } else { 0 };
            if self.empty > self.limits.empty {
                return Err(Flood::Empty);
            }
        }
        match frame.kind {
            HEADERS if self.end == End::Server && !self.opens(frame.stream) => {
                stats.inc(http2_stats::trailers);
            }
            PRIORITY => {
                self.priority += 1;
                if self.priority > u64::from(self.limits.priority) * (1 + self.streams) {
                    return Err(Flood::Priority);
                }
            }
            WINDOW_UPDATE => {
                self.window_update += 1;
                let for_data = u64::from(self.limits.window_update) * self.data_sent;
                if self.window_update > 5 + 2 * (self.streams + for_data) {
                    return Err(Flood::WindowUpdate);
                }
            }
            RST_STREAM => {
                stats.inc(http2_stats::rx_reset);
                if self.end == End::Server {
                    self.take_reset(Instant::now())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Counts a stream that has to be reset for what the peer did, as if the peer had.
    ///
    /// # Errors
    /// When it is one too many.
    pub fn faulted(&mut self) -> Result<(), Flood> {
        self.take_reset(Instant::now())
    }

    fn take_reset(&mut self, now: Instant) -> Result<(), Flood> {
        let since = *self.refilled.get_or_insert(now);
        let seconds = now.saturating_duration_since(since).as_secs();
        if seconds > 0 {
            let more = self.limits.reset_rate.saturating_mul(seconds);
            self.resets = self
                .resets
                .saturating_add(more)
                .min(self.limits.reset_burst);
            self.refilled = Some(now);
        }
        self.resets = self.resets.checked_sub(1).ok_or(Flood::Reset)?;
        Ok(())
    }

    /// Counts a frame to the peer.
    pub fn sent(&mut self, frame: FrameHead, stats: &Block) {
        match frame.kind {
            DATA => self.data_sent += 1,
            HEADERS if self.end == End::Client => drop(self.opens(frame.stream)),
            RST_STREAM => {
                stats.inc(http2_stats::tx_reset);
                match Reason::from(frame.reason) {
                    Reason::REFUSED_STREAM => stats.inc(http2_stats::stream_refused_errors),
                    Reason::PROTOCOL_ERROR => stats.inc(http2_stats::rx_messaging_error),
                    _ => {}
                }
            }
            GOAWAY => stats.inc(http2_stats::goaway_sent),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> FrameHead {
        FrameHead {
            length,
            kind,
            flags,
            stream,
            reason: 0,
        }
    }

    /// After how many frames of a kind the limits are exceeded.
    fn last(counts: &mut Counts, stats: &Block, frame: FrameHead) -> usize {
        (0..100_000)
            .find(|_| counts.received(frame, stats).is_err())
            .unwrap_or(usize::MAX)
    }

    #[test]
    fn limits_are_envoys() {
        let registry = crate::stats::Registry::new(1);
        let stats = registry.block("http2.", &http2_stats::TABLE);
        let server = || Counts::new(End::Server, FrameLimits::default());
        let mut counts = server();
        assert_eq!(last(&mut counts, &stats, frame(PRIORITY, 0, 1, 5)), 100);
        let mut counts = server();
        assert_eq!(last(&mut counts, &stats, frame(WINDOW_UPDATE, 0, 0, 4)), 5);
        let mut counts = server();
        counts.received(frame(HEADERS, 4, 1, 9), &stats).unwrap();
        counts.sent(frame(DATA, 0, 1, 9), &stats);
        assert_eq!(
            last(&mut counts, &stats, frame(WINDOW_UPDATE, 0, 0, 4)),
            5 + 2 * (1 + 10)
        );
        let mut counts = server();
        assert_eq!(last(&mut counts, &stats, frame(DATA, 0, 1, 0)), 1);
        let mut counts = server();
        let ends = frame(CONTINUATION, END_STREAM, 1, 0);
        assert_eq!(last(&mut counts, &stats, ends), 1);
        let mut counts = server();
        let ends = frame(DATA, END_STREAM, 1, 0);
        assert_eq!(last(&mut counts, &stats, ends), usize::MAX);
        let mut counts = server();
        let reset = frame(RST_STREAM, 0, 1, 4);
        assert_eq!(last(&mut counts, &stats, reset), 1000);
    }

    #[test]
    fn resets_come_back_with_time() {
        let limits = FrameLimits {
            reset_burst: 10,
            reset_rate: 3,
            ..FrameLimits::default()
        };
        let mut counts = Counts::new(End::Server, limits);
        let now = Instant::now();
        let taken = |counts: &mut Counts, now| {
            (0..100)
                .take_while(|_| counts.take_reset(now).is_ok())
                .count()
        };
        assert_eq!(taken(&mut counts, now), 10);
        assert_eq!(taken(&mut counts, now + Duration::from_secs(2)), 6);
        assert_eq!(taken(&mut counts, now + Duration::from_secs(60)), 10);
    }
}
