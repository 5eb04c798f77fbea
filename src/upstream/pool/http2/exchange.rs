//! A request on a stream of a shared connection, until its response has ended.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Request, StatusCode, header};
use http_body::{Body, Frame};

use super::Http2Connection;
use crate::{codec::ResponseHead, net::http2::Http2Io};

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Http2Error {
    /// The stream or its connection ended.
    #[error(transparent)]
    Stream(#[from] h2::Error),
    /// The client's request ended early.
    #[error("the request's body ended early")]
    RequestBody,
}

impl Http2Error {
    /// Whether the host has certainly not looked at the request, so that it may
    /// be sent again whatever it asks for (RFC 9113, 8.7).
    pub fn was_not_processed(&self) -> bool {
        self.went_away()
            || matches!(self, Self::Stream(error)
                if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM))
    }

    /// Whether the host takes no more requests on the connection.
    pub fn went_away(&self) -> bool {
        matches!(self, Self::Stream(error) if error.is_remote() && error.is_go_away())
    }

    /// Whether it is the stream alone that has ended.
    pub fn is_reset(&self) -> bool {
        matches!(self, Self::Stream(error) if error.is_reset())
    }
}

/// Where an exchange stands.
#[derive(Debug)]
enum State {
    /// The connection has to take the request first.
    Queued(SendRequest<Bytes>, Box<Request<()>>),
    /// No head of a response yet.
    Waiting(ResponseFuture, SendStream<Bytes>),
    /// The response's body.
    Receiving(RecvStream, SendStream<Bytes>),
    /// It has failed.
    Failed,
}

/// One request and its response. Whoever polls it drives both: the body of the
/// request goes out while the response is waited for and read.
///
/// Dropping it resets the stream if that has not ended.
#[derive(Debug)]
pub struct Http2Exchange {
    state: State,
    /// All of the request has been handed over.
    sent: bool,
    /// The rest of the body, where `content-length` tells.
    left: Option<u64>,
    /// No bytes come any more; trailers may.
    data_over: bool,
    over: bool,
}

impl Http2Exchange {
    /// Sends a request, the body of which is given to each poll.
    pub fn start(connection: &Http2Connection, request: Request<()>) -> Self {
        Self {
            state: State::Queued(connection.sender(), Box::new(request)),
            sent: false,
            left: None,
            data_over: false,
            over: false,
        }
    }

    /// Waits for the head of the response; `interim` gets those that come before it.
    /// `tunnel`: the stream stays open when the body has ended, for
    /// [`Http2Exchange::into_io`].
    pub fn poll_head<B>(
        &mut self,
        cx: &mut Context<'_>,
        mut body: Pin<&mut B>,
        tunnel: bool,
        mut interim: impl FnMut(ResponseHead),
    ) -> Poll<Result<ResponseHead, Http2Error>>
    where
        B: Body<Data = Bytes>,
    {
        if let State::Queued(sender, _) = &mut self.state {
            ready!(sender.poll_ready(cx))?;
            let State::Queued(mut sender, request) =
                std::mem::replace(&mut self.state, State::Failed)
            else {
                unreachable!("it was looked at above");
            };
            let over = !tunnel && body.is_end_stream();
            let (response, send) = sender.send_request(*request, over)?;
            self.sent = over || tunnel;
            self.state = State::Waiting(response, send);
        }
        self.send(cx, body.as_mut())?;
        let State::Waiting(response, send) = &mut self.state else {
            unreachable!("it is not polled after its head has come");
        };
        while let Some(head) = ready!(response.poll_informational(cx)) {
            let (head, ()) = head?.into_parts();
            // There is nothing to switch to (RFC 9113, 8.6).
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                send.send_reset(Reason::PROTOCOL_ERROR);
                self.state = State::Failed;
                return Poll::Ready(Err(h2::Error::from(Reason::PROTOCOL_ERROR).into()));
            }
            interim(head.into());
        }
        let (head, recv) = ready!(Pin::new(response).poll(cx))?.into_parts();
        let length = head.headers.get(header::CONTENT_LENGTH);
        self.left = length.and_then(|value| value.to_str().ok()?.parse().ok());
        self.over = recv.is_end_stream();
        if let State::Waiting(_, send) = std::mem::replace(&mut self.state, State::Failed) {
            self.state = State::Receiving(recv, send);
        }
        Poll::Ready(Ok(head.into()))
    }

    /// Reads the body of the response, and its trailers.
    pub fn poll_frame<B>(
        &mut self,
        cx: &mut Context<'_>,
        body: Pin<&mut B>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http2Error>>>
    where
        B: Body<Data = Bytes>,
    {
        if self.over {
            return Poll::Ready(None);
        }
        self.send(cx, body)?;
        let State::Receiving(recv, _) = &mut self.state else {
            return Poll::Ready(None);
        };
        if !self.data_over {
            match ready!(recv.poll_data(cx)) {
                Some(data) => {
                    let data = data?;
                    recv.flow_control().release_capacity(data.len())?;
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    self.over = recv.is_end_stream();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                None => self.data_over = true,
            }
        }
        let trailers = ready!(recv.poll_trailers(cx))?;
        self.over = true;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// Hands over as much of the request as the windows have room for.
    fn send<B>(&mut self, cx: &mut Context<'_>, mut body: Pin<&mut B>) -> Result<(), Http2Error>
    where
        B: Body<Data = Bytes>,
    {
        let (State::Waiting(_, send) | State::Receiving(_, send)) = &mut self.state else {
            return Ok(());
        };
        while !self.sent {
            while send.capacity() == 0 {
                send.reserve_capacity(1);
                match send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Pending => return Ok(()),
                    // The host wants no more of it; the response says why.
                    Poll::Ready(Some(Err(_)) | None) => {
                        self.sent = true;
                        return Ok(());
                    }
                }
            }
            let frame = match body.as_mut().poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(frame) => frame,
            };
            // What cannot be sent is not wanted any more: see above.
            let handed = match frame {
                None => {
                    self.sent = true;
                    send.send_data(Bytes::new(), true)
                }
                Some(Err(_)) => {
                    send.send_reset(Reason::CANCEL);
                    self.state = State::Failed;
                    return Err(Http2Error::RequestBody);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.sent = body.is_end_stream();
                        send.send_data(data, self.sent)
                    }
                    Err(frame) => {
                        self.sent = true;
                        send.send_trailers(frame.into_trailers().unwrap_or_default())
                    }
                },
            };
            self.sent |= handed.is_err();
        }
        Ok(())
    }

    /// Whether the response has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.over
    }

    /// Bytes of the response's body still to come, where that is known.
    pub fn body_left(&self) -> Option<u64> {
        match self.over {
            true => Some(0),
            false => self.left,
        }
    }

    /// The stream as one end of a tunnel, once the head of the response has come.
    pub fn into_io(self) -> Option<Http2Io> {
        match self.state {
            State::Receiving(recv, send) => Some(Http2Io::new(send, recv)),
            _ => None,
        }
    }
}
