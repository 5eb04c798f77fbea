//! What a TLS client says first (RFC 8446, 4.1.2 and 5.1), read as far as the
//! choice of a filter chain needs it.
//!
//! What is refused here is what Envoy's TLS library refuses before it looks at
//! the server name, so that both take the same connections for TLS.

/// First byte of a record that carries a handshake.
const HANDSHAKE: u8 = 22;
/// Largest content of a record.
const MAX_RECORD: usize = 16 * 1024;
const CLIENT_HELLO: u8 = 1;
/// From TLS 1.0 to TLS 1.3.
const VERSIONS: std::ops::RangeInclusive<u16> = 0x0301..=0x0304;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// What the ClientHello tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// SNI, lower case.
    pub server_name: Option<Box<str>>,
    /// The protocols offered by ALPN, in the client's order.
    pub application_protocols: Box<[Box<[u8]>]>,
    /// The bytes it took with its records' headers.
    pub length: usize,
}

/// What the start of a connection is.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole ClientHello.
    Hello(ClientHello),
    /// Perhaps the beginning of one.
    Partial,
    /// Something else.
    NotTls,
}

/// Reads a ClientHello from the first bytes of a connection.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut message: Vec<u8> = Vec::new();
    let mut reader = Reader(bytes);
    loop {
        let Some(&kind) = reader.0.first() else {
            return Parsed::Partial;
        };
        if kind != HANDSHAKE || reader.0.get(1).is_some_and(|major| *major != 3) {
            return Parsed::NotTls;
        }
        let header = (reader.number(3), reader.number(2));
        let (Some(_), Some(length)) = header else {
            return Parsed::Partial;
        };
        if length == 0 || length > MAX_RECORD {
            return Parsed::NotTls;
        }
        let Some(fragment) = reader.bytes(length) else {
            // Its first bytes may tell already that it is another message.
            let kind = message.first().or(reader.0.first());
            return match kind.is_none_or(|kind| *kind == CLIENT_HELLO) {
                true => Parsed::Partial,
                false => Parsed::NotTls,
            };
        };
        // Nearly always one record holds all of it.
        let so_far = match message.is_empty() {
            true => fragment,
            false => {
                message.extend_from_slice(fragment);
                &message
            }
        };
        let mut content = Reader(so_far);
        if content
            .number(1)
            .is_some_and(|kind| kind != usize::from(CLIENT_HELLO))
        {
            return Parsed::NotTls;
        }
        if let Some(body) = content.prefixed(3) {
            return match hello(body) {
                Some(mut hello) => {
                    hello.length = bytes.len() - reader.0.len();
                    Parsed::Hello(hello)
                }
                None => Parsed::NotTls,
            };
        }
        if message.is_empty() {
            message.extend_from_slice(fragment);
        }
    }
}

fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
    let version = u16::try_from(body.number(2)?).ok()?;
    body.bytes(32)?;
    let session = body.prefixed(1)?;
    let ciphers = body.prefixed(2)?;
    let compressions = body.prefixed(1)?;
    let mut extensions = match body.0.is_empty() {
        true => Reader(&[]),
        false => Reader(body.prefixed(2)?),
    };
    let well_formed = session.len() <= 32
        && ciphers.len() >= 2
        && ciphers.len().is_multiple_of(2)
        && compressions.contains(&0)
        && body.0.is_empty();
    if !well_formed {
        return None;
    }
    let mut hello = ClientHello::default();
    let mut known_version = VERSIONS.start() <= &version;
    while !extensions.0.is_empty() {
        let kind = u16::try_from(extensions.number(2)?).ok()?;
        let content = extensions.prefixed(2)?;
        match kind {
            SERVER_NAME => hello.server_name = Some(server_name(content)?),
            // A malformed list is left to the handshake to refuse.
            ALPN => hello.application_protocols = protocols(content).unwrap_or_default(),
            SUPPORTED_VERSIONS => {
                let list = Reader(content).prefixed(1)?;
                let mut versions = list
                    .chunks_exact(2)
                    .map(|v| u16::from_be_bytes([v[0], v[1]]));
                known_version = versions.any(|version| VERSIONS.contains(&version));
            }
            _ => {}
        }
    }
    known_version.then_some(hello)
}

/// One name of the kind host_name is all there may be (RFC 6066, 3).
fn server_name(content: &[u8]) -> Option<Box<str>> {
    let mut content = Reader(content);
    let mut list = Reader(content.prefixed(2)?);
    let kind = list.number(1)?;
    let name = list.prefixed(2)?;
    let whole = content.0.is_empty() && list.0.is_empty() && kind == 0;
    let valid = whole && (1..=255).contains(&name.len()) && !name.contains(&0);
    let name = std::str::from_utf8(name).ok()?;
    valid.then(|| name.to_ascii_lowercase().into())
}

fn protocols(content: &[u8]) -> Option<Box<[Box<[u8]>]>> {
    let mut content = Reader(content);
    let mut list = Reader(content.prefixed(2)?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.prefixed(1)?;
        protocols.push(name.into());
        if name.is_empty() {
            return None;
        }
    }
    content.0.is_empty().then(|| protocols.into())
}

/// Numbers and vectors as TLS writes them.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of `width` bytes.
    fn number(&mut self, width: usize) -> Option<usize> {
        let bytes = self.bytes(width)?;
        Some(bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    /// Bytes after their number, which takes `width` bytes.
    fn prefixed(&mut self, width: usize) -> Option<&'a [u8]> {
        let count = self.number(width)?;
        self.bytes(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixed(width: usize, content: &[u8]) -> Vec<u8> {
        let length = content.len().to_be_bytes();
        [&length[length.len() - width..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &prefixed(2, content)].concat()
    }

    fn name(name: &[u8]) -> Vec<u8> {
        extension(
            SERVER_NAME,
            &prefixed(2, &[&[0], &prefixed(2, name)[..]].concat()),
        )
    }

    fn alpn(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = names.iter().flat_map(|name| prefixed(1, name)).collect();
        extension(ALPN, &prefixed(2, &list))
    }

    /// The handshake message, without records.
    fn message(version: u16, extensions: &[Vec<u8>]) -> Vec<u8> {
        let body = [
            &version.to_be_bytes()[..],
            &[7; 32],
            &prefixed(1, &[]),
            &prefixed(2, &[0x13, 0x01]),
            &prefixed(1, &[0]),
            &prefixed(2, &extensions.concat()),
        ]
        .concat();
        [&[CLIENT_HELLO][..], &prefixed(3, &body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let records = message.chunks(size);
        records
            .flat_map(|chunk| [&[HANDSHAKE, 3, 1][..], &prefixed(2, chunk)].concat())
            .collect()
    }

    fn example() -> Vec<u8> {
        message(
            0x0303,
            &[name(b"A.Example.com"), alpn(&[b"h2", b"http/1.1"])],
        )
    }

    fn found(bytes: &[u8]) -> ClientHello {
        match parse(bytes) {
            Parsed::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_and_protocols_are_found_however_the_records_are_cut() {
        for size in [1, 4, 50, 10_000] {
            let bytes = records(&example(), size);
            let hello = found(&bytes);
            assert_eq!(hello.server_name.as_deref(), Some("a.example.com"));
            let protocols: Vec<&[u8]> = hello
                .application_protocols
                .iter()
                .map(AsRef::as_ref)
                .collect();
            assert_eq!(protocols, [&b"h2"[..], b"http/1.1"]);
            assert_eq!(hello.length, bytes.len());
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Parsed::Partial, "{size} {cut}");
            }
        }
    }

    #[test]
    fn what_follows_is_not_its_length() {
        let bytes = records(&example(), 10_000);
        let more = [&bytes[..], b"early data"].concat();
        assert_eq!(found(&more).length, bytes.len());
    }

    #[test]
    fn other_things_are_not_tls() {
        let not = |message: Vec<u8>| parse(&records(&message, 10_000)) == Parsed::NotTls;
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Parsed::NotTls);
        assert_eq!(parse(&[HANDSHAKE, 2]), Parsed::NotTls);
        assert_eq!(parse(&[HANDSHAKE, 3, 1, 0, 0]), Parsed::NotTls);
        assert_eq!(parse(&[HANDSHAKE, 3, 1, 0, 9, 2]), Parsed::NotTls);
        assert!(not(vec![2, 0, 0, 1, 0]));
        // SSL 3, and versions that do not exist yet.
        assert!(not(message(0x0300, &[])));
        let future = extension(SUPPORTED_VERSIONS, &prefixed(1, &[0x03, 0x05]));
        assert!(not(message(0x0303, &[future])));
        // Names that are none.
        assert!(not(message(0x0303, &[name(b"")])));
        assert!(not(message(0x0303, &[name(b"a\0b")])));
        assert!(not(message(0x0303, &[extension(SERVER_NAME, &[0, 9])])));
    }

    #[test]
    fn a_hello_without_a_name_is_one() {
        let hello = found(&records(&message(0x0301, &[]), 10_000));
        assert_eq!(hello.server_name, None);
        assert!(hello.application_protocols.is_empty());
        // A broken list of protocols is for the handshake to refuse.
        let broken = extension(ALPN, &[0, 3, 9, b'h']);
        let hello = found(&records(&message(0x0303, &[broken]), 10_000));
        assert!(hello.application_protocols.is_empty());
    }
}
