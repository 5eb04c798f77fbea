//! `reduce_timeouts`: how long is waited for clients under pressure.

use std::time::Duration;

use super::Level;
use crate::{
    api::envoy::config::overload::v3::{
        ScaleTimersOverloadActionConfig as Message,
        scale_timers_overload_action_config::{ScaleTimer, TimerType, scale_timer::OverloadAdjust},
    },
    config::{self, At, Reported},
};

/// A timeout that may be reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// `HTTP_DOWNSTREAM_CONNECTION_IDLE`.
    ConnectionIdle,
    /// `HTTP_DOWNSTREAM_CONNECTION_MAX`.
    ConnectionMax,
    /// `TRANSPORT_SOCKET_CONNECT`.
    TransportConnect,
    /// `HTTP_DOWNSTREAM_STREAM_IDLE`.
    StreamIdle,
    /// `HTTP_DOWNSTREAM_STREAM_FLUSH`.
    StreamFlush,
}

#[derive(Clone, Copy, Debug)]
enum Least {
    Time(Duration),
    Share(f64),
}

/// The timeouts that are reduced, and how much they are.
#[derive(Debug, Default)]
pub struct Timers {
    pub(super) level: Level,
    least: [Option<Least>; 5],
}

impl Timers {
    /// Compiles the `typed_config` of the action.
    ///
    /// # Errors
    /// When it names a timer that is not reduced, or one twice.
    pub fn compile(message: Message, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            timer_scale_factors,
        } = message;
        let mut timers = Self::default();
        let mut outcome = Ok(());
        let at = at.field("timer_scale_factors");
        for (index, factor) in timer_scale_factors.into_iter().enumerate() {
            if let Err(reported) = timers.add(factor, &at.index(index)) {
                outcome = Err(reported);
            }
        }
        outcome.map(|()| timers)
    }

    fn add(&mut self, message: ScaleTimer, at: &At<'_>) -> Result<(), Reported> {
        let ScaleTimer {
            timer,
            overload_adjust,
        } = message;
        let at_timer = at.field("timer");
        let timer = match TimerType::try_from(timer) {
            Ok(TimerType::HttpDownstreamConnectionIdle) => Timer::ConnectionIdle,
            Ok(TimerType::HttpDownstreamConnectionMax) => Timer::ConnectionMax,
            Ok(TimerType::TransportSocketConnect) => Timer::TransportConnect,
            Ok(TimerType::HttpDownstreamStreamIdle) => Timer::StreamIdle,
            Ok(TimerType::HttpDownstreamStreamFlush) => Timer::StreamFlush,
            Ok(TimerType::Unspecified) => {
                return Err(at_timer.error("is required"));
            }
            Err(_) => return Err(at_timer.error("is not one of the API")),
        };
        let least = match overload_adjust {
            Some(OverloadAdjust::MinTimeout(time)) => {
                Least::Time(config::duration(&time, &at.field("min_timeout"))?)
            }
            Some(OverloadAdjust::MinScale(percent)) => Least::Share(percent.value / 100.0),
            None => return Err(at.error("one of min_timeout, min_scale is required")),
        };
        match self.least[timer as usize].replace(least) {
            None => Ok(()),
            Some(_) => Err(at_timer.error("stands here a second time")),
        }
    }

    /// How far timeouts are reduced now: not at all, or up to all of it.
    pub fn share(&self) -> f64 {
        self.level.share()
    }

    /// How long a timeout is now.
    pub fn scale(&self, timer: Timer, full: Duration) -> Duration {
        let share = self.level.share();
        match self.least[timer as usize] {
            Some(least) if share > 0.0 => {
                let least = match least {
                    Least::Time(time) => time.min(full),
                    Least::Share(share) => full.mul_f64(share),
                };
                least + full.saturating_sub(least).mul_f64(1.0 - share)
            }
            Some(_) | None => full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_shrinks_to_its_least() {
        let mut timers = Timers::default();
        timers.least[Timer::ConnectionIdle as usize] = Some(Least::Time(Duration::from_secs(2)));
        timers.least[Timer::ConnectionMax as usize] = Some(Least::Share(0.5));
        let (full, idle) = (Duration::from_secs(10), Timer::ConnectionIdle);
        let at = |share: f64, timer| {
            timers.level.set(share);
            timers.scale(timer, full).as_secs_f64()
        };
        assert_eq!([0.0, 0.5, 1.0].map(|s| at(s, idle)), [10.0, 6.0, 2.0]);
        assert_eq!(at(1.0, Timer::ConnectionMax), 5.0);
        assert_eq!(at(1.0, Timer::TransportConnect), 10.0);
        let short = Duration::from_secs(1);
        assert_eq!(timers.scale(idle, short), short);
    }
}
