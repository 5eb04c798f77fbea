//! How long a request may take: the route's limits and what its headers ask for.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Router;
use crate::{formatter::is_grpc_content_type, http::names, model::route::Forward};

/// A request's time limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the response.
    pub global: Option<Duration>,
    /// For one try.
    pub per_try: Option<Duration>,
}

/// Settles the limits and tells the upstream of them in
/// `x-envoy-expected-rq-timeout-ms`. `envoy` says that the request brings
/// headers of that kind at all.
pub fn settle(
    headers: &mut HeaderMap,
    envoy: bool,
    route: &Forward,
    router: &Router,
    per_try: Option<Duration>,
) -> Timeouts {
    let mut timeouts = Timeouts {
        global: route.timeout,
        per_try,
    };
    if let Some(max) = route.grpc_timeout.max
        && is_grpc(headers)
        && let Some(asked) = grpc_timeout(headers)
    {
        let limited = if max.is_zero() { asked } else { asked.min(max) };
        let offset = route.grpc_timeout.offset.unwrap_or_default();
        let left = limited.checked_sub(offset).filter(|left| !left.is_zero());
        timeouts.global = Some(left.unwrap_or(limited));
    }
    if envoy {
        if router.respect_expected_timeout
            && let Some(expected) = millis(headers, &names::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)
        {
            timeouts.global = positive(expected);
        }
        if let Some(asked) = millis(headers, &names::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS) {
            timeouts.global = positive(asked);
        }
        headers.remove(names::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS);
        headers.remove(names::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS);
    }
    // A try that may take as long as all of them has no limit of its own.
    if let (Some(global), Some(per_try)) = (timeouts.global, timeouts.per_try)
        && per_try >= global
    {
        timeouts.per_try = None;
    }
    let expected = timeouts.per_try.or(timeouts.global);
    if let Some(expected) = expected.filter(|_| !router.suppress_envoy_headers) {
        let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        headers.insert(names::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, number(millis));
    }
    timeouts
}

/// A number as a header; the ones that come all the time without allocating.
pub fn number(number: u64) -> HeaderValue {
    match number {
        0 => HeaderValue::from_static("0"),
        1 => HeaderValue::from_static("1"),
        2 => HeaderValue::from_static("2"),
        3 => HeaderValue::from_static("3"),
        15_000 => HeaderValue::from_static("15000"),
        other => HeaderValue::from(other),
    }
}

fn positive(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn millis(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_millis)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| is_grpc_content_type(value.as_bytes()))
}

/// `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_have_units() {
        let timeout = |text| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        assert_eq!(timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(timeout("100m"), Some(Duration::from_millis(100)));
        for bad in ["", "m", "1", "x1S", "123456789S", "1X"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
