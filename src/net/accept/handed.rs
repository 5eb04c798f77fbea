//! A connection on its way from the worker that accepted it to the one that is to
//! serve it.

use std::{io, os::unix::net::UnixStream as StdUnixStream, rc::Rc, sync::Arc};

use tokio::{
    net::{TcpStream, UnixStream},
    sync::mpsc,
};

use super::admit::{NewConnection, Places};
use crate::{
    model::listener::Listener,
    net::{ConnectionInfo, Plain, connection::Travelling},
    server::{Door, Worker},
};

/// A new connection without what belongs to a worker.
#[derive(Debug)]
pub struct Handed {
    stream: Detached,
    info: Travelling,
    door: Door,
    places: Places,
    listener: Arc<Listener>,
}

#[derive(Debug)]
enum Detached {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

impl Handed {
    pub(super) fn new(new: NewConnection, listener: Arc<Listener>) -> io::Result<Self> {
        let NewConnection {
            stream,
            info,
            door,
            places,
            guard: _,
        } = new;
        Ok(Self {
            stream: match stream {
                Plain::Tcp(stream) => Detached::Tcp(stream.into_std()?),
                Plain::Unix(stream) => Detached::Unix(stream.into_std()?),
            },
            info: info.into(),
            door,
            places,
            listener,
        })
    }

    fn arrive(self, worker: &Rc<Worker>) -> io::Result<()> {
        // The other worker may have seen a newer configuration.
        worker.refresh();
        let new = NewConnection {
            stream: match self.stream {
                Detached::Tcp(stream) => Plain::Tcp(TcpStream::from_std(stream)?),
                Detached::Unix(stream) => Plain::Unix(UnixStream::from_std(stream)?),
            },
            info: ConnectionInfo::from(self.info),
            door: self.door,
            places: self.places,
            guard: worker.connection_guard(),
        };
        new.begin(worker, &self.listener);
        Ok(())
    }
}

/// Takes in what other workers hand to this one, until they are gone.
pub async fn take_in(worker: Rc<Worker>, mut handed: mpsc::Receiver<Handed>) {
    while let Some(handed) = handed.recv().await {
        if let Err(error) = handed.arrive(&worker) {
            tracing::warn!(
                target: "conn_handler", "worker {} cannot take a connection over: {error}",
                worker.index
            );
        }
    }
}
