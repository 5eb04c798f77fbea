//! `upstream_bind_config` and `upstream_connection_options`, compiled.

use std::net::SocketAddr;

use crate::{
    api::envoy::config::{
        cluster::v3::{
            UpstreamConnectionOptions,
            upstream_connection_options::{
                FirstAddressFamilyVersion as Family, HappyEyeballsConfig,
            },
        },
        core::v3 as core,
    },
    config::{At, Reported},
    net::{Address, TcpKeepalive, socket_option::SocketOptionList},
    refuse,
};

/// What new connections are told before they connect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketOptions {
    /// `upstream_bind_config`.
    pub bind: Bind,
    /// `tcp_keepalive`.
    pub keepalive: Option<TcpKeepalive>,
}

/// From where connections are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bind {
    /// `freebind`.
    pub freebind: bool,
    sources: Box<[Source]>,
}

/// One of the addresses from which connections are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// The address; the kernel chooses where there is none.
    pub address: Option<SocketAddr>,
    /// What sockets that are bound to it are told before.
    pub options: SocketOptionList,
}

impl Bind {
    /// That for connections to an address: of the same family, or else the first,
    /// from which the kernel may refuse to connect.
    pub fn source(&self, to: SocketAddr) -> Option<&Source> {
        let same = |source: &&Source| {
            let ipv4 = source.address.map(|address| address.is_ipv4());
            ipv4 == Some(to.is_ipv4())
        };
        let mut sources = self.sources.iter();
        sources.find(same).or_else(|| self.sources.first())
    }

    /// Compiles a `BindConfig`.
    ///
    /// # Errors
    /// What is wrong or not supported has been reported.
    pub fn compile(message: core::BindConfig, at: &At<'_>) -> Result<Self, Reported> {
        let core::BindConfig {
            source_address,
            freebind,
            socket_options,
            additional_source_addresses,
            extra_source_addresses,
            local_address_selector,
            // Networks of others are refused where an address names one.
            validate_network_namespaces: _,
        } = message;
        refuse!(at; local_address_selector)?;
        let options = SocketOptionList::compile(socket_options, &at.field("socket_options"))?;
        let at_source = at.field("source_address");
        let address = source_address.map(|source| compile_address(source, &at_source));
        let mut sources = vec![Source {
            address: address.transpose()?,
            options: options.clone(),
        }];
        let at_extra = at.field("extra_source_addresses");
        let at_additional = at.field("additional_source_addresses");
        if !extra_source_addresses.is_empty() && !additional_source_addresses.is_empty() {
            return Err(at_additional.error("cannot be together with extra_source_addresses"));
        }
        for (index, extra) in extra_source_addresses.into_iter().enumerate() {
            sources.push(compile_extra(extra, &options, &at_extra.index(index))?);
        }
        for (index, address) in additional_source_addresses.into_iter().enumerate() {
            sources.push(Source {
                address: Some(compile_address(address, &at_additional.index(index))?),
                options: options.clone(),
            });
        }
        let ipv4: Vec<_> = (sources.iter())
            .map(|source| source.address.map(|address| address.is_ipv4()))
            .collect();
        match ipv4[..] {
            [_] => {}
            [None, ..] => {
                return Err(at_source.error("is required where there are others"));
            }
            [first, second] if first != second => {}
            [_, _] => return Err(at_source.error("is of the same IP version as the other one")),
            _ => return Err(at_extra.error("there can be one beside source_address")),
        }
        Ok(Self {
            freebind: freebind.unwrap_or(false),
            sources: sources.into(),
        })
    }
}

fn compile_address(message: core::SocketAddress, at: &At<'_>) -> Result<SocketAddr, Reported> {
    let address = Address::compile_socket(message, at)?;
    address.ip().ok_or_else(|| at.error("is not an IP address"))
}

fn compile_extra(
    message: core::ExtraSourceAddress,
    options: &SocketOptionList,
    at: &At<'_>,
) -> Result<Source, Reported> {
    let core::ExtraSourceAddress {
        address,
        socket_options,
    } = message;
    let at_address = at.field("address");
    let address = address.ok_or_else(|| at_address.error("is required"))?;
    let own = socket_options.map(|own| {
        let core::SocketOptionsOverride { socket_options } = own;
        let at = at.field("socket_options");
        SocketOptionList::compile(socket_options, &at.field("socket_options"))
    });
    Ok(Source {
        address: Some(compile_address(address, &at_address)?),
        options: own.transpose()?.unwrap_or_else(|| options.clone()),
    })
}

/// `default` is what all clusters have that say nothing else.
pub(super) fn compile(
    bind: Option<core::BindConfig>,
    default: &Bind,
    connection: Option<UpstreamConnectionOptions>,
    at: &At<'_>,
) -> Result<SocketOptions, Reported> {
    let bind = match bind {
        Some(bind) => Bind::compile(bind, &at.field("upstream_bind_config"))?,
        None => default.clone(),
    };
    let at = at.field("upstream_connection_options");
    let UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = connection.unwrap_or_default();
    refuse!(at; set_local_interface_name_on_upstream_connections)?;
    if let Some(config) = happy_eyeballs_config {
        let at = at.field("happy_eyeballs_config");
        let HappyEyeballsConfig {
            first_address_family_version,
            first_address_family_count,
        } = config;
        // One address of each family in turn, IPv6 first, is what there is.
        if first_address_family_version == i32::from(Family::V4)
            || first_address_family_count.is_some_and(|count| count != 1)
        {
            return Err(at.error("only the default is supported yet: V6 first, a count of 1"));
        }
    }
    Ok(SocketOptions {
        bind,
        keepalive: tcp_keepalive.and_then(TcpKeepalive::compile),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn at_ip(ip: &str) -> core::SocketAddress {
        core::SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..core::SocketAddress::default()
        }
    }

    fn compile(first: Option<&str>, others: &[&str]) -> Result<Bind, String> {
        let extra = |ip: &&str| core::ExtraSourceAddress {
            address: Some(at_ip(ip)),
            socket_options: None,
        };
        let message = core::BindConfig {
            source_address: first.map(at_ip),
            extra_source_addresses: others.iter().map(extra).collect(),
            ..core::BindConfig::default()
        };
        let report = Report::new();
        Bind::compile(message, &report.root()).map_err(|_| report.to_string())
    }

    #[test]
    fn the_source_is_of_the_family_of_the_host_where_there_is_one() {
        let source = |bind: &Bind, to: &str| {
            let found = bind.source(to.parse().unwrap()).unwrap().address;
            found.unwrap().ip().to_string()
        };
        let both = compile(Some("::1"), &["127.0.0.6"]).unwrap();
        assert_eq!(source(&both, "127.0.0.1:1"), "127.0.0.6");
        assert_eq!(source(&both, "[::2]:1"), "::1");
        let one = compile(Some("::1"), &[]).unwrap();
        assert_eq!(source(&one, "127.0.0.1:1"), "::1");
    }

    #[test]
    fn one_of_each_family_is_enough() {
        for (first, others, expected) in [
            (None, &["127.0.0.6"][..], "source_address: is required"),
            (Some("127.0.0.5"), &["127.0.0.6"], "of the same IP version"),
            (
                Some("::1"),
                &["127.0.0.6", "127.0.0.7"],
                "one beside source_address",
            ),
        ] {
            let said = compile(first, others).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
    }
}
