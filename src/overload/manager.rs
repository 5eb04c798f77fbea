//! Keeps what is in force up to date.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time;

use super::{
    Overload, action_stats, compile::Target, manager_stats, monitor::Monitor, monitor_stats,
    point_stats, trigger::Trigger,
};
use crate::stats::{Block, Registry};

/// A monitor and what it last said.
#[derive(Debug)]
pub(super) struct Monitored {
    pub(super) name: String,
    pub(super) monitor: Monitor,
    pub(super) stats: Arc<Block>,
    pub(super) pressure: f64,
    pub(super) failing: bool,
}

/// An action or load shed point and what brings it into force.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) target: Target,
    pub(super) is_action: bool,
    /// By the place of the monitor.
    pub(super) triggers: Vec<(usize, Trigger)>,
    pub(super) stats: Arc<Block>,
}

/// The overload manager. Runs on the control thread.
#[derive(Debug)]
pub struct Manager {
    overload: Arc<Overload>,
    monitors: Vec<Monitored>,
    rules: Vec<Rule>,
    interval: Duration,
    stats: Arc<Block>,
}

impl Manager {
    pub(super) fn new(
        overload: Arc<Overload>,
        monitors: Vec<Monitored>,
        rules: Vec<Rule>,
        interval: Duration,
        registry: &Arc<Registry>,
    ) -> Self {
        Self {
            overload,
            monitors,
            rules,
            interval,
            stats: registry.block("overload.", &manager_stats::TABLE),
        }
    }

    /// Runs for as long as the process. Calls `wake` when something has changed for
    /// which connections and listeners have to be woken.
    pub async fn run(mut self, wake: impl Fn()) {
        if self.monitors.is_empty() {
            return;
        }
        let mut refresh = time::interval(self.interval);
        refresh.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut last: Option<Instant> = None;
        loop {
            refresh.tick().await;
            let now = Instant::now();
            if let Some(last) = last.replace(now) {
                let delay = u64::try_from((now - last).as_millis()).unwrap_or(u64::MAX);
                self.stats
                    .record(manager_stats::refresh_interval_delay, delay);
            }
            if self.refresh() {
                wake();
            }
        }
    }

    /// Whether anybody has to be woken for what has changed.
    fn refresh(&mut self) -> bool {
        self.monitors.iter_mut().for_each(Monitored::refresh);
        let before = self.awaited();
        for rule in &self.rules {
            let shares = rule.triggers.iter().map(|(monitor, trigger)| {
                let pressure = self.monitors.get(*monitor).map_or(0.0, |m| m.pressure);
                trigger.share(pressure)
            });
            rule.put(shares.fold(0.0, f64::max), &self.overload);
        }
        self.awaited() != before
    }

    /// What is not looked at in passing.
    fn awaited(&self) -> (bool, f64) {
        let overload = &self.overload;
        (
            overload.stop_accepting_connections.is_full(),
            overload.reduce_timeouts.level.share(),
        )
    }
}

impl Monitored {
    fn refresh(&mut self) {
        match self.monitor.pressure() {
            Ok(pressure) => {
                self.failing = false;
                self.pressure = pressure;
                // In percent, cut off.
                self.stats
                    .gauge_set(monitor_stats::pressure, (pressure * 100.0) as u64);
            }
            Err(error) => {
                self.stats.inc(monitor_stats::failed_updates);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(target: "main", "failed to update resource {}: {error}", self.name);
                }
            }
        }
    }
}

impl Rule {
    fn put(&self, share: f64, overload: &Overload) {
        if let Target::Level(of) = self.target {
            of(overload).set(share);
        }
        let (stats, percent) = (&self.stats, (share * 100.0) as u64);
        if !self.is_action {
            return stats.gauge_set(point_stats::scale_percent, percent);
        }
        stats.gauge_set(action_stats::scale_percent, percent);
        let active = share >= 1.0;
        let was_active = stats.gauge(action_stats::active) == 1;
        stats.gauge_set(action_stats::active, active.into());
        if active != was_active {
            let state = if active { "active" } else { "inactive" };
            tracing::info!(target: "main", "overload action {} became {state}", self.name);
        }
    }
}
