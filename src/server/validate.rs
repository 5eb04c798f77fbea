//! `--mode validate`.

use crate::{
    cli::Options,
    config::Report,
    xds::{self, Checks},
};

use super::{admin, ground::Ground, process::StartError, source};

/// Says that the configuration is good.
///
/// # Errors
/// Everything that is not, in every file the bootstrap leads to.
pub fn validate(options: &Options) -> Result<(), StartError> {
    let report = Report::new();
    if let Ok((mut bootstrap, _dump)) = source::bootstrap(options, &report) {
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
