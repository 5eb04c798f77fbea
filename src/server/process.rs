//! The life of the process, from the command line to its end.
//!
//! The order of a start: log, bootstrap, stats, workers (which accept nothing
//! yet), admin, static clusters, CDS and EDS, then listeners, LDS and RDS; when all
//! of it is warm, the workers accept. The order of an end: health fails, workers
//! stop accepting, connections are asked to go, what is left at the end of the
//! drain time is cut.

use std::{
    fs, io,
    path::PathBuf,
    process::ExitCode,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use prost::Message;
use tokio::{
    task::{self, LocalSet},
    time,
};

use crate::{
    access_log::{self, Files},
    admin::{State, first_expiry, state::ServerFacts},
    api::envoy::config::bootstrap::v3::bootstrap::{
        StaticResources, application_log_config::log_format::LogFormat,
    },
    cli::{self, Mode, Options, Version},
    config::{Report, Reported, Strictness},
    critical,
    log::{self, Level, Log},
    model::context::ServerInfo,
    runtime::Runtime,
    stats,
    xds::{self, Checks, Configurator, Setup},
};

use super::{
    Bootstrap, DrainStrategy, Lifecycle, Workers, admin, bootstrap,
    control::Control,
    empty_snapshot, local_address,
    shutdown::{self, Asked, Stop},
    signals::Signals,
    source,
    stats::ServerStats,
    watchdog::Watchdog,
};

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
        Mode::Validate => tasks.block_on(&runtime, validate(options)),
        Mode::Serve | Mode::InitOnly => tasks.block_on(&runtime, serve(options, log)),
    }
}

async fn serve(options: &Options, log: &Log) -> Result<(), StartError> {
    // First, so that a process 1 that is told to end while it starts does end.
    let signals = Signals::install()?;
    let started = Instant::now();
    let base_id = base_id(options)?;
    tracing::info!(
        target: "main",
        "initializing epoch {} (base id={base_id}, hot restart version=disabled)",
        options.restart_epoch,
    );
    let report = Report::new();
    let Ok((bootstrap, dump)) = bootstrap(options, &report) else {
        return Err(source::explain(options, report));
    };
    set_log_format(log, &bootstrap);

    let registry = stats::Registry::new(options.workers());
    let snapshot = empty_snapshot();
    let lifecycle = Lifecycle::new(options.drain_time(), drain_strategy(options));
    let access_logs = Arc::new(Files::new(file_settings(options), &registry));
    let server = ServerStats::new(&registry, options, bootstrap.stats_server_version, started);
    let server = Rc::new(server);
    let control = Control::new(
        lifecycle.clone(),
        log.clone(),
        access_logs.clone(),
        server.clone(),
    );
    let info = server_info(&bootstrap, options, access_logs.clone());
    let runtime = Runtime::new(bootstrap.runtime, &registry);
    let at = report.root();
    let parts = (&registry, &info, &runtime);
    let Ok((admin, paths)) = admin::open(bootstrap.admin, parts, &at.field("admin")) else {
        return Err(source::explain(options, report));
    };
    if let Some(admin) = &admin {
        admin.tell_address(options)?;
    }
    let mut watchdog = Watchdog::new(bootstrap.watchdog, &registry);
    task::spawn_local(watchdog.main_thread().run());
    let workers = Workers::start(
        options.workers(),
        &snapshot,
        &lifecycle,
        server.block(),
        &mut watchdog,
    )?;
    let _watch = watchdog.start(options.workers() + 1)?;

    let setup = Setup {
        stats: registry.clone(),
        server: info,
        runtime: runtime.clone(),
        strictness: Strictness::for_dynamic(options.ignores_unknown_dynamic_fields()),
        snapshot: snapshot.clone(),
        bootstrap: (dump, SystemTime::now()),
        publish: Box::new(workers.publisher()),
    };
    let (resources, dynamic) = (bootstrap.static_resources, bootstrap.dynamic_resources);
    tell_what_loads(&resources);
    let Ok(configurator) = Configurator::start(Some(resources), Some(dynamic), setup, &at) else {
        return Err(source::explain(options, report));
    };
    let running = configurator.clone();
    task::spawn_local(async move { running.run().await });
    let state = Rc::new(State {
        server: ServerFacts {
            version: Version::of_build().to_string(),
            started,
            options: options.into(),
            node: bootstrap.node,
        },
        snapshot,
        config: configurator.clone(),
        stats: registry,
        log: Rc::new(log.clone()),
        lifecycle: control.clone(),
        runtime,
        settings: Rc::new(bootstrap.stats),
        paths,
    });
    task::spawn_local(keep_stats(
        state.clone(),
        server.clone(),
        bootstrap.stats_flush_interval,
    ));
    if let Some(admin) = admin {
        admin.serve(state);
    }

    let mut stop = Stop {
        signals,
        control,
        configurator,
    };
    let asked = match stop.warmed().await {
        Err(asked) => asked,
        Ok(()) => {
            lifecycle.start_accepting();
            server.serving();
            match options.mode {
                Mode::InitOnly => Asked::Quit,
                Mode::Serve | Mode::Validate => {
                    tracing::info!(target: "main", "starting main dispatch loop");
                    stop.asked().await
                }
            }
        }
    };
    shutdown::shut_down(asked, stop, &lifecycle, workers).await;
    access_logs.finish(LAST_LINES);
    tracing::info!(target: "main", "exiting");
    Ok(())
}

/// Reads and checks the bootstrap; also as it is dumped by the admin, encoded.
fn bootstrap(options: &Options, report: &Report) -> Result<(Bootstrap, Bytes), Reported> {
    let mut message = source::read(options, report)?;
    let node = message.node.take().unwrap_or_default();
    message.node = Some(bootstrap::name_node(node, options));
    let dump = message.encode_to_vec().into();
    let bootstrap = Bootstrap::compile(message, options, &report.root())?;
    Ok((bootstrap, dump))
}

/// What resources may know of the process.
fn server_info(bootstrap: &Bootstrap, options: &Options, access_logs: Arc<Files>) -> ServerInfo {
    let node = &bootstrap.node;
    let zone = node.locality.as_ref().map(|locality| locality.zone.clone());
    ServerInfo {
        node_id: node.id.clone(),
        node_cluster: node.cluster.clone(),
        zone: zone.unwrap_or_default(),
        local_address: Some(local_address(options.local_address_ip_version)),
        concurrency: options.workers(),
        drain_time: options.drain_time(),
        header_prefix: bootstrap.header_prefix.clone(),
        dns: bootstrap.dns.clone(),
        access_logs,
    }
}

/// When lines of access logs are written.
fn file_settings(options: &Options) -> access_log::Settings {
    access_log::Settings {
        interval: Duration::from_millis(options.file_flush_interval_msec.into()),
        size: options.file_flush_min_size_kb as usize * 1024,
    }
}

fn tell_what_loads(resources: &StaticResources) {
    let StaticResources {
        secrets,
        clusters,
        listeners,
    } = resources;
    tracing::info!(target: "config", "loading {} static secret(s)", secrets.len());
    tracing::info!(target: "config", "loading {} cluster(s)", clusters.len());
    tracing::info!(target: "config", "loading {} listener(s)", listeners.len());
}

/// The number of `--base-id` or `--use-dynamic-base-id`, written where it is asked for.
fn base_id(options: &Options) -> Result<u32, StartError> {
    let id = match options.use_dynamic_base_id {
        // No two processes of a host have the same.
        true => std::process::id(),
        false => options.base_id,
    };
    if let Some(path) = &options.base_id_path {
        fs::write(path, id.to_string()).map_err(|source| StartError::Write {
            flag: "base-id-path",
            path: path.clone(),
            source,
        })?;
    }
    Ok(id)
}

/// Puts `application_log_config` in force.
fn set_log_format(log: &Log, bootstrap: &Bootstrap) {
    match &bootstrap.log_format {
        None => {}
        Some(LogFormat::TextFormat(format)) => log.set_format(format),
        Some(LogFormat::JsonFormat(format)) => log
            .set_json_format(format)
            .expect("compiling the bootstrap has checked the format"),
    }
}

/// How long the end of the process waits for the last lines of access logs.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How often the stats under `server.` are written.
const SERVER_STATS: Duration = Duration::from_secs(1);

/// Keeps the stats of the process up to date and ends the intervals of
/// histograms, for as long as the process runs.
async fn keep_stats(state: Rc<State>, server: Rc<ServerStats>, flush_interval: Duration) {
    let mut server_stats = time::interval(SERVER_STATS);
    let mut flush = time::interval(flush_interval);
    for timer in [&mut server_stats, &mut flush] {
        timer.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            _ = server_stats.tick() => server.update(state.lifecycle.state()),
            _ = flush.tick() => {
                server.first_expiry(first_expiry(&state));
                if !state.settings.flush_on_admin {
                    state.stats.flush();
                }
            }
        }
    }
}

fn drain_strategy(options: &Options) -> DrainStrategy {
    match options.drain_strategy {
        cli::DrainStrategy::Gradual => DrainStrategy::Gradual,
        cli::DrainStrategy::Immediate => DrainStrategy::Immediate,
    }
}

/// `--mode validate`: says that the configuration is good, or everything that is not.
async fn validate(options: &Options) -> Result<(), StartError> {
    let report = Report::new();
    if let Ok((bootstrap, _dump)) = bootstrap(options, &report) {
        let registry = stats::Registry::new(options.workers());
        let access_logs = Arc::new(Files::new(file_settings(options), &registry));
        let checks = Checks {
            server: server_info(&bootstrap, options, access_logs),
            runtime: Runtime::new(bootstrap.runtime, &registry),
            strictness: Strictness::for_dynamic(options.ignores_unknown_dynamic_fields()),
            stats: registry,
        };
        let (resources, dynamic) = (bootstrap.static_resources, bootstrap.dynamic_resources);
        xds::validate(resources, dynamic, checks, &report.root());
    }
    if !report.is_empty() {
        return Err(source::explain(options, report));
    }
    println!("configuration '{}' OK", options.config_name().display());
    Ok(())
}
