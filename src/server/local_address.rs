//! The address by which this host is known to others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cli::IpVersion;

/// The first address of this host that is not a loopback one; the loopback one
/// when there is none, or when the system does not tell.
///
/// It stands for this host in `x-forwarded-for` where a client is on the same host.
pub fn local_address(version: IpVersion) -> IpAddr {
    let wanted = |address: &IpAddr| match version {
        IpVersion::V4 => address.is_ipv4(),
        IpVersion::V6 => address.is_ipv6(),
    };
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    addresses
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .find(|address| wanted(address) && !address.is_loopback())
        .unwrap_or(match version {
            IpVersion::V4 => Ipv4Addr::LOCALHOST.into(),
            IpVersion::V6 => Ipv6Addr::LOCALHOST.into(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_of_the_version_asked_for() {
        assert!(local_address(IpVersion::V4).is_ipv4());
        assert!(local_address(IpVersion::V6).is_ipv6());
    }
}
