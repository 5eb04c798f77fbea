//! A request on its way over a pooled connection, until its response has ended.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::{
    codec::{RequestHead, ResponseHead},
    http::{RequestBody, Stream, StreamError, upgrade::Kind},
    net::{Pipe, http2::Http2Io},
    upstream::{
        WorkerCluster,
        pool::{
            Connection, Pool,
            http1::{Http1Error, RequestFraming},
            http2::{Http2Error, Http2Exchange, Place},
        },
    },
};

/// An exchange on an HTTP/1 connection, which goes back to its pool afterwards.
#[derive(Debug)]
pub struct Exchange {
    /// Gone once it has been given back.
    connection: Option<Box<Connection>>,
    pool: Rc<Pool>,
    cluster: Rc<WorkerCluster>,
    body: RequestBody,
}

impl Exchange {
    /// Sends a request.
    pub fn start(
        mut connection: Box<Connection>,
        pool: Rc<Pool>,
        cluster: Rc<WorkerCluster>,
        request: &RequestHead,
        scheme: &str,
        body: RequestBody,
        tunnel: Option<Kind>,
    ) -> Self {
        let framing = match body.size_hint().exact() {
            _ if tunnel == Some(Kind::Upgrade) => RequestFraming::Upgrade,
            _ if tunnel == Some(Kind::Connect) => RequestFraming::Connect,
            Some(0) => RequestFraming::None,
            Some(length) => RequestFraming::Length(length),
            None => RequestFraming::Chunked,
        };
        connection.facts.begin();
        connection.http1.start(request, scheme, framing);
        Self {
            connection: Some(connection),
            pool,
            cluster,
            body,
        }
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection
            .as_deref_mut()
            .expect("it is not polled after it was given back")
    }

    /// Waits for the head of the response; `interim` hears what comes before it.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        interim: impl FnMut(ResponseHead),
    ) -> Poll<Result<ResponseHead, Http1Error>> {
        let connection = self
            .connection
            .as_deref_mut()
            .expect("it is not polled after it was given back");
        let body = Pin::new(&mut self.body);
        connection.http1.poll_head(cx, body, interim)
    }

    /// Reads the body.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let connection = self
            .connection
            .as_deref_mut()
            .expect("it is not polled after it was given back");
        let frame = connection.http1.poll_body(cx, Pin::new(&mut self.body));
        frame.map(|frame| frame.map(|frame| frame.map_err(StreamError::Upstream)))
    }

    /// What has come of a long body, for another socket; `None` where its frames are to
    /// be asked for.
    pub fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, StreamError>>> {
        let pipe = self.connection().http1.poll_pipe(cx);
        pipe.map(|pipe| pipe.map(|pipe| pipe.map_err(StreamError::Upstream)))
    }

    /// Whether the response has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.connection
            .as_ref()
            .is_none_or(|c| c.http1.is_complete())
    }

    /// Bytes of body still to come, where that is known.
    pub fn body_left(&self) -> Option<u64> {
        self.connection
            .as_ref()
            .map_or(Some(0), |c| c.http1.body_left())
    }

    /// Whether all of the body has been read off the socket already.
    pub fn has_whole_body(&self) -> bool {
        self.connection
            .as_ref()
            .is_none_or(|c| c.http1.has_whole_body())
    }

    /// How many requests the connection has had, with this one.
    pub fn requests_on_connection(&mut self) -> u32 {
        self.connection().facts.requests()
    }

    /// The request's body.
    pub fn body(&mut self) -> &mut RequestBody {
        &mut self.body
    }

    /// Ends a complete exchange: the connection goes back to its pool.
    pub fn release(&mut self, stream: Option<&mut Stream>) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        connection.facts.end();
        let (received, sent) = connection.count_traffic();
        if let Some(stream) = stream {
            stream.info.upstream_bytes.wire_received += received;
            stream.info.upstream_bytes.wire_sent += sent;
            stream.info.bytes_received = self.body.received;
        }
        self.pool.put(connection, &self.cluster);
    }

    /// Ends a failed exchange: the connection is closed, the request's body is
    /// given back for another try. `by_host` says who is to blame.
    pub fn fail(mut self, by_host: bool) -> RequestBody {
        if let Some(connection) = self.connection.take() {
            if by_host {
                connection.facts.closed_by_host();
            }
            self.close(connection);
        }
        std::mem::replace(&mut self.body, RequestBody::empty())
    }

    /// Takes the connection out of its pool for good: it has become a tunnel.
    pub fn into_tunnel(mut self) -> Option<Box<Connection>> {
        let connection = self.connection.take();
        self.pool.lost(&self.cluster);
        connection
    }

    fn close(&mut self, mut connection: Box<Connection>) {
        connection.count_traffic();
        drop(connection);
        self.pool.lost(&self.cluster);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.close(connection);
        }
    }
}

/// An exchange on an HTTP/2 connection.
#[derive(Debug)]
pub struct SharedExchange {
    http2: Http2Exchange,
    body: RequestBody,
    /// The request asks for a tunnel, and stays open.
    tunnel: bool,
    place: Place,
}

impl SharedExchange {
    /// Opens a stream for a request.
    pub fn start(
        place: Place,
        request: http::Request<()>,
        body: RequestBody,
        tunnel: bool,
    ) -> Self {
        Self {
            http2: Http2Exchange::start(place.connection(), request),
            body,
            tunnel,
            place,
        }
    }

    /// Waits for the head of the response; `interim` hears what comes before it.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        interim: impl FnMut(ResponseHead),
    ) -> Poll<Result<ResponseHead, Http2Error>> {
        let body = Pin::new(&mut self.body);
        self.http2.poll_head(cx, body, self.tunnel, interim)
    }

    /// Reads the body and the trailers.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let frame = self.http2.poll_frame(cx, Pin::new(&mut self.body));
        frame.map(|frame| frame.map(|frame| frame.map_err(StreamError::Http2)))
    }

    /// Whether the response has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.http2.is_complete()
    }

    /// Bytes of body still to come, where that is known.
    pub fn body_left(&self) -> Option<u64> {
        self.http2.body_left()
    }

    /// How many requests the connection has had, with this one.
    pub fn requests_on_connection(&self) -> u32 {
        self.place.connection().facts.requests()
    }

    /// The request's body.
    pub fn body(&mut self) -> &mut RequestBody {
        &mut self.body
    }

    /// The stream as one end of a tunnel, and its place on the connection.
    pub fn into_tunnel(self) -> Option<(Http2Io, Place)> {
        let io = self.http2.into_io()?;
        Some((io, self.place))
    }

    /// Gives the exchange up, for the request's body. `went_away`: because the
    /// host takes no more requests on this connection.
    pub fn fail(self, went_away: bool) -> RequestBody {
        if went_away {
            self.place.connection().went_away();
        }
        self.body
    }
}
