//! The command line as the admin's `/server_info` shows it.

use prost_types::Duration;

use crate::api::envoy::admin::v3::{CommandLineOptions, command_line_options as api};

use super::{DrainStrategy, IpVersion, Mode, Options};

impl From<&Options> for CommandLineOptions {
    fn from(options: &Options) -> Self {
        let Options {
            config_path,
            config_yaml,
            mode,
            reject_unknown_dynamic_fields,
            ignore_unknown_dynamic_fields,
            allow_unknown_static_fields,
            disable_extensions,
            admin_address_path,
            // Not in Envoy's API.
            state_dir: _,
            service_cluster,
            service_node,
            service_zone,
            local_address_ip_version,
            log_level,
            component_log_level,
            log_format,
            log_format_escaped,
            log_path,
            enable_fine_grain_logging,
            log_stacktrace_single_entry,
            skip_deprecated_logs,
            concurrency: _,
            cpuset_threads,
            drain_time_s,
            drain_strategy,
            parent_shutdown_time_s,
            base_id,
            use_dynamic_base_id,
            base_id_path,
            restart_epoch,
            disable_hot_restart,
            skip_hot_restart_on_no_parent,
            skip_hot_restart_parent_stats,
            socket_path,
            socket_mode,
            enable_core_dump,
            hot_restart_version: _,
            stats_tag,
            file_flush_interval_msec,
            file_flush_min_size_kb,
            enable_mutex_tracing,
            version: _,
            without_effect: _,
        } = options;
        let path = |path: &Option<std::path::PathBuf>| {
            path.as_deref()
                .map_or_else(String::new, |path| path.display().to_string())
        };
        let seconds = |seconds: u32| Duration {
            seconds: seconds.into(),
            nanos: 0,
        };
        Self {
            base_id: (*base_id).into(),
            concurrency: u32::try_from(options.workers()).unwrap_or(u32::MAX),
            config_path: path(config_path),
            config_yaml: config_yaml.clone().unwrap_or_default(),
            allow_unknown_static_fields: *allow_unknown_static_fields,
            admin_address_path: path(admin_address_path),
            local_address_ip_version: match local_address_ip_version {
                IpVersion::V4 => api::IpVersion::V4,
                IpVersion::V6 => api::IpVersion::V6,
            }
            .into(),
            log_level: log_level.to_string(),
            component_log_level: component_log_level.to_string(),
            log_format: log_format.clone(),
            log_path: path(log_path),
            service_cluster: service_cluster.clone(),
            service_node: service_node.clone(),
            service_zone: service_zone.clone(),
            file_flush_interval: Some(Duration {
                seconds: (*file_flush_interval_msec / 1000).into(),
                nanos: i32::try_from(file_flush_interval_msec % 1000 * 1_000_000)
                    .expect("less than a second of nanoseconds"),
            }),
            drain_time: Some(seconds(*drain_time_s)),
            parent_shutdown_time: Some(seconds(*parent_shutdown_time_s)),
            mode: match mode {
                Mode::Serve => api::Mode::Serve,
                Mode::Validate => api::Mode::Validate,
                Mode::InitOnly => api::Mode::InitOnly,
            }
            .into(),
            disable_hot_restart: *disable_hot_restart,
            enable_mutex_tracing: *enable_mutex_tracing,
            restart_epoch: *restart_epoch,
            cpuset_threads: *cpuset_threads,
            reject_unknown_dynamic_fields: *reject_unknown_dynamic_fields,
            log_format_escaped: *log_format_escaped,
            disabled_extensions: disable_extensions.clone(),
            ignore_unknown_dynamic_fields: *ignore_unknown_dynamic_fields,
            use_dynamic_base_id: *use_dynamic_base_id,
            base_id_path: path(base_id_path),
            drain_strategy: match drain_strategy {
                DrainStrategy::Gradual => api::DrainStrategy::Gradual,
                DrainStrategy::Immediate => api::DrainStrategy::Immediate,
            }
            .into(),
            enable_fine_grain_logging: *enable_fine_grain_logging,
            socket_path: socket_path.clone(),
            socket_mode: *socket_mode,
            enable_core_dump: *enable_core_dump,
            stats_tag: stats_tag.iter().map(ToString::to_string).collect(),
            skip_hot_restart_on_no_parent: *skip_hot_restart_on_no_parent,
            skip_hot_restart_parent_stats: *skip_hot_restart_parent_stats,
            skip_deprecated_logs: *skip_deprecated_logs,
            file_flush_min_size: *file_flush_min_size_kb,
            log_stacktrace_single_entry: *log_stacktrace_single_entry,
        }
    }
}
