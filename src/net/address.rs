//! `envoy.config.core.v3.Address`, compiled.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    api::envoy::config::core::v3 as pb,
    config::{At, Reported},
    refuse,
};

/// Where a listener listens or a host is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A Unix domain socket; a path that begins with `@` is in the abstract namespace.
    Pipe(Arc<Path>),
}

impl Address {
    /// Compiles an address that has to be numeric.
    ///
    /// # Errors
    /// When the address is a name, UDP, internal, or uses a field that is not
    /// supported.
    pub fn compile(message: pb::Address, at: &At<'_>) -> Result<Self, Reported> {
        match message.address {
            Some(pb::address::Address::SocketAddress(socket)) => {
                Self::compile_socket(socket, &at.field("socket_address"))
            }
            Some(pb::address::Address::Pipe(pb::Pipe { path, mode })) => {
                let at = at.field("pipe");
                refuse!(at; mode)?;
                Ok(Self::Pipe(PathBuf::from(path).into()))
            }
            Some(pb::address::Address::EnvoyInternalAddress(_)) => {
                Err(at.field("envoy_internal_address").unsupported())
            }
            None => Err(at.error("one of socket_address, pipe is required")),
        }
    }

    /// Compiles a socket address that has to be numeric.
    ///
    /// # Errors
    /// As [`Address::compile`].
    pub fn compile_socket(message: pb::SocketAddress, at: &At<'_>) -> Result<Self, Reported> {
        let pb::SocketAddress {
            protocol,
            address,
            port_specifier,
            resolver_name,
            // `::` listens on both families here; see `net::socket`.
            ipv4_compat: _,
            network_namespace_filepath,
        } = message;
        refuse!(at; resolver_name, network_namespace_filepath)?;
        if protocol == pb::socket_address::Protocol::Udp as i32 {
            return Err(at.field("protocol").error("UDP is not supported yet"));
        }
        let ip: IpAddr = address.parse().map_err(|_| {
            at.field("address").error(format_args!(
                "{address:?} is not an IP address; a name can only be used in a cluster of type STRICT_DNS or LOGICAL_DNS"
            ))
        })?;
        Ok(Self::Ip(SocketAddr::new(
            ip,
            Self::port(port_specifier, at)?,
        )))
    }

    /// The numeric port of a socket address.
    ///
    /// # Errors
    /// When the port is given by name or exceeds 65535.
    pub fn port(
        specifier: Option<pb::socket_address::PortSpecifier>,
        at: &At<'_>,
    ) -> Result<u16, Reported> {
        match specifier {
            Some(pb::socket_address::PortSpecifier::PortValue(port)) => u16::try_from(port)
                .map_err(|_| {
                    at.field("port_value")
                        .error(format_args!("{port} exceeds 65535"))
                }),
            Some(pb::socket_address::PortSpecifier::NamedPort(_)) => {
                Err(at.field("named_port").unsupported())
            }
            None => Err(at.error("port_value is required")),
        }
    }

    /// Whether a listener of this address is one for connections to `other`: it is
    /// the same, or stands for all addresses of its family.
    pub fn covers(&self, other: &Self) -> bool {
        self == other || other.with_any_ip().is_some_and(|any| *self == any)
    }

    /// The address that stands for all of the family, with the same port.
    pub fn with_any_ip(&self) -> Option<Self> {
        let address = self.ip()?;
        let any: IpAddr = match address.is_ipv4() {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        Some(SocketAddr::new(any, address.port()).into())
    }

    /// The IP address and port, if it is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Pipe(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(path) => path.display().fmt(f),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}
