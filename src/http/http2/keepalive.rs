//! `connection_keepalive`: PINGs that tell whether the peer is still there.

use std::future::pending;

use h2::{Ping, PingPong};
use tokio::time;

use crate::http::config::protocol::Keepalive;

/// Ends when the peer leaves a PING unanswered for too long, or when the
/// connection is over.
///
/// It is polled by the connection's task, which writes and reads the frames.
pub(super) async fn until_silent(pings: Option<PingPong>, settings: Option<Keepalive>) {
    let (Some(mut pings), Some(settings)) = (pings, settings) else {
        return pending().await;
    };
    loop {
        time::sleep(settings.interval).await;
        match time::timeout(settings.timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // Why the connection is over is for its own task to tell.
            Ok(Err(_)) => return pending().await,
            Err(_elapsed) => return,
        }
    }
}
