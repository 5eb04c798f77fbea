//! `envoy.filters.network.sni_cluster`: the server name a client asks for is the
//! cluster that `tcp_proxy` sends it to.

use crate::net::ConnectionInfo;

/// Leads a connection to the cluster of its server name, if it has one.
pub fn run(info: &mut ConnectionInfo) {
    if let Some(name) = &info.server_name {
        info.tcp_cluster = Some((&**name).into());
    }
}
