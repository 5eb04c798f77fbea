//! The stats under `server.`: what the process knows of itself.

use std::{
    fs,
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::{
    admin::state::ServerState,
    cli::{Options, Version},
    stats::{Block, Registry},
};

crate::stat_table! {
    /// Stats under `server.`.
    pub mod server_stats {
        counters {
            debug_assertion_failures, dropped_stat_flushes, dynamic_unknown_fields,
            envoy_bug_failures, envoy_notifications, static_unknown_fields, wip_protos,
        }
        gauges {
            fips_mode = "compilation_settings.fips_mode",
            concurrency, days_until_first_cert_expiring, hot_restart_epoch,
            hot_restart_generation, live, memory_allocated, memory_heap_size,
            memory_physical_size, parent_connections, seconds_until_first_ocsp_response_expiring,
            state, stats_recent_lookups, total_connections, uptime, version,
        }
        histograms { initialization_time_ms: Milliseconds }
        texts { }
    }
}
use server_stats as names;

crate::stat_table! {
    /// Of an overload manager, which Envoy has also where none is configured.
    mod overload_stats {
        counters { reset_high_memory_stream = "envoy.overload_actions.reset_high_memory_stream.count" }
        gauges {}
        histograms { refresh_interval_delay = "overload.refresh_interval_delay": Milliseconds }
        texts {}
    }
}

/// Writer of the stats under `server.`, on the control thread.
#[derive(Debug)]
pub struct ServerStats {
    block: Arc<Block>,
    _overload: Arc<Block>,
    started: Instant,
}

impl ServerStats {
    /// Writes those that stay as they are. `version` is
    /// `bootstrap.stats_server_version_override`.
    pub fn new(
        registry: &Registry,
        options: &Options,
        version: Option<u64>,
        started: Instant,
    ) -> Self {
        let block = registry.block("server.", &names::TABLE);
        let workers = u64::try_from(options.workers()).unwrap_or(u64::MAX);
        block.gauge_set(names::concurrency, workers);
        block.gauge_set(names::hot_restart_epoch, options.restart_epoch.into());
        block.gauge_set(names::hot_restart_generation, 1);
        block.gauge_set(names::fips_mode, 0);
        block.gauge_set(names::version, version.unwrap_or_else(revision));
        let this = Self {
            block,
            _overload: registry.block("", &overload_stats::TABLE),
            started,
        };
        this.first_expiry(None);
        this
    }

    /// Downstream connections that are open on all workers.
    pub fn connections(&self) -> u64 {
        self.block.gauge(names::total_connections)
    }

    /// Unknown fields of the bootstrap that were let pass.
    pub fn unknown_fields(&self, count: u64) {
        self.block.add(names::static_unknown_fields, count);
    }

    /// The workers accept.
    pub fn serving(&self) {
        let took = self.started.elapsed().as_millis();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        self.block.record(names::initialization_time_ms, took);
    }

    /// Writes those that change.
    pub fn update(&self, state: ServerState) {
        let block = &self.block;
        block.gauge_set(names::uptime, self.started.elapsed().as_secs());
        block.gauge_set(names::state, state.number());
        block.gauge_set(names::live, u64::from(state == ServerState::Live));
        if let Some(memory) = Memory::now() {
            block.gauge_set(names::memory_allocated, memory.allocated);
            block.gauge_set(names::memory_heap_size, memory.heap);
            block.gauge_set(names::memory_physical_size, memory.physical);
        }
        block.gauge_set(names::parent_connections, 0);
        block.gauge_set(names::stats_recent_lookups, 0);
    }

    /// Tells the end of the certificate which ends first, of all that are in use.
    pub fn first_expiry(&self, expiry: Option<SystemTime>) {
        let days = expiry.map_or(u32::MAX.into(), |expiry| {
            let left = expiry.duration_since(SystemTime::now());
            left.unwrap_or_default().as_secs() / 86_400
        });
        self.block
            .gauge_set(names::days_until_first_cert_expiring, days);
    }
}

/// The first three bytes of the revision, as a number; zero when there is none.
fn revision() -> u64 {
    Version::of_build()
        .revision
        .get(..6)
        .and_then(|start| u64::from_str_radix(start, 16).ok())
        .unwrap_or(0)
}

/// Memory of this process, in bytes, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use for data that is not of a file.
    pub allocated: u64,
    /// Set aside for data, in use or not.
    pub heap: u64,
    /// In use, with code and files.
    pub physical: u64,
}

impl Memory {
    /// As of now; `None` where the system does not tell.
    pub fn now() -> Option<Self> {
        Some(Self::parse(&fs::read_to_string("/proc/self/status").ok()?))
    }

    fn parse(status: &str) -> Self {
        let kib = |name| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Self {
            allocated: kib("RssAnon") * 1024,
            heap: kib("VmData") * 1024,
            physical: kib("VmRSS") * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tnuncio\nVmRSS:\t    2048 kB\nVmData:\t   100 kB\nRssAnon:\t 1024 kB\n";
        assert_eq!(
            Memory::parse(status),
            Memory {
                allocated: 1 << 20,
                heap: 100 << 10,
                physical: 2 << 20
            }
        );
    }

    #[test]
    fn the_state_is_told() {
        let registry = Registry::new(0);
        let crate::cli::Asked::Run(options) = crate::cli::parse(["nuncio"]).unwrap() else {
            panic!("not a run");
        };
        let stats = ServerStats::new(&registry, &options, Some(7), Instant::now());
        let block = Arc::clone(&stats.block);
        stats.update(ServerState::Live);
        assert_eq!(block.gauge(names::live), 1);
        assert_eq!(block.gauge(names::version), 7);
        let day = std::time::Duration::from_secs(86_400);
        stats.update(ServerState::Draining);
        stats.first_expiry(Some(SystemTime::now() + day * 3 / 2));
        assert_eq!(block.gauge(names::live), 0);
        assert_eq!(block.gauge(names::state), 1);
        assert_eq!(block.gauge(names::days_until_first_cert_expiring), 1);
    }
}
