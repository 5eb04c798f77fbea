//! `envoy.extensions.transport_sockets.tls.v3.TlsKeyLog`: the secrets of sessions,
//! in a file from which a debugger can read what was said in them.
//!
//! A line is handed to the file's writer as soon as it is known, so that a
//! debugger that looks on can follow.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    access_log::{Sink, Target},
    api::envoy::extensions::transport_sockets::tls::v3 as pb,
    config::{At, Reported},
    model::{Context, matcher::ip},
};

use super::certificate_facts::hex;

/// Where secrets are written, and of which connections.
#[derive(Debug)]
pub struct KeyLog {
    sink: Arc<Sink>,
    local: Vec<IpNet>,
    remote: Vec<IpNet>,
}

impl KeyLog {
    /// Opens the file.
    ///
    /// # Errors
    /// When it cannot be opened for appending, or a range is none.
    pub fn compile(
        message: pb::TlsKeyLog,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::TlsKeyLog {
            path,
            local_address_range,
            remote_address_range,
        } = message;
        let local = ip::ranges(&local_address_range, &at.field("local_address_range"));
        let remote = ip::ranges(&remote_address_range, &at.field("remote_address_range"));
        let (local, remote) = (local?, remote?);
        let sink = cx.server.access_logs.open_file(Target::of_path(&path));
        let sink = sink.map_err(|error| {
            at.field("path")
                .error(format_args!("unable to open file '{path}': {error}"))
        })?;
        Ok(Self {
            sink,
            local,
            remote,
        })
    }

    /// Whether the secrets of a connection between these addresses are written:
    /// a list without a range is for every address, and any other for none that
    /// is not IP.
    pub fn covers(&self, local: Option<IpAddr>, remote: Option<IpAddr>) -> bool {
        let within = |ranges: &[IpNet], ip: Option<IpAddr>| {
            ranges.is_empty() || ip.is_some_and(|ip| ranges.iter().any(|r| r.contains(&ip)))
        };
        within(&self.local, local) && within(&self.remote, remote)
    }
}

/// The format of NSS, `SSLKEYLOGFILE`.
impl rustls::KeyLog for KeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        self.sink.write_line(line.into_bytes());
    }
}
