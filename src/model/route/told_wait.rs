//! `rate_limited_retry_back_off`, compiled: when a host says it may be asked again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};

use crate::{
    api::envoy::config::route::v3::retry_policy::{
        RateLimitedRetryBackOff as Message, ResetHeader, ResetHeaderFormat,
    },
    codec::Headers,
    config::{At, Reported, duration},
};

/// The longest wait that is obeyed unless `max_interval` says otherwise.
const DEFAULT_MAX: Duration = Duration::from_secs(300);

/// Headers of a response that say how long to wait before the next try.
#[derive(Clone, Debug)]
pub struct ToldWait {
    headers: Box<[(HeaderName, ResetHeaderFormat)]>,
    max: Duration,
}

impl ToldWait {
    /// Compiles the message.
    ///
    /// # Errors
    /// A name that is none of a header.
    pub(super) fn compile(message: Message, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            reset_headers,
            max_interval,
        } = message;
        let max = max_interval
            .map(|max| duration(&max, &at.field("max_interval")))
            .transpose()?;
        let mut headers = Vec::with_capacity(reset_headers.len());
        let at = at.field("reset_headers");
        for (index, header) in reset_headers.into_iter().enumerate() {
            let ResetHeader { name, format } = header;
            let at = at.index(index);
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                at.field("name")
                    .error(format_args!("{name:?} is not a valid header name"))
            })?;
            headers.push((
                name,
                ResetHeaderFormat::try_from(format).unwrap_or_default(),
            ));
        }
        Ok(Self {
            headers: headers.into(),
            max: max.unwrap_or(DEFAULT_MAX),
        })
    }

    /// How long a response says to wait, by the first header that says it. One that
    /// asks for too long, or for nothing, says nothing.
    pub fn of(&self, response: &Headers, now: SystemTime) -> Option<Duration> {
        let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let mut headers = self.headers.iter();
        headers.find_map(|(name, format)| {
            let number: u64 = text(response.get(name)?)?.parse().ok()?;
            let seconds = match format {
                ResetHeaderFormat::Seconds => number,
                ResetHeaderFormat::UnixTimestamp => number.saturating_sub(now),
            };
            let wait = Duration::from_secs(seconds);
            (!wait.is_zero() && wait <= self.max).then_some(wait)
        })
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Report, model::testing::read};

    #[test]
    fn the_first_header_that_says_something_is_obeyed() {
        let message = "{reset_headers: [{name: Retry-After}, \
            {name: x-reset, format: UNIX_TIMESTAMP}], max_interval: 60s}";
        let report = Report::new();
        let told = ToldWait::compile(read(message), &report.root()).expect("valid");
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let wait = |headers: &[(&'static str, &'static str)]| {
            let mut response = Headers::new();
            for (name, value) in headers {
                let name = HeaderName::from_static(name);
                response.append(name, HeaderValue::from_static(value));
            }
            told.of(&response, now).map(|wait| wait.as_secs())
        };
        assert_eq!(wait(&[("retry-after", "5")]), Some(5));
        assert_eq!(wait(&[("x-reset", "1007")]), Some(7));
        assert_eq!(wait(&[("retry-after", "5"), ("x-reset", "1007")]), Some(5));
        for nothing in ["0", "61", "soon", "Fri, 31 Dec 1999 23:59:59 GMT"] {
            let both = [("retry-after", nothing), ("x-reset", "1007")];
            assert_eq!(wait(&both), Some(7), "{nothing}");
            assert_eq!(wait(&both[..1]), None, "{nothing}");
        }
        assert_eq!(wait(&[("x-reset", "900")]), None);
    }
}
