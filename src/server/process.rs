//! The life of the process, from the command line to its end.

use std::{io, path::PathBuf, process::ExitCode};

use tokio::task::LocalSet;

use crate::{
    cli::{Mode, Options},
    critical,
    log::{self, Level, Log},
};

use super::{serve, validate};

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log file cannot be opened.
    #[error("cannot open the log file '{}': {source}", path.display())]
    Log {
        /// `--log-path`.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither `--config-path` nor `--config-yaml`.
    #[error("at least one of --config-path or --config-yaml is required")]
    NoConfig,
    /// The configuration is not valid; every error is in the text, one a line.
    #[error("error initializing config '{file}':\n{errors}")]
    Config {
        /// The bootstrap's file.
        file: String,
        /// Each with its place.
        errors: String,
    },
    /// A file that a flag asks for cannot be written.
    #[error("cannot write '{}' for --{flag}: {source}", path.display())]
    Write {
        /// The flag, without its dashes.
        flag: &'static str,
        /// Its value.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refuses what a process needs: threads, signal handlers.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Runs what the command line asks for, to the end.
pub fn run(options: Options) -> ExitCode {
    let log = match open_log(&options) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    for line in &options.without_effect {
        tracing::warn!(target: "main", "{line}");
    }
    match start(&options, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            critical!(target: "main", "{error}");
            // Whoever started this looks here, wherever the log goes.
            if options.log_path.is_some() || !log.says("main", Level::Critical) {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn open_log(options: &Options) -> Result<Log, StartError> {
    let sink = log::sink(options.log_path.as_deref()).map_err(|source| StartError::Log {
        path: options.log_path.clone().unwrap_or_default(),
        source,
    })?;
    let log = Log::new(&options.log_settings(), sink);
    log.install();
    Ok(log)
}

fn start(options: &Options, log: &Log) -> Result<(), StartError> {
    if options.config_path.is_none() && options.config_yaml.is_none() {
        return Err(StartError::NoConfig);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = LocalSet::new();
    match options.mode {
        // Resolvers are made within a runtime, though none is asked.
        Mode::Validate => tasks.block_on(&runtime, async { validate::validate(options) }),
        Mode::Serve | Mode::InitOnly => tasks.block_on(&runtime, serve::serve(options, log)),
    }
}
