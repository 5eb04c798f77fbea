//! Serving HTTP/2, driven by the one task of the connection.
//!
//! It reads what has come, does what each frame says, polls the streams that are
//! concerned, and writes what they had to say, all of it at once. A stream writes its
//! frames where they go out from, and reads what was put aside for it: there are no
//! channels, and nothing is spawned.

mod body;
mod connection;
mod keepalive;
mod outgoing;
mod receive;
mod request;
mod shared;
mod state;
mod stream;
mod tasks;
mod tunnel;

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use self::connection::Connection;
pub use self::{body::Http2Body, shared::Shared, state::State};
use super::{
    config::ConnectionManager,
    downstream::DownstreamIo,
    session::{Session, Watch},
};
use crate::net::Stream;

/// Serves a connection to its end.
pub(super) async fn serve(
    session: &Rc<Session>,
    manager: &ConnectionManager,
    io: DownstreamIo<Stream>,
) {
    let mut connection = Connection::new(session, manager, io);
    let mut watch = pin!(Watch::new(session).run());
    let mut cut = false;
    poll_fn(|cx| {
        loop {
            if connection.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // Behind it, for it is idle from the end of its last stream on.
            let closing = session.is_closing();
            cut = cut || watch.as_mut().poll(cx).is_ready();
            // Tunnels stay on what they began with. The end of one wakes the connection.
            if cut && !session.has_tunnels() {
                return Poll::Ready(());
            }
            if session.is_closing() == closing {
                return Poll::Pending;
            }
        }
    })
    .await;
}
