//! `envoy.filters.listener.original_dst`: the address a connection was meant for
//! before the packet filter of this host redirected it here.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
};

use nix::sys::socket::{getsockopt, sockopt};

use crate::net::{ConnectionInfo, Plain};

/// Takes the original destination for the connection's local address, where the
/// kernel knows of one (`SO_ORIGINAL_DST`).
pub fn run(stream: &Plain, info: &mut ConnectionInfo) {
    let found = match (stream, info.local.ip()) {
        (Plain::Tcp(_), Some(SocketAddr::V4(_))) => {
            let found = getsockopt(&stream.as_fd(), sockopt::OriginalDst).ok();
            found.map(|found| {
                let ip = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
                SocketAddr::new(ip.into(), u16::from_be(found.sin_port))
            })
        }
        (Plain::Tcp(_), Some(SocketAddr::V6(_))) => {
            let found = getsockopt(&stream.as_fd(), sockopt::Ip6tOriginalDst).ok();
            found.map(|found| {
                let ip = Ipv6Addr::from(found.sin6_addr.s6_addr);
                SocketAddr::new(ip.into(), u16::from_be(found.sin6_port))
            })
        }
        _ => None,
    };
    if let Some(found) = found {
        info.restore_local(found.into());
    }
}
