//! The application log, in Envoy's format, with Envoy's components and levels.
//!
//! A room says something with `tracing`'s macros and names its component as the
//! target; structured fields become Envoy's tags:
//!
//! ```
//! let connection_id = 7;
//! tracing::debug!(target: "http", connection_id, "new stream");
//! // [2026-11-22 13:36:02.653][14789][debug][http] [src/http/…:9] [Tags: "ConnectionId":"7"] new stream
//! ```
//!
//! Components are Envoy's, see [`COMPONENTS`]. Those in use: `main` (process),
//! `config` (documents and the order of the start), `admin`, `upstream` (clusters
//! and hosts), `connection`, `conn_handler` (accepting), `http`, `http2`, `router`,
//! `pool`, `client`, `filter` (network filters), `file` (watches and log files),
//! `dns`, `health_checker`, `hc`, `runtime`, `secret`, `rds`, `init` (warming),
//! `stats`, `misc`. A target that is none of them counts as `misc`. Messages of
//! libraries are those of the component that uses them, and never above debug.
//!
//! A message that is not written costs one relaxed load: `tracing` keeps the answer
//! for each place in the code, and asks again when a level is changed.

mod bridge;
mod component;
mod level;
mod pattern;
mod sink;
mod subscriber;
mod thread;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use prost_types::{Struct, value::Kind};

pub use component::{
    COMPONENTS, Component, ComponentLevel, LevelsError, UnknownComponent, parse_levels,
};
pub use level::{Level, UnknownLevel};
pub use pattern::{DEFAULT, Pattern, Record};
pub use sink::Sink;

/// Says that the process cannot go on: an error of the highest level.
#[macro_export]
macro_rules! critical {
    (target: $target:expr, $($message:tt)+) => {
        tracing::error!(target: $target, critical = true, $($message)+)
    };
}

/// How the log is to be at the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Level of every component that is not named.
    pub level: Level,
    /// Levels of some.
    pub components: Vec<ComponentLevel>,
    /// Format of a line.
    pub format: String,
    /// Whether lines are C-escaped.
    pub escaped: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level: Level::Info,
            components: Vec::new(),
            format: DEFAULT.to_owned(),
            escaped: false,
        }
    }
}

/// The log of this process: its levels, format and sink can be changed while it runs.
#[derive(Clone, Debug)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    levels: [AtomicU8; COMPONENTS.len()],
    pattern: ArcSwap<Pattern>,
    escaped: bool,
    sink: Sink,
}

impl Log {
    /// A log that nobody writes to yet.
    pub fn new(settings: &Settings, sink: Sink) -> Self {
        let log = Self(Arc::new(Shared {
            levels: std::array::from_fn(|_| AtomicU8::new(settings.level as u8)),
            pattern: ArcSwap::from_pointee(Pattern::parse(&settings.format)),
            escaped: settings.escaped,
            sink,
        }));
        for (component, level) in &settings.components {
            log.store(*component, *level);
        }
        log
    }

    /// Makes this the log of the process. Later calls are without effect: a process
    /// has one log.
    pub fn install(&self) {
        if tracing::subscriber::set_global_default(subscriber::Subscriber::new(self.clone()))
            .is_ok()
        {
            bridge::install(self.clone());
            self.levels_changed();
        }
    }

    /// The level of every component.
    pub fn levels(&self) -> impl Iterator<Item = (&'static str, Level)> + '_ {
        COMPONENTS.into_iter().zip(
            self.0
                .levels
                .iter()
                .map(|l| Level::from_u8(l.load(Relaxed))),
        )
    }

    /// Whether a message of this component and level is written.
    pub fn says(&self, component: &str, level: Level) -> bool {
        Component::named(component).is_some_and(|component| self.enabled(component, level))
    }

    /// Sets the level of every component.
    pub fn set_all(&self, level: Level) {
        for cell in &self.0.levels {
            cell.store(level as u8, Relaxed);
        }
        self.levels_changed();
    }

    /// Sets the level of one component.
    pub fn set(&self, component: Component, level: Level) {
        self.store(component, level);
        self.levels_changed();
    }

    /// Changes the format of the lines from here on.
    pub fn set_format(&self, format: &str) {
        self.0.pattern.store(Arc::new(Pattern::parse(format)));
    }

    /// Changes the format to one JSON object a line, `application_log_config.log_format.json_format`.
    ///
    /// # Errors
    /// When a flag is used that can break the JSON; nothing is changed then.
    pub fn set_json_format(&self, format: &Struct) -> Result<(), JsonFormatError> {
        let pattern = json_pattern(format)?;
        self.0.pattern.store(Arc::new(pattern));
        Ok(())
    }

    /// Opens the file again.
    ///
    /// # Errors
    /// As for opening it; the old one goes on being written.
    pub fn reopen(&self) -> io::Result<()> {
        self.0.sink.reopen()
    }

    fn store(&self, component: Component, level: Level) {
        self.0.levels[component.index()].store(level as u8, Relaxed);
    }

    fn enabled(&self, component: Component, level: Level) -> bool {
        level as u8 >= self.0.levels[component.index()].load(Relaxed)
    }

    /// The most talkative level of any component.
    fn lowest(&self) -> Level {
        let lowest = self.0.levels.iter().map(|l| l.load(Relaxed)).min();
        Level::from_u8(lowest.unwrap_or(Level::Off as u8))
    }

    fn levels_changed(&self) {
        tracing::callsite::rebuild_interest_cache();
        bridge::levels_changed(self.lowest());
    }

    fn write(&self, record: &Record<'_>) {
        let mut line = String::with_capacity(256);
        self.0
            .pattern
            .load()
            .write(&mut line, record, &jiff::Zoned::now());
        if self.0.escaped {
            pattern::escape_c(&mut line);
        }
        line.push('\n');
        self.0.sink.write(line.as_bytes());
    }
}

/// Where the log goes by `--log-path`.
///
/// # Errors
/// When the file cannot be opened.
pub fn sink(path: Option<&Path>) -> io::Result<Sink> {
    path.map_or_else(|| Ok(Sink::stderr()), Sink::file)
}

/// Whether [`Log::set_json_format`] would take this format.
///
/// # Errors
/// As for setting it.
pub fn check_json_format(format: &Struct) -> Result<(), JsonFormatError> {
    json_pattern(format).map(drop)
}

/// A flag that cannot stand in a JSON format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("usage of %{0} is unavailable for JSON log formats, %j writes the message as JSON text")]
pub struct JsonFormatError(char);

fn json_pattern(format: &Struct) -> Result<Pattern, JsonFormatError> {
    let pattern = Pattern::parse(&json_object(format).to_string());
    match ['v', '_'].into_iter().find(|flag| pattern.uses(*flag)) {
        Some(flag) => Err(JsonFormatError(flag)),
        None => Ok(pattern),
    }
}

fn json_object(object: &Struct) -> serde_json::Value {
    let fields = object.fields.iter();
    fields
        .map(|(key, value)| (key.clone(), json(value)))
        .collect()
}

fn json(value: &prost_types::Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => (*value).into(),
        // `5`, not `5.0`.
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 1e15 => {
            (*value as i64).into()
        }
        Some(Kind::NumberValue(value)) => (*value).into(),
        Some(Kind::StringValue(value)) => value.as_str().into(),
        Some(Kind::StructValue(value)) => json_object(value),
        Some(Kind::ListValue(list)) => list.values.iter().map(json).collect(),
    }
}

#[cfg(test)]
mod tests;
