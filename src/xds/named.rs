//! One resource that is subscribed to by its name: a route table by RDS, a
//! secret by SDS, endpoints by EDS, a layer of the runtime by RTDS.

use std::{
    cell::{Cell, RefCell},
    hash::Hash,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::{Message, Name};
use tokio::{
    task::{self, AbortHandle},
    time::{self, Instant},
};

use crate::{
    admin::state::{self, Origin, Source},
    api::envoy::admin::v3::ClientResourceStatus,
    config::{At, DocumentError, Report, Reported, read_discovery},
    model::Context,
    stats::{Block, Counter},
    upstream::stats::cluster_stats,
};

use super::{
    api_source::Through,
    config_source::{ConfigSource, Origin as SourceOrigin},
    dependencies::Awaited,
    ledger::{Ledger, now_in_milliseconds},
    resource::{Encoded, Refused, Version},
    slot::Slot,
    stats::{empty_stats, extension_stats, reload_stats, rotation_stats},
    store::Shelf,
    stream::Interest,
    subscriptions::Subscriptions,
    update::{Received, Update},
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
    /// By which clusters its management server may be reached.
    const THROUGH: Through = Through::Primary;
    /// What who asks for it says besides its name; most say nothing.
    type Want: Clone + Default + Eq + Hash;

    /// The resource's name.
    fn name(message: &Self::Message) -> &str;

    /// Compiles it.
    ///
    /// # Errors
    /// What is wrong has been reported.
    fn compile(
        message: Self::Message,
        want: &Self::Want,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Value, Reported>;
}

/// What is subscribed to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Wanted<W> {
    /// The resource's name.
    pub name: Box<str>,
    /// Where the stats of the subscription stand.
    pub prefix: Box<str>,
    /// See [`NamedKind::Want`].
    pub want: W,
}

impl<W: Default> Wanted<W> {
    /// A resource of which nothing but its name is said.
    pub fn named(name: &str, prefix: &str) -> Self {
        Self {
            name: name.into(),
            prefix: prefix.into(),
            want: W::default(),
        }
    }
}

/// One named subscription, alive for as long as a resource depends on it.
pub struct Named<K: NamedKind> {
    name: Arc<str>,
    want: K::Want,
    /// `None` for a resource of the bootstrap.
    source: Option<ConfigSource>,
    /// Ends with this.
    _held: Held,
    /// Gives up waiting for the first answer.
    timer: Cell<Option<AbortHandle>>,
    slot: Arc<Slot<K::Value>>,
    ledger: Ledger,
    stats: NamedStats,
    /// Where what was accepted is kept.
    shelf: Option<Shelf>,
    state: RefCell<State<K::Value>>,
    /// Set when it goes.
    let_go: Rc<Cell<bool>>,
}

/// What a subscription keeps up.
pub(super) enum Held {
    /// It is of the bootstrap.
    Nothing,
    /// The watch of its file.
    Watch(#[expect(dead_code, reason = "it is held")] Watch),
    /// What the server is asked for.
    Interest(#[expect(dead_code, reason = "it is held")] Interest),
}

/// What is counted besides, for the kinds for which Envoy does.
struct NamedStats {
    reload: Option<Arc<Block>>,
    empty: Option<(Arc<Block>, Counter)>,
    rotation: Option<Arc<Block>>,
    extension: Option<Arc<Block>>,
}

struct State<T> {
    active: Option<Version<()>>,
    /// Good, but it leads to clusters that warm.
    waiting: Option<Waiting<T>>,
    refused: Option<Refused>,
    /// What was accepted last was so in an earlier run, and this says it.
    stale: Option<Arc<str>>,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            active: None,
            waiting: None,
            refused: None,
            stale: None,
        }
    }
}

/// A version that is held back until the clusters it leads to are in force: what
/// was there before serves meanwhile, so that no request meets a cluster that
/// cannot take it.
struct Waiting<T> {
    version: Version<Arc<T>>,
    /// When it goes on without; `None` is never.
    until: Option<Instant>,
}

/// [`Named`] of any kind.
pub trait AnyNamed: Awaited {
    /// Which kind.
    fn kind(&self) -> state::Kind;
    /// The file was replaced, or SIGHUP came: reads it. A server says by itself
    /// what is new.
    fn reload(&self, subscriptions: &Subscriptions);
    /// A server's answer holds the resource: `version_info` is the answer's.
    ///
    /// # Errors
    /// Why it is refused.
    fn deliver(
        &self,
        received: Received,
        version_info: &Arc<str>,
        subscriptions: &Subscriptions,
    ) -> Result<(), Arc<str>>;
    /// A server says that there is no such resource. What is in force stays, but
    /// for a filter's configuration.
    fn gone(&self, version_info: &Arc<str>);
    /// A server's answer, which may hold the resource, is refused as a whole.
    fn refuse(&self, details: &Arc<str>, subscriptions: &Subscriptions);
    /// The server that is polled has nothing new.
    fn unchanged(&self);
    /// There is no server, or not any more.
    fn unreachable(&self, details: &Arc<str>, subscriptions: &Subscriptions);
    /// Serves what an earlier run accepted, if there is nothing else.
    fn fall_back(&self, why: &str, subscriptions: &Subscriptions);
    /// There is a server again.
    fn reached(&self);
    /// The file was written in place.
    fn edited_in_place(&self);
    /// Compiles again what depends on a file that changed, or lacked something
    /// that may have come. True when another value is in force.
    fn refresh(&self, subscriptions: &Subscriptions) -> bool;
    /// Whether the end of something that is not about it (a cluster warmed, a
    /// file that was missing came) may change how it stands.
    fn is_restless(&self) -> bool;
    /// Whether it is held back for clusters.
    fn is_held_back(&self) -> bool;
    /// When it goes on without the clusters that it is held back for.
    fn held_until(&self) -> Option<Instant>;
    /// The subscription, for the admin; `None` for a resource of the bootstrap.
    fn source(&self) -> Option<Source>;
    /// The resource, for the admin.
    fn resource(&self, subscriptions: &Subscriptions) -> state::Resource;
}

impl<K: NamedKind> Named<K> {
    /// Subscribes to what is wanted of `source`, for as long as it is `held`: reads
    /// the file, or waits for what the server says.
    pub(super) fn subscribe(
        wanted: &Wanted<K::Want>,
        source: ConfigSource,
        held: Held,
        subscriptions: &Subscriptions,
    ) -> Rc<Self> {
        let place = source.origin.place();
        let named = Self::new(wanted, Some(source), held, place, subscriptions);
        if let Held::Interest(_) = &named._held {
            named.ledger.attempt();
            named.limit_wait();
        }
        named.reload(subscriptions);
        named
    }

    /// Lets the first answer be awaited for `initial_fetch_timeout`.
    fn limit_wait(self: &Rc<Self>) {
        let Some(timeout) = self.timeout() else {
            return;
        };
        let this = Rc::downgrade(self);
        let timer = task::spawn_local(async move {
            time::sleep(timeout).await;
            if let Some(this) = this.upgrade()
                && !this.slot.is_answered()
            {
                this.ledger.timed_out();
                this.slot.give_up();
            }
        });
        self.timer.set(Some(timer.abort_handle()));
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
        let wanted = Wanted::named(K::name(&message), prefix);
        let place = "bootstrap".into();
        let named = Self::new(&wanted, None, Held::Nothing, place, subscriptions);
        let collector = subscriptions.collector();
        let value = K::compile(message, &named.want, &collector.context(), at)?;
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
        wanted: &Wanted<K::Want>,
        source: Option<ConfigSource>,
        held: Held,
        place: Arc<str>,
        subscriptions: &Subscriptions,
    ) -> Rc<Self> {
        let Wanted { name, prefix, want } = wanted;
        let stats = subscriptions.stats();
        let is_route = K::KIND == state::Kind::Route;
        let is_secret = K::KIND == state::Kind::Secret;
        let is_extension = K::KIND == state::Kind::Extension;
        let origin = source.as_ref().map(|source| &source.origin);
        let shelf = origin.and_then(|origin| subscriptions.shelf(&K::Message::full_name(), origin));
        if let Some(shelf) = &shelf {
            shelf.hold(name);
        }
        Rc::new(Self {
            name: (**name).into(),
            want: want.clone(),
            shelf,
            source,
            _held: held,
            timer: Cell::new(None),
            slot: Arc::new(Slot::new(&**name)),
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
                extension: is_extension.then(|| stats.block(prefix, &extension_stats::TABLE)),
            },
            state: RefCell::default(),
            let_go: subscriptions.let_go().clone(),
        })
    }

    /// Where the value is.
    pub fn slot(&self) -> &Arc<Slot<K::Value>> {
        &self.slot
    }

    /// Takes what a file holds.
    fn read(&self, answer: Result<Update, DocumentError>, subscriptions: &Subscriptions) {
        match answer {
            Ok(update) => {
                let Update {
                    version_info,
                    resources,
                    gone: _,
                } = update;
                match the_only::<K, _>(resources, &self.name, self.ledger.place()) {
                    // What was refused is in the log and the dump.
                    Ok(Some(received)) => {
                        self.apply(received, &version_info, subscriptions).ok();
                    }
                    Ok(None) => self.is_empty(&version_info),
                    Err(details) => {
                        self.ledger.refused(details.as_str().into());
                        self.fall_back(&details, subscriptions);
                    }
                }
            }
            Err(error) => {
                let details = error.to_string();
                match error {
                    DocumentError::Refused(_) => self.ledger.refused(details.as_str().into()),
                    _ => self.ledger.failed(details.as_str().into()),
                }
                self.fall_back(&details, subscriptions);
            }
        }
        self.is_answered_now();
    }

    /// An answer came, good or bad.
    fn is_answered_now(&self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        // One that is held back answers when it is let go on.
        if !self.slot.is_answered() && self.state.borrow().waiting.is_none() {
            self.slot.give_up();
        }
    }

    /// An answer came without the resource.
    fn is_empty(&self, version_info: &Arc<str>) {
        if let Some((block, update_empty)) = &self.stats.empty {
            block.inc(*update_empty);
        }
        self.ledger.accepted(version_info, 0);
    }

    fn apply(
        &self,
        received: Received,
        version_info: &Arc<str>,
        subscriptions: &Subscriptions,
    ) -> Result<(), Arc<str>> {
        let Received {
            name: _,
            version,
            resource: encoded,
        } = received;
        let (unchanged, back) = {
            let mut state = self.state.borrow_mut();
            let hash = encoded.hash();
            let State {
                active,
                waiting,
                refused,
                // Looked at when it is known that this is good.
                stale: _,
            } = &mut *state;
            match (waiting, active) {
                (Some(waiting), _) if waiting.version.hash == hash => {
                    encoded.follow(&waiting.version.encoded);
                    waiting.version.encoded = encoded.clone();
                    *refused = None;
                    (true, false)
                }
                (waiting, Some(active)) if active.hash == hash && !active.dependencies.stale() => {
                    encoded.follow(&active.encoded);
                    active.encoded = encoded.clone();
                    *refused = None;
                    (true, waiting.take().is_some())
                }
                _ => (false, false),
            }
        };
        if unchanged || self.compile(encoded, &version, subscriptions) {
            // What waited until now was kept, and is no longer wanted.
            self.is_live(unchanged && !back, &version);
            self.ledger.accepted(version_info, 1);
            return Ok(());
        }
        let refused = self
            .state
            .borrow()
            .refused
            .as_ref()
            .map(|r| r.details.clone());
        let details = refused.unwrap_or_default();
        self.reject(version_info, 1, details.clone());
        self.fall_back("what came was refused", subscriptions);
        Err(details)
    }

    /// What is in force has come in this run, or has been confirmed: it is kept.
    fn is_live(&self, unchanged: bool, version: &Arc<str>) {
        let Some(shelf) = &self.shelf else {
            return;
        };
        let mut state = self.state.borrow_mut();
        let was_stale = state.stale.take().is_some();
        if was_stale {
            shelf.relieved(1);
        }
        let State {
            active, waiting, ..
        } = &mut *state;
        let (encoded, version_info, updated) = match (waiting, active) {
            (Some(Waiting { version: v, .. }), _) => {
                (&v.encoded, &mut v.version_info, &mut v.updated)
            }
            (None, Some(v)) => (&v.encoded, &mut v.version_info, &mut v.updated),
            (None, None) => return,
        };
        if was_stale && unchanged {
            *version_info = version.clone();
            *updated = SystemTime::now();
        }
        if was_stale || !unchanged {
            shelf.keep(&self.name, encoded, version);
        }
    }

    /// Whether an earlier run accepted it.
    pub(super) fn is_kept(&self) -> bool {
        let shelf = self.shelf.as_ref();
        shelf.is_some_and(|shelf| shelf.get(&self.name).is_some())
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
        if let Some(active) = &self.state.borrow().active {
            encoded.follow(&active.encoded);
        }
        let collector = subscriptions.collector();
        let mut report = Report::new();
        let compiled = encoded
            .decode(subscriptions.strictness(), &report)
            .and_then(|message: K::Message| {
                let at = report.root();
                check_name::<K>(&message, &self.name, &at)?;
                K::compile(message, &self.want, &collector.context(), &at)
            });
        let dependencies = collector.into_dependencies();
        let hash = encoded.hash();
        let version_info = version_info.clone();
        let now = SystemTime::now();
        let mut state = self.state.borrow_mut();
        match compiled {
            Ok(value) => {
                let waits = dependencies.await_clusters();
                let timeout = dependencies.timeout();
                let version = Version {
                    encoded,
                    hash,
                    version_info,
                    updated: now,
                    built: Arc::new(value),
                    dependencies,
                };
                state.refused = None;
                state.waiting = None;
                if waits {
                    let until = timeout.map(|timeout| Instant::now() + timeout);
                    state.waiting = Some(Waiting { version, until });
                } else {
                    drop(state);
                    self.put_in_force(version);
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

impl<K: NamedKind> Named<K> {
    fn put_in_force(&self, version: Version<Arc<K::Value>>) {
        let Version {
            encoded,
            hash,
            version_info,
            updated,
            built,
            dependencies,
        } = version;
        self.state.borrow_mut().active = Some(Version {
            encoded,
            hash,
            version_info,
            updated,
            built: (),
            dependencies,
        });
        self.slot.set(built);
        if let Some(reload) = &self.stats.reload {
            reload.inc(reload_stats::config_reload);
            reload.gauge_set(reload_stats::config_reload_time_ms, now_in_milliseconds());
        }
        if let Some(extension) = &self.stats.extension {
            extension.inc(extension_stats::config_reload);
        }
    }

    /// Lets go on what was held back, when its clusters are in force or have had
    /// the time to be. True when it did.
    fn go_on(&self) -> bool {
        let ready = |waiting: &mut Waiting<K::Value>| {
            let over = waiting.until.is_some_and(|until| until <= Instant::now());
            over || !waiting.version.dependencies.await_clusters()
        };
        let waiting = self.state.borrow_mut().waiting.take_if(ready);
        let went = waiting.is_some();
        if let Some(Waiting { version, until: _ }) = waiting {
            self.put_in_force(version);
        }
        went
    }
}

/// The one resource that an answer may hold; `None` when it holds none.
///
/// # Errors
/// Why the answer cannot be used, in Envoy's words.
pub(super) fn the_only<K: NamedKind, R>(
    mut resources: Vec<R>,
    name: &str,
    place: &str,
) -> Result<Option<R>, String> {
    let short = K::SHORT.to_uppercase();
    match resources.len() {
        1 => Ok(resources.pop()),
        count if K::KIND == state::Kind::Extension => Err(format!(
            "{place}: Unexpected number of resources in ExtensionConfigDS response: {count}"
        )),
        0 if matches!(K::KIND, state::Kind::Secret | state::Kind::Runtime) => Err(format!(
            "{place}: Missing {short} resources for {name} in onConfigUpdate()"
        )),
        0 => Ok(None),
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
    Err(match K::KIND {
        state::Kind::Extension => at.error(format_args!(
            "Unexpected resource name in ExtensionConfigDS response: {found}"
        )),
        state::Kind::Runtime => at.error(format_args!(
            "Unexpected RTDS runtime (expecting {name}): {found}"
        )),
        _ => at.error(format_args!(
            "Unexpected {short} configuration (expecting {name}): {found}"
        )),
    })
}

impl<K: NamedKind> Drop for Named<K> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.let_go.set(true);
        if let Some(shelf) = &self.shelf {
            shelf.let_go(&self.name);
            if self.state.get_mut().stale.is_some() {
                shelf.relieved(1);
            }
        }
    }
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
        if let Some(ConfigSource {
            origin: SourceOrigin::File(file),
            initial_fetch_timeout: _,
        }) = &self.source
        {
            self.ledger.attempt();
            let path: &Path = &file.path;
            let answer = read_discovery(path, &K::Message::type_url());
            self.read(answer.map(Update::from), subscriptions);
        }
    }

    fn deliver(
        &self,
        received: Received,
        version_info: &Arc<str>,
        subscriptions: &Subscriptions,
    ) -> Result<(), Arc<str>> {
        self.ledger.attempt();
        let begun = Instant::now();
        let outcome = self.apply(received, version_info, subscriptions);
        let source = self.source.as_ref();
        if outcome.is_ok() && source.is_some_and(|source| source.origin.is_stream()) {
            self.ledger.took(begun.elapsed());
        }
        self.is_answered_now();
        outcome
    }

    fn gone(&self, version_info: &Arc<str>) {
        self.ledger.attempt();
        if let Some(shelf) = &self.shelf {
            shelf.forget(&self.name);
        }
        if K::KIND == state::Kind::Extension {
            // Its default takes its place, where there is one.
            let was = self.state.take();
            self.slot.clear();
            if let (Some(shelf), Some(_)) = (&self.shelf, was.stale) {
                shelf.relieved(1);
            }
        }
        self.is_empty(version_info);
        self.is_answered_now();
    }

    fn refuse(&self, details: &Arc<str>, subscriptions: &Subscriptions) {
        self.ledger.attempt();
        self.ledger.refused(details.clone());
        self.fall_back(details, subscriptions);
        self.is_answered_now();
    }

    fn unchanged(&self) {
        self.ledger.attempt();
    }

    fn unreachable(&self, details: &Arc<str>, subscriptions: &Subscriptions) {
        self.ledger.unreachable(details);
        self.fall_back(details, subscriptions);
    }

    fn fall_back(&self, why: &str, subscriptions: &Subscriptions) {
        let Some(shelf) = &self.shelf else {
            return;
        };
        let is_served = |state: &State<_>| state.active.is_some() || state.waiting.is_some();
        if is_served(&self.state.borrow()) {
            return;
        }
        let Some(received) = shelf.get(&self.name) else {
            return;
        };
        let newest = self.state.borrow_mut().refused.take();
        let good = self.compile(received.resource, &received.version, subscriptions);
        let mut state = self.state.borrow_mut();
        // What is wrong with the newest is still to be seen.
        let own = std::mem::replace(&mut state.refused, newest);
        if !good {
            let details = own.map(|refused| refused.details).unwrap_or_default();
            let (short, name) = (K::SHORT, &self.name);
            tracing::warn!(target: "config", "{short}: '{name}' of an earlier run refused: {details}");
            return;
        }
        let stale = shelf.stale(why);
        state.stale = Some(stale.clone());
        drop(state);
        shelf.served(1);
        self.ledger
            .stale(format!("'{}' is {stale}", self.name).into());
        self.is_answered_now();
    }

    fn reached(&self) {
        self.ledger.reached();
    }

    fn edited_in_place(&self) {
        self.ledger.edited_in_place();
    }

    fn refresh(&self, subscriptions: &Subscriptions) -> bool {
        let went_on = self.go_on();
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
                _ => return went_on,
            }
        };
        if self.compile(again, &version_info, subscriptions) {
            if was_refused.is_some() {
                self.ledger.cured();
                self.is_live(false, &version_info);
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
        went_on
    }

    fn is_restless(&self) -> bool {
        let state = self.state.borrow();
        state.waiting.is_some() || state.refused.as_ref().is_some_and(Refused::may_be_cured)
    }

    fn is_held_back(&self) -> bool {
        self.state.borrow().waiting.is_some()
    }

    fn held_until(&self) -> Option<Instant> {
        self.state.borrow().waiting.as_ref()?.until
    }

    fn source(&self) -> Option<Source> {
        self.source.is_some().then(|| Source {
            resource: Some(self.name.clone()),
            ..self.ledger.source()
        })
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
            warming: state
                .waiting
                .as_ref()
                .map(|w| w.version.view::<K::Message>(strictness)),
            draining: None,
            error: match (error, &state.stale) {
                (Some(refused), _) => Some(refused.view::<K::Message>(strictness)),
                (None, Some(stale)) => state.active.as_ref().map(|active| active.is_stale(stale)),
                (None, None) => None,
            },
            status: match (error, &state.active) {
                (Some(_), _) => ClientResourceStatus::Nacked,
                (None, _) if state.waiting.is_some() => ClientResourceStatus::Requested,
                (None, Some(_)) => ClientResourceStatus::Acked,
                (None, None) if self.slot.is_answered() => ClientResourceStatus::DoesNotExist,
                (None, None) => ClientResourceStatus::Requested,
            },
        }
    }
}
