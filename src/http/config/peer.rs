//! Who the client is: `use_remote_address` and what goes with it.

use std::net::IpAddr;

use crate::{
    api::envoy::{
        config::core::v3 as core,
        extensions::filters::network::http_connection_manager::v3::http_connection_manager as pb,
    },
    config::{At, Reported},
};

/// What is believed of a client, and what is told about it.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// `use_remote_address`: this proxy stands at the edge.
    pub use_remote_address: bool,
    /// `xff_num_trusted_hops`.
    pub trusted_hops: u32,
    /// `skip_xff_append`.
    pub skip_xff_append: bool,
    /// `append_x_forwarded_port`.
    pub append_forwarded_port: bool,
    /// This machine's address, told upstream in place of a loopback one.
    pub own_address: Option<IpAddr>,
    /// Which addresses are internal.
    pub internal: Internal,
    /// `x-forwarded-client-cert`.
    pub client_cert: ForwardClientCert,
}

/// Ranges of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Box<[Range]>);

impl Ranges {
    /// Compiles a list of ranges.
    ///
    /// # Errors
    /// What is not a range, reported.
    pub(super) fn compile(messages: Vec<core::CidrRange>, at: &At<'_>) -> Result<Self, Reported> {
        let mut ranges = Vec::with_capacity(messages.len());
        let mut outcome = Ok(());
        for (index, range) in messages.into_iter().enumerate() {
            match compile_range(range, &at.index(index)) {
                Ok(range) => ranges.push(range),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self(ranges.into()))
    }

    /// Whether an address is in one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(ip))
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    base: IpAddr,
    bits: u8,
}

impl Range {
    fn contains(self, ip: IpAddr) -> bool {
        fn prefix(ip: IpAddr, bits: u8) -> u128 {
            let (number, width) = match ip {
                IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
                IpAddr::V6(ip) => (u128::from(ip), 128),
            };
            number.checked_shr(width - u32::from(bits)).unwrap_or(0)
        }
        self.base.is_ipv4() == ip.is_ipv4() && prefix(self.base, self.bits) == prefix(ip, self.bits)
    }
}

/// `internal_address_config`. Unless it is set, no address is internal.
#[derive(Clone, Debug, Default)]
pub struct Internal {
    unix_sockets: bool,
    ranges: Ranges,
}

impl Internal {
    pub(super) fn compile(
        message: Option<pb::InternalAddressConfig>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Some(pb::InternalAddressConfig {
            unix_sockets,
            cidr_ranges,
        }) = message
        else {
            return Ok(Self::default());
        };
        let ranges = Ranges::compile(cidr_ranges, &at.field("cidr_ranges"));
        ranges.map(|ranges| Self {
            unix_sockets,
            ranges,
        })
    }

    /// Whether a client at this address (`None`: a Unix socket) is internal.
    pub fn contains(&self, ip: Option<IpAddr>) -> bool {
        match ip {
            Some(ip) => self.ranges.contains(ip),
            None => self.unix_sockets,
        }
    }
}

fn compile_range(message: core::CidrRange, at: &At<'_>) -> Result<Range, Reported> {
    let core::CidrRange {
        address_prefix,
        prefix_len,
    } = message;
    let base: IpAddr = address_prefix.parse().map_err(|_| {
        at.field("address_prefix")
            .error(format_args!("{address_prefix:?} is not an IP address"))
    })?;
    let most = if base.is_ipv4() { 32 } else { 128 };
    match prefix_len.unwrap_or(0) {
        bits if bits <= most => Ok(Range {
            base,
            bits: bits as u8,
        }),
        bits => Err(at
            .field("prefix_len")
            .error(format_args!("{bits} exceeds {most}"))),
    }
}

/// `forward_client_cert_details`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// Removed.
    Sanitize,
    /// Kept on a connection with a verified client certificate, else removed.
    ForwardOnly,
    /// Appended to on such a connection, else removed.
    AppendForward(CertDetails),
    /// Replaced on such a connection, else removed.
    SanitizeSet(CertDetails),
    /// Kept.
    AlwaysForwardOnly,
}

/// `set_current_client_cert_details`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertDetails {
    /// `Subject`.
    pub subject: bool,
    /// `Cert`, URL-encoded PEM.
    pub cert: bool,
    /// `Chain`, URL-encoded PEM.
    pub chain: bool,
    /// `DNS`.
    pub dns: bool,
    /// `URI`.
    pub uri: bool,
    /// `Issuer`.
    pub issuer: bool,
}

impl CertDetails {
    pub(super) fn compile(
        message: Option<pb::SetCurrentClientCertDetails>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Some(message) = message else {
            return Ok(Self::default());
        };
        let pb::SetCurrentClientCertDetails {
            subject,
            cert,
            dns,
            uri,
            chain,
            format,
            issuer,
        } = message;
        crate::refuse!(at; format)?;
        Ok(Self {
            subject: subject.unwrap_or(false),
            cert,
            chain,
            dns,
            uri,
            issuer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_addresses() {
        let range = |base: &str, bits| Range {
            base: base.parse().unwrap(),
            bits,
        };
        let ip = |ip: &str| ip.parse::<IpAddr>().unwrap();
        assert!(range("10.0.0.0", 8).contains(ip("10.255.0.1")));
        assert!(!range("10.0.0.0", 8).contains(ip("11.0.0.1")));
        assert!(range("0.0.0.0", 0).contains(ip("11.0.0.1")));
        assert!(range("::1", 128).contains(ip("::1")));
        assert!(range("::", 0).contains(ip("fe80::1")));
        assert!(!range("::", 0).contains(ip("10.0.0.1")));
    }
}
