//! `envoy.filters.network.echo`: sends back every byte.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::{Connection, Stream};

/// Bytes sent back at a time.
const PIECE: usize = 16 * 1024;

/// Serves a connection until its client has said all, or it is cut at the end of
/// a drain.
pub async fn serve(connection: Connection) {
    let Connection {
        mut stream,
        info: _,
        chain,
    } = connection;
    tokio::select! {
        // However it ends, there is nobody left to tell.
        ended = echo(&mut stream) => drop(ended),
        () = chain.drain_deadline() => {}
    }
}

async fn echo(stream: &mut Stream) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match stream.read(&mut piece).await? {
            0 => return stream.shutdown().await,
            read => stream.write_all(&piece[..read]).await?,
        }
        stream.flush().await?;
    }
}
