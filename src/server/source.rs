//! The bootstrap as it is given: `--config-path`, `--config-yaml`, or one over the other.

use bytes::Bytes;
use prost::Message as _;

use crate::{
    api::envoy::config::bootstrap::v3::{
        Bootstrap as Message,
        bootstrap::{DynamicResources, StaticResources},
    },
    cli::Options,
    config::{Origin, Report, Reported, Strictness},
};

use super::{Bootstrap, bootstrap::name_node, process::StartError};

/// Reads and checks the bootstrap; also as it is dumped by the admin, encoded.
///
/// # Errors
/// What is wrong has been reported.
pub fn bootstrap(options: &Options, report: &Report) -> Result<(Bootstrap, Bytes), Reported> {
    let mut message = read(options, report)?;
    let node = message.node.take().unwrap_or_default();
    message.node = Some(name_node(node, options));
    let dump = message.encode_to_vec().into();
    let bootstrap = Bootstrap::compile(message, options, &report.root())?;
    Ok((bootstrap, dump))
}

/// The resources of a bootstrap with which something is wrong, those that can be
/// read, and where the others come from.
pub fn resources(options: &Options) -> Option<(StaticResources, DynamicResources)> {
    let origin = load(options, &Report::new()).ok()?;
    let strictness = Strictness::for_static(options.allow_unknown_static_fields);
    let message = origin.readable(&strictness)?;
    Some((
        message.static_resources.unwrap_or_default(),
        message.dynamic_resources.unwrap_or_default(),
    ))
}

/// Reads the bootstrap.
///
/// # Errors
/// What is wrong has been reported.
fn read(options: &Options, report: &Report) -> Result<Message, Reported> {
    let strictness = Strictness::for_static(options.allow_unknown_static_fields);
    let message = load(options, report).and_then(|origin| origin.read(&strictness, report));
    for warning in report.take_warnings() {
        tracing::warn!(target: "config", "{warning}");
    }
    message
}

/// The report of a bootstrap as the reason not to start, with file, line and column.
pub fn explain(options: &Options, mut report: Report) -> StartError {
    // Read again only now: positions are of interest when something is wrong.
    if let Ok(origin) = load(options, &Report::new()) {
        origin.locate(&mut report);
    }
    StartError::Config {
        file: options.config_name().display().to_string(),
        errors: report.to_string(),
    }
}

fn load(options: &Options, report: &Report) -> Result<Origin, Reported> {
    Origin::load(
        options.config_path.as_deref(),
        options.config_yaml.as_deref(),
        report,
    )
}
