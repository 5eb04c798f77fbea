//! A stream that has become a tunnel.

use std::{
    cell::Cell,
    convert::Infallible,
    future::pending,
    io,
    ops::ControlFlow,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    formatter::ResponseFlag,
    http::{response_body::Source, session::Session, stats::http_stats, stream::Stream},
    net::{
        Prefixed, Socket,
        tunnel::{self, End, Side},
    },
    overload::Timer,
    stats::Block,
    upstream::{pool::Connection, stats::cluster_stats},
};

/// An exchange that has become a tunnel, until the codec hands over the client's side.
#[derive(Debug)]
pub struct Tunnel {
    stream: Box<Stream>,
    source: Source,
}

/// The tunnel was cut from the host's side, or by a time limit: the client is not
/// to take its end for the end of what there was to say.
#[derive(Clone, Copy, Debug)]
pub struct Severed;

impl Tunnel {
    pub(in crate::http) fn new(stream: Box<Stream>, source: Source) -> Self {
        Self { stream, source }
    }

    /// Carries bytes between the client and the upstream until either has had
    /// enough. The stream ends with it.
    ///
    /// # Errors
    /// When it has to be cut, and not just closed.
    pub async fn run<T>(self, client: &mut T) -> Result<(), Severed>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { mut stream, source } = self;
        let _open = Open::new(&stream.session);
        let stats = stream.upstream.as_ref().map(|u| u.cluster.clone());
        let stats = stats.as_ref().map(|c| &*c.cluster.stats);
        let end = match source {
            Source::Http1(exchange) => {
                let Some(connection) = exchange.into_tunnel() else {
                    return Ok(());
                };
                let Connection { http1, facts, .. } = *connection;
                let (io, early) = http1.into_tunnel();
                let mut upstream = Prefixed::new(early, io);
                let end = carry(&mut stream, client, &mut upstream, stats).await;
                if end.is_reset_by(Side::Downstream) {
                    upstream.get_ref().reset_on_close();
                }
                if end.is_by(Side::Upstream) {
                    facts.closed_by_host();
                }
                facts.end();
                end
            }
            Source::Http2(exchange) => {
                let Some((mut io, _place)) = exchange.into_tunnel() else {
                    return Ok(());
                };
                // Its connection counts its bytes.
                carry(&mut stream, client, &mut io, None).await
            }
            Source::Tcp(exchange) => {
                let mut upstream = exchange.into_tunnel();
                let end = carry(&mut stream, client, &mut upstream.io, stats).await;
                if end.is_reset_by(Side::Downstream) {
                    upstream.io.reset_on_close();
                }
                if end.is_by(Side::Upstream) {
                    upstream.facts.closed_by_host();
                }
                end
            }
            Source::Empty | Source::Full(_) | Source::Tunnel(_) => return Ok(()),
        };
        end.explain(&mut stream)
    }
}

/// How a tunnel ended.
enum Outcome {
    Carried(End),
    /// `max_stream_duration`.
    TooLong,
    /// The upstream's.
    UpstreamTooLong,
    /// Its listener or filter chain was removed, or the process ends, and the
    /// drain time is over.
    Drained,
}

impl Outcome {
    fn is_by(&self, side: Side) -> bool {
        match self {
            Self::Carried(End::Finished { last: by } | End::Failed(by, _)) => *by == side,
            _ => false,
        }
    }

    fn is_reset_by(&self, side: Side) -> bool {
        matches!(self, Self::Carried(End::Failed(by, error))
            if *by == side && error.kind() == io::ErrorKind::ConnectionReset)
    }

    /// Tells the access log and the stats.
    fn explain(self, stream: &mut Stream) -> Result<(), Severed> {
        let (flag, details) = match self {
            Self::Carried(End::Finished { .. } | End::Asked) => {
                stream.complete = true;
                return Ok(());
            }
            // The stream ends as one that its client has left.
            Self::Carried(End::Failed(Side::Downstream, _)) => return Ok(()),
            Self::Carried(End::Failed(Side::Upstream, _)) => (
                Some(ResponseFlag::UpstreamConnectionTermination),
                "upstream_reset_after_response_started{connection_termination}",
            ),
            Self::Carried(End::Idle) => {
                let stats = &stream.manager().stats;
                stats.inc(http_stats::downstream_rq_idle_timeout);
                let flag = ResponseFlag::StreamIdleTimeout;
                (Some(flag), "stream_idle_timeout")
            }
            Self::TooLong => {
                let stats = &stream.manager().stats;
                stats.inc(http_stats::downstream_rq_max_duration_reached);
                (None, "max_duration_timeout")
            }
            Self::UpstreamTooLong => {
                if let Some(upstream) = &stream.upstream {
                    upstream.took_too_long();
                }
                let flag = ResponseFlag::UpstreamMaxStreamDurationReached;
                (Some(flag), "upstream_max_stream_duration_reached")
            }
            Self::Drained => {
                let stats = &stream.manager().stats;
                stats.inc(http_stats::downstream_cx_drain_close);
                let flag = ResponseFlag::DownstreamConnectionTermination;
                (Some(flag), "downstream_local_disconnect")
            }
        };
        if let Some(flag) = flag {
            stream.flag(flag);
        }
        stream.info.response_code_details = Some(details.into());
        stream.complete = true;
        Err(Severed)
    }
}

async fn carry<D, U>(
    stream: &mut Stream,
    client: &mut D,
    upstream: &mut U,
    stats: Option<&Block>,
) -> Outcome
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Socket + Unpin,
{
    let downstream = Downstream {
        io: client,
        ended: false,
    };
    let counted = Cell::new((0, 0));
    let of_client = stream.managed.chain().listener.per_connection_buffer_limit;
    let cluster = stream.upstream.as_ref().map(|u| &u.cluster.cluster);
    let buffer = of_client.min(cluster.map_or(usize::MAX, |cluster| cluster.buffered()));
    let (idle, timers) = (stream.idle_timeout, stream.managed.clone());
    let idle = move || {
        let timers = &timers.chain().listener.overload.reduce_timeouts;
        idle.map(|limit| timers.scale(Timer::StreamIdle, limit))
    };
    let carried = tunnel::carry(downstream, upstream, buffer, idle, |traffic| {
        let (received, sent) = counted.replace((traffic.received, traffic.sent));
        if let Some(stats) = stats {
            let (received, sent) = (traffic.received - received, traffic.sent - sent);
            stats.add(cluster_stats::upstream_cx_tx_bytes_total, received);
            stats.add(cluster_stats::upstream_cx_rx_bytes_total, sent);
        }
        ControlFlow::Continue(())
    });
    // The route's timeout was for the answer.
    let limit = stream.deadline.filter(|_| !stream.route_deadline);
    let upstreams = stream.upstream.as_ref().and_then(|u| u.deadline);
    let session = stream.session.clone();
    let outcome = tokio::select! {
        (end, _) = carried => Outcome::Carried(end),
        () = until(limit) => Outcome::TooLong,
        () = until(upstreams) => Outcome::UpstreamTooLong,
        () = session.drained() => Outcome::Drained,
        never = log_periodically(stream, &counted) => match never {},
    };
    (stream.info.bytes_received, stream.info.bytes_sent) = counted.get();
    outcome
}

/// Writes the tunnel down every so often, where that is asked for.
async fn log_periodically(stream: &mut Stream, counted: &Cell<(u64, u64)>) -> Infallible {
    let Some(interval) = stream.manager().log_options.interval else {
        return pending().await;
    };
    loop {
        tokio::time::sleep(interval).await;
        (stream.info.bytes_received, stream.info.bytes_sent) = counted.get();
        stream.log_periodically();
    }
}

async fn until(limit: Option<Instant>) {
    match limit {
        Some(limit) => tokio::time::sleep_until(limit.into()).await,
        None => pending().await,
    }
}

/// A tunnel on its connection, for as long as it lives.
struct Open(Rc<Session>);

impl Open {
    fn new(session: &Rc<Session>) -> Self {
        session.tunnel_began();
        Self(session.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.tunnel_ended();
    }
}

/// The client's side of a tunnel. What the upstream says is what the client is
/// there for: once that has ended the tunnel has, whatever the client would
/// still say. The other way round an end is only passed on.
struct Downstream<T> {
    io: T,
    ended: bool,
}

/// Its bytes are counted on their way through here.
impl<T> Socket for Downstream<T> {}

impl<T: AsyncRead + Unpin> AsyncRead for Downstream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.ended {
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut self.io).poll_read(cx, buf),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Downstream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        self.ended = true;
        // Whoever waits for the client to say more has to look again.
        cx.waker().wake_by_ref();
        Poll::Ready(shut)
    }
}
