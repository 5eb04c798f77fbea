//! `envoy.filters.listener.tls_inspector`: what a TLS client says first, read
//! without taking it from the stream.

use std::{io, time::Duration};

use rustls::server::Acceptor;
use tokio::net::TcpStream;

/// How much of a connection's start is looked at: the largest record of TLS.
const MAX_CLIENT_HELLO: usize = 16 * 1024 + 5;
/// How long to wait before looking again at a start that is not whole yet:
/// bytes that are only peeked at keep the socket readable.
const PEEK_PAUSE: Duration = Duration::from_millis(1);
/// First byte of a TLS handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// What the ClientHello tells.
#[derive(Debug)]
pub struct ClientHello {
    /// SNI, lower case.
    pub server_name: Option<Box<str>>,
    /// The protocols offered by ALPN, in the client's order.
    pub application_protocols: Box<[Box<[u8]>]>,
}

/// Reads the ClientHello; `None` when the connection does not begin with one.
///
/// # Errors
/// When the client closes first, or the socket fails.
pub async fn client_hello(stream: &TcpStream) -> io::Result<Option<ClientHello>> {
    let mut buffer = vec![0; 2048];
    let mut seen = 0;
    loop {
        let len = stream.peek(&mut buffer).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if buffer[0] != HANDSHAKE {
            return Ok(None);
        }
        if len > seen {
            seen = len;
            match parse(&buffer[..len]) {
                Parsed::Hello(hello) => return Ok(Some(hello)),
                Parsed::NotTls => return Ok(None),
                Parsed::Partial if len == MAX_CLIENT_HELLO => return Ok(None),
                Parsed::Partial if len == buffer.len() => {
                    buffer.resize((len * 4).min(MAX_CLIENT_HELLO), 0);
                    continue;
                }
                Parsed::Partial => {}
            }
        }
        tokio::time::sleep(PEEK_PAUSE).await;
    }
}

enum Parsed {
    Hello(ClientHello),
    Partial,
    NotTls,
}

fn parse(mut bytes: &[u8]) -> Parsed {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).is_err() {
            return Parsed::NotTls;
        }
    }
    match acceptor.accept() {
        Ok(None) => Parsed::Partial,
        Err(_) => Parsed::NotTls,
        Ok(Some(accepted)) => {
            let hello = accepted.client_hello();
            Parsed::Hello(ClientHello {
                server_name: hello.server_name().map(|n| n.to_ascii_lowercase().into()),
                application_protocols: hello
                    .alpn()
                    .map(|protocols| protocols.map(Into::into).collect())
                    .unwrap_or_default(),
            })
        }
    }
}
