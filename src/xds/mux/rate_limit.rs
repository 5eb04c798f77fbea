//! How many requests a stream may send: a token bucket.

use std::time::{Duration, Instant};

use crate::xds::api_source::RateLimit;

/// A token bucket, full at first.
#[derive(Debug)]
pub struct Bucket {
    limit: RateLimit,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(limit: RateLimit, now: Instant) -> Self {
        Self {
            tokens: f64::from(limit.max_tokens),
            limit,
            filled: now,
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long it takes until there is one, when there is none.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        let most = f64::from(self.limit.max_tokens.max(1));
        self.tokens = (self.tokens + since * self.limit.fill_rate).min(most);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // An hour is as good as never.
        let wait = ((1.0 - self.tokens) / self.limit.fill_rate).clamp(0.001, 3600.0);
        Err(Duration::from_secs_f64(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let limit = RateLimit {
            max_tokens: 2,
            fill_rate: 4.0,
        };
        let mut bucket = Bucket::new(limit, start);
        assert_eq!(bucket.take(start), Ok(()));
        assert_eq!(bucket.take(start), Ok(()));
        assert_eq!(bucket.take(start), Err(Duration::from_millis(250)));
        let later = start + Duration::from_millis(250);
        assert_eq!(bucket.take(later), Ok(()));
        assert!(bucket.take(later).is_err());
        let much_later = later + Duration::from_secs(9);
        assert_eq!(bucket.take(much_later), Ok(()));
        assert_eq!(bucket.take(much_later), Ok(()));
        assert!(bucket.take(much_later).is_err());
    }
}
