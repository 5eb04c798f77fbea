//! A request and a response whose bodies are the two directions of a stream of
//! bytes: a tunnel by POST.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Http1Connection, Http1Error};

/// Most bytes that are taken at once to be written.
const PIECE: usize = 64 * 1024;

/// What is to be written, one piece at a time.
#[derive(Debug, Default)]
pub struct Piece {
    data: Option<Bytes>,
    ended: bool,
}

impl Body for Piece {
    type Data = Bytes;
    type Error = Infallible;

    /// Whoever puts a piece here polls the connection, so nobody is woken.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.data.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None if self.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// A connection in the middle of an exchange that was started with
/// [`RequestFraming::Chunked`](super::RequestFraming::Chunked).
#[derive(Debug)]
pub struct Duplex<T> {
    http1: Http1Connection<T>,
    writing: Piece,
    read: Bytes,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex<T> {
    /// Takes the connection over, once the head of the response has come.
    pub fn new(http1: Http1Connection<T>) -> Self {
        Self {
            http1,
            writing: Piece::default(),
            read: Bytes::new(),
        }
    }

    /// The connection's own bytes.
    pub fn get_ref(&self) -> &T {
        &self.http1.io
    }
}

fn failed(error: Http1Error) -> io::Error {
    match error {
        Http1Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Duplex<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.read.is_empty() {
            match ready!(this.http1.poll_body(cx, Pin::new(&mut this.writing))) {
                // Trailers are no bytes.
                Some(Ok(frame)) => this.read = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = this.read.len().min(buf.remaining());
        buf.put_slice(&this.read[..taken]);
        this.read.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Duplex<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = this.http1.poll_request(cx, Pin::new(&mut this.writing));
        if let Poll::Ready(Err(error)) = written {
            return Poll::Ready(Err(failed(error)));
        }
        if this.writing.data.is_some() {
            return Poll::Pending;
        }
        let taken = buf.len().min(PIECE);
        this.writing.data = Some(Bytes::copy_from_slice(&buf[..taken]));
        let written = this.http1.poll_request(cx, Pin::new(&mut this.writing));
        match written {
            Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let written = this.http1.poll_request(cx, Pin::new(&mut this.writing));
        match written {
            Poll::Ready(outcome) => Poll::Ready(outcome.map_err(failed)),
            Poll::Pending if this.writing.data.is_some() => Poll::Pending,
            Poll::Pending => this.http1.poll_write(cx).map_err(failed),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.writing.ended = true;
        let written = this.http1.poll_request(cx, Pin::new(&mut this.writing));
        written.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HeadLimits, RequestFraming};
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn bodies_are_the_two_directions() {
        let (near, mut far) = duplex(64);
        let mut http1 = Http1Connection::new(near, HeadLimits::default(), usize::MAX);
        let (parts, ()) = http::Request::post("/p").body(()).unwrap().into_parts();
        http1.start(&parts.into(), "http", RequestFraming::Chunked);
        let host = tokio::spawn(async move {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                read.push(far.read_u8().await.unwrap());
            }
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            far.write_all(head).await.unwrap();
            while !read.ends_with(b"0\r\n\r\n") {
                read.push(far.read_u8().await.unwrap());
            }
            far.write_all(b"6\r\nanswer\r\n0\r\n\r\n").await.unwrap();
            String::from_utf8(read).unwrap()
        });
        let mut nothing = Piece::default();
        let head = poll_fn(|cx| http1.poll_head(cx, Pin::new(&mut nothing), drop)).await;
        assert_eq!(head.unwrap().status, 200);
        let mut stream = Duplex::new(http1);
        let said = "x".repeat(1000);
        stream.write_all(said.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        let read = host.await.unwrap();
        let expected = format!(
            "POST /p HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e8\r\n{said}\r\n0\r\n\r\n"
        );
        assert_eq!(read, expected);
    }
}
