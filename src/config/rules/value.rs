//! The rule of one value, and what to say when it is broken.

use std::{borrow::Cow, cmp::Ordering, fmt, net::IpAddr};

use prost_reflect::{DynamicMessage, EnumDescriptor, Value};
use regex::Regex;

use super::super::tree::quoted;
use crate::api::validate::{KnownRegex, StringRules, string_rules::WellKnown};

/// What a value has to be.
#[derive(Debug)]
pub enum ValueRule {
    Integer(Bounds<i128>),
    Float(Bounds<f64>),
    /// In nanoseconds.
    Duration(Bounds<i128>),
    Bool(bool),
    String(Box<StringRule>),
    Bytes {
        min: Option<u64>,
        max: Option<u64>,
    },
    Enum(EnumRule),
    /// By type URL.
    Any {
        among: Vec<String>,
        not_among: Vec<String>,
    },
}

impl ValueRule {
    /// Says what is wrong with a value, as a sentence without a subject.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        // A rule on a wrapper message is about the value in it.
        let value = match (self, value) {
            (Self::Duration(_) | Self::Any { .. }, _) => Cow::Borrowed(value),
            (_, Value::Message(wrapper)) => match wrapper.get_field_by_number(1) {
                Some(value) => value,
                None => return Ok(()),
            },
            _ => Cow::Borrowed(value),
        };
        match (self, value.as_ref()) {
            (Self::Integer(bounds), value) => match integer(value) {
                Some(value) => bounds.check(value, |v| v.to_string()),
                None => Ok(()),
            },
            (Self::Float(bounds), Value::F64(value)) => bounds.check(*value, |v| v.to_string()),
            (Self::Float(bounds), Value::F32(value)) => {
                bounds.check(f64::from(*value), |v| v.to_string())
            }
            (Self::Duration(bounds), Value::Message(duration)) => {
                bounds.check(duration_nanos(duration), |v| Seconds(*v).to_string())
            }
            (Self::Bool(wanted), Value::Bool(value)) if value != wanted => {
                Err(format!("must be {wanted}"))
            }
            (Self::String(rule), Value::String(value)) => rule.check(value),
            (Self::Bytes { min, max }, Value::Bytes(value)) => {
                check_length(value.len(), *min, *max, "bytes")
            }
            (Self::Enum(rule), Value::EnumNumber(value)) => rule.check(*value),
            (Self::Any { among, not_among }, Value::Message(any)) => {
                let url = any.get_field_by_number(1);
                let url = url
                    .as_ref()
                    .and_then(|url| url.as_str())
                    .unwrap_or_default();
                check_among(&url.to_owned(), among, not_among, |url| quoted(url))
            }
            // The compiler of the API has matched rules and types.
            _ => Ok(()),
        }
    }
}

/// Limits of a number; a missing one allows everything.
#[derive(Debug)]
pub struct Bounds<T> {
    pub exactly: Option<T>,
    pub below: Option<T>,
    pub at_most: Option<T>,
    pub above: Option<T>,
    pub at_least: Option<T>,
    pub among: Vec<T>,
    pub not_among: Vec<T>,
    /// Zero is allowed whatever the limits say.
    pub ignore_zero: bool,
}

impl<T: PartialOrd + Default> Bounds<T> {
    fn check(&self, value: T, show: impl Fn(&T) -> String) -> Result<(), String> {
        if self.ignore_zero && value == T::default() {
            return Ok(());
        }
        // A value that cannot be compared, NaN, breaks every limit.
        use Ordering::{Equal, Greater, Less};
        let limits: [(&Option<T>, &str, &[Ordering]); 5] = [
            (&self.exactly, "be", &[Equal]),
            (&self.below, "be less than", &[Less]),
            (&self.at_most, "be at most", &[Less, Equal]),
            (&self.above, "be greater than", &[Greater]),
            (&self.at_least, "be at least", &[Greater, Equal]),
        ];
        for (limit, must, allowed) in limits {
            let Some(limit) = limit else { continue };
            if !value
                .partial_cmp(limit)
                .is_some_and(|order| allowed.contains(&order))
            {
                return Err(format!("must {must} {}, is {}", show(limit), show(&value)));
            }
        }
        check_among(&value, &self.among, &self.not_among, show)
    }
}

fn check_among<T: PartialEq>(
    value: &T,
    among: &[T],
    not_among: &[T],
    show: impl Fn(&T) -> String,
) -> Result<(), String> {
    if !among.is_empty() && !among.contains(value) {
        let allowed: Vec<_> = among.iter().map(&show).collect();
        let allowed = allowed.join(", ");
        return Err(format!("must be one of {allowed}, is {}", show(value)));
    }
    match not_among.contains(value) {
        true => Err(format!("must not be {}", show(value))),
        false => Ok(()),
    }
}

fn check_length(
    length: usize,
    min: Option<u64>,
    max: Option<u64>,
    unit: &str,
) -> Result<(), String> {
    let length = length as u64;
    match (min, max) {
        (Some(1), _) if length == 0 => Err("must not be empty".to_owned()),
        (Some(min), _) if length < min => {
            Err(format!("must have at least {min} {unit}, has {length}"))
        }
        (_, Some(max)) if length > max => {
            Err(format!("must have at most {max} {unit}, has {length}"))
        }
        _ => Ok(()),
    }
}

/// What an enum's number has to be.
#[derive(Debug)]
pub struct EnumRule {
    pub desc: Option<EnumDescriptor>,
    pub exactly: Option<i32>,
    pub defined_only: bool,
    pub among: Vec<i32>,
    pub not_among: Vec<i32>,
}

impl EnumRule {
    fn check(&self, number: i32) -> Result<(), String> {
        let name = |number: i32| {
            let value = self.desc.as_ref().and_then(|desc| desc.get_value(number));
            value.map(|value| value.name().to_owned())
        };
        let show = |number: &i32| name(*number).unwrap_or_else(|| number.to_string());
        if self.defined_only && name(number).is_none() {
            return Err(format!("must be a defined value, is {number}"));
        }
        if let Some(exactly) = self.exactly.filter(|exactly| *exactly != number) {
            return Err(format!("must be {}, is {}", show(&exactly), show(&number)));
        }
        check_among(&number, &self.among, &self.not_among, show)
    }
}

/// What a string has to be.
#[derive(Debug)]
pub struct StringRule {
    rules: StringRules,
    pattern: Option<Regex>,
    form: Option<Form>,
}

/// A form that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// No NUL, CR or LF.
    HeaderText,
    /// As RFC 9110 says, or a pseudo header.
    HeaderName,
    /// As RFC 9110 says.
    HeaderValue,
    /// `http://host/path`.
    Uri,
    /// `/path`, or a URI.
    UriReference,
    Ip,
    Ipv4,
    Ipv6,
    HostName,
    /// A host name or an IP address.
    Address,
    Email,
    Uuid,
}

impl StringRule {
    pub fn compile(rules: StringRules) -> Self {
        let strict = rules.strict();
        let form = rules.well_known.as_ref().and_then(|known| {
            Some(match known {
                WellKnown::WellKnownRegex(known) => match KnownRegex::try_from(*known).ok()? {
                    KnownRegex::Unknown => return None,
                    _ if !strict => Form::HeaderText,
                    KnownRegex::HttpHeaderName => Form::HeaderName,
                    KnownRegex::HttpHeaderValue => Form::HeaderValue,
                },
                WellKnown::Uri(true) => Form::Uri,
                WellKnown::UriRef(true) => Form::UriReference,
                WellKnown::Ip(true) => Form::Ip,
                WellKnown::Ipv4(true) => Form::Ipv4,
                WellKnown::Ipv6(true) => Form::Ipv6,
                WellKnown::Hostname(true) => Form::HostName,
                WellKnown::Address(true) => Form::Address,
                WellKnown::Email(true) => Form::Email,
                WellKnown::Uuid(true) => Form::Uuid,
                _ => return None,
            })
        });
        Self {
            // That every pattern of the API compiles is tested below.
            pattern: rules.pattern.as_deref().and_then(|p| Regex::new(p).ok()),
            form,
            rules,
        }
    }

    fn check(&self, text: &str) -> Result<(), String> {
        let StringRules {
            r#const,
            len,
            min_len,
            max_len,
            len_bytes,
            min_bytes,
            max_bytes,
            pattern,
            prefix,
            suffix,
            contains,
            not_contains,
            r#in,
            not_in,
            well_known: _, // compiled to `form`
            strict: _,     // likewise
            ignore_empty,
        } = &self.rules;
        if text.is_empty() && ignore_empty.unwrap_or_default() {
            return Ok(());
        }
        if let Some(exactly) = r#const.as_ref().filter(|exactly| *exactly != text) {
            return Err(format!("must be {exactly:?}, is {}", quoted(text)));
        }
        if min_len.or(*max_len).or(*len).is_some() {
            let (min, max) = (len.or(*min_len), len.or(*max_len));
            check_length(text.chars().count(), min, max, "characters")?;
        }
        let (min, max) = (len_bytes.or(*min_bytes), len_bytes.or(*max_bytes));
        check_length(text.len(), min, max, "bytes")?;
        let parts = [
            (
                prefix,
                "start with",
                prefix.as_ref().is_some_and(|p| text.starts_with(p)),
            ),
            (
                suffix,
                "end with",
                suffix.as_ref().is_some_and(|s| text.ends_with(s)),
            ),
            (
                contains,
                "contain",
                contains.as_ref().is_some_and(|c| text.contains(c)),
            ),
            (
                not_contains,
                "not contain",
                not_contains.as_ref().is_some_and(|c| !text.contains(c)),
            ),
        ];
        for (part, must, kept) in parts {
            if let (Some(part), false) = (part, kept) {
                return Err(format!("must {must} {part:?}, is {}", quoted(text)));
            }
        }
        if let (Some(pattern), Some(regex)) = (pattern, &self.pattern)
            && !regex.is_match(text)
        {
            return Err(format!("must match {pattern}, is {}", quoted(text)));
        }
        if let Some(form) = self.form.filter(|form| !form.fits(text)) {
            return Err(format!("must be {}, is {}", form.describe(), quoted(text)));
        }
        if r#in.is_empty() && not_in.is_empty() {
            return Ok(());
        }
        check_among(&text.to_owned(), r#in, not_in, |text| quoted(text))
    }
}

impl Form {
    fn describe(self) -> &'static str {
        match self {
            Self::HeaderText => "without NUL, CR and LF",
            Self::HeaderName => "a header name",
            Self::HeaderValue => "a header value",
            Self::Uri => "a URI with a scheme",
            Self::UriReference => "a URI or a path",
            Self::Ip => "an IP address",
            Self::Ipv4 => "an IPv4 address",
            Self::Ipv6 => "an IPv6 address",
            Self::HostName => "a host name",
            Self::Address => "a host name or an IP address",
            Self::Email => "an e-mail address",
            Self::Uuid => "a UUID",
        }
    }

    fn fits(self, text: &str) -> bool {
        let ip = || text.parse::<IpAddr>().ok();
        let host_name = || {
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            let text = text.strip_suffix('.').unwrap_or(text);
            text.len() <= 253 && text.split('.').all(label)
        };
        match self {
            Self::HeaderText => !text.contains(['\0', '\r', '\n']),
            Self::HeaderName => {
                let name = text.strip_prefix(':').unwrap_or(text);
                !name.is_empty()
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&b))
            }
            Self::HeaderValue => !text.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f),
            Self::Uri => text
                .parse::<http::Uri>()
                .is_ok_and(|uri| uri.scheme().is_some()),
            Self::UriReference => text.parse::<http::Uri>().is_ok(),
            Self::Ip => ip().is_some(),
            Self::Ipv4 => ip().is_some_and(|ip| ip.is_ipv4()),
            Self::Ipv6 => ip().is_some_and(|ip| ip.is_ipv6()),
            Self::HostName => host_name(),
            Self::Address => ip().is_some() || host_name(),
            Self::Email => text
                .split_once('@')
                .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()),
            Self::Uuid => {
                let parts: Vec<_> = text.split('-').collect();
                parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
                    && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
            }
        }
    }
}

fn integer(value: &Value) -> Option<i128> {
    Some(match value {
        Value::I32(value) => i128::from(*value),
        Value::I64(value) => i128::from(*value),
        Value::U32(value) => i128::from(*value),
        Value::U64(value) => i128::from(*value),
        _ => return None,
    })
}

/// A duration of a rule in nanoseconds.
pub fn nanos(duration: prost_types::Duration) -> i128 {
    i128::from(duration.seconds) * NANOS_PER_SECOND + i128::from(duration.nanos)
}

fn duration_nanos(duration: &DynamicMessage) -> i128 {
    let part = |number| {
        let part = duration.get_field_by_number(number);
        part.as_deref().and_then(integer).unwrap_or_default()
    };
    part(1) * NANOS_PER_SECOND + part(2)
}

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Nanoseconds shown as the document writes them: `0.25s`.
struct Seconds(i128);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let whole = self.0.abs() / NANOS_PER_SECOND;
        match self.0.abs() % NANOS_PER_SECOND {
            0 => write!(f, "{sign}{whole}s"),
            nanos => {
                let fraction = format!("{nanos:09}");
                write!(f, "{sign}{whole}.{}s", fraction.trim_end_matches('0'))
            }
        }
    }
}
