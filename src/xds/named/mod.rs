//! One resource that is subscribed to by its name: a route table by RDS, a
//! secret by SDS, endpoints by EDS, a layer of the runtime by RTDS.

mod any;
mod kind;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::Name;
use tokio::{
    task::{self, AbortHandle},
    time::{self, Instant},
};

use crate::{
    admin::state,
    config::{At, DocumentError, Report, Reported},
    stats::{Block, Counter, Registry},
    upstream::stats::cluster_stats,
};

pub(super) use self::kind::{Wanted, check_name, the_only};
pub use self::{any::AnyNamed, kind::NamedKind};
use super::{
    config_source::ConfigSource,
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

/// One named subscription, alive for as long as a resource depends on it.
pub struct Named<K: NamedKind> {
    name: Arc<str>,
    /// Where the stats of the subscription stand.
    prefix: Box<str>,
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

/// A version that is held back until the clusters it leads to are in force, and the
/// virtual hosts that are part of it have come: what was there before serves
/// meanwhile, so that no request meets a cluster that cannot take it.
struct Waiting<T> {
    version: Version<Arc<T>>,
    /// When it goes on without; `None` is never.
    until: Option<Instant>,
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
        // What is of the bootstrap is never updated: its account is not listed.
        let unlisted;
        let stats = match &source {
            Some(_) => subscriptions.stats(),
            None => {
                unlisted = Registry::new(0);
                &unlisted
            }
        };
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
            prefix: prefix.clone(),
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
        // In Envoy a route table that a server takes away is not counted.
        let is_stream = self.source.as_ref().is_some_and(|s| s.origin.is_stream());
        let counts = K::KIND != state::Kind::Route || !is_stream;
        if let Some((block, update_empty)) = self.stats.empty.as_ref().filter(|_| counts) {
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
            aliases: _,
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
        let collector = subscriptions.collector_under(&self.prefix);
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
                let waits = dependencies.await_clusters() || !dependencies.answered();
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
            let needs = &waiting.version.dependencies;
            // With a part that has come meanwhile it is compiled anew.
            over || !needs.await_clusters() && needs.answered() && !needs.stale()
        };
        let waiting = self.state.borrow_mut().waiting.take_if(ready);
        let went = waiting.is_some();
        if let Some(Waiting { version, until: _ }) = waiting {
            self.put_in_force(version);
        }
        went
    }
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
