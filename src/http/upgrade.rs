//! `connection: upgrade`: a request that turns its connection into a tunnel.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    config::ConnectionManager, filters::router::Exchange, stats::http_stats, stream::Stream,
};
use crate::{
    model::route::{Action, RouteHandle},
    net::{Prefixed, tunnel},
};

/// An upgrade that the client asks for.
#[derive(Debug)]
pub struct Upgrade {
    /// Its name, lower case.
    kind: Box<str>,
}

/// What a request wants to be upgraded to, if anything. `h2c` is not an upgrade
/// of this kind: the request goes on as if it had not been asked for.
pub fn requested(headers: &HeaderMap) -> Option<Upgrade> {
    Some(Upgrade {
        kind: kind(headers)?,
    })
}

fn kind(headers: &HeaderMap) -> Option<Box<str>> {
    let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
    let asked = headers.get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|b| *b == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let kind = upgrade.to_ascii_lowercase();
    (asked && kind != "h2c").then(|| kind.into())
}

impl Upgrade {
    /// Whether the route, or else the connection manager, lets it pass.
    pub fn is_allowed(&self, route: Option<&RouteHandle>, manager: &ConnectionManager) -> bool {
        let by_route = route.and_then(|handle| match &handle.route().action {
            Action::Forward(forward) => forward
                .upgrades
                .iter()
                .find(|(kind, _)| *kind == self.kind)
                .map(|(_, on)| *on),
            _ => None,
        });
        by_route.unwrap_or_else(|| {
            manager
                .upgrades
                .iter()
                .any(|upgrade| upgrade.kind == self.kind && upgrade.enabled)
        })
    }
}

/// An exchange that has become a tunnel, until the codec hands over the client's side.
#[derive(Debug)]
pub struct Tunnel {
    stream: Box<Stream>,
    exchange: Exchange,
}

impl Tunnel {
    pub(super) fn new(stream: Box<Stream>, exchange: Exchange) -> Self {
        Self { stream, exchange }
    }

    /// Carries bytes between the client and the upstream until either has had
    /// enough. The stream ends with it.
    pub async fn run<T>(self, client: T)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(connection) = self.exchange.into_tunnel() else {
            return;
        };
        let connection = *connection;
        let (io, early) = connection.http1.into_tunnel();
        let facts = connection.facts;
        let downstream = Downstream {
            io: client,
            ended: false,
        };
        run(self.stream, downstream, Prefixed::new(early, io)).await;
        facts.end();
        drop(facts);
    }
}

/// The client's side of a tunnel. What the upstream says is what the client is
/// there for: once that has ended the tunnel has, whatever the client would
/// still say. The other way round an end is only passed on.
struct Downstream<T> {
    io: T,
    ended: bool,
}

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

async fn run<T>(
    mut stream: Box<Stream>,
    downstream: Downstream<T>,
    upstream: Prefixed<crate::upstream::pool::Io>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let managed = stream.managed.clone();
    let stats = &managed.manager().stats;
    stats.inc(http_stats::downstream_cx_upgrades_total);
    stats.gauge_add(http_stats::downstream_cx_upgrades_active, 1);
    let _active = Active(&managed);
    let session = stream.session.clone();
    let _guard = session.worker().connection_guard();
    let carried = tunnel::carry(downstream, upstream, stream.idle_timeout, |_| {
        std::ops::ControlFlow::Continue(())
    });
    let (_, traffic) = carried.await;
    stream.info.bytes_received = traffic.received;
    stream.info.bytes_sent = traffic.sent;
    stream.complete = true;
}

/// A tunnel in the stats, for as long as it lives.
struct Active<'a>(&'a super::connection::Managed);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0
            .manager()
            .stats
            .gauge_sub(http_stats::downstream_cx_upgrades_active, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_asked_for_by_two_headers() {
        let headers = |connection: &'static str, upgrade: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, connection.parse().unwrap());
            headers.insert(header::UPGRADE, upgrade.parse().unwrap());
            headers
        };
        assert_eq!(
            kind(&headers("keep-alive, Upgrade", "WebSocket")).as_deref(),
            Some("websocket")
        );
        assert_eq!(kind(&headers("keep-alive", "websocket")), None);
        assert_eq!(kind(&headers("upgrade", "h2c")), None);
        assert_eq!(kind(&HeaderMap::new()), None);
    }
}
