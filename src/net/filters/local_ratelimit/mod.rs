//! `envoy.filters.network.local_ratelimit`: so many new connections of a filter
//! chain in a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    api::envoy::{
        extensions::filters::network::local_ratelimit::v3::LocalRateLimit as Message,
        r#type::v3::TokenBucket as BucketMessage,
    },
    config::{At, Reported, duration},
    digest::Digest,
    model::Context,
    runtime::RuntimeFlag,
    stats::Block,
};

crate::stat_table! {
    /// `local_rate_limit.STAT_PREFIX.`
    pub mod local_ratelimit_stats {
        counters { rate_limited }
        gauges {}
        histograms {}
        texts {}
    }
}
use local_ratelimit_stats as names;

/// The least `fill_interval`.
pub const LEAST_FILL_INTERVAL: Duration = Duration::from_millis(50);

/// The filter's settings and its tokens.
#[derive(Debug)]
pub struct LocalRateLimit {
    bucket: Arc<TokenBucket>,
    enabled: Option<RuntimeFlag>,
    stats: Arc<Block>,
}

impl LocalRateLimit {
    /// Compiles the settings. The tokens are those of all filters with the same
    /// `share_key` and bucket, or else of this `site` for as long as its bucket
    /// stays the same.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: Message,
        site: &str,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Message {
            stat_prefix,
            token_bucket,
            runtime_enabled,
            share_key,
        } = message;
        let at_bucket = at.field("token_bucket");
        let Some(BucketMessage {
            max_tokens,
            tokens_per_fill,
            fill_interval,
        }) = token_bucket
        else {
            return Err(at_bucket.error("is required"));
        };
        let enabled = runtime_enabled
            .map(|flag| RuntimeFlag::compile(flag, cx.runtime, &at.field("runtime_enabled")))
            .transpose();
        let at_interval = at_bucket.field("fill_interval");
        let interval = match fill_interval {
            Some(interval) => duration(&interval, &at_interval)?,
            None => return Err(at_interval.error("is required")),
        };
        if interval < LEAST_FILL_INTERVAL {
            return Err(at_interval.error(format_args!(
                "{interval:?} is less than {LEAST_FILL_INTERVAL:?}, the least there is"
            )));
        }
        let per_fill = tokens_per_fill.unwrap_or(1).max(1);
        let whose = match share_key.is_empty() {
            true => (false, site),
            false => (true, &*share_key),
        };
        let key = Digest::of((whose, max_tokens, per_fill, interval));
        let bucket = TokenBucket::new(max_tokens, interval / per_fill);
        let prefix = format!("local_rate_limit.{stat_prefix}.");
        Ok(Self {
            bucket: cx.shared.token_buckets.share(key, bucket),
            enabled: enabled?,
            stats: cx.stats.block(&prefix, &names::TABLE),
        })
    }

    /// Takes a token for a new connection; whether there was one.
    pub fn takes(&self) -> bool {
        if self.enabled.as_ref().is_some_and(|flag| !flag.get()) {
            return true;
        }
        let taken = self.bucket.take(Instant::now());
        if !taken {
            self.stats.inc(names::rate_limited);
        }
        taken
    }
}

/// Tokens that come one at a time, up to a number; full at first.
#[derive(Debug)]
pub struct TokenBucket {
    begin: Instant,
    /// Between two tokens, in nanoseconds.
    each: u64,
    /// Until a bucket that was empty is full, in nanoseconds.
    whole: u64,
    /// When it was empty, had it been filled ever since: nanoseconds after `begin`,
    /// and after the time that filling it takes.
    empty: AtomicU64,
}

impl TokenBucket {
    /// A bucket of `max` tokens that gets one after each `each`.
    pub fn new(max: u32, each: Duration) -> Self {
        let each = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self {
            begin: Instant::now(),
            each,
            whole: each.saturating_mul(max.into()),
            empty: AtomicU64::new(0),
        }
    }

    /// Takes a token; whether there was one.
    pub fn take(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.begin).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let now = now.saturating_add(self.whole);
        let take = |empty: u64| {
            let after = empty.max(now - self.whole).saturating_add(self.each);
            (after <= now).then_some(after)
        };
        self.empty.fetch_update(Relaxed, Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_one_by_one_up_to_the_whole() {
        let bucket = TokenBucket::new(2, Duration::from_millis(100));
        let start = bucket.begin;
        let at = |ms| bucket.take(start + Duration::from_millis(ms));
        assert_eq!([at(0), at(0), at(0)], [true, true, false]);
        assert_eq!([at(99), at(100), at(100)], [false, true, false]);
        assert_eq!([at(10_000), at(10_000), at(10_000)], [true, true, false]);
        assert!(!TokenBucket::new(0, Duration::from_secs(1)).take(Instant::now()));
    }
}
