//! The PROXY protocol towards a host: what a connection begins with so that the
//! host knows the client (haproxy's proxy-protocol.txt).

use std::{net::SocketAddr, sync::Arc};

use crate::{
    api::envoy::config::core::v3::{
        Metadata, PerHostConfig, ProxyProtocolConfig, ProxyProtocolPassThroughTlVs, TlvEntry,
        proxy_protocol_config::Version as VersionMessage,
        proxy_protocol_pass_through_tl_vs::PassTlVsMatchType as PassMessage,
    },
    config::{At, Reported, unpack},
    refuse,
};

use super::ConnectionInfo;

/// What a header of version 2 begins with.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and a connection on behalf of a client.
const PROXY: u8 = 0x21;
/// Version 2, and a connection that speaks for itself.
const LOCAL: u8 = 0x20;
/// TCP over IPv4.
const TCP4: u8 = 0x11;
/// TCP over IPv6.
const TCP6: u8 = 0x21;
/// Bytes that types and values may have, for the length is one of 16 bits.
const MAX_TLVS: usize = 0xffff - 36;

/// Types and values.
pub type Tlvs = [(u8, Box<[u8]>)];

/// The namespace of typed metadata in which a host asks for types and values.
const PER_HOST: &str = "envoy.transport_sockets.proxy_protocol";

/// What an endpoint's metadata asks for of its own.
///
/// # Errors
/// What is wrong has been reported.
pub fn compile_per_host(metadata: &Metadata, at: &At<'_>) -> Result<Arc<Tlvs>, Reported> {
    let Some(any) = metadata.typed_filter_metadata.get(PER_HOST) else {
        return Ok(Arc::default());
    };
    let at = at.field("typed_filter_metadata");
    let at = at.field(PER_HOST);
    let PerHostConfig { added_tlvs } = unpack(any, &at)?;
    Ok(compile_tlvs(added_tlvs, &at.field("added_tlvs"))?.into())
}

fn compile_tlvs(messages: Vec<TlvEntry>, at: &At<'_>) -> Result<Box<Tlvs>, Reported> {
    let mut tlvs = Vec::with_capacity(messages.len());
    for (index, tlv) in messages.into_iter().enumerate() {
        let at = at.index(index);
        let TlvEntry {
            r#type,
            value,
            format_string,
        } = tlv;
        refuse!(at; format_string)?;
        tlvs.push((kind(r#type, &at.field("type"))?, value.into()));
    }
    Ok(tlvs.into())
}

/// `envoy.config.core.v3.ProxyProtocolConfig`, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    version: Version,
    /// `pass_through_tlvs`: which of the client's own are passed on.
    pass: Pass,
    /// `added_tlvs`.
    added: Box<Tlvs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pass {
    Nothing,
    All,
    These(Box<[u8]>),
}

impl ProxyProtocol {
    /// Compiles the settings.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(message: ProxyProtocolConfig, at: &At<'_>) -> Result<Self, Reported> {
        let ProxyProtocolConfig {
            version,
            pass_through_tlvs,
            added_tlvs,
        } = message;
        let at_added = at.field("added_tlvs");
        let added = compile_tlvs(added_tlvs, &at_added)?;
        if let Some(empty) = added.iter().position(|(_, value)| value.is_empty()) {
            let at = at_added.index(empty);
            return Err(at.error("one of value, format_string must be set"));
        }
        let pass = pass_through_tlvs.map_or(Ok(Pass::Nothing), |message| {
            Pass::compile(message, &at.field("pass_through_tlvs"))
        });
        Ok(Self {
            version: match VersionMessage::try_from(version) {
                Ok(VersionMessage::V2) => Version::V2,
                Ok(VersionMessage::V1) | Err(_) => Version::V1,
            },
            pass: pass?,
            added,
        })
    }

    /// The header that tells a host of a client's connection, with what the host asks
    /// to be told besides.
    pub fn header(&self, client: &ConnectionInfo, asked: &Tlvs) -> Vec<u8> {
        let addresses = match (client.remote.ip(), client.local.ip()) {
            (Some(from), Some(to)) if from.is_ipv4() == to.is_ipv4() => Some((from, to)),
            _ => None,
        };
        match self.version {
            Version::V1 => header_v1(addresses),
            Version::V2 => header_v2(addresses, &self.tlvs(client, asked)),
        }
    }

    /// The header of a connection that no client is the reason of, from one end to
    /// the other.
    pub fn own_header(&self, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
        match self.version {
            Version::V1 => header_v1(ends),
            Version::V2 => header_v2(None, &[]),
        }
    }

    /// What the host asks for comes first and stands for what else is of its type.
    fn tlvs(&self, client: &ConnectionInfo, asked: &Tlvs) -> Vec<u8> {
        let has = |tlvs: &Tlvs, kind| tlvs.iter().any(|(had, _)| *had == kind);
        let is_added = |kind| has(asked, kind) || has(&self.added, kind);
        let passed = client.tlvs().iter().filter(|tlv| !is_added(tlv.kind));
        let passed = passed.filter(|tlv| match &self.pass {
            Pass::Nothing => false,
            Pass::All => true,
            Pass::These(kinds) => kinds.contains(&tlv.kind),
        });
        let added = self.added.iter().filter(|(kind, _)| !has(asked, *kind));
        let added = asked
            .iter()
            .chain(added)
            .map(|(kind, value)| (*kind, &**value));
        let mut all = Vec::new();
        for (kind, value) in added.chain(passed.map(|tlv| (tlv.kind, &*tlv.value))) {
            // One that does not fit is left out, as in Envoy.
            let Ok(length) = u16::try_from(value.len()) else {
                continue;
            };
            if all.len() + 3 + value.len() > MAX_TLVS {
                continue;
            }
            all.push(kind);
            all.extend(length.to_be_bytes());
            all.extend(value);
        }
        all
    }
}

impl Pass {
    fn compile(message: ProxyProtocolPassThroughTlVs, at: &At<'_>) -> Result<Self, Reported> {
        let ProxyProtocolPassThroughTlVs {
            match_type,
            tlv_type,
        } = message;
        if PassMessage::try_from(match_type) != Ok(PassMessage::Include) {
            return Ok(Self::All);
        }
        let place = at.field("tlv_type");
        let kinds = tlv_type.into_iter().enumerate();
        let kinds: Result<Vec<u8>, Reported> = kinds
            .map(|(index, number)| kind(number, &place.index(index)))
            .collect();
        Ok(Self::These(kinds?.into()))
    }
}

fn kind(number: u32, at: &At<'_>) -> Result<u8, Reported> {
    u8::try_from(number).map_err(|_| at.error(format_args!("{number} is not less than 256")))
}

fn header_v1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((from, to)) = addresses else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from_ip, to_ip) = (from.ip(), to.ip());
    let (from_port, to_port) = (from.port(), to.port());
    format!("PROXY {family} {from_ip} {to_ip} {from_port} {to_port}\r\n").into_bytes()
}

fn header_v2(addresses: Option<(SocketAddr, SocketAddr)>, tlvs: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let mut told = Vec::with_capacity(36);
    match addresses {
        None => header.extend([LOCAL, 0]),
        Some((SocketAddr::V4(from), SocketAddr::V4(to))) => {
            header.extend([PROXY, TCP4]);
            told.extend(from.ip().octets());
            told.extend(to.ip().octets());
            told.extend(from.port().to_be_bytes());
            told.extend(to.port().to_be_bytes());
        }
        Some((from, to)) => {
            header.extend([PROXY, TCP6]);
            for address in [from, to] {
                if let SocketAddr::V6(address) = address {
                    told.extend(address.ip().octets());
                }
            }
            told.extend(from.port().to_be_bytes());
            told.extend(to.port().to_be_bytes());
        }
    }
    told.extend(tlvs);
    // No more than 36 and MAX_TLVS.
    let length = u16::try_from(told.len()).unwrap_or(u16::MAX);
    header.extend(length.to_be_bytes());
    header.extend(told);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Address, ConnectionMetadata, connection::Tlv};

    fn client(from: &str, to: &str) -> ConnectionInfo {
        let address = |text: &str| Address::from(text.parse::<SocketAddr>().unwrap());
        ConnectionInfo::new(1, address(to), address(from))
    }

    fn settings(version: Version) -> ProxyProtocol {
        ProxyProtocol {
            version,
            pass: Pass::These([2].into()),
            added: [(0xea, Box::from(&b"x"[..]))].into(),
        }
    }

    #[test]
    fn a_line_tells_who_connected_to_whom() {
        let v1 = settings(Version::V1);
        assert_eq!(
            v1.header(&client("1.2.3.4:5", "6.7.8.9:10"), &[]),
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n"
        );
        assert_eq!(
            v1.header(&client("[::1]:5", "[::2]:10"), &[]),
            b"PROXY TCP6 ::1 ::2 5 10\r\n"
        );
        assert_eq!(
            v1.header(&client("[::1]:5", "6.7.8.9:10"), &[]),
            b"PROXY UNKNOWN\r\n"
        );
    }

    #[test]
    fn version_2_carries_types_and_values() {
        let v2 = settings(Version::V2);
        let mut info = client("1.2.3.4:5", "6.7.8.9:10");
        let tlv = |kind, value: &[u8]| Tlv {
            kind,
            value: value.into(),
        };
        let tlvs = [tlv(1, b"no"), tlv(2, b"yes"), tlv(0xea, b"no")];
        info.noted(ConnectionMetadata::default(), tlvs.into());
        let mut expected = SIGNATURE.to_vec();
        expected.extend([
            0x21,
            0x11,
            0,
            12 + 4 + 6,
            1,
            2,
            3,
            4,
            6,
            7,
            8,
            9,
            0,
            5,
            0,
            10,
        ]);
        expected.extend([0xea, 0, 1, b'x', 2, 0, 3, b'y', b'e', b's']);
        assert_eq!(v2.header(&info, &[]), expected);
        let asked = [(2, Box::from(&b"h"[..]))];
        let told = v2.header(&info, &asked);
        assert_eq!(told[28..], [2, 0, 1, b'h', 0xea, 0, 1, b'x']);
        let v6 = v2.header(&client("[::1]:5", "[::2]:10"), &[]);
        assert_eq!(v6[12..16], [0x21, 0x21, 0, 36 + 4]);
        assert_eq!(v2.own_header(None)[12..], [0x20, 0, 0, 0]);
    }
}
