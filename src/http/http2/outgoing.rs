//! Frames on their way out.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// A piece of a body up to this long is copied behind what waits; a longer one is
/// written from where it is.
const COPY_MAX: usize = 4 * 1024;
/// Bytes that may wait, at most, before bodies are asked for more, and before more is
/// read that has to be answered.
const WAITING_MAX: usize = 64 * 1024;
/// Room that is kept for what comes next.
const KEPT_MAX: usize = 16 * 1024;
/// Pieces written at once.
const SLICES: usize = 32;

/// Bytes that wait for the client, in this order.
#[derive(Debug)]
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// Bytes of the pieces.
    ahead: usize,
    /// Frames behind the pieces, from `written` on.
    tail: BytesMut,
    written: usize,
    most: usize,
}

impl Outgoing {
    /// One that has room until so many bytes wait, or 64 KiB.
    pub(super) fn up_to(limit: usize) -> Self {
        Self {
            pieces: VecDeque::new(),
            ahead: 0,
            tail: BytesMut::new(),
            written: 0,
            most: limit.min(WAITING_MAX),
        }
    }

    /// Where the next frame is written to.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Puts a payload behind its header.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY_MAX {
            return self.tail.extend_from_slice(&data);
        }
        self.cut();
        self.ahead += data.len();
        self.pieces.push_back(data);
    }

    /// Makes a piece of the tail.
    fn cut(&mut self) {
        let mut piece = self.tail.split().freeze();
        piece.advance(std::mem::take(&mut self.written));
        if !piece.is_empty() {
            self.ahead += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.ahead + self.tail.len() - self.written
    }

    /// Whether there is room for more.
    pub(super) fn has_room(&self) -> bool {
        self.len() < self.most
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// When writing fails.
    pub(super) fn poll_write<T>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<()>>
    where
        T: AsyncWrite + Unpin,
    {
        if self.len() == 0 {
            return Poll::Ready(Ok(()));
        }
        while self.len() > 0 {
            let io = Pin::new(&mut *io);
            let n = match self.pieces.is_empty() {
                true => ready!(io.poll_write(cx, &self.tail[self.written..]))?,
                false => {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let waiting = self.pieces.iter().map(|piece| &piece[..]);
                    let all = waiting.chain([&self.tail[self.written..]]);
                    let count = slices.iter_mut().zip(all).map(|(slice, bytes)| {
                        *slice = IoSlice::new(bytes);
                    });
                    let count = count.count();
                    ready!(io.poll_write_vectored(cx, &slices[..count]))?
                }
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        // Only TLS buffers; for a socket this is free.
        Pin::new(io).poll_flush(cx)
    }

    fn advance(&mut self, mut n: usize) {
        while n > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let part = n.min(piece.len());
            piece.advance(part);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            self.ahead -= part;
            n -= part;
        }
        self.written += n;
        if self.written == self.tail.len() {
            self.written = 0;
            match self.tail.capacity() > KEPT_MAX {
                true => self.tail = BytesMut::new(),
                false => self.tail.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Takes a few bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.1);
            self.0.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn it_comes_out_in_order() {
        for step in [1, 7, 5000, 1 << 20] {
            let (mut out, mut expected) = (Outgoing::up_to(WAITING_MAX), Vec::new());
            for (at, length) in [3, 6000, 20, 9000, 4096, 1, 5000].into_iter().enumerate() {
                let data = vec![at as u8; length];
                out.tail().extend_from_slice(b"head");
                out.push(data.clone().into());
                expected.extend_from_slice(b"head");
                expected.extend(data);
            }
            assert_eq!(out.len(), expected.len());
            let mut io = Slow(Vec::new(), step);
            let mut cx = Context::from_waker(Waker::noop());
            assert!(matches!(
                out.poll_write(&mut cx, &mut io),
                Poll::Ready(Ok(()))
            ));
            assert!(io.0 == expected, "by {step}");
            assert_eq!(out.len(), 0);
        }
    }
}
