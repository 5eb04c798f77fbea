//! A registry of ports for tests that run at the same time, in one process or
//! in several.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the kernel's ephemeral range, so that no outgoing connection can sit
/// on a port that was handed out.
const FIRST: u32 = 12_000;
const LAST: u32 = 32_000;

/// Claims are UDP sockets on a loopback address that nobody else uses: the
/// kernel keeps them exclusive between processes, and lets go when one dies.
const REGISTRY: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A TCP port of 127.0.0.1 that no other test gets while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// Claims a port on which nobody listens.
    pub fn free() -> Self {
        let offset = std::process::id().wrapping_mul(131);
        for _ in FIRST..LAST {
            let turn = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset);
            let number = u16::try_from(FIRST + turn % (LAST - FIRST)).expect("below 65536");
            let Ok(claim) = UdpSocket::bind((REGISTRY, number)) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok() {
                return Self {
                    number,
                    _claim: claim,
                };
            }
        }
        panic!("no free port between {FIRST} and {LAST}");
    }

    /// The number to write into a configuration.
    pub fn number(&self) -> u16 {
        self.number
    }
}
