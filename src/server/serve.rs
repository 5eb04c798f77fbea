//! Serving: put together, warmed, run, brought to its end.
//!
//! The order of a start: signals, bootstrap, admin (bound), workers (which accept
//! nothing yet), static clusters, CDS and EDS, then listeners, LDS and RDS; when all
//! of it is warm, the workers accept. The order of an end: health fails, workers
//! stop accepting, connections are asked to go, what is left at the end of the
//! drain time is cut, and the last lines of access logs are written.

use std::{
    cell::RefCell,
    fs,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{task, time};

use crate::{
    access_log::Sinks,
    admin::{State, first_expiry, state::ServerFacts},
    api::envoy::config::bootstrap::v3::bootstrap::{
        StaticResources, application_log_config::log_format::LogFormat,
    },
    cli::{self, Mode, Options, Version},
    config::{Report, Reported},
    log::Log,
    xds::{Configurator, Setup},
};

use super::{
    Bootstrap, DrainStrategy, Lifecycle, Workers, admin,
    control::Control,
    empty_snapshot,
    ground::Ground,
    process::StartError,
    shutdown::{self, Asked, Stop},
    signals::Signals,
    source,
    stats::ServerStats,
    watchdog::{Watch, Watchdog},
};

/// How long the end of the process waits for the last lines of access logs.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How often the stats under `server.` are written.
const SERVER_STATS: Duration = Duration::from_secs(1);

/// Serves until the process is asked to end.
///
/// # Errors
/// Why it cannot start.
pub async fn serve(options: &Options, log: &Log) -> Result<(), StartError> {
    // First, so that a process 1 that is told to end while it starts does end.
    let signals = Signals::install()?;
    let base_id = base_id(options)?;
    tracing::info!(
        target: "main",
        "initializing epoch {} (base id={base_id}, hot restart version=disabled)",
        options.restart_epoch,
    );
    let report = Report::new();
    match Server::assemble(options, log, signals, &report) {
        Ok(server) => server.run(options.mode).await,
        Err(Failure::Reported) => return Err(source::explain(options, report)),
        Err(Failure::Start(error)) => return Err(error),
    }
    tracing::info!(target: "main", "exiting");
    Ok(())
}

/// The parts of the process that run.
struct Server {
    lifecycle: Lifecycle,
    workers: Workers,
    stop: Stop,
    stats: Rc<ServerStats>,
    access_logs: Arc<Sinks>,
    _watch: Watch,
}

/// Why the parts cannot be put together.
enum Failure {
    /// It is on the report.
    Reported,
    Start(StartError),
}

impl From<Reported> for Failure {
    fn from(_: Reported) -> Self {
        Self::Reported
    }
}

impl<E: Into<StartError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Start(error.into())
    }
}

impl Server {
    fn assemble(
        options: &Options,
        log: &Log,
        signals: Signals,
        report: &Report,
    ) -> Result<Self, Failure> {
        let started = Instant::now();
        let (mut bootstrap, dump) = source::bootstrap(options, report)?;
        set_log_format(log, &bootstrap);
        let ground = Ground::new(options, &mut bootstrap);
        let at = report.root();
        let config = admin::check(bootstrap.admin, &ground, &at.field("admin"))?;
        let (admin, paths) = admin::open(config, &at.field("admin"))?;
        if let Some(admin) = &admin {
            admin.tell_address(options)?;
        }

        let Ground {
            stats: registry,
            access_logs,
            runtime,
            info,
            overload,
            strictness,
        } = ground;
        let stats = ServerStats::new(&registry, options, bootstrap.stats_server_version, started);
        stats.unknown_fields(report.unknown());
        let stats = Rc::new(stats);
        let snapshot = empty_snapshot();
        let lifecycle = Lifecycle::new(options.drain_time(), drain_strategy(options));
        let woken = lifecycle.clone();
        task::spawn_local(overload.run(move || woken.pressure_changed()));
        let mut watchdog = Watchdog::new(bootstrap.watchdog, &registry);
        task::spawn_local(watchdog.main_thread().run());
        let count = options.workers();
        let workers = Workers::start(count, &snapshot, &lifecycle, &registry, &mut watchdog)?;
        let watch = watchdog.start(count + 1)?;

        tell_what_loads(&bootstrap.static_resources);
        let setup = Setup {
            stats: registry.clone(),
            server: info,
            node: bootstrap.node.clone(),
            runtime: runtime.clone(),
            strictness,
            state_dir: options.state_dir.clone(),
            snapshot: snapshot.clone(),
            bootstrap: (dump, SystemTime::now()),
            publish: Box::new(workers.publisher()),
        };
        let (resources, dynamic) = (bootstrap.static_resources, bootstrap.dynamic_resources);
        let configurator = Configurator::start(Some(resources), Some(dynamic), setup, &at)?;
        let running = configurator.clone();
        task::spawn_local(async move { running.run().await });

        let control = Control::new(
            lifecycle.clone(),
            log.clone(),
            access_logs.clone(),
            stats.clone(),
            snapshot.clone(),
            &registry,
        );
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
            runtime: runtime.clone(),
            settings: Rc::new(bootstrap.stats),
            paths,
            certificate_gauges: RefCell::default(),
        });
        let flush_interval = bootstrap.stats_flush_interval;
        task::spawn_local(keep_stats(state.clone(), stats.clone(), flush_interval));
        if let Some(admin) = admin {
            admin.serve(state);
        }
        let stop = Stop {
            signals,
            control,
            configurator,
            runtime,
        };
        Ok(Self {
            lifecycle,
            workers,
            stop,
            stats,
            access_logs,
            _watch: watch,
        })
    }

    /// Accepts when all is warm, until asked to end.
    async fn run(mut self, mode: Mode) {
        let asked = match self.stop.warmed().await {
            Err(asked) => asked,
            Ok(()) => {
                self.lifecycle.start_accepting();
                self.stats.serving();
                match mode {
                    Mode::InitOnly => Asked::Quit,
                    Mode::Serve | Mode::Validate => {
                        tracing::info!(target: "main", "starting main dispatch loop");
                        self.stop.asked().await
                    }
                }
            }
        };
        shutdown::shut_down(asked, self.stop, &self.lifecycle, self.workers).await;
        self.access_logs.finish(LAST_LINES).await;
    }
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

/// Keeps the stats of the process up to date and ends the intervals of
/// histograms, for as long as the process runs.
async fn keep_stats(state: Rc<State>, server: Rc<ServerStats>, flush_interval: Duration) {
    let mut server_stats = time::interval(SERVER_STATS);
    // The first interval is a whole one, as in Envoy.
    let mut flush = time::interval_at(time::Instant::now() + flush_interval, flush_interval);
    server.first_expiry(first_expiry(&state));
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
