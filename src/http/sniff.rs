//! HTTP/1 or HTTP/2, by what the client says first.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::net::http2::PREFACE;

/// Bytes read at once: the first request of most clients fits.
const FIRST_READ: usize = 4 * 1024;

/// Whether the client speaks HTTP/2, and what was read to find out.
///
/// # Errors
/// When reading fails. A client that says nothing and closes speaks HTTP/1.
pub async fn speaks_http2<T>(io: &mut T) -> io::Result<(bool, Bytes)>
where
    T: AsyncRead + Unpin,
{
    let mut read = BytesMut::with_capacity(FIRST_READ);
    loop {
        let seen = read.len().min(PREFACE.len());
        if read[..seen] != PREFACE[..seen] {
            return Ok((false, read.freeze()));
        }
        if seen == PREFACE.len() {
            return Ok((true, read.freeze()));
        }
        if io.read_buf(&mut read).await? == 0 {
            return Ok((false, read.freeze()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sniff(pieces: &[&[u8]]) -> (bool, Bytes) {
        let mut mock = tokio::io::join(pieces.concat().leak() as &[u8], tokio::io::sink());
        speaks_http2(&mut mock).await.unwrap()
    }

    #[tokio::test]
    async fn only_the_whole_preface_is_http2() {
        assert!(sniff(&[PREFACE, b"more"]).await.0);
        assert!(!sniff(&[b"PRI * HTTP/1.1\r\n"]).await.0);
        assert!(!sniff(&[b"PUT / HTTP/1.1\r\n\r\n"]).await.0);
        assert!(!sniff(&[b"PR"]).await.0);
        assert!(!sniff(&[]).await.0);
    }
}
