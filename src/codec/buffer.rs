//! Bytes between a connection and its socket.

use std::{
    cell::RefCell,
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::encode;

/// Bytes asked for with the first read of a message.
const READ_MIN: usize = 8 * 1024;
/// Bytes asked for at most with one read; reached by doubling while reads are full.
const READ_MAX: usize = 256 * 1024;
/// A body chunk up to this long is copied behind what waits to be written; a
/// longer one is written from where it is.
const COPY_MAX: usize = 4 * 1024;
/// Bytes of a message that may wait for the socket before its body is asked for more,
/// at most.
const OUTBOUND_MAX: usize = 64 * 1024;

thread_local! {
    /// Where the first bytes of a message land, before anybody knows how many
    /// they are: one for all connections of a thread, so that it stays in the
    /// processor's cache and a connection that waits has no buffer.
    static LANDING: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_MIN].into());
}

/// What has been read and not been understood yet.
#[derive(Debug)]
pub struct Inbound {
    /// The bytes.
    pub bytes: BytesMut,
    /// How many of them were there when a head was looked for in vain.
    searched: usize,
    read_size: usize,
    read_max: usize,
}

impl Default for Inbound {
    fn default() -> Self {
        Self::up_to(READ_MAX)
    }
}

impl Inbound {
    /// One that asks for so many bytes at most with one read, but for 8 KiB in any case
    /// and for no more than 256 KiB.
    pub fn up_to(limit: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            searched: 0,
            read_size: READ_MIN,
            read_max: limit.clamp(READ_MIN, READ_MAX),
        }
    }

    /// Bytes asked for with one read at most.
    pub fn read_max(&self) -> usize {
        self.read_max
    }

    /// Whether to look for a head: there is something, and a line has ended since the
    /// last time, or there is more than `most` bytes. A head that comes byte by byte is
    /// not parsed as often.
    pub fn may_hold_head(&self, most: usize) -> bool {
        let Some(new) = self.bytes.get(self.searched..) else {
            return true;
        };
        match self.searched {
            0 => !new.is_empty(),
            _ => self.bytes.len() > most || memchr::memchr(b'\n', new).is_some(),
        }
    }

    /// The head has not come to its end.
    pub fn found_no_head(&mut self) {
        self.searched = self.bytes.len();
    }

    /// The head was taken off; what is left is another message.
    pub fn found_head(&mut self) {
        self.searched = 0;
    }

    /// Reads once, for a message whose size nobody knows yet; ready with the
    /// number of bytes, 0 at the end of the stream. Holds no buffer while it waits.
    ///
    /// # Errors
    /// When reading fails.
    pub fn poll_first<T>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<usize>>
    where
        T: AsyncRead + Unpin,
    {
        if !self.bytes.is_empty() {
            return self.poll_more(cx, io);
        }
        LANDING.with_borrow_mut(|landing| {
            let mut landed = ReadBuf::new(landing);
            let read = Pin::new(io).poll_read(cx, &mut landed);
            self.bytes = BytesMut::from(landed.filled());
            read.map_ok(|()| self.bytes.len())
        })
    }

    /// Reads once, for the rest of a message; ready with the number of bytes, 0 at
    /// the end of the stream.
    ///
    /// # Errors
    /// When reading fails.
    pub fn poll_more<T>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<usize>>
    where
        T: AsyncRead + Unpin,
    {
        self.bytes.reserve(self.read_size);
        let room = self.bytes.capacity() - self.bytes.len();
        let n = ready!(pin!(io.read_buf(&mut self.bytes)).poll(cx))?;
        if n == room {
            self.read_size = (self.read_size * 2).min(self.read_max);
        } else if n < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(READ_MIN);
        }
        Poll::Ready(Ok(n))
    }
}

/// Takes the first `n` bytes of a buffer, which keeps nothing when they were all.
pub fn take(bytes: &mut BytesMut, n: usize) -> Bytes {
    if n == bytes.len() {
        return std::mem::take(bytes).freeze();
    }
    bytes.split_to(n).freeze()
}

/// Bytes on their way out, in this order.
#[derive(Debug)]
pub struct Outbound {
    /// A head, chunk sizes, and small pieces of a body.
    pub head: BytesMut,
    chunk: Bytes,
    tail: &'static [u8],
    most: usize,
}

impl Default for Outbound {
    fn default() -> Self {
        Self::up_to(OUTBOUND_MAX)
    }
}

impl Outbound {
    /// One that has room until so many bytes wait, or 64 KiB.
    pub fn up_to(limit: usize) -> Self {
        Self {
            head: BytesMut::new(),
            chunk: Bytes::new(),
            tail: &[],
            most: limit.min(OUTBOUND_MAX),
        }
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        *self = Self::up_to(self.most);
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.head.len() + self.chunk.len() + self.tail.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether more of a body may be put behind what waits.
    pub fn has_room(&self) -> bool {
        self.chunk.is_empty() && self.len() < self.most
    }

    /// Puts a piece of a body behind what waits, which has room for it.
    pub fn push(&mut self, data: Bytes, chunked: bool) {
        debug_assert!(self.chunk.is_empty(), "one large piece at a time");
        if chunked {
            encode::chunk_size(data.len(), &mut self.head);
        }
        let end: &'static [u8] = if chunked { b"\r\n" } else { b"" };
        if data.len() <= COPY_MAX {
            self.head.extend_from_slice(&data);
            self.head.extend_from_slice(end);
        } else {
            self.chunk = data;
            self.tail = end;
        }
    }

    fn advance(&mut self, mut n: usize) {
        let head = n.min(self.head.len());
        self.head.advance(head);
        n -= head;
        let chunk = n.min(self.chunk.len());
        self.chunk.advance(chunk);
        n -= chunk;
        self.tail = &self.tail[n..];
    }

    /// Writes all of it, and adds what was written to `sent`.
    ///
    /// # Errors
    /// When writing fails.
    pub fn poll_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        sent: &mut u64,
    ) -> Poll<io::Result<()>>
    where
        T: AsyncWrite + Unpin,
    {
        while !self.is_empty() {
            let n = if self.chunk.is_empty() && self.tail.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.head))?
            } else {
                let slices = [
                    IoSlice::new(&self.head),
                    IoSlice::new(&self.chunk),
                    IoSlice::new(self.tail),
                ];
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += n as u64;
            self.advance(n);
        }
        // Only TLS buffers; for a socket this is free.
        Pin::new(io).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_read_at_once_and_what_waits_are_limited() {
        use tokio::io::AsyncWriteExt;
        for (limit, at_once, waits) in [
            (1, READ_MIN, 1),
            (20_000, 20_000, 20_000),
            (usize::MAX, READ_MAX, OUTBOUND_MAX),
        ] {
            let (mut far, mut near) = tokio::io::duplex(4 * READ_MAX);
            far.write_all(&vec![0; 4 * READ_MAX]).await.unwrap();
            drop(far);
            let mut inbound = Inbound::up_to(limit);
            let mut longest = 0;
            loop {
                let read = std::future::poll_fn(|cx| inbound.poll_more(cx, &mut near)).await;
                match read.unwrap() {
                    0 => break,
                    n => longest = longest.max(n),
                }
                drop(std::mem::take(&mut inbound.bytes));
            }
            assert_eq!(longest, at_once);
            let mut outbound = Outbound::up_to(limit);
            outbound.head.resize(waits - 1, 0);
            assert!(outbound.has_room(), "{limit}");
            outbound.head.extend_from_slice(&[0]);
            assert!(!outbound.has_room(), "{limit}");
            outbound.clear();
            assert!(outbound.has_room(), "{limit}");
        }
    }

    #[test]
    fn a_head_is_looked_for_where_a_line_has_ended() {
        let mut inbound = Inbound::default();
        assert!(!inbound.may_hold_head(100));
        inbound.bytes.extend_from_slice(b"GET / HTTP/1.1\r\nho");
        assert!(inbound.may_hold_head(100));
        inbound.found_no_head();
        assert!(!inbound.may_hold_head(100));
        inbound.bytes.extend_from_slice(b"st: a");
        assert!(!inbound.may_hold_head(100));
        assert!(inbound.may_hold_head(20), "it is too long already");
        inbound.bytes.extend_from_slice(b"\r\n");
        assert!(inbound.may_hold_head(100));
        inbound.bytes.clear();
        inbound.found_head();
        assert!(!inbound.may_hold_head(100));
    }
}
