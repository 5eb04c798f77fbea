//! One stream of an HTTP/2 connection.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, ext::Protocol, server::SendResponse};
use http::{HeaderValue, Request, header, request::Parts};
use http_body::Body;

use super::Http2Body;
use crate::{
    codec::{Headers, RequestHead},
    http::{
        RequestBody, ResponseBody,
        body::ClientBody,
        connection::Session,
        handle::{Response, handle},
        upgrade::{self, Tunnel},
    },
    net::http2::{Http2Io, stats::http2_stats},
    stats::Block,
};

/// Serves one request. When the client resets the stream or its connection
/// ends, whatever is under way for it ends too.
pub(super) async fn serve(
    session: Rc<Session>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (mut head, body) = request.into_parts();
    let protocol = head.extensions.remove::<Protocol>();
    let managed = session.current();
    let manager = managed.manager();
    let stats = manager.http2_stats().clone();
    if fields(&head, protocol.is_some()) > manager.common.max_headers {
        stats.inc(http2_stats::header_overflow);
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    let _active = Active::new(stats);
    let mut head = RequestHead::from(head);
    join_cookies(&mut head.headers);
    // What goes through a tunnel is no body: it waits until there is one.
    let (body, through) =
        match upgrade::from_extended_connect(&mut head, protocol.as_ref().map(Protocol::as_str)) {
            true => (RequestBody::empty(), Some(body)),
            false => {
                let body = Http2Body::new(body, &head.headers);
                let body = RequestBody::new(ClientBody::Http2(body), true);
                (body, None)
            }
        };
    let handling = handle(session, head, body);
    let response = {
        let mut handling = pin!(handling);
        poll_fn(|cx| {
            if let Poll::Ready(response) = handling.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            respond.poll_reset(cx).map(|_| None)
        })
        .await
    };
    let response = match response {
        None => return,
        Some(Err(_)) => return respond.send_reset(Reason::INTERNAL_ERROR),
        Some(Ok(response)) => response,
    };
    let Response { head, mut body } = response;
    let head = head.into_http();
    if let (Some(tunnel), Some(through)) = (body.take_tunnel(), through) {
        if let Ok(send) = respond.send_response(head, false) {
            // Apart, so that the others do not hold a place for it.
            Box::pin(carry(tunnel, Http2Io::new(send, through))).await;
        }
        return;
    }
    let over = body.is_end_stream();
    // It fails when the client has left, which is nobody's concern any more.
    if let Ok(mut send) = respond.send_response(head, over)
        && !over
    {
        send_body(&mut send, &mut body).await;
    }
}

/// The fields of a request as they came, those of its pseudo header too.
fn fields(head: &Parts, protocol: bool) -> usize {
    let uri = &head.uri;
    let pseudo = 1
        + usize::from(uri.scheme().is_some())
        + usize::from(uri.authority().is_some())
        + usize::from(uri.path_and_query().is_some())
        + usize::from(protocol);
    pseudo + head.headers.len()
}

/// A stream in the stats, for as long as it lives.
struct Active(Arc<Block>);

impl Active {
    fn new(stats: Arc<Block>) -> Self {
        stats.gauge_add(http2_stats::streams_active, 1);
        Self(stats)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.gauge_sub(http2_stats::streams_active, 1);
    }
}

/// Carries what goes through a tunnel. One that has to be cut ends as the
/// connection of a CONNECT does that is cut (RFC 9113, 8.5).
async fn carry(tunnel: Tunnel, mut io: Http2Io) {
    if tunnel.run(&mut io).await.is_err() {
        io.reset(Reason::CONNECT_ERROR);
    }
}

/// Sends a body to its end, or as far as the client wants it.
async fn send_body(send: &mut SendStream<Bytes>, body: &mut ResponseBody) {
    loop {
        // The next piece is asked for when there is room for it.
        let frame = poll_fn(|cx| {
            if send.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(()));
            }
            while send.capacity() == 0 {
                send.reserve_capacity(1);
                match ready!(send.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(Err(())),
                }
            }
            Pin::new(&mut *body).poll_frame(cx).map(Ok)
        })
        .await;
        let sent = match frame {
            Err(()) => return,
            Ok(None) => return drop(send.send_data(Bytes::new(), true)),
            Ok(Some(Err(_))) => return send.send_reset(Reason::INTERNAL_ERROR),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let over = body.is_end_stream();
                    let sent = send.send_data(data, over);
                    if over {
                        return;
                    }
                    sent
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return drop(send.send_trailers(trailers));
                }
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Over HTTP/2 a client may give each cookie a field of its own (RFC 9113,
/// 8.2.3); beyond it there is one for all.
fn join_cookies(headers: &mut Headers) {
    if headers.get_all(header::COOKIE).nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .map(HeaderValue::as_bytes)
        .collect();
    let joined = Bytes::from(all.join(&b"; "[..]));
    if let Ok(joined) = HeaderValue::from_maybe_shared(joined) {
        headers.insert(header::COOKIE, joined);
    }
}
