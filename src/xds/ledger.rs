//! What is known of one subscription: how often it was asked and answered, what
//! was last accepted, and what is wrong now.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use xxhash_rust::xxh64::xxh64;

use crate::{
    admin::state::{Refusal, Source},
    stats::{self, Block, Counter, Gauge},
    upstream::stats::cluster_stats,
};

use super::stats::{extension_stats, subscription_stats as names, update_stats};

/// One subscription's account, kept for the stats, the log and the admin.
#[derive(Debug)]
pub struct Ledger {
    kind: &'static str,
    place: Arc<str>,
    stats: Arc<Block>,
    updates: Updates,
    /// Counts all that goes wrong with a filter's configuration.
    extension: Option<Arc<Block>>,
    state: RefCell<State>,
}

/// Where updates are counted: for endpoints, among the stats of their cluster.
#[derive(Debug)]
struct Updates {
    block: Arc<Block>,
    attempt: Counter,
    failure: Counter,
    success: Counter,
    version: Gauge,
}

impl Updates {
    fn new(kind: &str, stats: &Arc<stats::Registry>, prefix: &str) -> Self {
        match kind {
            "eds" => Self {
                block: stats.block(prefix, &cluster_stats::TABLE),
                attempt: cluster_stats::update_attempt,
                failure: cluster_stats::update_failure,
                success: cluster_stats::update_success,
                version: cluster_stats::version,
            },
            _ => Self {
                block: stats.block(prefix, &update_stats::TABLE),
                attempt: update_stats::update_attempt,
                failure: update_stats::update_failure,
                success: update_stats::update_success,
                version: update_stats::version,
            },
        }
    }
}

#[derive(Debug, Default)]
struct State {
    version_info: Arc<str>,
    last_updated: Option<SystemTime>,
    resources: usize,
    error: Option<Refusal>,
    /// The error is of resources that were refused, not of the answer itself.
    curable: bool,
    notice: Option<Arc<str>>,
}

impl Ledger {
    /// Opens the account. `kind` is `lds`, `rds`, …; `place` is the file's path
    /// or the server's name; `prefix` is where the stats stand.
    pub fn new(
        kind: &'static str,
        place: Arc<str>,
        stats: &Arc<stats::Registry>,
        prefix: &str,
    ) -> Self {
        Self {
            kind,
            place,
            stats: stats.block(prefix, &names::TABLE),
            updates: Updates::new(kind, stats, prefix),
            extension: (kind == "ecds").then(|| stats.block(prefix, &extension_stats::TABLE)),
            state: RefCell::default(),
        }
    }

    /// The file's path, or the server's name.
    pub fn place(&self) -> &Arc<str> {
        &self.place
    }

    /// `version_info` of the last accepted answer.
    pub fn version_info(&self) -> Arc<str> {
        self.state.borrow().version_info.clone()
    }

    /// When the last answer was accepted.
    pub fn last_updated(&self) -> Option<SystemTime> {
        self.state.borrow().last_updated
    }

    /// The source is asked, or its file read.
    pub fn attempt(&self) {
        self.updates.block.inc(self.updates.attempt);
    }

    /// The whole answer is in force.
    pub fn accepted(&self, version_info: &Arc<str>, resources: usize) {
        let now = SystemTime::now();
        let version = xxh64(version_info.as_bytes(), 0);
        self.updates.block.inc(self.updates.success);
        self.updates.block.gauge_set(self.updates.version, version);
        self.stats
            .gauge_set(names::update_time, now_in_milliseconds());
        self.stats.set_text(names::version_text, version_info);
        *self.state.borrow_mut() = State {
            version_info: version_info.clone(),
            last_updated: Some(now),
            resources,
            error: None,
            curable: false,
            notice: None,
        };
    }

    /// It took so long to apply an answer that was pushed and is accepted.
    pub fn took(&self, duration: Duration) {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.stats.record(names::update_duration, milliseconds);
    }

    /// Resources of the answer were refused, for the reasons in `details`, which
    /// the caller has logged.
    pub fn rejected(&self, version_info: &Arc<str>, resources: usize, details: Arc<str>) {
        self.stats.inc(names::update_rejected);
        self.wrong(version_info.clone(), Some(resources), details);
    }

    /// The answer as a whole cannot be taken: nothing of it is looked at again.
    pub fn refused(&self, details: Arc<str>) {
        self.stats.inc(names::update_rejected);
        tracing::warn!(target: "config", "{} update rejected: {details}", self.kind);
        self.wrong(Arc::default(), None, details);
    }

    /// There was no answer, or none that can be read.
    pub fn failed(&self, details: Arc<str>) {
        self.updates.block.inc(self.updates.failure);
        tracing::warn!(target: "config", "{} update failure: {details}", self.kind);
        self.wrong(Arc::default(), None, details);
    }

    fn wrong(&self, version_info: Arc<str>, resources: Option<usize>, details: Arc<str>) {
        self.count_failure();
        let mut state = self.state.borrow_mut();
        state.curable = resources.is_some();
        state.resources = resources.unwrap_or(state.resources);
        state.notice = None;
        state.error = Some(Refusal {
            message: None,
            version_info,
            at: SystemTime::now(),
            details,
        });
    }

    /// All that was refused of the last answer has been accepted since, for what
    /// was missing has come: the answer is in force after all. False when nothing was
    /// refused.
    pub fn cured(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if std::mem::take(&mut state.curable)
            && let Some(error) = state.error.take()
        {
            state.version_info = error.version_info;
            state.last_updated = Some(SystemTime::now());
            return true;
        }
        false
    }

    /// The first answer did not come in time.
    pub fn timed_out(&self) {
        self.attempt();
        self.stats.inc(names::init_fetch_timeout);
        self.count_failure();
        tracing::warn!(
            target: "config",
            "{}: no answer from {} within initial_fetch_timeout", self.kind, self.place
        );
    }

    fn count_failure(&self) {
        if let Some(extension) = &self.extension {
            extension.inc(extension_stats::config_fail);
        }
    }

    /// The server cannot be reached, for the reason that its stream has logged.
    pub fn unreachable(&self, details: &Arc<str>) {
        self.updates.block.inc(self.updates.failure);
        self.attempt();
        self.state.borrow_mut().notice = Some(details.clone());
    }

    /// The server can be reached again.
    pub fn reached(&self) {
        self.state.borrow_mut().notice = None;
    }

    /// The file was written in place, which is not applied: says so.
    pub fn edited_in_place(&self) {
        let place = &self.place;
        let notice = format!(
            "{place} was edited in place, which is not applied; \
             move a new file onto it, or send SIGHUP"
        );
        tracing::warn!(target: "file", "{notice}");
        self.stats.inc(names::update_ignored_in_place);
        self.state.borrow_mut().notice = Some(notice.into());
    }

    /// What an earlier run accepted is served, for want of anything newer.
    pub fn stale(&self, notice: Arc<str>) {
        tracing::warn!(target: "config", "{}: {notice}", self.kind);
        self.state.borrow_mut().notice = Some(notice);
    }

    /// For the admin.
    pub fn source(&self) -> Source {
        let state = self.state.borrow();
        Source {
            name: self.kind,
            place: self.place.clone(),
            resource: None,
            version_info: state.version_info.clone(),
            last_updated: state.last_updated,
            resources: state.resources,
            error: state.error.clone(),
            is_lost: state.error.is_some() && !state.curable,
            notice: state.notice.clone(),
        }
    }
}

/// Milliseconds since 1970, as `update_time` shows them.
pub fn now_in_milliseconds() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
