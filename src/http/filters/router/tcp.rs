//! A request whose body is the upstream's bytes, and whose response's body is
//! what the upstream says: `connect_config`.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use crate::{
    codec::{Inbound, Outbound},
    http::{RequestBody, StreamError},
    upstream::{
        pool::{TcpConnection, http1::Http1Error},
        stats::cluster_stats,
    },
};

/// An exchange on a connection of its own.
#[derive(Debug)]
pub struct TcpExchange {
    connection: TcpConnection,
    body: RequestBody,
    inbound: Inbound,
    outbound: Outbound,
    /// The request has ended, and the upstream has been told.
    shut: bool,
    over: bool,
}

impl TcpExchange {
    /// Begins one on a connection that has just been made.
    pub fn new(connection: TcpConnection, body: RequestBody) -> Self {
        let buffer = connection.facts.cluster().buffered();
        Self {
            connection,
            body,
            inbound: Inbound::up_to(buffer),
            outbound: Outbound::up_to(buffer),
            shut: false,
            over: false,
        }
    }

    /// Reads what the upstream says, and goes on writing what it is told.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(Err(error)) = self.poll_request(cx) {
            return Poll::Ready(Some(Err(error.into())));
        }
        let read = ready!(self.inbound.poll_more(cx, &mut self.connection.io));
        let n = match read {
            Ok(n) => n,
            Err(error) => {
                let error = Http1Error::Io(error);
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        if n == 0 {
            self.over = true;
            self.connection.facts.closed_by_host();
            return Poll::Ready(None);
        }
        let stats = &self.connection.facts.cluster().stats;
        stats.add(cluster_stats::upstream_cx_rx_bytes_total, n as u64);
        let data = self.inbound.bytes.split().freeze();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        while !self.shut {
            let mut ended = false;
            while self.outbound.has_room() && !ended {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        // Trailers have no place among bytes.
                        if let Ok(data) = frame.into_data() {
                            self.outbound.push(data, false);
                        }
                    }
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Http1Error::RequestBody)),
                    Poll::Ready(None) => ended = true,
                    Poll::Pending => break,
                }
            }
            let idle = self.outbound.is_empty() && !ended;
            let mut sent = 0;
            let io = &mut self.connection.io;
            let written = self.outbound.poll_write(cx, io, &mut sent);
            let stats = &self.connection.facts.cluster().stats;
            stats.add(cluster_stats::upstream_cx_tx_bytes_total, sent);
            ready!(written)?;
            if ended {
                ready!(Pin::new(&mut self.connection.io).poll_shutdown(cx))?;
                self.shut = true;
            } else if idle {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the upstream has said all.
    pub fn is_complete(&self) -> bool {
        self.over
    }

    /// The request's body.
    pub fn body(&mut self) -> &mut RequestBody {
        &mut self.body
    }

    /// Gives the exchange up, for the request's body.
    pub fn fail(self) -> RequestBody {
        self.body
    }

    /// The connection, of which nothing has been read yet.
    pub fn into_tunnel(self) -> TcpConnection {
        self.connection
    }
}
