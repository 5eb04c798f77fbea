//! Accept loops: one for each address and worker, for as long as any listener
//! of the snapshot uses the address.

mod admit;
mod count;
mod handed;

use std::{cell::RefCell, io, net::SocketAddr, path::Path, rc::Rc, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::net::{TcpListener, UnixListener};

use super::{
    Address, Plain,
    signal::Signal,
    socket::{ListenSocket, Sockets},
};
use crate::{
    model::{
        Snapshot,
        listener::{Listener, listener_stats},
    },
    server::Worker,
};
use admit::admit;
pub use handed::{Handed, take_in};

/// How long a loop rests when the process has no file descriptor left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How many connections are taken at most from the queue of a socket that goes away:
/// as many as Linux queues by default (`somaxconn`).
const QUEUED_MAX: usize = 4096;

/// The accept loops of one worker.
#[derive(Debug, Default)]
pub struct AcceptLoops(RefCell<Vec<AcceptLoop>>);

#[derive(Debug)]
struct AcceptLoop {
    sockets: Arc<Sockets>,
    socket: Rc<Socket>,
    listener: Rc<RefCell<Arc<str>>>,
    stop: Signal,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection and the address of its peer.
type Accepted = (Plain, Address);

impl Socket {
    fn adopt(socket: ListenSocket) -> io::Result<Self> {
        Ok(match socket {
            ListenSocket::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            ListenSocket::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(socket) => {
                let (stream, remote) = socket.accept().await?;
                (Plain::Tcp(stream), canonical(remote).into())
            }
            Self::Unix(socket) => {
                let (stream, remote) = socket.accept().await?;
                let path = remote.as_pathname().unwrap_or(Path::new(""));
                (Plain::Unix(stream), Address::Pipe(path.into()))
            }
        })
    }
}

impl AcceptLoops {
    /// Accepts what the kernel has already queued on sockets that `next` does
    /// not use, while the configuration that serves them is still in place.
    pub fn drain_removed(&self, worker: &Rc<Worker>, next: &Snapshot) {
        for accept in self.0.borrow().iter() {
            if users(next, &accept.sockets).next().is_none() {
                accept.take_queued(worker);
            }
        }
    }

    /// Starts and ends loops so that there is one for each socket of `snapshot`,
    /// or none while the process does not accept.
    pub fn reconcile(&self, worker: &Rc<Worker>, snapshot: &Snapshot) {
        let phase = worker.phase();
        let mut loops = self.0.borrow_mut();
        loops.retain(|accept| {
            let kept = users(snapshot, &accept.sockets).any(|l| phase.accepts(l.direction));
            if !kept {
                accept.stop.raise();
            }
            kept
        });
        for listener in snapshot.listeners.values() {
            if phase.has_stopped(listener.direction) {
                // Nobody else would close one that this worker has been too slow for.
                let sockets = listener.sockets.iter();
                sockets.for_each(|sockets| drop(sockets.take(worker.index)));
            }
            if !phase.accepts(listener.direction) {
                continue;
            }
            for sockets in &listener.sockets {
                if let Some(accept) = loops.iter().find(|a| Arc::ptr_eq(&a.sockets, sockets)) {
                    // The address may have passed to a listener of another name.
                    accept.listener.replace(listener.name.clone());
                } else if sockets.is_listening()
                    && let Some(socket) = sockets.take(worker.index)
                {
                    match Socket::adopt(socket) {
                        Ok(socket) => {
                            loops.push(AcceptLoop::start(worker, listener, sockets, socket));
                        }
                        Err(error) => tracing::error!(
                            target: "conn_handler",
                            "{}: worker {} cannot accept on {}: {error}",
                            listener.name, worker.index, sockets.local(),
                        ),
                    }
                }
            }
        }
    }
}

fn users<'a>(
    snapshot: &'a Snapshot,
    sockets: &Arc<Sockets>,
) -> impl Iterator<Item = &'a Arc<Listener>> {
    let uses = move |l: &&Arc<Listener>| l.sockets.iter().any(|s| Arc::ptr_eq(s, sockets));
    snapshot.listeners.values().filter(uses)
}

impl AcceptLoop {
    fn start(
        worker: &Rc<Worker>,
        listener: &Arc<Listener>,
        sockets: &Arc<Sockets>,
        socket: Socket,
    ) -> Self {
        let accept = Self {
            sockets: sockets.clone(),
            socket: Rc::new(socket),
            listener: Rc::new(RefCell::new(listener.name.clone())),
            stop: Signal::new(),
        };
        let mut stop = accept.stop.wait();
        let mut turn = worker.phase_changed().wait();
        let (worker, sockets) = (worker.clone(), sockets.clone());
        let (socket, name) = (accept.socket.clone(), accept.listener.clone());
        tokio::task::spawn_local(async move {
            loop {
                let mut accepted = tokio::select! {
                    biased;
                    () = &mut stop => return,
                    () = &mut turn => {
                        turn = worker.phase_changed().wait();
                        continue;
                    }
                    accepted = socket.accept(), if !is_paused(&worker, &name) => accepted,
                };
                let Some(listener) = worker.listener(&name.borrow()) else {
                    continue;
                };
                let mut count = 0;
                let failed = loop {
                    match accepted {
                        Ok(accepted) => admit(&worker, &listener, &sockets, accepted),
                        Err(error) if is_of_one_connection(&error) => {}
                        Err(error) => break Some(error),
                    }
                    count += 1;
                    if count == listener.max_accepts_per_event {
                        break None;
                    }
                    match socket.accept().now_or_never() {
                        Some(next) => accepted = next,
                        None => break None,
                    }
                };
                let stats = &listener.stats;
                stats.record(
                    listener_stats::connections_accepted_per_socket_event,
                    count as u64,
                );
                if let Some(error) = failed {
                    tracing::warn!(
                        target: "conn_handler", "{}: accept failed: {error}", listener.name
                    );
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        });
        accept
    }

    fn take_queued(&self, worker: &Rc<Worker>) {
        let Some(listener) = worker.listener(&self.listener.borrow()) else {
            return;
        };
        // Clients that come meanwhile must not keep the worker here.
        for _ in 0..QUEUED_MAX {
            match self.socket.accept().now_or_never() {
                Some(Ok(accepted)) => admit(worker, &listener, &self.sockets, accepted),
                Some(Err(error)) if is_of_one_connection(&error) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}

/// Whether the kernel's queue is left as it is for now.
fn is_paused(worker: &Worker, name: &RefCell<Arc<str>>) -> bool {
    let listener = worker.listener(&name.borrow());
    listener.is_some_and(|l| l.overload.stop_accepting_connections.is_full())
}

/// Errors of `accept` that concern a connection that is already gone.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
    )
}

/// An IPv4 client of a socket of both families by its own address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
