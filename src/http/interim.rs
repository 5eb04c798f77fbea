//! What a client is told before its response: to go on, and what a host has to say.

use std::cell::RefCell;

use http::StatusCode;

use super::{Stream, http1, http2, names, response, session::Session, stream};
use crate::codec::ResponseHead;

/// Whether a client is to be told to send the body of its request (RFC 9110, 10.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Continue {
    /// It does not wait for that.
    #[default]
    Unasked,
    /// It waits.
    Awaited,
    /// It waited, and was told.
    Told,
}

impl Continue {
    /// Awaited, where `waits` says so.
    pub fn awaited(waits: bool) -> Self {
        match waits {
            true => Self::Awaited,
            false => Self::Unasked,
        }
    }

    /// Counts it, if the client was told.
    pub fn count(self, session: &Session) {
        if self == Self::Told {
            stream::count(&session.current(), StatusCode::CONTINUE);
        }
    }
}

/// The way to a client before its response.
#[derive(Debug)]
pub enum Interim<'a> {
    /// Over HTTP/1.
    Http1(&'a RefCell<http1::Wire>),
    /// Over HTTP/2.
    Http2(&'a http2::Shared, &'a http2::State),
    /// To one that knows of no interim responses: over HTTP/1.0 (RFC 9110, 15.2).
    Nowhere,
}

impl Interim<'_> {
    /// Passes on what a host says before its response, where `proxy_100_continue` is
    /// set. It gets nothing of what responses get but the request's id, as in Envoy.
    pub fn pass(&self, stream: &Stream, mut head: ResponseHead) {
        if !stream.manager().proxy_100_continue {
            return;
        }
        response::drop_hop_headers(&mut head.headers, false);
        if let Some(id) = stream.response_request_id() {
            head.headers.insert(names::X_REQUEST_ID, id.clone());
        }
        match self {
            Self::Http1(wire) => wire.borrow_mut().inform(&mut head),
            Self::Http2(shared, state) => {
                shared.head(state, head.status, head.headers.iter(), false);
            }
            Self::Nowhere => return,
        }
        stream::count(&stream.managed, head.status);
    }
}
