//! `envoy.config.core.v3.Address`, compiled.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    api::envoy::config::core::v3 as pb,
    config::{At, Reported},
    refuse,
};

/// Longest path of a Unix socket, in bytes: what the kernel has room for.
const MAX_PIPE: usize = 108 - 1;

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
            Some(pb::address::Address::Pipe(pipe)) => Self::compile_pipe(pipe, &at.field("pipe")),
            Some(pb::address::Address::EnvoyInternalAddress(_)) => {
                Err(at.field("envoy_internal_address").unsupported())
            }
            None => Err(at.error("one of socket_address, pipe is required")),
        }
    }

    fn compile_pipe(message: pb::Pipe, at: &At<'_>) -> Result<Self, Reported> {
        // Who listens there uses the mode.
        let pb::Pipe { path, mode } = message;
        if mode != 0 && path.starts_with('@') {
            return Err(at
                .field("mode")
                .error("Cannot set mode for Abstract AF_UNIX sockets"));
        }
        if path.len() > MAX_PIPE {
            return Err(at.field("path").error(format_args!(
                "\"{path}\" exceeds the maximum UNIX domain socket path size of {MAX_PIPE}"
            )));
        }
        Ok(Self::Pipe(PathBuf::from(path).into()))
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
            ipv4_compat,
            network_namespace_filepath,
        } = message;
        refuse!(at; resolver_name, network_namespace_filepath)?;
        if protocol == pb::socket_address::Protocol::Udp as i32 {
            return Err(at.field("protocol").error("UDP is not supported yet"));
        }
        let ip: IpAddr = address.parse().map_err(|_| {
            at.field("address").error(format_args!(
                "{address:?} is not an IP address; only endpoints in a cluster of type STRICT_DNS or LOGICAL_DNS can have a name"
            ))
        })?;
        // Who listens there uses it.
        if ipv4_compat
            && !matches!(ip, IpAddr::V6(ip) if ip.is_unspecified() || ip.to_ipv4_mapped().is_some())
        {
            return Err(at.field("ipv4_compat").error(format_args!(
                "only the address '::' and IPv4-mapped addresses of IPv6 can have it, not {ip}"
            )));
        }
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
