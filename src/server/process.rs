//! The life of the process, from the command line to its end.

use std::process::ExitCode;

use crate::{cli::Options, log};

/// Runs what the command line asks for.
pub fn run(options: Options) -> ExitCode {
    let sink = match log::sink(options.log_path.as_deref()) {
        Ok(sink) => sink,
        Err(error) => {
            let path = options.log_path.unwrap_or_default();
            eprintln!(
                "error: cannot open the log file '{}': {error}",
                path.display()
            );
            return ExitCode::FAILURE;
        }
    };
    let log = log::Log::new(&options.log_settings(), sink);
    log.install();
    for line in &options.without_effect {
        tracing::warn!(target: "main", "{line}");
    }
    ExitCode::SUCCESS
}
