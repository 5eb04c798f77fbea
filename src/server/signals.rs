//! What signals ask of the process.
//!
//! Each signal has a handler, so that it also arrives when nuncio is process 1 of a
//! container, where what has none is dropped. SIGPIPE is ignored by the runtime of
//! the language. Children are nobody's business here: there are none.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM, SIGINT: finish what is open, then exit. The second one: exit now.
    Stop(&'static str),
    /// SIGHUP: read every file again.
    Reread,
    /// SIGUSR1: open every log file again.
    ReopenLogs,
}

/// The signals the process listens to.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    /// Installs the handlers. Runs within a tokio runtime with IO.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next request.
    ///
    /// Cancel-safe: a signal that has arrived is told by a later call.
    pub async fn next(&mut self) -> Request {
        // A handler's stream ends with the runtime only.
        tokio::select! {
            Some(()) = self.terminate.recv() => Request::Stop("SIGTERM"),
            Some(()) = self.interrupt.recv() => Request::Stop("SIGINT"),
            Some(()) = self.hangup.recv() => Request::Reread,
            Some(()) = self.user1.recv() => Request::ReopenLogs,
            else => std::future::pending().await,
        }
    }
}
