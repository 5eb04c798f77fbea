//! `envoy.config.core.v3.DataSource`: bytes inline, in a file, or in the environment.

use std::path::Path;

use crate::{
    api::envoy::config::core::v3::{DataSource, data_source::Specifier},
    config::{At, MAX_CONTENT, Reported, read_file},
    refuse,
};

use super::Context;

/// Reads the bytes a source stands for. A file becomes a dependency of the
/// resource: when it is replaced, the resource is compiled again.
///
/// # Errors
/// A file that cannot be read or is too large, an environment variable that is not set.
pub fn load(source: DataSource, cx: &Context<'_>, at: &At<'_>) -> Result<Vec<u8>, Reported> {
    let DataSource {
        watched_directory,
        specifier,
    } = source;
    refuse!(at; watched_directory)?;
    match specifier {
        None => Err(at.error(
            "one of filename, inline_bytes, inline_string and environment_variable is required",
        )),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::Filename(name)) => {
            let path = Path::new(&name);
            cx.sources.depends_on_file(path);
            read_file(path, MAX_CONTENT)
                .map_err(|error| at.field("filename").error(format_args!("{name}: {error}")))
        }
        Some(Specifier::EnvironmentVariable(name)) => match std::env::var(&name) {
            Ok(value) => Ok(value.into_bytes()),
            Err(error) => Err(at
                .field("environment_variable")
                .error(format_args!("{name}: {error}"))),
        },
    }
}
