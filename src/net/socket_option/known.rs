//! The options of sockets that a configuration can set by their numbers.
//!
//! A crate that forbids unsafe code cannot pass any two numbers to the kernel:
//! each option here is one that `nix` sets for us.

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::AsFd,
};

use nix::{
    setsockopt_impl,
    sys::socket::{setsockopt, sockopt::Set},
};

/// The bytes of a value as the kernel gets them.
struct Bytes<'a>(&'a [u8]);

impl<'a> Set<'a, Box<[u8]>> for Bytes<'a> {
    fn new(value: &'a Box<[u8]>) -> Self {
        Self(value)
    }

    fn ffi_ptr(&self) -> *const c_void {
        self.0.as_ptr().cast()
    }

    fn ffi_len(&self) -> libc::socklen_t {
        libc::socklen_t::try_from(self.0.len()).unwrap_or(libc::socklen_t::MAX)
    }
}

macro_rules! options {
    ($($level:ident { $($name:ident),* $(,)? })*) => {
        #[allow(non_camel_case_types, reason = "they have the kernel's names")]
        mod options {
            use super::{Bytes, setsockopt_impl};

            $($(
                #[derive(Clone)]
                pub struct $name;
                setsockopt_impl!($name, libc::$level, libc::$name, Box<[u8]>, Bytes<'_>);
            )*)*
        }

        /// What an option is called, if it can be set.
        pub fn name(level: c_int, option: c_int) -> Option<&'static str> {
            match (level, option) {
                $($((libc::$level, libc::$name) => Some(stringify!($name)),)*)*
                _ => None,
            }
        }

        /// Sets an option.
        ///
        /// # Errors
        /// What the kernel says. One that is not in [`name`] is said to be invalid.
        pub fn set(
            socket: &impl AsFd,
            (level, option): (c_int, c_int),
            value: &Box<[u8]>,
        ) -> io::Result<()> {
            match (level, option) {
                $($((libc::$level, libc::$name) => {
                    setsockopt(socket, options::$name, value)?;
                })*)*
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            }
            Ok(())
        }
    };
}

options! {
    SOL_SOCKET {
        SO_DEBUG, SO_REUSEADDR, SO_DONTROUTE, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE,
        SO_OOBINLINE, SO_PRIORITY, SO_LINGER, SO_REUSEPORT, SO_PASSCRED, SO_RCVLOWAT, SO_RCVTIMEO,
        SO_SNDTIMEO, SO_BINDTODEVICE, SO_TIMESTAMP, SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_PASSSEC,
        SO_MARK, SO_RXQ_OVFL, SO_BUSY_POLL, SO_MAX_PACING_RATE, SO_INCOMING_CPU, SO_ZEROCOPY,
        SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET,
    }
    IPPROTO_IP {
        IP_TOS, IP_TTL, IP_OPTIONS, IP_PKTINFO, IP_MTU_DISCOVER, IP_RECVERR, IP_RECVTTL,
        IP_RECVTOS, IP_FREEBIND, IP_TRANSPARENT, IP_MINTTL, IP_BIND_ADDRESS_NO_PORT,
    }
    IPPROTO_IPV6 {
        IPV6_UNICAST_HOPS, IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR, IPV6_V6ONLY, IPV6_RECVPKTINFO,
        IPV6_RECVTCLASS, IPV6_TCLASS, IPV6_FREEBIND, IPV6_TRANSPARENT,
    }
    IPPROTO_TCP {
        TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT,
        TCP_LINGER2, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP, TCP_QUICKACK, TCP_CONGESTION,
        TCP_THIN_LINEAR_TIMEOUTS, TCP_THIN_DUPACK, TCP_USER_TIMEOUT, TCP_FASTOPEN, TCP_TIMESTAMP,
        TCP_NOTSENT_LOWAT, TCP_SAVE_SYN, TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE, TCP_INQ,
    }
}
