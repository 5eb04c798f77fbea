//! A subscription to a whole set of resources: clusters, listeners, the scopes of
//! a connection manager: CDS, LDS and SRDS.

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use prost::Name;
use tokio::time::Instant;

use crate::{
    admin::state::Source,
    api::{TYPE_URL_PREFIX, envoy::config::core::v3::ConfigSource as ConfigSourceMessage},
    config::{At, DocumentError, Reported, read_discovery},
    stats::Block,
};

use super::{
    api_source::Through,
    config_source::{ConfigSource, Origin},
    ledger::{Ledger, now_in_milliseconds},
    manager::{Kind, Manager, Outcome},
    mux::{Push, TypeUrl, Verdict, WILDCARD},
    stats::reload_stats,
    store::{PATIENCE, Shelf},
    stream::{Interest, Stream},
    subscriptions::Subscriptions,
    update::{Gone, Update},
    watcher::{Watch, WatchId},
};

/// A subscription to a whole set of resources.
pub struct Feed {
    short: &'static str,
    type_url: TypeUrl,
    source: ConfigSource,
    from: From,
    ledger: Ledger,
    reload: Option<Arc<Block>>,
    /// An answer has come, good or bad, or none in time.
    answered: Cell<bool>,
    /// When the first answer is no longer awaited.
    deadline: Cell<Option<Instant>>,
    /// What an earlier run accepted.
    shelf: Option<Shelf>,
    /// A good answer has come.
    live: Cell<bool>,
    /// It has been served from the shelf.
    fallen: Cell<bool>,
    /// When it is served from the shelf.
    patience: Cell<Option<Instant>>,
    /// When what is left of an earlier run goes.
    sweep: Cell<Option<Instant>>,
    /// See [`Feed::hold`].
    held: Cell<bool>,
    /// See [`Feed::version_info`].
    version_info: RefCell<Arc<str>>,
}

/// How long after a change has come what it does not name may still be named by
/// the next one: then what is left of an earlier run goes.
const SWEEP_AFTER: Duration = Duration::from_secs(1);

/// Where it comes from.
enum From {
    File(Watch),
    /// Asked for once it has begun.
    Stream(Rc<Stream>, Cell<Option<Interest>>),
}

impl Feed {
    /// Opens the subscription; nothing is read or asked for yet. `short` is
    /// `cds`, `lds` or `srds`, and `prefix` where its stats stand.
    ///
    /// # Errors
    /// When the source is not valid, or a file that does not exist; reported.
    pub fn open<K: Kind>(
        config: &ConfigSourceMessage,
        short: &'static str,
        prefix: &str,
        subscriptions: &Subscriptions,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let source =
            ConfigSource::compile(config, Through::Primary, subscriptions.management(), at)?;
        source.check_node(subscriptions.server(), at)?;
        let stats = subscriptions.stats();
        let reload = (short != "lds").then(|| stats.block(prefix, &reload_stats::TABLE));
        let type_url: TypeUrl = format!("{TYPE_URL_PREFIX}{}", K::Message::full_name()).into();
        let shelf = subscriptions.shelf(&K::Message::full_name(), &source.origin);
        let from = match &source.origin {
            Origin::File(file) => {
                let directory = file.watched_directory.as_deref().map(PathBuf::as_path);
                let watch = subscriptions
                    .watcher()
                    .watch(&file.path, directory)
                    .map_err(|error| at.error(error))?;
                if !shelf.as_ref().is_some_and(Shelf::has_any) {
                    file.check_exists(at)?;
                }
                From::File(watch)
            }
            origin @ (Origin::Ads(_) | Origin::Api(_)) => {
                let streams = subscriptions.streams();
                From::Stream(
                    streams.join(origin, &type_url, WILDCARD, prefix, at)?,
                    Cell::new(None),
                )
            }
        };
        Ok(Self {
            short,
            type_url,
            ledger: Ledger::new(short, source.origin.place(), stats, prefix),
            source,
            from,
            reload,
            answered: Cell::new(false),
            deadline: Cell::new(None),
            shelf,
            live: Cell::new(false),
            fallen: Cell::new(false),
            patience: Cell::new(None),
            sweep: Cell::new(None),
            held: Cell::new(false),
            version_info: RefCell::default(),
        })
    }

    /// How long the first answer is awaited; `None` is forever.
    pub fn initial_fetch_timeout(&self) -> Option<Duration> {
        self.source.initial_fetch_timeout
    }

    /// The type of its resources.
    pub fn type_url(&self) -> &TypeUrl {
        &self.type_url
    }

    /// By which it is asked for; a file is not.
    pub fn stream(&self) -> Option<&Rc<Stream>> {
        match &self.from {
            From::File(_) => None,
            From::Stream(stream, _) => Some(stream),
        }
    }

    /// Whether this is the watch of its file.
    pub fn watches(&self, id: WatchId) -> bool {
        matches!(&self.from, From::File(watch) if watch.id() == id)
    }

    /// Whether it is asked for by this stream.
    pub fn is_by(&self, stream: &Rc<Stream>) -> bool {
        matches!(&self.from, From::Stream(own, _) if Rc::ptr_eq(own, stream))
    }

    /// Whether resources of this type, by this stream, are for it.
    pub fn takes(&self, stream: &Rc<Stream>, type_url: &str) -> bool {
        *self.type_url == *type_url && self.is_by(stream)
    }

    /// Reads the file, or asks the server for the first time.
    pub fn begin<K: Kind>(&self, manager: &mut Manager<K>, subscriptions: &Subscriptions) {
        if let Some(shelf) = &self.shelf {
            manager.keep_in(shelf.clone());
        }
        match &self.from {
            From::File(_) => self.read(manager, subscriptions),
            From::Stream(stream, interest) => {
                self.ledger.attempt();
                let timeout = self.source.initial_fetch_timeout;
                self.deadline
                    .set(timeout.map(|timeout| Instant::now() + timeout));
                if self.shelf.as_ref().is_some_and(Shelf::has_any) {
                    self.patience.set(Some(Instant::now() + PATIENCE));
                }
                interest.set(Some(stream.subscribe(&self.type_url, WILDCARD)));
                if let Some(why) = stream.failure() {
                    self.fall_back(&why, manager, subscriptions);
                }
            }
        }
    }

    /// Reads the file again; a server says by itself what is new.
    pub fn read<K: Kind>(&self, manager: &mut Manager<K>, subscriptions: &Subscriptions) {
        let Origin::File(file) = &self.source.origin else {
            return;
        };
        self.ledger.attempt();
        let path: &Path = &file.path;
        self.answered.set(true);
        match read_discovery(path, &self.type_url) {
            Ok(answer) => {
                // What was refused is in the log and the dump.
                self.apply(answer.into(), manager, subscriptions);
            }
            Err(error @ DocumentError::Refused(_)) => {
                self.ledger.refused(error.to_string().into());
                self.fall_back(&error.to_string(), manager, subscriptions);
            }
            Err(error) => {
                self.ledger.failed(error.to_string().into());
                self.fall_back(&error.to_string(), manager, subscriptions);
            }
        }
    }

    /// Serves what an earlier run accepted, if there never was a good answer and
    /// it is not served yet. True when it is from now on.
    pub fn fall_back<K: Kind>(
        &self,
        why: &str,
        manager: &mut Manager<K>,
        subscriptions: &Subscriptions,
    ) -> bool {
        self.patience.set(None);
        let Some(shelf) = self.shelf.as_ref().filter(|_| !self.live.get()) else {
            return false;
        };
        if self.fallen.replace(true) {
            return false;
        }
        let stale = shelf.stale(why);
        let recalled = manager.recall(shelf.all(), &stale, subscriptions);
        if recalled == 0 {
            return false;
        }
        let noun = K::NOUN;
        self.ledger
            .stale(format!("{recalled} {noun}(s) {stale}").into());
        self.answered.set(true);
        self.deadline.set(None);
        true
    }

    /// Applies what a server says.
    pub fn take<K: Kind>(
        &self,
        push: Push,
        manager: &mut Manager<K>,
        subscriptions: &Subscriptions,
    ) -> Verdict {
        self.answered.set(true);
        self.deadline.set(None);
        if push.nonce.is_some() {
            self.ledger.attempt();
        }
        match push.update {
            Ok(update) => {
                let begun = Instant::now();
                let verdict = self.apply(update, manager, subscriptions);
                if verdict == Verdict::Ack && self.source.origin.is_stream() {
                    self.ledger.took(begun.elapsed());
                }
                verdict
            }
            Err(details) => {
                self.ledger.refused(details.as_str().into());
                self.fall_back(&details, manager, subscriptions);
                Verdict::refused(details)
            }
        }
    }

    fn apply<K: Kind>(
        &self,
        answer: Update,
        manager: &mut Manager<K>,
        subscriptions: &Subscriptions,
    ) -> Verdict {
        let version_info = answer.version_info.clone();
        let resources = answer.resources.len();
        self.live.set(true);
        self.patience.set(None);
        if answer.gone != Gone::Absent && manager.has_stale() {
            self.sweep.set(Some(Instant::now() + SWEEP_AFTER));
        }
        let outcome = manager.apply(answer, self.ledger.place(), subscriptions);
        let Outcome {
            refused,
            changed,
            removed,
            unchanged,
        } = outcome;
        tracing::info!(
            target: "upstream",
            "{}: added/updated {changed} {noun}(s) (skipped {unchanged} unmodified {noun}(s)); \
             removed {removed} {noun}(s)",
            self.short,
            noun = K::NOUN,
        );
        if changed > 0 || removed > 0 {
            self.version_info.replace(version_info.clone());
        }
        if refused.is_empty() {
            self.ledger.accepted(&version_info, resources);
            // In Envoy clusters that only go are no reload.
            let reloaded = changed > 0 || (removed > 0 && self.short != "cds");
            if let Some(reload) = self.reload.as_ref().filter(|_| reloaded) {
                reload.inc(reload_stats::config_reload);
                reload.gauge_set(reload_stats::config_reload_time_ms, now_in_milliseconds());
            }
            return Verdict::Ack;
        }
        let names: Vec<_> = refused.iter().map(|(name, _)| &**name).collect();
        let reasons: Vec<_> = refused.iter().map(|(_, details)| &**details).collect();
        let details: Arc<str> = format!(
            "Error adding/updating {}(s) {}: {}",
            K::NOUN,
            names.join(", "),
            reasons.join("\n")
        )
        .into();
        self.ledger
            .rejected(&version_info, resources, details.clone());
        if let Some(shelf) = &self.shelf {
            let earlier = refused.iter().filter_map(|(name, _)| shelf.get(name));
            let stale = shelf.stale("what came was refused");
            manager.recall(earlier.collect(), &stale, subscriptions);
        }
        Verdict::Nack {
            details,
            refused: Some(refused.into_iter().map(|(name, _)| name).collect()),
        }
    }

    /// Acknowledges nothing while something warms, so that a server which waits for
    /// that sends only then what leads there. In Envoy, too, it is so by ADS alone.
    pub fn hold(&self, held: bool) {
        if let (Origin::Ads(_), From::Stream(stream, _)) = (&self.source.origin, &self.from)
            && self.held.replace(held) != held
        {
            stream.hold(&self.type_url, held);
        }
    }

    /// Whether it has been answered, good or bad, or the time for that is over.
    pub fn is_answered(&self) -> bool {
        self.answered.get()
    }

    /// Whether a good answer has come.
    pub fn is_live(&self) -> bool {
        self.live.get()
    }

    /// When [`Feed::poll`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let all = [self.deadline.get(), self.patience.get(), self.sweep.get()];
        all.into_iter().flatten().min()
    }

    /// Gives up waiting when it is time.
    pub fn poll<K: Kind>(
        &self,
        now: Instant,
        manager: &mut Manager<K>,
        subscriptions: &Subscriptions,
    ) {
        let is_over = |time: &Cell<Option<Instant>>| {
            let over = time.get().is_some_and(|time| time <= now);
            if over {
                time.set(None);
            }
            over
        };
        if is_over(&self.patience) {
            self.fall_back("there is no answer yet", manager, subscriptions);
        }
        if is_over(&self.sweep) {
            let removed = manager.remove_stale(subscriptions);
            tracing::info!(
                target: "config",
                "{}: removed {removed} {}(s) of an earlier run", self.short, K::NOUN
            );
        }
        if is_over(&self.deadline) {
            self.answered.set(true);
            self.ledger.timed_out();
        }
    }

    /// The server that is polled has nothing new.
    pub fn unchanged(&self) {
        self.ledger.attempt();
    }

    /// There is no server, or not any more.
    pub fn unreachable(&self, details: &Arc<str>) {
        self.ledger.unreachable(details);
    }

    /// There is a server again.
    pub fn reached(&self) {
        self.ledger.reached();
    }

    /// Everything that was refused has been accepted since.
    pub fn cured(&self) {
        if self.ledger.cured() {
            self.version_info.replace(self.ledger.version_info());
        }
    }

    /// The file was written in place.
    pub fn edited_in_place(&self) {
        self.ledger.edited_in_place();
    }

    /// `version_info` of the last answer that has changed anything, even if some of it
    /// was refused.
    pub fn version_info(&self) -> Arc<str> {
        self.version_info.borrow().clone()
    }

    /// For the admin.
    pub fn source(&self) -> Source {
        self.ledger.source()
    }
}
