//! Bytes from one socket to another without a copy: `splice(2)`, by way of a pipe.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    libc::EINVAL,
    unistd::pipe2,
};
use tokio::{io::Interest, net::TcpStream};

/// Bytes that go into a pipe at once.
const CAPACITY: usize = 256 * 1024;
/// Empty pipes that a thread keeps for the next who needs one.
const KEPT: usize = 32;

thread_local! {
    static IDLE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// A byte stream of which a part may be a socket that carries its bytes as they are.
pub trait Socket {
    /// The socket, if there is nothing between it and whoever reads and writes.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Socket for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl<T: Socket + ?Sized> Socket for &mut T {
    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// Why nothing was taken from a socket.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// There is no pipe to be had, or none that this socket can be spliced with.
    #[error("there is no pipe: {0}")]
    Pipe(io::Error),
    /// Reading failed.
    #[error("reading failed: {0}")]
    Socket(io::Error),
}

/// A pipe between two sockets. A thread keeps those that were left empty.
#[derive(Debug)]
pub struct Pipe {
    /// Gone when it is dropped.
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    /// So many bytes are much, for which a pipe pays.
    pub const MUCH: usize = 64 * 1024;

    fn empty() -> io::Result<Self> {
        let idle = IDLE.with_borrow_mut(Vec::pop);
        let ends = match idle {
            Some(ends) => ends,
            None => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
                // Where the system allows no more, a smaller one does as well.
                let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32));
                Ends { read, write }
            }
        };
        Ok(Self {
            ends: Some(ends),
            held: 0,
        })
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("it is there until the drop")
    }

    /// Bytes it holds.
    pub fn held(&self) -> usize {
        self.held
    }

    /// A pipe with what the socket has, of `most` bytes at most; with nothing at the end
    /// of the stream.
    ///
    /// # Errors
    /// Why there is none. The socket has lost nothing then.
    pub fn filled(
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: usize,
    ) -> Poll<Result<Self, FillError>> {
        ready!(from.poll_read_ready(cx)).map_err(FillError::Socket)?;
        let mut pipe = Self::empty().map_err(FillError::Pipe)?;
        loop {
            // Into an empty one: a full pipe looks like a silent socket.
            let into = &pipe.ends().write;
            let moved = from.try_io(Interest::READABLE, || {
                Ok(splice(from, None, into, None, most.min(CAPACITY), flags())?)
            });
            match moved {
                Ok(n) => {
                    pipe.held = n;
                    return Poll::Ready(Ok(pipe));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(from.poll_read_ready(cx)).map_err(FillError::Socket)?;
                }
                Err(error) if error.raw_os_error() == Some(EINVAL) => {
                    return Poll::Ready(Err(FillError::Pipe(error)));
                }
                Err(error) => return Poll::Ready(Err(FillError::Socket(error))),
            }
        }
    }

    /// Gives the socket all it holds.
    ///
    /// # Errors
    /// When writing fails.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            let from = &self.ends().read;
            let held = self.held;
            let moved = to.try_io(Interest::WRITABLE, || {
                Ok(splice(from, None, to, None, held, flags())?)
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.held -= n,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        if self.held > 0 {
            return;
        }
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < KEPT {
                idle.push(ends);
            }
        });
    }
}
