//! `envoy.config.core.v3.TcpKeepalive`, compiled.

use std::{io, os::fd::AsFd, time::Duration};

use crate::api::envoy::config::core::v3 as pb;

/// How the kernel finds out that the other end is gone; what is `None` is the
/// kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpKeepalive {
    /// Probes without an answer before the connection is given up.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

impl TcpKeepalive {
    /// Compiles it; `None` where a zero turns it off.
    pub fn compile(message: pb::TcpKeepalive) -> Option<Self> {
        let pb::TcpKeepalive {
            keepalive_probes,
            keepalive_time,
            keepalive_interval,
        } = message;
        if [keepalive_probes, keepalive_time, keepalive_interval].contains(&Some(0)) {
            return None;
        }
        let seconds = |s: u32| Duration::from_secs(s.into());
        Some(Self {
            probes: keepalive_probes,
            time: keepalive_time.map(seconds),
            interval: keepalive_interval.map(seconds),
        })
    }

    /// Tells it to a socket. What a listening socket is told, those that are
    /// accepted from it have.
    ///
    /// # Errors
    /// When the kernel does not take a value.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let mut told = socket2::TcpKeepalive::new();
        if let Some(time) = self.time {
            told = told.with_time(time);
        }
        if let Some(interval) = self.interval {
            told = told.with_interval(interval);
        }
        if let Some(probes) = self.probes {
            told = told.with_retries(probes);
        }
        socket2::SockRef::from(socket).set_tcp_keepalive(&told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_turns_it_off() {
        let message = |time| pb::TcpKeepalive {
            keepalive_time: Some(time),
            ..pb::TcpKeepalive::default()
        };
        assert_eq!(TcpKeepalive::compile(message(0)), None);
        let on = TcpKeepalive::compile(message(7)).unwrap();
        assert_eq!((on.time, on.probes), (Some(Duration::from_secs(7)), None));
    }
}
