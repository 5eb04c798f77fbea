//! An accepted socket before anything has been read from it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::sys::socket::{MsgFlags, recv};
use tokio::{
    io::{Interest, Ready},
    net::{TcpStream, UnixStream},
};

use super::Stream;

/// A socket in clear.
#[derive(Debug)]
pub enum Plain {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain.
    Unix(UnixStream),
}

impl Plain {
    /// Waits until there is something to read, or the peer has closed.
    ///
    /// # Errors
    /// When the socket fails. Cancel-safe.
    pub async fn readable(&self) -> io::Result<Ready> {
        match self {
            Self::Tcp(io) => io.ready(Interest::READABLE).await,
            Self::Unix(io) => io.ready(Interest::READABLE).await,
        }
    }

    /// Runs `read`, which says `WouldBlock` when it has to wait for more.
    ///
    /// # Errors
    /// What `read` says.
    pub fn try_io<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Tcp(io) => io.try_io(Interest::READABLE, read),
            Self::Unix(io) => io.try_io(Interest::READABLE, read),
        }
    }

    /// Copies what has arrived into `buffer` and leaves it in the socket.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has, or why the socket fails.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_PEEK)?)
    }

    /// Takes up to `buffer.len()` bytes that have arrived.
    ///
    /// # Errors
    /// As for [`Plain::peek`].
    pub fn take(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.as_fd().as_raw_fd(), buffer, MsgFlags::empty())?)
    }

    /// Has the runtime tell anew of what the socket holds already.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn watch_anew(&mut self) -> io::Result<()> {
        let copy = self.as_fd().try_clone_to_owned()?;
        // Made before the old one is let go, so that the socket stays open.
        *self = match self {
            Self::Tcp(_) => Self::Tcp(TcpStream::from_std(copy.into())?),
            Self::Unix(_) => Self::Unix(UnixStream::from_std(copy.into())?),
        };
        Ok(())
    }
}

impl AsFd for Plain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(io) => io.as_fd(),
            Self::Unix(io) => io.as_fd(),
        }
    }
}

impl From<Plain> for Stream {
    fn from(plain: Plain) -> Self {
        match plain {
            Plain::Tcp(io) => Self::Tcp(io),
            Plain::Unix(io) => Self::Unix(io),
        }
    }
}
