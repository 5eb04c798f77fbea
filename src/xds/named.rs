//! One resource that is subscribed to by its name: a route table by RDS, a
//! secret by SDS, endpoints by EDS, a layer of the runtime by RTDS.

use std::{
    cell::RefCell,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::{Message, Name};

use crate::{
    admin::state::{self, Origin, Source},
    api::envoy::admin::v3::ClientResourceStatus,
    config::{At, Discovery, DocumentError, RawResource, Report, Reported, read_discovery},
    model::Context,
    stats::{Block, Counter},
    upstream::stats::cluster_stats,
};

use super::{
    config_source::ConfigSource,
    dependencies::Awaited,
    ledger::{Ledger, now_in_milliseconds},
    resource::{Encoded, Refused, Version},
    slot::Slot,
    stats::{empty_stats, reload_stats, rotation_stats},
    subscriptions::Subscriptions,
    watcher::Watch,
};

/// A kind of resource that is subscribed to by name.
pub trait NamedKind: 'static {
    /// As it comes.
    type Message: Message + Name + Default;
    /// As it is used.
    type Value: 'static;
    /// `rds`, `sds`, `eds`.
    const SHORT: &'static str;
    /// For the admin.
    const KIND: state::Kind;
    /// The subscription as `/init_dump` names it.
    const TARGET: &'static str;

    /// The resource's name.
    fn name(message: &Self::Message) -> &str;

    /// Compiles it.
    ///
    /// # Errors
    /// What is wrong has been reported.
    fn compile(
        message: Self::Message,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Value, Reported>;
}

/// One named subscription, alive for as long as a resource depends on it.
pub struct Named<K: NamedKind> {
    name: Arc<str>,
    /// `None` for a resource of the bootstrap.
    source: Option<ConfigSource>,
    _watch: Option<Watch>,
    slot: Arc<Slot<K::Value>>,
    ledger: Ledger,
    stats: NamedStats,
    state: RefCell<State>,
}

/// What is counted besides, for the kinds for which Envoy does.
struct NamedStats {
    reload: Option<Arc<Block>>,
    empty: Option<(Arc<Block>, Counter)>,
    rotation: Option<Arc<Block>>,
}

#[derive(Default)]
struct State {
    active: Option<Version<()>>,
    refused: Option<Refused>,
}

/// [`Named`] of any kind.
pub trait AnyNamed: Awaited {
    /// Which kind.
    fn kind(&self) -> state::Kind;
    /// The file was replaced, or SIGHUP came: reads it.
    fn reload(&self, subscriptions: &Subscriptions);
    /// The file was written in place.
    fn edited_in_place(&self);
    /// Compiles again what depends on a file that changed, or lacked something
    /// that may have come. True when another value is in force.
    fn refresh(&self, subscriptions: &Subscriptions) -> bool;
    /// The subscription, for the admin; `None` for a resource of the bootstrap.
    fn source(&self) -> Option<Source>;
    /// The resource, for the admin.
    fn resource(&self, subscriptions: &Subscriptions) -> state::Resource;
}

impl<K: NamedKind> Named<K> {
    /// Subscribes to `name` in the file that `source` names and `watch` watches,
    /// and reads it. Stats stand under `prefix`.
    pub(super) fn subscribe(
        name: &str,
        source: ConfigSource,
        watch: Watch,
        prefix: &str,
        subscriptions: &Subscriptions,
    ) -> Rc<Self> {
        let place: Arc<str> = source.path.display().to_string().into();
        let named = Self::new(
            name,
            Some(source),
            Some(watch),
            place,
            prefix,
            subscriptions,
        );
        named.reload(subscriptions);
        named
    }

    /// A resource of the bootstrap.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub(super) fn fixed(
        message: K::Message,
        at: &At<'_>,
        prefix: &str,
        subscriptions: &Subscriptions,
    ) -> Result<Rc<Self>, Reported> {
        let encoded = Encoded::of(&message);
        let named = Self::new(
            K::name(&message),
            None,
            None,
            "bootstrap".into(),
            prefix,
            subscriptions,
        );
        let collector = subscriptions.collector();
        let value = K::compile(message, &collector.context(), at)?;
        named.slot.set(Arc::new(value));
        named.state.borrow_mut().active = Some(Version {
            hash: encoded.hash(),
            encoded,
            version_info: Arc::default(),
            updated: SystemTime::now(),
            built: (),
            dependencies: collector.into_dependencies(),
        });
        Ok(named)
    }

    fn new(
        name: &str,
        source: Option<ConfigSource>,
        watch: Option<Watch>,
        place: Arc<str>,
        prefix: &str,
        subscriptions: &Subscriptions,
    ) -> Rc<Self> {
        let stats = subscriptions.stats();
        let is_route = K::KIND == state::Kind::Route;
        let is_secret = K::KIND == state::Kind::Secret;
        Rc::new(Self {
            name: name.into(),
            source,
            _watch: watch,
            slot: Arc::new(Slot::new(name)),
            ledger: Ledger::new(K::SHORT, place, stats, prefix),
            stats: NamedStats {
                reload: is_route.then(|| stats.block(prefix, &reload_stats::TABLE)),
                empty: match K::KIND {
                    state::Kind::Route => {
                        let block = stats.block(prefix, &empty_stats::TABLE);
                        Some((block, empty_stats::update_empty))
                    }
                    state::Kind::Endpoint => {
                        let block = stats.block(prefix, &cluster_stats::TABLE);
                        Some((block, cluster_stats::update_empty))
                    }
                    _ => None,
                },
                rotation: is_secret.then(|| stats.block(prefix, &rotation_stats::TABLE)),
            },
            state: RefCell::default(),
        })
    }

    /// Where the value is.
    pub fn slot(&self) -> &Arc<Slot<K::Value>> {
        &self.slot
    }

    /// Takes an answer, whatever brought it.
    pub(super) fn answer(
        &self,
        answer: Result<Discovery, DocumentError>,
        subscriptions: &Subscriptions,
    ) {
        match answer {
            Ok(discovery) => self.apply(discovery, subscriptions),
            Err(error @ DocumentError::Refused(_)) => {
                self.ledger.refused(error.to_string().into());
            }
            Err(error) => self.ledger.failed(error.to_string().into()),
        }
        if !self.slot.is_answered() {
            self.slot.give_up();
        }
    }

    fn apply(&self, discovery: Discovery, subscriptions: &Subscriptions) {
        let Discovery {
            version_info,
            resources,
        } = discovery;
        let version_info: Arc<str> = version_info.into();
        let count = resources.len();
        let raw = match the_only::<K>(resources, &self.name, self.ledger.place()) {
            Ok(Some(raw)) => raw,
            Ok(None) => {
                if let Some((block, update_empty)) = &self.stats.empty {
                    block.inc(*update_empty);
                }
                return self.ledger.accepted(&version_info, 0);
            }
            Err(details) => return self.ledger.refused(details.into()),
        };
        let encoded = Encoded::from(raw);
        let unchanged = {
            let mut state = self.state.borrow_mut();
            let hash = encoded.hash();
            let State { active, refused } = &mut *state;
            match active {
                Some(active) if active.hash == hash && !active.dependencies.stale() => {
                    active.encoded = encoded.clone();
                    *refused = None;
                    true
                }
                _ => false,
            }
        };
        if unchanged || self.compile(encoded, &version_info, subscriptions) {
            self.ledger.accepted(&version_info, count);
            return;
        }
        let refused = self
            .state
            .borrow()
            .refused
            .as_ref()
            .map(|r| r.details.clone());
        self.reject(&version_info, count, refused.unwrap_or_default());
    }

    fn reject(&self, version_info: &Arc<str>, resources: usize, details: Arc<str>) {
        let (short, name) = (K::SHORT, &self.name);
        tracing::warn!(target: "config", "{short}: '{name}' rejected: {details}");
        self.ledger.rejected(version_info, resources, details);
    }

    /// Compiles and puts in force, or refuses.
    fn compile(
        &self,
        encoded: Encoded,
        version_info: &Arc<str>,
        subscriptions: &Subscriptions,
    ) -> bool {
        let collector = subscriptions.collector();
        let mut report = Report::new();
        let compiled = encoded
            .decode(subscriptions.strictness(), &report)
            .and_then(|message: K::Message| {
                let at = report.root();
                check_name::<K>(&message, &self.name, &at)?;
                K::compile(message, &collector.context(), &at)
            });
        let dependencies = collector.into_dependencies();
        let hash = encoded.hash();
        let version_info = version_info.clone();
        let now = SystemTime::now();
        let mut state = self.state.borrow_mut();
        match compiled {
            Ok(value) => {
                state.active = Some(Version {
                    encoded,
                    hash,
                    version_info,
                    updated: now,
                    built: (),
                    dependencies,
                });
                state.refused = None;
                drop(state);
                self.slot.set(Arc::new(value));
                if let Some(reload) = &self.stats.reload {
                    reload.inc(reload_stats::config_reload);
                    reload.gauge_set(reload_stats::config_reload_time_ms, now_in_milliseconds());
                }
                true
            }
            Err(_) => {
                encoded.locate(&mut report);
                state.refused = Some(Refused {
                    encoded,
                    hash,
                    version_info,
                    at: now,
                    details: report.to_string().into(),
                    dependencies,
                });
                false
            }
        }
    }
}

/// The one resource that an answer may hold; `None` when it holds none.
///
/// # Errors
/// Why the answer cannot be used, in Envoy's words.
pub(super) fn the_only<K: NamedKind>(
    mut resources: Vec<RawResource>,
    name: &str,
    place: &str,
) -> Result<Option<RawResource>, String> {
    let short = K::SHORT.to_uppercase();
    match resources.len() {
        0 if matches!(K::KIND, state::Kind::Secret | state::Kind::Runtime) => Err(format!(
            "{place}: Missing {short} resources for {name} in onConfigUpdate()"
        )),
        0 | 1 => Ok(resources.pop()),
        count => Err(format!(
            "{place}: Unexpected {short} resource length: {count}; there has to be one, {name}"
        )),
    }
}

/// Refuses a resource that is not the one that was asked for.
///
/// # Errors
/// Reported in Envoy's words.
pub(super) fn check_name<K: NamedKind>(
    message: &K::Message,
    name: &str,
    at: &At<'_>,
) -> Result<(), Reported> {
    let found = K::name(message);
    if found == name {
        return Ok(());
    }
    let short = K::SHORT.to_uppercase();
    Err(at.error(format_args!(
        "Unexpected {short} configuration (expecting {name}): {found}"
    )))
}

impl<K: NamedKind> Awaited for Named<K> {
    fn target(&self) -> String {
        format!("{} {}", K::TARGET, self.name)
    }

    fn is_answered(&self) -> bool {
        self.slot.is_answered()
    }

    fn has_value(&self) -> bool {
        self.slot.get().is_some()
    }

    fn timeout(&self) -> Option<Duration> {
        self.source.as_ref()?.initial_fetch_timeout
    }
}

impl<K: NamedKind> AnyNamed for Named<K> {
    fn kind(&self) -> state::Kind {
        K::KIND
    }

    fn reload(&self, subscriptions: &Subscriptions) {
        if let Some(source) = &self.source {
            self.ledger.attempt();
            let path: &Path = &source.path;
            self.answer(read_discovery(path, &K::Message::type_url()), subscriptions);
        }
    }

    fn edited_in_place(&self) {
        self.ledger.edited_in_place();
    }

    fn refresh(&self, subscriptions: &Subscriptions) -> bool {
        let (again, version_info, was_refused) = {
            let state = self.state.borrow();
            match (&state.refused, &state.active) {
                (Some(refused), _) if refused.may_be_cured() => {
                    let details = refused.details.clone();
                    (
                        refused.encoded.clone(),
                        refused.version_info.clone(),
                        Some(details),
                    )
                }
                (None, Some(active)) if active.dependencies.stale() => {
                    (active.encoded.clone(), active.version_info.clone(), None)
                }
                _ => return false,
            }
        };
        if self.compile(again, &version_info, subscriptions) {
            if was_refused.is_some() {
                self.ledger.cured();
            }
            return true;
        }
        let details = self
            .state
            .borrow()
            .refused
            .as_ref()
            .map(|r| r.details.clone());
        if let Some(details) = details.filter(|d| Some(d) != was_refused.as_ref()) {
            if let Some(rotation) = &self.stats.rotation {
                rotation.inc(rotation_stats::key_rotation_failed);
            }
            tracing::warn!(target: "config", "{} {} not renewed: {details}", K::SHORT, self.name);
        }
        false
    }

    fn source(&self) -> Option<Source> {
        self.source.is_some().then(|| self.ledger.source())
    }

    fn resource(&self, subscriptions: &Subscriptions) -> state::Resource {
        let state = self.state.borrow();
        let strictness = subscriptions.strictness();
        let view = |v: &Version<()>| v.view::<K::Message>(strictness);
        let error = state.refused.as_ref();
        state::Resource {
            name: self.name.clone(),
            origin: match self.source {
                None => Origin::Static,
                Some(_) => Origin::Dynamic(self.ledger.place().clone()),
            },
            active: state.active.as_ref().map(view),
            warming: None,
            draining: None,
            error: error.map(|r| r.view::<K::Message>(strictness)),
            status: match (error, &state.active) {
                (Some(_), _) => ClientResourceStatus::Nacked,
                (None, Some(_)) => ClientResourceStatus::Acked,
                (None, None) if self.slot.is_answered() => ClientResourceStatus::DoesNotExist,
                (None, None) => ClientResourceStatus::Requested,
            },
        }
    }
}
