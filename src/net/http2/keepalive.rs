//! `connection_keepalive`: PINGs that tell whether the peer is still there.

use std::{future::pending, time::Duration};

use h2::{Ping, PingPong};
use tokio::time;

/// Ends when the peer leaves a PING unanswered for `timeout`. Without an
/// interval there are no PINGs and no end.
///
/// To be polled by the connection's task, which writes and reads the frames.
pub async fn until_silent(pings: Option<PingPong>, interval: Option<Duration>, timeout: Duration) {
    let (Some(mut pings), Some(interval)) = (pings, interval) else {
        return pending().await;
    };
    loop {
        time::sleep(interval).await;
        match time::timeout(timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // Why the connection is over is for its own task to tell.
            Ok(Err(_)) => return pending().await,
            Err(_elapsed) => return,
        }
    }
}
