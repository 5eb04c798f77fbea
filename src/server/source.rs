//! The bootstrap as it is given: `--config-path`, `--config-yaml`, or one over the other.

use crate::{
    api::envoy::config::bootstrap::v3::Bootstrap,
    cli::Options,
    config::{self, Document, Report, Reported, Strictness},
};

use super::process::StartError;

/// Reads the bootstrap.
///
/// # Errors
/// What is wrong has been reported.
pub fn read(options: &Options, report: &Report) -> Result<Bootstrap, Reported> {
    let strictness = Strictness::for_static(options.allow_unknown_static_fields);
    let message = match &options.config_path {
        Some(path) => config::read(path, &strictness, report),
        None => Err(report.root().error("--config-path is required")),
    };
    for warning in report.take_warnings() {
        tracing::warn!(target: "config", "{warning}");
    }
    message
}

/// The report of a bootstrap as the reason not to start, with file, line and column.
pub fn explain(options: &Options, mut report: Report) -> StartError {
    // Read again only now: positions are of interest when something is wrong.
    if let Some(path) = &options.config_path
        && let Ok(document) = Document::load(path)
    {
        document.locate(&mut report);
    }
    StartError::Config {
        file: options.config_name().display().to_string(),
        errors: report.to_string(),
    }
}
