//! `connection_keepalive`: PINGs that tell whether the client is still there.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep};

use super::shared::Shared;
use crate::{http::config::protocol, net::http2::frames::PING};

/// What the PINGs say.
const PAYLOAD: [u8; 8] = *b"keep    ";

/// The PINGs of one connection.
#[derive(Debug)]
pub(super) struct Keepalive {
    options: protocol::Keepalive,
    /// Until the next one, or until it has to be answered.
    timer: Pin<Box<Sleep>>,
    asked: bool,
}

impl Keepalive {
    pub(super) fn new(options: protocol::Keepalive) -> Self {
        Self {
            timer: Box::pin(sleep(options.interval)),
            options,
            asked: false,
        }
    }

    /// Ready when one was not answered in time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if std::mem::replace(&mut self.asked, true) {
                return Poll::Ready(());
            }
            shared.frame(PING, 0, 0, &PAYLOAD);
            self.timer
                .as_mut()
                .reset(Instant::now() + self.options.timeout);
        }
    }

    /// The client has answered a PING.
    pub(super) fn ponged(&mut self, payload: [u8; 8]) {
        if self.asked && payload == PAYLOAD {
            self.asked = false;
            self.timer
                .as_mut()
                .reset(Instant::now() + self.options.interval);
        }
    }
}
