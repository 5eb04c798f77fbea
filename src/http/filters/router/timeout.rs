//! How long a request may take: the route's limits and what its headers ask for.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::Router;
use crate::{
    codec::Headers,
    formatter::is_grpc_content_type,
    http::names,
    model::route::{Forward, StreamDuration},
};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A request's time limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the response.
    pub global: Option<Duration>,
    /// For one try.
    pub per_try: Option<Duration>,
    /// For what goes on with the upstream, from the moment there is a connection.
    pub upstream: Option<Duration>,
    /// What a request is answered that has used up one of the others.
    pub late: StatusCode,
}

/// Settles the limits and tells the upstream of them in
/// `x-envoy-expected-rq-timeout-ms`. `envoy` says that the request brings
/// headers of that kind at all.
pub fn settle(
    headers: &mut Headers,
    envoy: bool,
    route: &Forward,
    router: &Router,
    per_try: Option<Duration>,
    upstream: Option<Duration>,
) -> Timeouts {
    // Asked of every request, so that what few have comes first.
    let for_grpc = route.max_grpc_timeout.filter(|_| is_grpc(headers));
    let global = match (route.stream_duration, for_grpc) {
        (Some(_), _) => None,
        (None, Some(max)) => from_grpc_timeout(headers, max, route.grpc_timeout_offset),
        (None, None) => route.timeout,
    };
    let mut timeouts = Timeouts {
        global,
        per_try,
        upstream: upstream.filter(|limit| !limit.is_zero()),
        late: StatusCode::GATEWAY_TIMEOUT,
    };
    if envoy {
        if router.respect_expected_timeout
            && let Some(expected) = millis(headers, &names::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)
        {
            timeouts.global = positive(expected);
        }
        if let Some(asked) = millis(headers, &names::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS) {
            timeouts.global = positive(asked);
        }
        if let Some(asked) = millis(headers, &names::X_ENVOY_UPSTREAM_STREAM_DURATION_MS) {
            timeouts.upstream = positive(asked);
        }
        if headers.contains_key(names::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE) {
            timeouts.late = StatusCode::NO_CONTENT;
        }
        headers.remove(names::X_ENVOY_UPSTREAM_STREAM_DURATION_MS);
        headers.remove(names::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE);
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
    if let (Some(expected), Some(_), None) = (expected, for_grpc, route.stream_duration) {
        headers.insert(GRPC_TIMEOUT, to_grpc_timeout(expected));
    }
    timeouts
}

/// The timeout that `grpc-timeout` asks for; none, like zero, is without limit.
fn from_grpc_timeout(headers: &Headers, max: Duration, offset: Duration) -> Option<Duration> {
    let asked = grpc_timeout(headers).and_then(positive);
    // One that would leave nothing is not taken off.
    let asked = asked.map(|asked| {
        if offset < asked {
            asked - offset
        } else {
            asked
        }
    });
    match (asked, positive(max)) {
        (Some(asked), Some(max)) => Some(asked.min(max)),
        (asked, max) => asked.or(max),
    }
}

/// How long a stream may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// As the connection manager says.
    Managed,
    /// Without limit.
    Unlimited,
    /// So long.
    Limited(Duration),
}

/// Settles `max_stream_duration`, and tells the upstream of a gRPC request in
/// `grpc-timeout`. `managed` is the connection manager's limit.
pub fn life(headers: &mut Headers, rule: StreamDuration, managed: Option<Duration>) -> Life {
    let life = match (grpc_timeout(headers), rule.header_max) {
        (Some(asked), Some(max)) => {
            let asked = positive(max).map_or(asked, |max| asked.min(max));
            Life::Limited(asked.saturating_sub(rule.header_offset))
        }
        _ => match rule.max {
            Some(max) => positive(max).map_or(Life::Unlimited, Life::Limited),
            None => Life::Managed,
        },
    };
    let told = match life {
        Life::Managed => managed,
        Life::Unlimited => None,
        Life::Limited(limit) => Some(limit),
    };
    if is_grpc(headers)
        && let Some(told) = told
    {
        headers.insert(GRPC_TIMEOUT, to_grpc_timeout(told));
    }
    life
}

/// A duration as `grpc-timeout` has it: at most eight digits, and the smallest unit
/// from milliseconds on that has room for it.
fn to_grpc_timeout(duration: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let mut time = duration.as_millis();
    let mut unit = "m";
    for (next, size) in [("S", 1000), ("M", 60), ("H", 60)] {
        if time > MOST {
            (time, unit) = (time / size, next);
        }
    }
    let text = format!("{}{unit}", time.min(MOST));
    HeaderValue::from_str(&text).expect("digits and a letter")
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

fn millis(headers: &Headers, name: &HeaderName) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_millis)
}

fn is_grpc(headers: &Headers) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| is_grpc_content_type(value.as_bytes()))
}

/// `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(headers: &Headers) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
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

    fn grpc(timeout: Option<&'static str>) -> Headers {
        let mut headers = Headers::new();
        let grpc = HeaderValue::from_static("application/grpc");
        headers.insert(http::header::CONTENT_TYPE, grpc);
        if let Some(timeout) = timeout {
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(timeout));
        }
        headers
    }

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_grpc_request_has_the_timeout_it_asks_for() {
        let timeout = |asked, max, offset| from_grpc_timeout(&grpc(asked), ms(max), ms(offset));
        assert_eq!(timeout(Some("300m"), 0, 0), Some(ms(300)));
        assert_eq!(timeout(Some("300m"), 200, 0), Some(ms(200)));
        assert_eq!(timeout(Some("300m"), 250, 100), Some(ms(200)));
        assert_eq!(timeout(Some("300m"), 0, 300), Some(ms(300)));
        assert_eq!(timeout(None, 200, 0), Some(ms(200)));
        assert_eq!(timeout(None, 0, 0), None);
    }

    #[test]
    fn a_grpc_stream_lives_as_long_as_it_asks_for() {
        let rule = |max: Option<u64>, header_max: Option<u64>, offset| StreamDuration {
            max: max.map(ms),
            header_max: header_max.map(ms),
            header_offset: ms(offset),
        };
        for (asked, rule, expected, told) in [
            (
                Some("300m"),
                rule(None, Some(0), 0),
                Life::Limited(ms(300)),
                Some("300m"),
            ),
            (
                Some("300m"),
                rule(None, Some(200), 0),
                Life::Limited(ms(200)),
                Some("200m"),
            ),
            (
                Some("300m"),
                rule(None, Some(0), 100),
                Life::Limited(ms(200)),
                Some("200m"),
            ),
            (
                Some("300m"),
                rule(Some(200), Some(0), 0),
                Life::Limited(ms(300)),
                Some("300m"),
            ),
            (
                Some("300m"),
                rule(Some(200), None, 0),
                Life::Limited(ms(200)),
                Some("200m"),
            ),
            (
                None,
                rule(Some(200), Some(1000), 0),
                Life::Limited(ms(200)),
                Some("200m"),
            ),
            (None, rule(Some(0), Some(1000), 0), Life::Unlimited, None),
            (None, rule(None, Some(1000), 0), Life::Managed, Some("700m")),
        ] {
            let mut headers = grpc(asked);
            assert_eq!(
                life(&mut headers, rule, Some(ms(700))),
                expected,
                "{rule:?}"
            );
            let header = headers
                .get(GRPC_TIMEOUT)
                .map(|value| value.to_str().unwrap());
            assert_eq!(header, told, "{asked:?} {rule:?}");
        }
    }

    #[test]
    fn grpc_timeouts_have_units() {
        assert_eq!(to_grpc_timeout(ms(1)), "1m");
        assert_eq!(to_grpc_timeout(ms(99_999_999)), "99999999m");
        assert_eq!(to_grpc_timeout(ms(100_000_000)), "100000S");
        assert_eq!(
            to_grpc_timeout(Duration::from_secs(100_000_000)),
            "1666666M"
        );
        assert_eq!(to_grpc_timeout(Duration::MAX), "99999999H");
        let timeout = |text| {
            let mut headers = Headers::new();
            headers.insert(
                HeaderName::from_static("grpc-timeout"),
                HeaderValue::from_static(text),
            );
            grpc_timeout(&headers)
        };
        assert_eq!(timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(timeout("100m"), Some(Duration::from_millis(100)));
        for bad in ["", "m", "1", "x1S", "123456789S", "1X"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
