//! Where the admin gets its facts from, and whom it asks to act.
//!
//! The admin runs on the control thread, as do all that implement these
//! traits, so nothing here is `Send` and every call returns at once. A dump is
//! built from what one call returns; it is then printed in chunks while
//! the configuration may move on.

use std::{
    cell::RefCell,
    collections::HashSet,
    fmt,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;

use crate::{
    api::envoy::{
        admin::v3::{ClientResourceStatus, CommandLineOptions},
        config::core::v3::Node,
    },
    model::SnapshotSlot,
    runtime::Runtime,
    stats,
};

/// Everything the admin answers from.
pub struct State {
    /// What was fixed at the start of the process.
    pub server: ServerFacts,
    /// What the workers see.
    pub snapshot: SnapshotSlot,
    /// What was configured, from where, and what was refused.
    pub config: Rc<dyn ConfigView>,
    /// Every stat.
    pub stats: Arc<stats::Registry>,
    /// The loggers and their levels.
    pub log: Rc<dyn LogControl>,
    /// The process's states and switches.
    pub lifecycle: Rc<dyn Lifecycle>,
    /// Values that can be changed while the process runs.
    pub runtime: Arc<Runtime>,
    /// How stats are shown.
    pub settings: Rc<stats::Settings>,
    /// Which paths are answered.
    pub paths: AllowedPaths,
    /// `….ssl.certificate.NAME.` of the certificates there were when last asked for.
    pub certificate_gauges: RefCell<Vec<Arc<stats::Block>>>,
}

use super::config::AllowedPaths;

/// Facts about the process, fixed at its start.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// `REVISION/VERSION/STATUS/BUILD/TLS`, as `--version` prints it.
    pub version: String,
    /// When the process started.
    pub started: Instant,
    /// The command line, as `/server_info` shows it.
    pub options: CommandLineOptions,
    /// The bootstrap's node with what this build adds to it.
    pub node: Node,
}

/// The process's state, as `/ready`, `/server_info` and `server.state` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Serving.
    Live,
    /// Told to fail health checks, or about to exit.
    Draining,
    /// The first clusters have not warmed.
    PreInitializing,
    /// The first listeners have not warmed.
    Initializing,
}

impl ServerState {
    /// The name in Envoy's API, which `/ready` answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }

    /// The value of the gauge `server.state`.
    pub fn number(self) -> u64 {
        self as u64
    }
}

/// How `POST /drain_listeners` is to drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainListeners {
    /// Drain for `--drain-time-s` before the listeners stop.
    pub graceful: bool,
    /// Drain connections but never stop the listeners.
    pub skip_exit: bool,
    /// Only listeners whose `traffic_direction` is `INBOUND`.
    pub inbound_only: bool,
}

/// The process, as far as the admin can see and steer it.
pub trait Lifecycle {
    /// Its state now.
    fn state(&self) -> ServerState;
    /// `POST /healthcheck/fail`: the state becomes [`ServerState::Draining`].
    fn fail_health_checks(&self);
    /// `POST /healthcheck/ok`: undoes [`Lifecycle::fail_health_checks`].
    fn pass_health_checks(&self);
    /// `POST /drain_listeners`. Asked again while draining, it changes nothing.
    fn drain_listeners(&self, how: DrainListeners);
    /// `POST /quitquitquit`: exits after the answer has gone out.
    fn quit(&self);
    /// `POST /reopen_logs`: opens every access log anew, as `SIGUSR1`.
    fn reopen_logs(&self);
    /// Connections open on all workers, for `server.total_connections`.
    fn connections(&self) -> u64;
}

/// A logger or level that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    /// No logger has this name.
    #[error("unknown logger name")]
    Logger(String),
    /// No level has this name.
    #[error("unknown logger level")]
    Level(String),
}

/// The process log's levels, by logger.
pub trait LogControl {
    /// Each logger and its level, by Envoy's names (`trace`, `debug`, `info`,
    /// `warning`, `error`, `critical`, `off`), in the order Envoy lists them.
    fn levels(&self) -> Vec<(&'static str, &'static str)>;

    /// Sets one logger's level, or every logger's when `logger` is `None`.
    ///
    /// # Errors
    /// When the logger or the level is unknown; nothing has changed then.
    fn set_level(&self, logger: Option<&str>, level: &str) -> Result<(), LogLevelError>;
}

/// The kinds of resources there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoint,
    /// `envoy.config.core.v3.TypedExtensionConfig` of an HTTP filter
    Extension,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// `envoy.config.route.v3.ScopedRouteConfiguration`, which come in [`Set`]s.
    Scope,
    /// `envoy.service.runtime.v3.Runtime`, which no dump shows: it is in `/runtime`.
    Runtime,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
    /// `envoy.config.route.v3.VirtualHost`, which are shown as part of their tables.
    VirtualHost,
}

impl Kind {
    /// The full name of the resource's message.
    pub fn message_name(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Extension => "envoy.config.core.v3.TypedExtensionConfig",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Route => "envoy.config.route.v3.RouteConfiguration",
            Self::Scope => "envoy.config.route.v3.ScopedRouteConfiguration",
            Self::Runtime => "envoy.service.runtime.v3.Runtime",
            Self::VirtualHost => "envoy.config.route.v3.VirtualHost",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The short name of the service that it comes by.
    pub fn service(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Extension => "ecds",
            Self::Listener => "lds",
            Self::Route => "rds",
            Self::Scope => "srds",
            Self::VirtualHost => "vhds",
            Self::Runtime => "rtds",
            Self::Secret => "sds",
        }
    }
}

/// Where a resource came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The bootstrap, or inline in another resource.
    Static,
    /// A subscription: the file's path, or the name of the management server.
    Dynamic(Arc<str>),
}

/// One accepted version of a resource.
#[derive(Clone, Debug)]
pub struct Version {
    /// `version_info` of the answer that brought it; empty when static.
    pub version_info: Arc<str>,
    /// When it was accepted.
    pub last_updated: SystemTime,
    /// The message, whose type is its [`Kind`]'s.
    pub message: Encoding,
}

/// A message that is encoded when somebody looks at it: a dump of thousands is
/// made without any delay, and they are encoded one by one as it is written.
#[derive(Clone)]
pub struct Encoding(Rc<dyn Fn() -> Bytes>);

impl Encoding {
    /// A message that `encode` encodes.
    pub fn new(encode: impl Fn() -> Bytes + 'static) -> Self {
        Self(Rc::new(encode))
    }

    /// The message's bytes.
    pub fn bytes(&self) -> Bytes {
        (self.0)()
    }
}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoding")
    }
}

/// The last attempt to update a resource, which failed.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What was refused, when it could be decoded at all.
    pub message: Option<Encoding>,
    /// `version_info` of the answer that brought it.
    pub version_info: Arc<str>,
    /// When.
    pub at: SystemTime,
    /// Every error, one a line, with its place.
    pub details: Arc<str>,
}

/// One named resource in all its states.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its name.
    pub name: Arc<str>,
    /// Where it came from.
    pub origin: Origin,
    /// What serves.
    pub active: Option<Version>,
    /// What was accepted and waits for what it depends on.
    pub warming: Option<Version>,
    /// What was replaced and finishes its connections (listeners only).
    pub draining: Option<Version>,
    /// What was refused, until a good one comes.
    pub error: Option<Refusal>,
    /// As the API names it.
    pub status: ClientResourceStatus,
}

/// A document or stream from which resources come.
#[derive(Clone, Debug)]
pub struct Source {
    /// What comes from it: `lds`, `cds`, `rds`, …
    pub name: &'static str,
    /// The file's path, or the name of the management server.
    pub place: Arc<str>,
    /// The one resource it is asked for; `None` when it gives a list.
    pub resource: Option<Arc<str>>,
    /// `version_info` of the last accepted answer.
    pub version_info: Arc<str>,
    /// When it was accepted; `None` before the first.
    pub last_updated: Option<SystemTime>,
    /// How many resources it holds.
    pub resources: usize,
    /// Why the last answer as a whole was not (entirely) accepted.
    pub error: Option<Refusal>,
    /// No resource has the error: nothing of that answer could be taken, or there was
    /// something in it that is no resource's, such as the second of a name.
    pub is_lost: bool,
    /// What an operator should know, such as an edit in place that is not applied.
    pub notice: Option<Arc<str>>,
}

/// Resources that belong to one other resource, and come together: the scopes of
/// a connection manager.
#[derive(Clone, Debug)]
pub struct Set {
    /// Its name there.
    pub name: Arc<str>,
    /// Where they come from.
    pub source: Source,
    /// What they are.
    pub resources: Vec<Resource>,
}

/// Something whose first answer is still awaited, for `/init_dump`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unready {
    /// The waiting component: `Server`, `listener NAME`, …
    pub name: String,
    /// What it waits for: `LDS`, `shared target SdsApi NAME`, …
    pub targets: Vec<String>,
}

/// What was configured.
///
/// Lists are cheap to return: names and messages are shared, not copied.
pub trait ConfigView {
    /// The bootstrap as merged from file and command line, encoded, and when it was read.
    fn bootstrap(&self) -> (Bytes, SystemTime);

    /// Every resource of a kind, refused ones included, static ones first.
    fn resources(&self, kind: Kind) -> Vec<Resource>;
    /// Names of the resources of a kind that did not come in the bootstrap.
    fn added(&self, kind: Kind) -> HashSet<Arc<str>> {
        self.resources(kind)
            .into_iter()
            .filter(|resource| matches!(resource.origin, Origin::Dynamic(_)))
            .map(|resource| resource.name)
            .collect()
    }

    /// The scopes of every connection manager that has them by SRDS.
    fn scopes(&self) -> Vec<Set>;

    /// `version_info` of the last accepted answer as a whole (LDS and CDS), empty before it.
    fn version(&self, kind: Kind) -> Arc<str>;

    /// Every document and stream that resources come from.
    fn sources(&self) -> Vec<Source>;

    /// What still awaits its first answer.
    fn unready(&self) -> Vec<Unready>;
}

impl ServerFacts {
    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
