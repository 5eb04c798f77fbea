//! The command line: Envoy's flags by name and short form.

mod api;
mod options;
mod unused;
mod version;

pub use options::{DrainStrategy, IpVersion, Mode, Options, StatsTag};
pub use unused::without_effect;
pub use version::Version;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches};

/// Reads the command line and runs what it asks for, to the end.
pub fn main() -> ExitCode {
    match parse(std::env::args_os()) {
        Ok(Asked::Run(options)) => crate::server::process::run(*options),
        Ok(Asked::Text(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// To serve or to validate.
    Run(Box<Options>),
    /// To be told something: `--help`, `--version`, `--hot-restart-version`.
    Text(String),
}

/// Reads a command line, the name of the program first.
///
/// # Errors
/// The text to show: what is wrong, what is allowed, what may have been meant.
pub fn parse<I, T>(arguments: I) -> Result<Asked, String>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let matches = match Options::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => {
            return Ok(Asked::Text(error.render().to_string()));
        }
        Err(error) => return Err(error.render().to_string()),
    };
    let mut options =
        Options::from_arg_matches(&matches).map_err(|error| error.render().to_string())?;
    if options.version {
        return Ok(Asked::Text(format!(
            "\nnuncio  version: {}\n\n",
            Version::of_build()
        )));
    }
    if options.hot_restart_version {
        return Ok(Asked::Text("disabled\n".to_owned()));
    }
    options.forget_empty();
    options
        .check()
        .map_err(|error| format!("error: {error}\n"))?;
    options.without_effect = without_effect(&matches);
    Ok(Asked::Run(Box::new(options)))
}

#[cfg(test)]
mod tests;
