//! The start of a connection, looked at before anyone takes it.

use std::{cell::RefCell, io};

use super::super::Plain;

/// The most a filter may ask to see, in bytes.
pub const MAX_LOOK: usize = 128 * 1024;

thread_local! {
    /// What was peeked at; nobody keeps it across an await.
    static SEEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a look at the start of a connection brings.
#[derive(Debug)]
pub enum Look<T> {
    /// It is decided.
    Done(T),
    /// More has to arrive.
    More,
    /// This many bytes have to be there, all in all.
    Need(usize),
}

/// Why a look brings nothing.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The client has closed before it said enough.
    #[error("the client closed")]
    Closed,
    /// The socket fails.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// Shows `look` the first bytes of the connection, up to `limit` of them (or
/// what it needs), and again each time more has arrived, until it is done. The
/// bytes stay in the socket. Shown as many as there may be, `look` has to decide.
///
/// Nothing polls: what has been seen clears the socket's readiness, and the next
/// bytes set it again. Cancel-safe, but readiness may be cleared with bytes in
/// the socket then: see [`Plain::watch_anew`].
///
/// # Errors
/// See [`LookError`].
pub async fn look<T>(
    stream: &Plain,
    mut limit: usize,
    mut look: impl FnMut(&[u8]) -> Look<T>,
) -> Result<T, LookError> {
    let mut seen = 0;
    loop {
        let ready = stream.readable().await?;
        let looked = stream.try_io(|| {
            SEEN.with_borrow_mut(|buffer| {
                let room = limit.min(MAX_LOOK);
                if buffer.len() < room {
                    buffer.resize(room, 0);
                }
                let n = stream.peek(&mut buffer[..room])?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if n > seen {
                    seen = n;
                    match look(&buffer[..n]) {
                        Look::Done(found) => return Ok(Some(found)),
                        Look::More => {}
                        Look::Need(wanted) => {
                            // What it asks for now may be there already.
                            let cut = n == limit && wanted > limit;
                            limit = limit.max(wanted);
                            if cut {
                                return Ok(None);
                            }
                        }
                    }
                }
                match ready.is_read_closed() {
                    true => Err(io::ErrorKind::UnexpectedEof.into()),
                    false => Err(io::ErrorKind::WouldBlock.into()),
                }
            })
        });
        match looked {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(LookError::Closed);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the first `count` bytes, which have arrived, out of the socket.
///
/// # Errors
/// When the socket fails.
pub fn take(stream: &Plain, mut count: usize) -> io::Result<()> {
    SEEN.with_borrow_mut(|buffer| {
        while count > 0 {
            let room = count.min(buffer.len());
            match stream.take(&mut buffer[..room])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => count -= n,
            }
        }
        Ok(())
    })
}
