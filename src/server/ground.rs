//! What serving and validating both stand on.

use std::{sync::Arc, time::Duration};

use crate::{
    access_log::{Settings, Sinks},
    cli::Options,
    config::Strictness,
    model::context::ServerInfo,
    overload,
    runtime::Runtime,
    stats,
};

use super::{Bootstrap, local_address};

/// The parts of the process that resources are compiled with.
#[derive(Debug)]
pub struct Ground {
    /// Where stats are made.
    pub stats: Arc<stats::Registry>,
    /// Where access logs go.
    pub access_logs: Arc<Sinks>,
    /// Values that may override what is configured.
    pub runtime: Arc<Runtime>,
    /// Facts about the process.
    pub info: ServerInfo,
    /// What keeps the overload manager's part of `info` up to date.
    pub overload: overload::Manager,
    /// How strictly discovered resources are read.
    pub strictness: Strictness,
}

impl Ground {
    /// By the command line and the bootstrap, whose runtime layers it takes.
    pub fn new(options: &Options, bootstrap: &mut Bootstrap) -> Self {
        let stats = stats::Registry::new(options.workers());
        let files = Settings {
            interval: Duration::from_millis(options.file_flush_interval_msec.into()),
            size: options.file_flush_min_size_kb as usize * 1024,
        };
        let access_logs = Arc::new(Sinks::new(files, &stats));
        let layers = std::mem::take(&mut bootstrap.runtime);
        let (overload, manager) = std::mem::take(&mut bootstrap.overload).start(&stats);
        Self {
            runtime: Runtime::new(layers, &stats),
            info: ServerInfo {
                overload,
                ..server_info(bootstrap, options, access_logs.clone())
            },
            overload: manager,
            strictness: Strictness::for_dynamic(options.ignores_unknown_dynamic_fields()),
            access_logs,
            stats,
        }
    }
}

fn server_info(bootstrap: &Bootstrap, options: &Options, access_logs: Arc<Sinks>) -> ServerInfo {
    let node = &bootstrap.node;
    let zone = node.locality.as_ref().map(|locality| locality.zone.clone());
    ServerInfo {
        node_id: node.id.clone(),
        node_cluster: node.cluster.clone(),
        zone: zone.unwrap_or_default(),
        local_address: Some(local_address(options.local_address_ip_version)),
        concurrency: options.workers(),
        drain_time: options.drain_time(),
        header_prefix: bootstrap.header_prefix.clone(),
        dns: bootstrap.dns.clone(),
        upstream_bind: bootstrap.upstream_bind.clone(),
        overload: Arc::default(),
        access_logs,
    }
}
