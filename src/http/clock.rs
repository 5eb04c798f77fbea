//! The time of day, read seldom.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant, SystemTime},
};

use http::HeaderValue;

/// How long a reading of the wall clock is gone on from by the monotonic clock.
const REFRESH: Duration = Duration::from_millis(250);

/// One worker's clock. Everything on the request path reads the monotonic clock
/// alone; this turns its readings into times of day and `date` headers.
#[derive(Debug)]
pub struct Clock {
    base: Cell<(Instant, SystemTime)>,
    date: RefCell<(u64, HeaderValue)>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            base: Cell::new((Instant::now(), SystemTime::now())),
            date: RefCell::new((0, HeaderValue::from_static(""))),
        }
    }
}

impl Clock {
    /// The time of day at `now`, which is about now.
    pub fn wall(&self, now: Instant) -> SystemTime {
        let (at, wall) = self.base.get();
        let since = now.saturating_duration_since(at);
        if since < REFRESH {
            return wall + since;
        }
        let wall = SystemTime::now();
        self.base.set((now, wall));
        wall
    }

    /// The `date` header at `now`.
    pub fn date(&self, now: Instant) -> HeaderValue {
        let wall = self.wall(now);
        let second = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            let text = httpdate::fmt_http_date(wall);
            let value = HeaderValue::from_str(&text).expect("a date can stand in a header");
            *date = (second, value);
        }
        date.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_follows_the_seconds() {
        let clock = Clock::default();
        let now = Instant::now();
        let first = clock.date(now);
        assert_eq!(first.to_str().unwrap().len(), 29);
        assert_eq!(clock.date(now), first);
        clock.base.set((now, SystemTime::UNIX_EPOCH));
        assert_eq!(clock.date(now), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
