//! Where a listener listens, and how its sockets are made.

use std::net::{IpAddr, SocketAddr};

use crate::{
    api::envoy::config::{
        core::v3::{self as core, address::Address as Kind},
        listener::v3::AdditionalAddress,
    },
    config::{At, Reported},
    net::{Address, TcpKeepalive, socket::SocketOptions, socket_option::SocketOptionList},
};

/// One address a listener listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// The address.
    pub address: Address,
    /// How its sockets are made.
    pub options: SocketOptions,
}

impl ListenAddress {
    /// Compiles `address` and `additional_addresses`, its own first. `options` are
    /// those of the listener, which an additional address may override.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile_all(
        address: Option<core::Address>,
        additional: Vec<AdditionalAddress>,
        options: &SocketOptions,
        at: &At<'_>,
    ) -> Result<Vec<Self>, Reported> {
        let first = Self::required(address, at)
            .and_then(|address| Self::compile(address, options.clone(), at));
        let mut addresses = Vec::with_capacity(1 + additional.len());
        let mut outcome = first.map(|first| addresses.push(first));
        let at = at.field("additional_addresses");
        for (index, other) in additional.into_iter().enumerate() {
            match Self::compile_additional(other, options.clone(), &at.index(index)) {
                Ok(address) => addresses.push(address),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| addresses)
    }

    fn compile_additional(
        message: AdditionalAddress,
        mut options: SocketOptions,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let AdditionalAddress {
            address,
            socket_options,
            tcp_keepalive,
        } = message;
        if let Some(own) = socket_options {
            let core::SocketOptionsOverride { socket_options } = own;
            let at = at.field("socket_options");
            let at = at.field("socket_options");
            options.others = SocketOptionList::compile(socket_options, &at)?;
        }
        if let Some(own) = tcp_keepalive {
            options.keepalive = TcpKeepalive::compile(own);
        }
        Self::compile(Self::required(address, at)?, options, at)
    }

    fn required(address: Option<core::Address>, at: &At<'_>) -> Result<core::Address, Reported> {
        address.ok_or_else(|| at.field("address").error("is required"))
    }

    /// Compiles an address on which to listen; `at` is the message that has it as
    /// `address`.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: core::Address,
        mut options: SocketOptions,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        match &message.address {
            Some(Kind::SocketAddress(socket)) => options.ipv4_compat = socket.ipv4_compat,
            Some(Kind::Pipe(pipe)) => options.mode = pipe.mode,
            Some(Kind::EnvoyInternalAddress(_)) | None => {}
        }
        let address = Address::compile(message, &at.field("address"))?;
        if address.ip().is_none() {
            let of_ip = [
                ("transparent", options.transparent),
                ("freebind", options.freebind),
                ("tcp_fast_open_queue_length", options.fast_open.is_some()),
            ];
            if let Some((field, _)) = of_ip.into_iter().find(|(_, set)| *set) {
                return Err(at.field(field).error("a Unix socket cannot have it"));
            }
        }
        Ok(Self { address, options })
    }

    /// Whether connections to `local` are meant for this very address.
    pub fn is(&self, local: &Address) -> bool {
        self.address == *local
            || (self.address.ip().zip(local.ip())).is_some_and(|(own, local)| {
                let mapped = SocketAddr::new(own.ip().to_canonical(), own.port());
                self.options.ipv4_compat && mapped == local
            })
    }

    /// Whether it stands for all addresses of the family of `local`.
    pub fn is_any(&self, local: &Address) -> bool {
        let Some((own, local)) = self.address.ip().zip(local.ip()) else {
            return false;
        };
        let family = match own.ip() {
            IpAddr::V4(_) => local.is_ipv4(),
            IpAddr::V6(_) => local.is_ipv6() || self.options.ipv4_compat,
        };
        own.ip().is_unspecified() && own.port() == local.port() && family
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(address: &str, ipv4_compat: bool) -> ListenAddress {
        ListenAddress {
            address: at(address),
            options: SocketOptions {
                ipv4_compat,
                ..SocketOptions::default()
            },
        }
    }

    fn at(address: &str) -> Address {
        address.parse::<SocketAddr>().unwrap().into()
    }

    #[test]
    fn a_wildcard_stands_for_its_family_and_ipv4_where_it_takes_it() {
        let four = listens("0.0.0.0:80", false);
        assert!(four.is_any(&at("10.0.0.1:80")) && !four.is_any(&at("10.0.0.1:81")));
        assert!(!four.is_any(&at("[::1]:80")) && !four.is(&at("10.0.0.1:80")));
        assert!(!listens("[::]:80", false).is_any(&at("10.0.0.1:80")));
        assert!(listens("[::]:80", true).is_any(&at("10.0.0.1:80")));
        assert!(listens("[::ffff:10.0.0.1]:80", true).is(&at("10.0.0.1:80")));
        assert!(!listens("10.0.0.1:80", false).is_any(&at("10.0.0.1:80")));
    }
}
