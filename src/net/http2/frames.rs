//! Frames (RFC 9113, 4.1): their headers, and how they go by in one direction of a
//! connection.

/// Bytes of a frame's header.
pub const HEADER: usize = 9;
/// A RST_STREAM's header and its whole payload, the reason.
const RESET: usize = HEADER + 4;

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// PRIORITY.
pub const PRIORITY: u8 = 2;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PUSH_PROMISE.
pub const PUSH_PROMISE: u8 = 5;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// The flag of the last frame of a stream.
pub const END_STREAM: u8 = 1;
/// The flag of SETTINGS and PING that answer others.
pub const ACK: u8 = 1;
/// The flag of the last frame of a header block.
pub const END_HEADERS: u8 = 4;
/// The flag of DATA and HEADERS that are padded.
pub const PADDED: u8 = 8;
/// The flag of HEADERS that tell a priority.
pub const PRIORITIZED: u8 = 0x20;

/// What a frame is, without what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of its payload.
    pub length: u32,
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 for the connection.
    pub stream: u32,
    /// The reason, of a RST_STREAM; otherwise 0.
    pub reason: u32,
}

impl FrameHead {
    /// Reads the header of a frame, and the reason behind that of a RST_STREAM.
    /// `None` when they are not all there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        let reason = match (kind, length) {
            (RST_STREAM, 4) => u32::from_be_bytes(*rest.first_chunk()?),
            _ => 0,
        };
        Some(Self {
            length,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
            reason,
        })
    }

    /// The header of a frame.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let [_, l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }
}

/// Where a direction stands between frames.
#[derive(Debug)]
pub struct Frames {
    /// Bytes until the next header.
    skip: usize,
    /// The beginning of a header that has not come as a whole.
    head: [u8; RESET],
    have: usize,
}

impl Frames {
    /// A direction that begins with so many bytes which are no frame.
    pub fn after(preface: usize) -> Self {
        Self {
            skip: preface,
            head: [0; RESET],
            have: 0,
        }
    }

    /// Goes over bytes that follow those before, and tells of each frame that begins
    /// in them, until `each` fails.
    ///
    /// # Errors
    /// What `each` fails with.
    pub fn walk<E>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(FrameHead) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let wanted = self.wanted() - self.have;
            let taken = wanted.min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < self.wanted() {
                continue;
            }
            let Some(frame) = FrameHead::parse(&self.head[..self.have]) else {
                continue;
            };
            self.skip = frame.length as usize + HEADER - self.have;
            self.have = 0;
            each(frame)?;
        }
    }

    /// How much of a frame has to be seen.
    fn wanted(&self) -> usize {
        match self.have >= HEADER && self.head[3] == RST_STREAM && self.head[..3] == [0, 0, 4] {
            true => RESET,
            false => HEADER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn seen(frames: &mut Frames, pieces: &[&[u8]]) -> Vec<FrameHead> {
        let mut seen = Vec::new();
        for piece in pieces {
            let walked: Result<(), ()> = frames.walk(piece, |frame| {
                seen.push(frame);
                Ok(())
            });
            walked.unwrap();
        }
        seen
    }

    #[test]
    fn frames_are_told_apart() {
        let bytes = [
            b"preface".to_vec(),
            frame(HEADERS, 5, 1, b"block"),
            frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()),
            frame(DATA, 0, 3, b""),
            frame(RST_STREAM, 0, 3, b"not 4"),
            frame(DATA, END_STREAM, 5, &[0; 300]),
        ]
        .concat();
        let head = |kind, flags, stream, length, reason| FrameHead {
            length,
            kind,
            flags,
            stream,
            reason,
        };
        let seen = seen(&mut Frames::after(7), &[&bytes]);
        assert_eq!(
            seen,
            [
                head(HEADERS, 5, 1, 5, 0),
                head(RST_STREAM, 0, 1, 4, 8),
                head(DATA, 0, 3, 0, 0),
                head(RST_STREAM, 0, 3, 5, 0),
                head(DATA, END_STREAM, 5, 300, 0),
            ]
        );
    }

    proptest! {
        #[test]
        fn where_they_are_cut_makes_no_difference(
            frames in proptest::collection::vec((0u8..12, 0u32..9, 0usize..20), 0..20),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..10),
        ) {
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, stream, length)| frame(*kind, 0, *stream, &vec![7; *length]))
                .collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            let whole = seen(&mut Frames::after(0), &[&bytes]);
            prop_assert_eq!(whole.len(), frames.len());
            prop_assert_eq!(seen(&mut Frames::after(0), &pieces), whole);
        }
    }
}
