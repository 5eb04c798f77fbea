//! A subscription to the whole set of clusters, or of listeners: CDS and LDS.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Name;

use crate::{
    admin::state::Source,
    api::envoy::config::core::v3::ConfigSource as ConfigSourceMessage,
    config::{At, Discovery, DocumentError, Reported, read_discovery},
    stats::Block,
};

use super::{
    config_source::ConfigSource,
    ledger::{Ledger, now_in_milliseconds},
    manager::{Kind, Manager, Outcome},
    stats::reload_stats,
    subscriptions::Subscriptions,
    watcher::{Watch, WatchId},
};

/// A subscription to the whole set of clusters, or of listeners.
pub struct Feed {
    short: &'static str,
    source: ConfigSource,
    watch: Watch,
    ledger: Ledger,
    reload: Option<Arc<Block>>,
}

impl Feed {
    /// Opens the subscription; it is not read yet. `short` is `cds` or `lds`.
    ///
    /// # Errors
    /// When the source is no file, or there is no such file; reported.
    pub fn open(
        config: &ConfigSourceMessage,
        short: &'static str,
        subscriptions: &Subscriptions,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let source = ConfigSource::compile(config, at)?;
        source.check_node(subscriptions.server(), at)?;
        let directory = source.watched_directory.as_deref().map(PathBuf::as_path);
        let watch = subscriptions
            .watcher()
            .watch(&source.path, directory)
            .map_err(|error| at.error(error))?;
        source.check_exists(at)?;
        let stats = subscriptions.stats();
        let (prefix, reload) = match short {
            "cds" => {
                let prefix = "cluster_manager.cds.";
                (prefix, Some(stats.block(prefix, &reload_stats::TABLE)))
            }
            _ => ("listener_manager.lds.", None),
        };
        let place = source.path.display().to_string().into();
        Ok(Self {
            short,
            ledger: Ledger::new(short, place, stats, prefix),
            source,
            watch,
            reload,
        })
    }

    /// Whether this is the watch of its file.
    pub fn watches(&self, id: WatchId) -> bool {
        self.watch.id() == id
    }

    /// Reads the file and applies what it says.
    pub fn read<K: Kind>(&self, manager: &mut Manager<K>, subscriptions: &Subscriptions) {
        self.ledger.attempt();
        let path: &Path = &self.source.path;
        self.take(
            read_discovery(path, &K::Message::type_url()),
            manager,
            subscriptions,
        );
    }

    /// Applies an answer, whatever brought it.
    pub fn take<K: Kind>(
        &self,
        answer: Result<Discovery, DocumentError>,
        manager: &mut Manager<K>,
        subscriptions: &Subscriptions,
    ) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error @ DocumentError::Refused(_)) => {
                return self.ledger.refused(error.to_string().into());
            }
            Err(error) => return self.ledger.failed(error.to_string().into()),
        };
        let version_info: Arc<str> = answer.version_info.as_str().into();
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
            return;
        }
        let names: Vec<_> = refused.iter().map(|(name, _)| &**name).collect();
        let reasons: Vec<_> = refused.iter().map(|(_, details)| &**details).collect();
        let details = format!(
            "Error adding/updating {}(s) {}: {}",
            K::NOUN,
            names.join(", "),
            reasons.join("\n")
        );
        self.ledger
            .rejected(&version_info, resources, details.into());
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
