//! How much a message matters.

use std::{fmt, str::FromStr};

/// The severity of a message, or the least severity that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Every step.
    Trace,
    /// What a person needs who looks for a fault.
    Debug,
    /// What an operator expects to see.
    Info,
    /// Something is not as it should be, and the proxy goes on.
    Warning,
    /// Something failed.
    Error,
    /// The process cannot go on.
    Critical,
    /// Nothing is written. No message has this level.
    Off,
}

impl Level {
    /// Every level, from the most to the least talkative.
    pub const ALL: [Self; 7] = [
        Self::Trace,
        Self::Debug,
        Self::Info,
        Self::Warning,
        Self::Error,
        Self::Critical,
        Self::Off,
    ];

    /// The name in the log (`%l`) and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    /// The short name in the log (`%L`).
    pub const fn letter(self) -> char {
        match self {
            Self::Trace => 'T',
            Self::Debug => 'D',
            Self::Info => 'I',
            Self::Warning => 'W',
            Self::Error => 'E',
            Self::Critical => 'C',
            Self::Off => 'O',
        }
    }

    /// The inverse of `level as u8`; what is out of range is off.
    pub(super) const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Trace,
            1 => Self::Debug,
            2 => Self::Info,
            3 => Self::Warning,
            4 => Self::Error,
            5 => Self::Critical,
            _ => Self::Off,
        }
    }
}

impl From<tracing::Level> for Level {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::TRACE => Self::Trace,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::INFO => Self::Info,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::ERROR => Self::Error,
        }
    }
}

impl From<Level> for tracing::level_filters::LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::TRACE,
            Level::Debug => Self::DEBUG,
            Level::Info => Self::INFO,
            Level::Warning => Self::WARN,
            // A critical message is an error with a mark, see `critical!`.
            Level::Error | Level::Critical => Self::ERROR,
            Level::Off => Self::OFF,
        }
    }
}

impl From<Level> for log::LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warning => Self::Warn,
            Level::Error | Level::Critical => Self::Error,
            Level::Off => Self::Off,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is not a level's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid log level '{0}', one of trace, debug, info, warning, warn, error, critical, off is expected"
)]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        if name == "warn" {
            return Ok(Self::Warning);
        }
        Self::ALL
            .into_iter()
            .find(|level| level.name() == name)
            .ok_or_else(|| UnknownLevel(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for level in Level::ALL {
            assert_eq!(level.name().parse(), Ok(level));
            assert_eq!(Level::from_u8(level as u8), level);
        }
        assert_eq!("warn".parse(), Ok(Level::Warning));
        let error = "loud".parse::<Level>().unwrap_err().to_string();
        assert!(
            error.contains("'loud'") && error.contains("critical"),
            "{error}"
        );
    }
}
