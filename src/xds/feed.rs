//! A subscription to the whole set of clusters, or of listeners: CDS and LDS.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
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
    config_source::{ConfigSource, Origin},
    ledger::{Ledger, now_in_milliseconds},
    manager::{Kind, Manager, Outcome},
    mux::{Push, TypeUrl, Verdict, WILDCARD},
    stats::reload_stats,
    stream::{Interest, Stream},
    subscriptions::Subscriptions,
    update::Update,
    watcher::{Watch, WatchId},
};

/// A subscription to the whole set of clusters, or of listeners.
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
}

/// Where it comes from.
enum From {
    File(Watch),
    /// Asked for once it has begun.
    Stream(Rc<Stream>, Cell<Option<Interest>>),
}

impl Feed {
    /// Opens the subscription; nothing is read or asked for yet. `short` is
    /// `cds` or `lds`.
    ///
    /// # Errors
    /// When the source is not valid, or a file that does not exist; reported.
    pub fn open<K: Kind>(
        config: &ConfigSourceMessage,
        short: &'static str,
        subscriptions: &Subscriptions,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let source = ConfigSource::compile(config, subscriptions.management(), at)?;
        source.check_node(subscriptions.server(), at)?;
        let stats = subscriptions.stats();
        let (prefix, reload) = match short {
            "cds" => {
                let prefix = "cluster_manager.cds.";
                (prefix, Some(stats.block(prefix, &reload_stats::TABLE)))
            }
            _ => ("listener_manager.lds.", None),
        };
        let type_url: TypeUrl = format!("{TYPE_URL_PREFIX}{}", K::Message::full_name()).into();
        let from = match &source.origin {
            Origin::File(file) => {
                let directory = file.watched_directory.as_deref().map(PathBuf::as_path);
                let watch = subscriptions
                    .watcher()
                    .watch(&file.path, directory)
                    .map_err(|error| at.error(error))?;
                file.check_exists(at)?;
                From::File(watch)
            }
            origin @ (Origin::Ads(_) | Origin::Api(_)) => {
                let streams = subscriptions.streams();
                From::Stream(
                    streams.join(origin, &type_url, prefix, at)?,
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
        })
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
        match &self.from {
            From::File(_) => self.read(manager, subscriptions),
            From::Stream(stream, interest) => {
                self.ledger.attempt();
                let timeout = self.source.initial_fetch_timeout;
                self.deadline
                    .set(timeout.map(|timeout| Instant::now() + timeout));
                interest.set(Some(stream.subscribe(&self.type_url, WILDCARD)));
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
            }
            Err(error) => self.ledger.failed(error.to_string().into()),
        }
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
            Ok(update) => self.apply(update, manager, subscriptions),
            Err(details) => {
                self.ledger.refused(details.as_str().into());
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
        if refused.is_empty() {
            self.ledger.accepted(&version_info, resources);
            if let Some(reload) = self.reload.as_ref().filter(|_| changed + removed > 0) {
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
        Verdict::Nack {
            details,
            refused: Some(refused.into_iter().map(|(name, _)| name).collect()),
        }
    }

    /// Whether it has been answered, good or bad, or the time for that is over.
    pub fn is_answered(&self) -> bool {
        self.answered.get()
    }

    /// When the first answer is no longer awaited.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.get()
    }

    /// Gives up waiting when it is time. True when it did.
    pub fn poll(&self, now: Instant) -> bool {
        let over = self.deadline.get().is_some_and(|deadline| deadline <= now);
        if over {
            self.deadline.set(None);
            self.answered.set(true);
            self.ledger.timed_out();
        }
        over
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
        self.ledger.cured();
    }

    /// The file was written in place.
    pub fn edited_in_place(&self) {
        self.ledger.edited_in_place();
    }

    /// `version_info` of the last accepted answer.
    pub fn version_info(&self) -> Arc<str> {
        self.ledger.version_info()
    }

    /// For the admin.
    pub fn source(&self) -> Source {
        self.ledger.source()
    }
}
