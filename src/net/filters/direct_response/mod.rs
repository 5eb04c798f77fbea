//! `envoy.filters.network.direct_response`: says the same to every client, then
//! closes.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time,
};

use crate::{
    api::envoy::extensions::filters::network::direct_response::v3::Config,
    config::{At, Reported},
    model::{Context, data_source},
    net::{Connection, Stream},
};

/// How long a client that goes on talking is listened to, so that what it was
/// told reaches it before the reset that unread bytes bring about.
const LINGER: Duration = Duration::from_secs(1);

/// Compiles what is said.
///
/// # Errors
/// When it cannot be read.
pub fn compile(message: Config, cx: &Context<'_>, at: &At<'_>) -> Result<Bytes, Reported> {
    let Config { response } = message;
    match response {
        None => Ok(Bytes::new()),
        Some(source) => data_source::load(source, cx, &at.field("response")).map(Bytes::from),
    }
}

/// Serves a connection, unless it is cut at the end of a drain.
pub async fn serve(connection: Connection, response: Bytes) {
    let Connection {
        mut stream,
        info: _,
        chain,
    } = connection;
    tokio::select! {
        // Whether or not it was heard.
        said = say(&mut stream, &response) => drop(said),
        () = chain.drain_deadline() => {}
    }
}

async fn say(stream: &mut Stream, response: &[u8]) -> io::Result<()> {
    stream.write_all(response).await?;
    stream.flush().await?;
    stream.shutdown().await?;
    let mut unread = [0; 1024];
    let until_closed = async { while matches!(stream.read(&mut unread).await, Ok(1..)) {} };
    // A client that does not close in time is closed.
    drop(time::timeout(LINGER, until_closed).await);
    Ok(())
}
