//! How connections are asked to go.
//!
//! A connection drains when its listener or filter chain is gone or its
//! transport changed, or when the whole process drains. From then on each
//! response may carry `connection: close` (HTTP/1) or a GOAWAY follows it
//! (HTTP/2): at once with `--drain-strategy immediate`, else with a probability
//! that grows from 0 to 1 over `--drain-time-s`. A connection that is idle goes
//! at a moment drawn from the same distribution, so that clients do not come
//! back all at once. What is left at the end of the drain time is cut.

use std::time::{Duration, Instant};

/// `--drain-strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DrainStrategy {
    /// With a probability that grows over the drain time.
    #[default]
    Gradual,
    /// At the first chance.
    Immediate,
}

/// A drain under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draining {
    since: Instant,
    time: Duration,
    strategy: DrainStrategy,
}

impl Draining {
    /// A drain that began at `since` and takes `time`.
    pub fn new(since: Instant, time: Duration, strategy: DrainStrategy) -> Self {
        Self {
            since,
            time,
            strategy,
        }
    }

    /// Whether a response at `now` asks its connection to go; `random` is uniform.
    pub fn should_close(&self, now: Instant, random: u64) -> bool {
        match self.strategy {
            DrainStrategy::Immediate => true,
            DrainStrategy::Gradual => {
                let elapsed = now.saturating_duration_since(self.since);
                elapsed >= self.time || {
                    let time = u64::try_from(self.time.as_millis())
                        .unwrap_or(u64::MAX)
                        .max(1);
                    u128::from(random % time) < elapsed.as_millis()
                }
            }
        }
    }

    /// When an idle connection goes; `random` is uniform.
    pub fn idle_deadline(&self, random: u64) -> Instant {
        match self.strategy {
            DrainStrategy::Immediate => self.since,
            DrainStrategy::Gradual => {
                let time = u64::try_from(self.time.as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1);
                self.since + Duration::from_millis(random % time)
            }
        }
    }

    /// When everything that is left is cut.
    pub fn deadline(&self) -> Instant {
        self.since + self.time
    }

    /// Both drains at once: it ends when the first does, and asks as soon as either.
    pub fn and(self, other: Option<Self>) -> Self {
        let Some(other) = other else { return self };
        let strategy = match (self.strategy, other.strategy) {
            (DrainStrategy::Gradual, DrainStrategy::Gradual) => DrainStrategy::Gradual,
            _ => DrainStrategy::Immediate,
        };
        let first = match other.deadline() < self.deadline() {
            true => other,
            false => self,
        };
        Self { strategy, ..first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradual_drain_asks_in_proportion_to_the_time_gone_by() {
        let since = Instant::now();
        let drain = Draining::new(since, Duration::from_secs(10), DrainStrategy::Gradual);
        let asked = |after: u64| {
            (0..10_000)
                .filter(|r| drain.should_close(since + Duration::from_secs(after), *r))
                .count()
        };
        assert_eq!(asked(0), 0);
        assert_eq!(asked(3), 3_000);
        assert_eq!(asked(10), 10_000);
    }

    #[test]
    fn an_immediate_drain_asks_at_once() {
        let since = Instant::now();
        let drain = Draining::new(since, Duration::from_secs(10), DrainStrategy::Immediate);
        assert!(drain.should_close(since, 9_999));
        assert_eq!(drain.idle_deadline(9_999), since);
    }

    #[test]
    fn two_drains_end_with_the_first_and_ask_with_the_sooner() {
        let since = Instant::now();
        let drain =
            |seconds, strategy| Draining::new(since, Duration::from_secs(seconds), strategy);
        let slow = drain(10, DrainStrategy::Gradual);
        assert_eq!(slow.and(None), slow);
        let both = slow.and(Some(drain(20, DrainStrategy::Immediate)));
        assert_eq!(both, drain(10, DrainStrategy::Immediate));
        let sooner = drain(5, DrainStrategy::Gradual);
        assert_eq!(slow.and(Some(sooner)), sooner);
    }

    #[test]
    fn an_idle_connection_goes_within_the_drain_time() {
        let since = Instant::now();
        let drain = Draining::new(since, Duration::from_secs(2), DrainStrategy::Gradual);
        for random in [0, 1, 1_999, 2_000, u64::MAX] {
            assert!(drain.idle_deadline(random) < drain.deadline());
        }
    }
}
