//! Flags that are taken so that an Envoy command line works, and change nothing.

use clap::{ArgMatches, parser::ValueSource};

/// The flags and why each is without effect.
const UNUSED: [(&str, &str); 14] = [
    ("base_id", NO_SHARED_MEMORY),
    ("restart_epoch", NO_HOT_RESTART),
    ("parent_shutdown_time_s", NO_HOT_RESTART),
    ("skip_hot_restart_on_no_parent", NO_HOT_RESTART),
    ("skip_hot_restart_parent_stats", NO_HOT_RESTART),
    ("socket_path", NO_HOT_RESTART),
    ("socket_mode", NO_HOT_RESTART),
    ("enable_mutex_tracing", "requests wait for no lock"),
    (
        "enable_core_dump",
        "the limit of the shell or container decides (ulimit -c)",
    ),
    ("enable_fine_grain_logging", "levels are set by component"),
    ("log_stacktrace_single_entry", "stack traces are not logged"),
    ("skip_deprecated_logs", "deprecated fields are not logged"),
    (
        "disable_extensions",
        "extensions are not switched off one by one",
    ),
    (
        "cpuset_threads",
        "the number of workers follows the CPU set already",
    ),
];

const NO_HOT_RESTART: &str = "hot restart is not supported yet, one process serves at a time";
const NO_SHARED_MEMORY: &str = "processes share nothing, any number can run on one host";

/// One line for each given flag that is without effect.
pub fn without_effect(matches: &ArgMatches) -> Vec<String> {
    UNUSED
        .into_iter()
        .filter(|(id, _)| matches.value_source(id) == Some(ValueSource::CommandLine))
        .map(|(id, why)| format!("--{} has no effect: {why}", id.replace('_', "-")))
        .collect()
}
