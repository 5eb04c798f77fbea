//! Notices threads that stop turning: one that has not come round to its timer
//! for some time is blocked, or has more to do than it can.
//!
//! Each watched thread touches its [`Beat`] on a timer; a thread of its own looks
//! at all of them, so that it sees the control thread stand still too.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    api::envoy::config::bootstrap::v3::{Watchdog as Message, Watchdogs as Messages},
    config::{self, At, Reported},
    critical, refuse,
    stats::{self, Block},
};

crate::stat_table! {
    /// Stats of a thread, and of the group it belongs to.
    mod watchdog_stats {
        counters { watchdog_miss, watchdog_mega_miss }
        gauges { }
        histograms { }
        texts { }
    }
}
use watchdog_stats as names;

/// How long a thread may stand still, by `envoy.config.bootstrap.v3.Watchdog`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    /// Counted once after this.
    miss: Duration,
    /// Counted once more after this.
    mega_miss: Duration,
    /// The process is aborted after this; never when `None`.
    kill: Option<Duration>,
    /// It is aborted when enough threads stand still this long; never when `None`.
    multikill: Option<Duration>,
    /// How many threads are enough, in percent, and at least two.
    multikill_threshold: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            miss: Duration::from_millis(200),
            mega_miss: Duration::from_secs(1),
            kill: None,
            multikill: None,
            multikill_threshold: 0.0,
        }
    }
}

/// `bootstrap.watchdogs`, or the older `bootstrap.watchdog` for both.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// Of the control thread.
    pub main: Timeouts,
    /// Of the workers.
    pub workers: Timeouts,
}

impl Settings {
    /// Checks the settings of both kinds of threads.
    ///
    /// # Errors
    /// Reports what is not valid or not supported.
    pub fn compile(
        watchdog: Option<Message>,
        watchdogs: Option<Messages>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Some(watchdogs) = watchdogs else {
            let both = timeouts(watchdog, &at.field("watchdog"))?;
            return Ok(Self {
                main: both,
                workers: both,
            });
        };
        if watchdog.is_some() {
            return Err(at.field("watchdog").error("cannot stand beside watchdogs"));
        }
        let at = at.field("watchdogs");
        let Messages {
            main_thread_watchdog,
            worker_watchdog,
        } = watchdogs;
        let main = timeouts(main_thread_watchdog, &at.field("main_thread_watchdog"));
        let workers = timeouts(worker_watchdog, &at.field("worker_watchdog"));
        Ok(Self {
            main: main?,
            workers: workers?,
        })
    }
}

fn timeouts(message: Option<Message>, at: &At<'_>) -> Result<Timeouts, Reported> {
    let Message {
        miss_timeout,
        megamiss_timeout,
        kill_timeout,
        multikill_timeout,
        multikill_threshold,
        max_kill_timeout_jitter,
        actions,
    } = message.unwrap_or_default();
    refuse!(at; max_kill_timeout_jitter, actions)?;
    let time = |field, value: Option<prost_types::Duration>| {
        config::optional_duration(value.as_ref(), &at.field(field))
    };
    let default = Timeouts::default();
    let set = |time: Option<Duration>| time.filter(|time| !time.is_zero());
    Ok(Timeouts {
        miss: set(time("miss_timeout", miss_timeout)?).unwrap_or(default.miss),
        mega_miss: set(time("megamiss_timeout", megamiss_timeout)?).unwrap_or(default.mega_miss),
        kill: set(time("kill_timeout", kill_timeout)?),
        multikill: set(time("multikill_timeout", multikill_timeout)?),
        multikill_threshold: multikill_threshold.map_or(0.0, |percent| percent.value),
    })
}

/// A watched thread's side: the thread shows that it turns.
#[derive(Clone, Debug)]
pub struct Beat {
    touched: Arc<AtomicBool>,
    every: Duration,
}

impl Beat {
    /// Touches on a timer for as long as it is polled.
    pub async fn run(self) {
        loop {
            self.touched.store(true, Relaxed);
            tokio::time::sleep(self.every).await;
        }
    }
}

/// The threads to be watched, gathered before the watch begins.
#[derive(Debug)]
pub struct Watchdog {
    settings: Settings,
    stats: Arc<stats::Registry>,
    threads: Vec<Watched>,
}

/// A watch that has begun; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Watched {
    name: String,
    timeouts: Timeouts,
    touched: Arc<AtomicBool>,
    last: Instant,
    missed: bool,
    mega_missed: bool,
    thread: Arc<Block>,
    group: Arc<Block>,
}

impl Watchdog {
    /// Watches nothing yet.
    pub fn new(settings: Settings, stats: &Arc<stats::Registry>) -> Self {
        Self {
            settings,
            stats: stats.clone(),
            threads: Vec::new(),
        }
    }

    /// The control thread's beat.
    pub fn main_thread(&mut self) -> Beat {
        self.watch("main_thread".to_owned(), self.settings.main, "main_thread.")
    }

    /// The beat of a worker.
    pub fn worker(&mut self, index: usize) -> Beat {
        self.watch(format!("worker_{index}"), self.settings.workers, "workers.")
    }

    fn watch(&mut self, name: String, timeouts: Timeouts, group: &str) -> Beat {
        let touched = Arc::new(AtomicBool::new(true));
        self.threads.push(Watched {
            timeouts,
            touched: touched.clone(),
            last: Instant::now(),
            missed: false,
            mega_missed: false,
            thread: self.stats.block(&format!("server.{name}."), &names::TABLE),
            group: self.stats.block(group, &names::TABLE),
            name,
        });
        Beat {
            touched,
            every: timeouts.miss / 2,
        }
    }

    /// Begins the watch. `stats_thread` is the array of stats of the thread that watches.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(self, stats_thread: usize) -> io::Result<Watch> {
        let (stop, stopped) = mpsc::channel();
        let mut threads = self.threads;
        let step = threads.iter().map(|t| t.timeouts.miss / 2).min();
        let step = step.unwrap_or(Timeouts::default().miss);
        let thread = std::thread::Builder::new()
            .name("guarddog".to_owned())
            .spawn(move || {
                stats::set_thread(stats_thread);
                while stopped.recv_timeout(step) == Err(RecvTimeoutError::Timeout) {
                    look(&mut threads, Instant::now());
                }
            })?;
        Ok(Watch {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(target: "main", "the watchdog ended by a panic");
        }
    }
}

/// Looks at every thread once, and ends the process when that is asked for.
fn look(threads: &mut [Watched], now: Instant) {
    for thread in threads.iter_mut() {
        thread.look(now);
    }
    if let Some(name) = to_kill(threads, now) {
        critical!(target: "assert", "aborting: {name} stands still longer than its kill timeout");
        std::process::abort();
    }
}

/// The thread whose standing still ends the process.
fn to_kill(threads: &[Watched], now: Instant) -> Option<&str> {
    let stood = |thread: &Watched, limit: Option<Duration>| {
        limit.is_some_and(|limit| now - thread.last > limit)
    };
    let one = threads.iter().find(|t| stood(t, t.timeouts.kill));
    let many = || {
        let still: Vec<_> = threads
            .iter()
            .filter(|t| stood(t, t.timeouts.multikill))
            .collect();
        let last = still.last()?;
        let share = last.timeouts.multikill_threshold / 100.0 * threads.len() as f64;
        (still.len() as f64 >= share.ceil().max(2.0)).then_some(*last)
    };
    one.or_else(many).map(|thread| thread.name.as_str())
}

impl Watched {
    fn look(&mut self, now: Instant) {
        if self.touched.swap(false, Relaxed) {
            self.last = now;
            self.missed = false;
            self.mega_missed = false;
            return;
        }
        let still = now - self.last;
        if still > self.timeouts.miss && !self.missed {
            self.missed = true;
            self.thread.inc(names::watchdog_miss);
            self.group.inc(names::watchdog_miss);
        }
        if still > self.timeouts.mega_miss && !self.mega_missed {
            self.mega_missed = true;
            self.thread.inc(names::watchdog_mega_miss);
            self.group.inc(names::watchdog_mega_miss);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn watchdog(timeouts: Timeouts) -> Watchdog {
        let settings = Settings {
            main: timeouts,
            workers: timeouts,
        };
        Watchdog::new(settings, &stats::Registry::new(3))
    }

    #[test]
    fn a_thread_that_stands_still_is_counted_once_for_each_limit() {
        let mut dog = watchdog(Timeouts::default());
        let beat = dog.worker(0);
        let stats = dog.stats.clone();
        let count = |name| stats.block("workers.", &names::TABLE).counter(name);
        let start = dog.threads[0].last;
        let mut look = |ms| look(&mut dog.threads, start + Duration::from_millis(ms));
        look(0);
        look(150);
        assert_eq!(count(names::watchdog_miss), 0);
        look(300);
        look(400);
        assert_eq!(count(names::watchdog_miss), 1);
        look(1_100);
        assert_eq!(count(names::watchdog_mega_miss), 1);
        beat.touched.store(true, Relaxed);
        look(1_200);
        look(1_500);
        assert_eq!(count(names::watchdog_miss), 2);
        let own = stats.block("server.worker_0.", &names::TABLE);
        assert_eq!(own.counter(names::watchdog_miss), 2);
    }

    #[test]
    fn one_thread_or_many_can_end_the_process() {
        let second = Some(Duration::from_secs(1));
        let late = |dog: &Watchdog| dog.threads[0].last + Duration::from_secs(5);
        let mut dog = watchdog(Timeouts::default());
        dog.worker(0);
        assert_eq!(to_kill(&dog.threads, late(&dog)), None);
        let mut dog = watchdog(Timeouts {
            kill: second,
            ..Timeouts::default()
        });
        dog.worker(0);
        assert_eq!(to_kill(&dog.threads, late(&dog)), Some("worker_0"));
        let mut dog = watchdog(Timeouts {
            multikill: second,
            multikill_threshold: 60.0,
            ..Timeouts::default()
        });
        dog.worker(0);
        assert_eq!(to_kill(&dog.threads, late(&dog)), None);
        dog.worker(1);
        assert_eq!(to_kill(&dog.threads, late(&dog)), Some("worker_1"));
    }

    #[test]
    fn settings_are_read_and_what_is_not_supported_is_refused() {
        let report = Report::new();
        let messages = Messages {
            main_thread_watchdog: Some(Message {
                miss_timeout: seconds(3),
                kill_timeout: seconds(0),
                ..Message::default()
            }),
            worker_watchdog: None,
        };
        let settings = Settings::compile(None, Some(messages), &report.root()).unwrap();
        assert_eq!(settings.main.miss, Duration::from_secs(3));
        assert_eq!(settings.main.kill, None);
        assert_eq!(settings.workers, Timeouts::default());
        let both = Message {
            max_kill_timeout_jitter: seconds(1),
            ..Message::default()
        };
        Settings::compile(Some(both), None, &report.root()).unwrap_err();
        assert_eq!(
            report.to_string(),
            "watchdog.max_kill_timeout_jitter: is not supported yet"
        );
    }

    #[tokio::test]
    async fn a_watch_ends_when_it_is_dropped() {
        let mut dog = watchdog(Timeouts {
            miss: Duration::from_millis(10),
            ..Timeouts::default()
        });
        let beat = dog.main_thread();
        let stats = dog.stats.clone();
        let watch = dog.start(3).unwrap();
        let turning = tokio::time::timeout(Duration::from_millis(50), beat.run());
        assert!(turning.await.is_err());
        drop(watch);
        drop(stats);
    }
}
