//! `--mode validate`.

use crate::{
    api::envoy::config::bootstrap::v3::Bootstrap as Message,
    cli::Options,
    config::Report,
    xds::{self, Checks},
};

use super::{Bootstrap, admin, ground::Ground, process::StartError, source};

/// Says that the configuration is good.
///
/// # Errors
/// Everything that is not, in every file the bootstrap leads to.
pub fn validate(options: &Options) -> Result<(), StartError> {
    let report = Report::new();
    if let Some(mut bootstrap) = bootstrap(options, &report) {
        let ground = Ground::new(options, &mut bootstrap);
        let at = report.root();
        // What is wrong with it is on the report; the checks go on to find more.
        admin::check(bootstrap.admin, &ground, &at.field("admin")).ok();
        let checks = Checks {
            stats: ground.stats,
            server: ground.info,
            runtime: ground.runtime,
            strictness: ground.strictness,
        };
        let (resources, dynamic) = (bootstrap.static_resources, bootstrap.dynamic_resources);
        xds::validate(resources, dynamic, checks, &at);
    }
    if !report.is_empty() {
        return Err(source::explain(options, report));
    }
    println!("configuration '{}' OK", options.config_name().display());
    Ok(())
}

/// The bootstrap, or what can be said of its resources where it is not good itself.
fn bootstrap(options: &Options, report: &Report) -> Option<Bootstrap> {
    match source::bootstrap(options, report) {
        Ok((bootstrap, _dump)) => Some(bootstrap),
        Err(_) => {
            let (resources, dynamic) = source::resources(options)?;
            let message = Message {
                static_resources: Some(resources),
                dynamic_resources: Some(dynamic),
                ..Message::default()
            };
            // What else the bootstrap says is on the report already.
            Bootstrap::compile(message, options, &Report::new().root()).ok()
        }
    }
}
