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
    net::{Address, TcpKeepalive},
    refuse,
};

/// What new connections are told before they connect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketOptions {
    /// `upstream_bind_config.source_address`, used for addresses of its family.
    pub source: Option<SocketAddr>,
    /// `freebind`.
    pub freebind: bool,
    /// `tcp_keepalive`.
    pub keepalive: Option<TcpKeepalive>,
}

pub(super) fn compile(
    bind: Option<core::BindConfig>,
    connection: Option<UpstreamConnectionOptions>,
    at: &At<'_>,
) -> Result<SocketOptions, Reported> {
    let mut options = SocketOptions::default();
    if let Some(bind) = bind {
        compile_bind(bind, &mut options, &at.field("upstream_bind_config"))?;
    }
    let Some(connection) = connection else {
        return Ok(options);
    };
    let at = at.field("upstream_connection_options");
    let UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = connection;
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
    options.keepalive = tcp_keepalive.and_then(TcpKeepalive::compile);
    Ok(options)
}

fn compile_bind(
    message: core::BindConfig,
    options: &mut SocketOptions,
    at: &At<'_>,
) -> Result<(), Reported> {
    let core::BindConfig {
        source_address,
        freebind,
        socket_options,
        additional_source_addresses,
        extra_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = message;
    refuse!(at; socket_options, additional_source_addresses, extra_source_addresses,
        local_address_selector, validate_network_namespaces)?;
    options.freebind = freebind.unwrap_or(false);
    if let Some(source) = source_address {
        let at = at.field("source_address");
        options.source = Address::compile_socket(source, &at)?.ip();
    }
    Ok(())
}
