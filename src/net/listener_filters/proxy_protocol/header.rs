//! The header a proxy puts in front of a connection, of both versions of the
//! PROXY protocol (haproxy's proxy-protocol.txt, 2.1 and 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::proxy_protocol::SIGNATURE as SIGNATURE_V2;

/// What a header of version 1 begins with.
pub const SIGNATURE_V1: &[u8; 6] = b"PROXY ";
/// The fixed part of a header of version 2.
const FIXED: usize = 16;
/// Longest line of version 1, with its end: the specification's 107 bytes, and
/// one that Envoy takes too.
pub const MAX_LINE: usize = 108;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Version {
    V1,
    V2,
}

/// A header that is there as a whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    /// Its version.
    pub version: Version,
    /// Its bytes on the connection.
    pub length: usize,
    /// Who connected to whom; `None` when the connection speaks for itself.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Its types and values, in its order.
    pub tlvs: Vec<(u8, Box<[u8]>)>,
}

/// What the start of a connection is.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header.
    Header(Header),
    /// Perhaps the beginning of one.
    Partial,
    /// A header of this length, which has not arrived as a whole.
    Long(usize),
    /// A malformed header; of no version when it is not even like one.
    Malformed(Option<Version>),
}

/// Whether these first bytes may become a header of the version.
pub fn may_be(version: Version, bytes: &[u8]) -> bool {
    let signature: &[u8] = match version {
        Version::V1 => SIGNATURE_V1,
        Version::V2 => SIGNATURE_V2,
    };
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

/// The version a header that begins so is of, as soon as that is known.
pub fn version(bytes: &[u8]) -> Option<Version> {
    match bytes {
        _ if bytes.starts_with(SIGNATURE_V2) => Some(Version::V2),
        _ if bytes.starts_with(SIGNATURE_V1) || line(bytes).is_some() => Some(Version::V1),
        _ => None,
    }
}

/// Reads a header from the first bytes of a connection.
pub fn parse(bytes: &[u8]) -> Parsed {
    if bytes.starts_with(SIGNATURE_V2) {
        return parse_v2(bytes);
    }
    let like_v1 = bytes.starts_with(SIGNATURE_V1);
    if bytes.len() >= FIXED && !like_v1 {
        return Parsed::Malformed(None);
    }
    match line(bytes) {
        Some(line) => match parse_v1(line) {
            Some(addresses) => Parsed::Header(Header {
                version: Version::V1,
                length: line.len(),
                addresses,
                tlvs: Vec::new(),
            }),
            None => Parsed::Malformed(Some(Version::V1)),
        },
        None if bytes.len() >= MAX_LINE => Parsed::Malformed(like_v1.then_some(Version::V1)),
        None => Parsed::Partial,
    }
}

/// The first line with its end. One that is empty may be the start of version 2.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = &bytes[..bytes.len().min(MAX_LINE)];
    let end = memchr::memmem::find(bytes, b"\r\n")?;
    (end > 0).then(|| &bytes[..end + 2])
}

/// Who connected to whom; the inner `None` for `UNKNOWN`.
fn parse_v1(line: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let line = std::str::from_utf8(line).ok()?.trim_ascii_end();
    let words: Vec<&str> = line.split(' ').collect();
    let [source, destination] =
        match words[..] {
            ["PROXY", "UNKNOWN", ..] => return Some(None),
            ["PROXY", "TCP4", from, to, from_port, to_port] => [(from, from_port), (to, to_port)]
                .map(|(ip, port)| {
                    let ip: Ipv4Addr = ip.parse().ok()?;
                    Some(SocketAddr::new(ip.into(), port.parse().ok()?))
                }),
            ["PROXY", "TCP6", from, to, from_port, to_port] => [(from, from_port), (to, to_port)]
                .map(|(ip, port)| {
                    let ip: Ipv6Addr = ip.parse().ok()?;
                    Some(SocketAddr::new(ip.into(), port.parse().ok()?))
                }),
            _ => return None,
        };
    unicast(source?, destination?).map(Some)
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    const MALFORMED: Parsed = Parsed::Malformed(Some(Version::V2));
    /// Commands, families and transports.
    const LOCAL: u8 = 0;
    const PROXY: u8 = 1;
    const INET: u8 = 1;
    const INET6: u8 = 2;

    let Some(fixed) = bytes.get(..FIXED) else {
        return Parsed::Partial;
    };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0xf);
    let (family, transport) = (fixed[13] >> 4, fixed[13] & 0xf);
    let content = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let addresses = match (command, family, transport) {
        _ if version != 2 => return MALFORMED,
        (LOCAL, ..) => 0,
        // Of a stream, or of datagrams.
        (PROXY, INET, 1 | 2) => 12,
        (PROXY, INET6, 1 | 2) => 36,
        _ => return MALFORMED,
    };
    if content < addresses {
        return MALFORMED;
    }
    let length = FIXED + content;
    let Some(content) = bytes.get(FIXED..length) else {
        return Parsed::Long(length);
    };
    let (addresses, rest) = content.split_at(addresses);
    let addresses = match (command, family) {
        (PROXY, INET) => both(addresses, |ip: [u8; 4]| Ipv4Addr::from(ip).into()),
        (PROXY, _) => both(addresses, |ip: [u8; 16]| Ipv6Addr::from(ip).into()),
        _ => Some(None),
    };
    // What a connection says of itself is passed over.
    let tlvs = match command {
        LOCAL => Some(Vec::new()),
        _ => tlvs(rest),
    };
    match addresses.zip(tlvs) {
        Some((addresses, tlvs)) => Parsed::Header(Header {
            version: Version::V2,
            length,
            addresses,
            tlvs,
        }),
        None => MALFORMED,
    }
}

/// Two addresses, then two ports.
fn both<const N: usize>(
    bytes: &[u8],
    ip: impl Fn([u8; N]) -> IpAddr,
) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let one = |at: usize, port: usize| {
        let address = bytes.get(at..at + N)?.try_into().ok()?;
        let port = bytes.get(2 * N + port..)?.first_chunk()?;
        Some(SocketAddr::new(ip(address), u16::from_be_bytes(*port)))
    };
    unicast(one(0, 0)?, one(N, 2)?).map(Some)
}

/// Both, when both can be an end of a connection.
fn unicast(source: SocketAddr, destination: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
    let is = |address: &SocketAddr| {
        let ip = address.ip();
        !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST
    };
    (is(&source) && is(&destination)).then_some((source, destination))
}

/// Type, length in two bytes, value, and so on to the end.
fn tlvs(mut bytes: &[u8]) -> Option<Vec<(u8, Box<[u8]>)>> {
    let mut tlvs = Vec::new();
    while let [kind, rest @ ..] = bytes {
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        tlvs.push((*kind, value.into()));
        bytes = rest;
    }
    Some(tlvs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2 with these fixed bytes and content.
    pub fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&SIGNATURE_V2[..], &[command, family], &length, content].concat()
    }

    const V4: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 0];

    fn addresses(bytes: &[u8]) -> Option<String> {
        match parse(bytes) {
            Parsed::Header(header) => Some(match header.addresses {
                Some((from, to)) => format!("{from} {to}"),
                None => "its own".to_owned(),
            }),
            Parsed::Malformed(_) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_of_version_1() {
        let line = |text: &str| addresses(format!("{text}\r\nrest").as_bytes());
        let found = |text| line(text).unwrap();
        assert_eq!(
            found("PROXY TCP4 1.2.3.4 5.6.7.8 1 2"),
            "1.2.3.4:1 5.6.7.8:2"
        );
        assert_eq!(found("PROXY TCP6 1::2 3::4 1 2"), "[1::2]:1 [3::4]:2");
        assert_eq!(
            found("PROXY TCP4 1.2.3.4 5.6.7.8 0 0 "),
            "1.2.3.4:0 5.6.7.8:0"
        );
        assert_eq!(found("PROXY UNKNOWN"), "its own");
        assert_eq!(found("PROXY UNKNOWN what ever"), "its own");
        for bad in [
            "PROXY",
            "PROXY TCP5 1.2.3.4 5.6.7.8 1 2",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1",
            "PROXY TCP4 1.2.3.4  5.6.7.8 1 2",
            "PROXY TCP4 1::2 3::4 1 2",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2",
            "PROXY TCP4 1.2.3.4 5.6.7.8 70000 2",
            "PROXY TCP4 0.0.0.0 5.6.7.8 1 2",
            "PROXY TCP4 1.2.3.4 255.255.255.255 1 2",
            "PROXY TCP6 ff02::1 3::4 1 2",
        ] {
            assert_eq!(line(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_whole_is_waited_for() {
        let line = b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n";
        for cut in 0..line.len() {
            assert_eq!(parse(&line[..cut]), Parsed::Partial, "{cut}");
        }
        let whole = v2(0x21, 0x11, &[&V4[..], &[2, 0, 1, b'a']].concat());
        for cut in 0..FIXED {
            assert_eq!(parse(&whole[..cut]), Parsed::Partial, "{cut}");
        }
        for cut in FIXED..whole.len() {
            assert_eq!(parse(&whole[..cut]), Parsed::Long(whole.len()), "{cut}");
        }
        assert_eq!(addresses(&whole).unwrap(), "1.2.3.4:80 5.6.7.8:256");
    }

    #[test]
    fn headers_of_version_2() {
        let v6: Vec<u8> = (1..=32).chain([0, 1, 0, 2]).collect();
        assert_eq!(
            addresses(&v2(0x21, 0x21, &v6)).unwrap(),
            "[102:304:506:708:90a:b0c:d0e:f10]:1 [1112:1314:1516:1718:191a:1b1c:1d1e:1f20]:2"
        );
        assert_eq!(addresses(&v2(0x20, 0, &[])).unwrap(), "its own");
        assert_eq!(addresses(&v2(0x20, 0, &[9, 9])).unwrap(), "its own");
        assert!(addresses(&v2(0x21, 0x12, &V4)).is_some());
        for (command, family, content) in [
            (0x11, 0x11, &V4[..]),
            (0x22, 0x11, &V4),
            (0x21, 0x10, &V4),
            (0x21, 0x00, &[]),
            (0x21, 0x31, &[0; 216]),
            (0x21, 0x11, &V4[..10]),
        ] {
            let bytes = v2(command, family, content);
            assert_eq!(parse(&bytes), Parsed::Malformed(Some(Version::V2)));
        }
    }

    #[test]
    fn types_and_values() {
        let with = |tlvs: &[u8]| parse(&v2(0x21, 0x11, &[&V4[..], tlvs].concat()));
        let Parsed::Header(header) = with(&[2, 0, 1, b'a', 0xea, 0, 0]) else {
            panic!("not a header");
        };
        assert_eq!(header.tlvs, [(2, b"a"[..].into()), (0xea, b""[..].into())]);
        for bad in [&[2][..], &[2, 0], &[2, 0, 5, 1, 2]] {
            assert_eq!(with(bad), Parsed::Malformed(Some(Version::V2)));
        }
    }

    #[test]
    fn something_else_is_of_no_version() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nhost"), Parsed::Malformed(None));
        assert_eq!(parse(b"bad\r\n"), Parsed::Malformed(Some(Version::V1)));
        let long = [&b"PROXY UNKNOWN "[..], &[b'a'; 93], b"\r\n"].concat();
        assert_eq!(parse(&long), Parsed::Malformed(Some(Version::V1)));
        assert!(addresses(&[&b"PROXY UNKNOWN "[..], &[b'a'; 92], b"\r\n"].concat()).is_some());
        assert!(may_be(Version::V1, b"PRO") && !may_be(Version::V2, b"PRO"));
        assert!(may_be(Version::V2, b"\r\n"));
    }
}
