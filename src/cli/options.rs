//! Every flag, its type, default and help.

use std::{
    fmt,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{
    Parser, ValueEnum,
    builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser},
};

use crate::log::{self, ComponentLevel, Level, LevelsError};

const CONFIGURATION: &str = "Configuration";
const IDENTITY: &str = "Who this proxy is";
const LOGGING: &str = "Logging";
const LIFE: &str = "Threads, draining and restart";
const STATS: &str = "Stats and access logs";

/// The command line, read.
// Each field's documentation is its `--help`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "nuncio",
    about = "A dynamically configured edge and service proxy that takes Envoy's place",
    disable_version_flag = true,
    allow_negative_numbers = true,
    max_term_width = 100
)]
pub struct Options {
    /// Path to the bootstrap: .yaml, .yml, .json, .pb or .pb_text.
    #[arg(short = 'c', long, value_name = "PATH", value_parser = path(), help_heading = CONFIGURATION)]
    pub config_path: Option<PathBuf>,
    /// Inline YAML (or JSON) bootstrap, merged over --config-path or enough alone.
    #[arg(long, value_name = "YAML", help_heading = CONFIGURATION)]
    pub config_yaml: Option<String>,
    /// Serve traffic, or validate every file the bootstrap leads to and exit.
    #[arg(long, value_enum, default_value_t = Mode::Serve, help_heading = CONFIGURATION)]
    pub mode: Mode,
    /// Refuse unknown fields in dynamic configuration (nuncio's default).
    #[arg(long, help_heading = CONFIGURATION)]
    pub reject_unknown_dynamic_fields: bool,
    /// Ignore unknown fields in dynamic configuration, unless they are to be refused.
    #[arg(long, help_heading = CONFIGURATION)]
    pub ignore_unknown_dynamic_fields: bool,
    /// Allow unknown fields in static configuration, with a warning.
    #[arg(long, visible_alias = "allow-unknown-fields", help_heading = CONFIGURATION)]
    pub allow_unknown_static_fields: bool,
    /// Comma-separated list of extensions to disable.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = CONFIGURATION)]
    pub disable_extensions: Vec<String>,
    /// Path to which the admin's address is written once it listens.
    #[arg(long, value_name = "PATH", value_parser = path(), help_heading = CONFIGURATION)]
    pub admin_address_path: Option<PathBuf>,

    /// Directory where accepted resources are kept, to be served when a management server or a
    /// file is missing at the start. It holds private keys.
    #[arg(long, value_name = "PATH", help_heading = CONFIGURATION)]
    pub state_dir: Option<PathBuf>,

    /// Name of the cluster this proxy belongs to, over that of the bootstrap's node.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, help_heading = IDENTITY)]
    pub service_cluster: String,
    /// Name of this node, over the id of the bootstrap's node.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, help_heading = IDENTITY)]
    pub service_node: String,
    /// Name of the zone, over that of the bootstrap's node.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, help_heading = IDENTITY)]
    pub service_zone: String,
    /// IP version of the address by which this host is known.
    #[arg(long, value_enum, default_value_t = IpVersion::V4, help_heading = IDENTITY)]
    pub local_address_ip_version: IpVersion,

    /// Log level of every component.
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info", value_parser = level(), help_heading = LOGGING)]
    pub log_level: Level,
    /// Comma-separated levels of components, as in upstream:debug,config:trace.
    #[arg(long, value_name = "LEVELS", default_value = "", hide_default_value = true, help_heading = LOGGING)]
    pub component_log_level: ComponentLevels,
    /// Format of a log line, in spdlog's syntax.
    #[arg(long, value_name = "FORMAT", default_value = log::DEFAULT, help_heading = LOGGING)]
    pub log_format: String,
    /// C-escape each log line, so that a message never spans two.
    #[arg(long, help_heading = LOGGING)]
    pub log_format_escaped: bool,
    /// Path of the log file; standard error when absent. SIGUSR1 opens it again.
    #[arg(long, value_name = "PATH", value_parser = path(), help_heading = LOGGING)]
    pub log_path: Option<PathBuf>,
    /// Control levels by source file.
    #[arg(long, conflicts_with = "component_log_level", help_heading = LOGGING)]
    pub enable_fine_grain_logging: bool,
    /// Write a stack trace as one log entry.
    #[arg(long, help_heading = LOGGING)]
    pub log_stacktrace_single_entry: bool,
    /// Do not warn of deprecated fields.
    #[arg(long, help_heading = LOGGING)]
    pub skip_deprecated_logs: bool,

    /// Number of workers [default: the CPUs this process may use].
    #[arg(long, value_name = "N", help_heading = LIFE)]
    pub concurrency: Option<u32>,
    /// Take the number of workers from the CPU set.
    #[arg(long, help_heading = LIFE)]
    pub cpuset_threads: bool,
    /// Seconds that connections are given to end at shutdown and when a listener goes.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = LIFE)]
    pub drain_time_s: u32,
    /// Ask connections to end one after the other over the drain time, or all at once.
    #[arg(long, value_enum, default_value_t = DrainStrategy::Gradual, help_heading = LIFE)]
    pub drain_strategy: DrainStrategy,
    /// Seconds after which the parent is ended in a hot restart.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, help_heading = LIFE)]
    pub parent_shutdown_time_s: u32,
    /// Base ID so that several can run on one host.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = LIFE)]
    pub base_id: u32,
    /// Choose a base ID, whatever --base-id says.
    #[arg(long, help_heading = LIFE)]
    pub use_dynamic_base_id: bool,
    /// Path to which the base ID is written.
    #[arg(long, value_name = "PATH", value_parser = path(), help_heading = LIFE)]
    pub base_id_path: Option<PathBuf>,
    /// Hot restart epoch.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = LIFE)]
    pub restart_epoch: u32,
    /// Disable hot restart.
    #[arg(long, help_heading = LIFE)]
    pub disable_hot_restart: bool,
    /// Start anew when a hot restart finds no parent.
    #[arg(long, help_heading = LIFE)]
    pub skip_hot_restart_on_no_parent: bool,
    /// Do not take over the parent's stats in a hot restart.
    #[arg(long, help_heading = LIFE)]
    pub skip_hot_restart_parent_stats: bool,
    /// Path of the hot restart socket.
    #[arg(long, value_name = "PATH", default_value = "@envoy_domain_socket", help_heading = LIFE)]
    pub socket_path: String,
    /// Permissions of the hot restart socket, octal.
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = octal, help_heading = LIFE)]
    pub socket_mode: u32,
    /// Write a core dump on a crash.
    #[arg(long, help_heading = LIFE)]
    pub enable_core_dump: bool,
    /// Print the version that two processes must share for a hot restart.
    #[arg(long, help_heading = LIFE)]
    pub hot_restart_version: bool,

    /// Tag of every stat, tag:value. Can be given many times, once for each tag.
    #[arg(long, value_name = "TAG:VALUE", help_heading = STATS)]
    pub stats_tag: Vec<StatsTag>,
    /// Milliseconds after which access logs are written to their file.
    #[arg(long, value_name = "MSEC", default_value_t = 10_000, help_heading = STATS)]
    pub file_flush_interval_msec: u32,
    /// KiB of an access log that are written at once, before the interval is over.
    #[arg(long, value_name = "KIB", default_value_t = 64, help_heading = STATS)]
    pub file_flush_min_size_kb: u32,
    /// Trace contention of mutexes.
    #[arg(long, help_heading = STATS)]
    pub enable_mutex_tracing: bool,

    /// Print version information.
    #[arg(long)]
    pub(super) version: bool,

    /// A line for each given flag that changes nothing, to be logged once.
    #[arg(skip)]
    pub without_effect: Vec<String>,
}

impl Options {
    /// Number of workers: at least one, the CPUs this process may use unless given.
    pub fn workers(&self) -> usize {
        match self.concurrency {
            Some(given) => given.max(1) as usize,
            None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        }
    }

    /// `--drain-time-s`.
    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time_s.into())
    }

    /// What `--mode validate` and errors call the configuration.
    pub fn config_name(&self) -> &Path {
        self.config_path.as_deref().unwrap_or(Path::new(""))
    }

    /// Whether `--log-format` was given, which `application_log_config` then must not contradict.
    pub fn has_log_format(&self) -> bool {
        self.log_format != log::DEFAULT
    }

    /// Whether unknown fields in dynamic configuration are let pass.
    pub fn ignores_unknown_dynamic_fields(&self) -> bool {
        self.ignore_unknown_dynamic_fields && !self.reject_unknown_dynamic_fields
    }

    /// How the log is to be at the start.
    pub fn log_settings(&self) -> log::Settings {
        log::Settings {
            level: self.log_level,
            components: self.component_log_level.0.clone(),
            format: self.log_format.clone(),
            escaped: self.log_format_escaped,
        }
    }

    /// Forgets what is given but empty, which to Envoy is not given.
    pub(super) fn forget_empty(&mut self) {
        let paths = [
            &mut self.config_path,
            &mut self.admin_address_path,
            &mut self.log_path,
            &mut self.base_id_path,
        ];
        for path in paths {
            path.take_if(|path| path.as_os_str().is_empty());
        }
        self.config_yaml.take_if(|yaml| yaml.is_empty());
    }

    /// What no flag can check alone.
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        if self.use_dynamic_base_id && self.restart_epoch > 0 {
            return Err(OptionsError::DynamicBaseId(self.restart_epoch));
        }
        for (i, tag) in self.stats_tag.iter().enumerate() {
            if self.stats_tag[..i].iter().any(|t| t.name == tag.name) {
                return Err(OptionsError::RepeatedTag(tag.name.clone()));
            }
        }
        Ok(())
    }
}

/// Flags that do not go together.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionsError {
    #[error("cannot use --restart-epoch={0} with --use-dynamic-base-id")]
    DynamicBaseId(u32),
    #[error("--stats-tag gives the tag '{0}' more than one value")]
    RepeatedTag(String),
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Check the configuration, then serve.
    Serve,
    /// Check the configuration, say so, and exit.
    Validate,
    /// Start up to the point of accepting, then exit.
    #[value(name = "init_only")]
    InitOnly,
}

/// `--drain-strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DrainStrategy {
    /// More and more connections are asked to end as the drain time passes.
    Gradual,
    /// All are asked at once.
    Immediate,
}

/// `--local-address-ip-version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

fn level() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new([
        "trace", "debug", "info", "warning", "warn", "error", "critical", "off",
    ])
    .try_map(|name| name.parse::<Level>())
}

/// A path that may be empty, which means that none is given.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).map_err(|e| format!("an octal mode as in 600 is expected: {e}"))
}

/// `--component-log-level`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentLevels(pub Vec<ComponentLevel>);

impl FromStr for ComponentLevels {
    type Err = LevelsError;

    fn from_str(text: &str) -> Result<Self, LevelsError> {
        match text {
            "" => Ok(Self::default()),
            _ => log::parse_levels(text).map(Self),
        }
    }
}

impl fmt::Display for ComponentLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (component, level)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}:{level}", component.name())?;
        }
        Ok(())
    }
}

/// `--stats-tag`: a tag of every stat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsTag {
    /// ASCII letters, digits and `_`.
    pub name: String,
    /// Anything but a dot.
    pub value: String,
}

impl FromStr for StatsTag {
    type Err = StatsTagError;

    fn from_str(text: &str) -> Result<Self, StatsTagError> {
        let (name, value) = text.split_once(':').ok_or(StatsTagError::Shape)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(allowed) {
            return Err(StatsTagError::Name(name.to_owned()));
        }
        if value.is_empty() || value.contains('.') {
            return Err(StatsTagError::Value(value.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for StatsTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.value)
    }
}

/// What is wrong with a `--stats-tag`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatsTagError {
    /// No colon.
    #[error("tag:value is expected")]
    Shape,
    /// A character that tag names cannot have.
    #[error("the tag name '{0}' is not made of letters, digits and '_'")]
    Name(String),
    /// Empty, or with a dot.
    #[error("the tag value '{0}' is empty or has a dot")]
    Value(String),
}
