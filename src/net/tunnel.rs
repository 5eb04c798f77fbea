//! Bytes both ways between two streams, until both have said all they have to say.
//!
//! Used by TCP proxying and by upgraded HTTP connections. What is read goes
//! through a buffer that the worker's tunnels share; a tunnel keeps memory of its
//! own only for what its slower side has not taken yet, so ten thousand silent
//! tunnels cost nothing but their sockets. Between two sockets in clear, much at
//! once goes through a pipe and is not copied at all.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::splice::{FillError, Pipe, Socket};

/// Bytes through a pipe at once with which what was much has ended.
const LITTLE: usize = 16 * 1024;
/// Bytes read at once at most, into what the tunnels of a thread share.
pub const BUFFER: usize = 256 * 1024;
/// Bytes read at once, whatever the limit.
const LEAST: usize = 8 * 1024;
/// Reads in a row before other tasks of the worker get their turn.
const BURST: usize = 8;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What went through a tunnel, counted while it is open.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes from downstream to upstream.
    pub received: u64,
    /// Bytes from upstream to downstream.
    pub sent: u64,
}

/// One of the two ends of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The host's.
    Upstream,
}

/// How a tunnel ended.
#[derive(Debug)]
pub enum End {
    /// Both sides have said all; `last` was the last to do so.
    Finished {
        /// Who.
        last: Side,
    },
    /// Nothing moved for the idle timeout.
    Idle,
    /// Whoever was told of a step asked for it.
    Asked,
    /// Reading from or writing to a side failed.
    Failed(Side, io::Error),
}

/// Carries bytes both ways. A side that finishes is half-closed on the other
/// while that still speaks. No more than `buffer` bytes are on their way between the
/// two, but for 8 KiB in any case. `moved` is told of every step, and may end it.
/// `idle_timeout` says how long nothing may move, as things are.
///
/// Cancelling it (dropping the future) closes both sides.
pub async fn carry<D, U>(
    mut downstream: D,
    mut upstream: U,
    buffer: usize,
    idle_timeout: impl Fn() -> Option<Duration>,
    mut moved: impl FnMut(&Traffic) -> ControlFlow<()>,
) -> (End, Traffic)
where
    D: AsyncRead + AsyncWrite + Socket + Unpin,
    U: AsyncRead + AsyncWrite + Socket + Unpin,
{
    let mut traffic = Traffic::default();
    let (mut up, mut down) = (Direction::new(buffer), Direction::new(buffer));
    let mut last_moved = Instant::now();
    let mut idle = idle_timeout().map(|t| Box::pin(tokio::time::sleep(t)));
    let end = poll_fn(|cx| {
        let before = (traffic.received, traffic.sent);
        let was_up = up.closed;
        let upward = up.poll(cx, &mut downstream, &mut upstream, &mut traffic.received);
        let downward = down.poll(cx, &mut upstream, &mut downstream, &mut traffic.sent);
        if before != (traffic.received, traffic.sent) {
            if moved(&traffic).is_break() {
                return Poll::Ready(End::Asked);
            }
            if idle.is_some() {
                last_moved = Instant::now();
            }
        }
        let failed = match (upward, downward) {
            (Poll::Ready(Err(failed)), _) => Some((failed, Side::Downstream, Side::Upstream)),
            (_, Poll::Ready(Err(failed))) => Some((failed, Side::Upstream, Side::Downstream)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                let last = if was_up {
                    Side::Upstream
                } else {
                    Side::Downstream
                };
                return Poll::Ready(End::Finished { last });
            }
            _ => None,
        };
        match failed {
            Some((Failed::Read(error), reader, _)) => {
                return Poll::Ready(End::Failed(reader, error));
            }
            Some((Failed::Write(error), _, writer)) => {
                return Poll::Ready(End::Failed(writer, error));
            }
            None => {}
        }
        if let (Some(idle), Some(timeout)) = (&mut idle, idle_timeout()) {
            if last_moved + timeout < idle.deadline() {
                idle.as_mut().reset(last_moved + timeout);
            }
            // Armed once and moved on when it fires, not at every byte.
            while idle.as_mut().poll(cx).is_ready() {
                let deadline = last_moved + timeout;
                if deadline <= Instant::now() {
                    return Poll::Ready(End::Idle);
                }
                idle.as_mut().reset(deadline);
            }
        }
        Poll::Pending
    })
    .await;
    (end, traffic)
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}

#[derive(Debug)]
struct Direction {
    /// Bytes read at once.
    most: usize,
    /// What the writer has not taken yet, from `start`.
    pending: Vec<u8>,
    start: usize,
    /// Much goes this way: through a pipe.
    bulk: bool,
    /// That pipe, while there is something for it.
    pipe: Option<Pipe>,
    finished: bool,
    closed: bool,
}

impl Direction {
    fn new(buffer: usize) -> Self {
        Self {
            most: buffer.clamp(LEAST, BUFFER),
            pending: Vec::new(),
            start: 0,
            bulk: false,
            pipe: None,
            finished: false,
            closed: false,
        }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &mut u64,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Socket + Unpin,
        W: AsyncWrite + Socket + Unpin,
    {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..BURST {
            if self.bulk || self.pipe.is_some() {
                ready!(self.poll_pipe(cx, reader, writer, count))?;
                continue;
            }
            while self.start < self.pending.len() {
                let written = Pin::new(&mut *writer).poll_write(cx, &self.pending[self.start..]);
                self.start += some(ready!(written)).map_err(Failed::Write)?;
            }
            if self.start > 0 {
                self.pending = Vec::new();
                self.start = 0;
            }
            if self.finished {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Write)?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            let read = SHARED.with_borrow_mut(|shared| {
                shared.resize(BUFFER, 0);
                let mut buffer = ReadBuf::new(&mut shared[..self.most]);
                ready!(Pin::new(&mut *reader).poll_read(cx, &mut buffer)).map_err(Failed::Read)?;
                let read = buffer.filled();
                let mut taken = 0;
                while taken < read.len() {
                    match Pin::new(&mut *writer).poll_write(cx, &read[taken..]) {
                        Poll::Ready(written) => taken += some(written).map_err(Failed::Write)?,
                        Poll::Pending => break,
                    }
                }
                self.pending.extend_from_slice(&read[taken..]);
                Poll::Ready(Ok(read.len()))
            });
            let read = match read {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    // Nothing more to read for now: what a TLS writer holds has to go.
                    ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Failed::Write)?;
                    return Poll::Pending;
                }
            };
            self.finished = read == 0;
            *count += read as u64;
            let unwritten = self.start < self.pending.len();
            if read >= Pipe::MUCH && !unwritten && reader.socket().and(writer.socket()).is_some() {
                self.bulk = true;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One step through a pipe, until little comes. Who waits for more holds none.
    fn poll_pipe<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &mut u64,
    ) -> Poll<Result<(), Failed>>
    where
        R: Socket,
        W: Socket,
    {
        let Some((from, to)) = reader.socket().zip(writer.socket()) else {
            self.bulk = false;
            return Poll::Ready(Ok(()));
        };
        if self.pipe.is_none() {
            match Pipe::filled(cx, from, self.most) {
                Poll::Ready(Ok(pipe)) => {
                    *count += pipe.held() as u64;
                    self.finished = pipe.held() == 0;
                    self.bulk = pipe.held() >= LITTLE;
                    self.pipe = Some(pipe);
                }
                Poll::Ready(Err(FillError::Socket(error))) => {
                    return Poll::Ready(Err(Failed::Read(error)));
                }
                Poll::Ready(Err(FillError::Pipe(_))) => {
                    self.bulk = false;
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        if let Some(pipe) = &mut self.pipe {
            ready!(pipe.poll_drain(cx, to)).map_err(Failed::Write)?;
        }
        self.pipe = None;
        Poll::Ready(Ok(()))
    }
}

/// A write of nothing means that the writer is closed.
fn some(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        net::{TcpListener, TcpStream},
    };

    impl Socket for DuplexStream {}

    fn go_on(_: &Traffic) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[tokio::test]
    async fn each_side_hears_the_other_to_the_end() {
        let (mut client, downstream) = duplex(1000);
        let (upstream, mut server) = duplex(1000);
        let tunnel = tokio::spawn(carry(downstream, upstream, BUFFER, || None, go_on));
        let big = vec![7; 3 * BUFFER];
        let sent = big.clone();
        let writer = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), big.len());
        // The client has closed its half; ours is still open.
        server.write_all(b"all of it").await.unwrap();
        drop(server);
        assert_eq!(writer.await.unwrap(), "all of it");
        let (end, traffic) = tunnel.await.unwrap();
        assert!(matches!(
            end,
            End::Finished {
                last: Side::Upstream
            }
        ));
        assert_eq!((traffic.received, traffic.sent), (big.len() as u64, 9));
    }

    #[tokio::test]
    async fn no_more_than_the_limit_is_on_its_way() {
        let (mut client, downstream) = duplex(1 << 17);
        // Takes one byte, and no more until it is read.
        let (upstream, mut server) = duplex(1);
        client.write_all(&[7; 100_000]).await.unwrap();
        let mut moved = Box::pin(carry(downstream, upstream, 10_000, || None, go_on));
        let polled = std::future::poll_fn(|cx| Poll::Ready(moved.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        // What has left the client makes room for as much.
        let room = std::future::poll_fn(|cx| {
            let all = vec![7; 1 << 17];
            Pin::new(&mut client).poll_write(cx, &all)
        });
        assert_eq!(room.await.unwrap(), (1 << 17) - 90_000);
        drop(client);
        let rest = tokio::spawn(async move {
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).await.unwrap();
            rest.len()
        });
        moved.await;
        assert_eq!(rest.await.unwrap(), (1 << 17) + 10_000);
    }

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn much_goes_through_a_pipe_and_arrives_as_it_was() {
        let (mut client, downstream) = connected().await;
        let (upstream, mut server) = connected().await;
        let tunnel = tokio::spawn(carry(downstream, upstream, BUFFER, || None, go_on));
        // More than both sockets hold, with silence and little in between.
        let piece = |n: u32| -> Vec<u8> {
            let length = if n.is_multiple_of(2) { 6 << 20 } else { 100 };
            (0..length).map(|i: u32| (i * 7 + n) as u8).collect()
        };
        let writer = tokio::spawn(async move {
            for n in 0..4 {
                client.write_all(&piece(n)).await.unwrap();
                let mut heard = [0];
                client.read_exact(&mut heard).await.unwrap();
            }
            client.shutdown().await.unwrap();
            client
        });
        for n in 0..4 {
            let expected = piece(n);
            let mut read = vec![0; expected.len()];
            // A reader who is slow at first lets everything on the way fill up.
            server.readable().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            server.read_exact(&mut read).await.unwrap();
            assert!(read == expected, "piece {n} is not what it was");
            server.write_all(b"x").await.unwrap();
        }
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        drop(server);
        drop(writer.await.unwrap());
        let (_, traffic) = tunnel.await.unwrap();
        assert_eq!((traffic.received, traffic.sent), (2 * ((6 << 20) + 100), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_tunnel_and_talk_keeps_it() {
        let (mut client, downstream) = duplex(1000);
        let (upstream, _server) = duplex(1000);
        let started = tokio::time::Instant::now();
        let tunnel = tokio::spawn(carry(
            downstream,
            upstream,
            BUFFER,
            || Some(Duration::from_secs(10)),
            go_on,
        ));
        tokio::time::sleep(Duration::from_secs(6)).await;
        client.write_all(b"x").await.unwrap();
        let (end, _) = tunnel.await.unwrap();
        assert!(matches!(end, End::Idle));
        assert!(started.elapsed() >= Duration::from_secs(10));
    }
}
