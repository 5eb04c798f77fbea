//! Messages of `google.protobuf` that JSON writes in a form of their own.

use prost_reflect::{DynamicMessage, MessageDescriptor};
use prost_types::{Duration, FieldMask, ListValue, Struct, Timestamp, value::Kind};

use super::tree::{Mark, Node, Value};

/// Whether an `Any` holds this message under `value`, not beside `@type`.
pub fn is_not_a_map(full_name: &str) -> bool {
    full_name
        .strip_prefix("google.protobuf.")
        .is_some_and(|name| name.ends_with("Value") || matches!(name, "Any" | "Struct"))
        || matches!(
            full_name,
            "google.protobuf.Duration" | "google.protobuf.Timestamp" | "google.protobuf.FieldMask"
        )
}

/// Reads one of them; `None` when the name is of an ordinary message.
pub fn read(
    name: &str,
    node: &Node<'_>,
    desc: &MessageDescriptor,
) -> Option<Result<DynamicMessage, (Mark, String)>> {
    let wrong = |expected: &str| {
        let found = node.value.describe();
        Err((node.mark, format!("expected {expected}, found {found}")))
    };
    Some(match name {
        "Duration" => match node.text().and_then(duration) {
            Some(duration) => Ok(make(desc, &duration)),
            None => wrong(&expected_duration(&node.value)),
        },
        "Timestamp" => match node.text().and_then(|text| text.parse::<Timestamp>().ok()) {
            Some(timestamp) => Ok(make(desc, &timestamp)),
            None => wrong("a time such as \"2030-01-31T12:00:00Z\""),
        },
        "FieldMask" => match node.text().and_then(field_mask) {
            Some(mask) => Ok(make(desc, &mask)),
            None => wrong("field names separated by commas"),
        },
        "Struct" => match &node.value {
            Value::Map(_) | Value::Null => Ok(make(desc, &structure(node))),
            _ => wrong("a map"),
        },
        "ListValue" => match &node.value {
            Value::List(items) => Ok(make(desc, &list(items))),
            _ => wrong("a list"),
        },
        "Value" => Ok(make(desc, &value(node))),
        _ => return None,
    })
}

fn make<M: prost::Message>(desc: &MessageDescriptor, message: &M) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(desc.clone());
    dynamic
        .transcode_from(message)
        .expect("the descriptor is of the same message");
    dynamic
}

/// Seconds with up to nine digits after the point and an `s` at the end.
pub(super) fn duration(text: &str) -> Option<Duration> {
    /// 10,000 years, the limit of `google.protobuf.Duration`.
    const MOST: i64 = 315_576_000_000;
    let text = text.strip_suffix('s')?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds = whole.parse::<i64>().ok().filter(|s| *s <= MOST)?;
    let nanos = format!("{fraction:0<9}").parse::<i32>().ok()?;
    Some(match negative {
        true => Duration {
            seconds: -seconds,
            nanos: -nanos,
        },
        false => Duration { seconds, nanos },
    })
}

/// What to write for a duration, in place of what was written where that is clear.
fn expected_duration(found: &Value<'_>) -> String {
    /// Units that people write, in nanoseconds.
    const UNITS: [(&str, f64); 9] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("ms", 1e6),
        ("min", 60e9),
        ("m", 60e9),
        ("h", 3600e9),
        ("d", 86400e9),
        ("", 1e9),
    ];
    let meant = match found {
        Value::Text(text) | Value::Number(text) => UNITS.iter().find_map(|(unit, nanos)| {
            let number = text.trim().strip_suffix(unit)?.trim().parse::<f64>().ok()?;
            let seconds = (number * nanos).round() / 1e9;
            duration(&format!("{seconds}s")).map(|_| seconds)
        }),
        _ => None,
    };
    match meant {
        Some(seconds) => format!("a duration in seconds, such as \"{seconds}s\""),
        None => "a duration in seconds, such as \"5s\" or \"0.25s\"".to_owned(),
    }
}

fn field_mask(text: &str) -> Option<FieldMask> {
    let path = |path: &str| {
        let mut snake = String::with_capacity(path.len());
        for c in path.chars() {
            match c {
                'A'..='Z' => snake.extend(['_', c.to_ascii_lowercase()]),
                'a'..='z' | '0'..='9' | '.' => snake.push(c),
                _ => return None,
            }
        }
        Some(snake)
    };
    let paths = text.split(',').filter(|p| !p.is_empty()).map(path);
    Some(FieldMask {
        paths: paths.collect::<Option<_>>()?,
    })
}

fn structure(node: &Node<'_>) -> Struct {
    let entries = match &node.value {
        Value::Map(entries) => entries.as_slice(),
        _ => &[],
    };
    Struct {
        fields: entries
            .iter()
            .map(|entry| (entry.key.clone().into_owned(), value(&entry.value)))
            .collect(),
    }
}

fn list(items: &[Node<'_>]) -> ListValue {
    ListValue {
        values: items.iter().map(value).collect(),
    }
}

fn value(node: &Node<'_>) -> prost_types::Value {
    let kind = match &node.value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        // A literal that the grammar of JSON allows always parses; one beyond
        // the range of a double becomes infinite, as in Envoy.
        Value::Number(literal) => Kind::NumberValue(literal.parse().unwrap_or(f64::NAN)),
        Value::Text(text) => Kind::StringValue(text.clone().into_owned()),
        Value::List(items) => Kind::ListValue(list(items)),
        Value::Map(_) => Kind::StructValue(structure(node)),
        // Whoever calls this has read all of it.
        Value::Unread(_) => Kind::NullValue(0),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_in_another_unit_is_converted() {
        let expected = |text: &str| expected_duration(&Value::Text(text.into()));
        assert_eq!(expected("100ms"), "a duration in seconds, such as \"0.1s\"");
        assert_eq!(expected("5m"), "a duration in seconds, such as \"300s\"");
        assert_eq!(expected("5"), "a duration in seconds, such as \"5s\"");
        assert_eq!(
            expected("soon"),
            "a duration in seconds, such as \"5s\" or \"0.25s\""
        );
    }

    #[test]
    fn durations() {
        let read = |text| duration(text).map(|d| (d.seconds, d.nanos));
        assert_eq!(read("5s"), Some((5, 0)));
        assert_eq!(read("0.25s"), Some((0, 250_000_000)));
        assert_eq!(read("-1.000000001s"), Some((-1, -1)));
        for wrong in [
            "5",
            "5m",
            "s",
            ".5s",
            "5.s",
            "1.0000000001s",
            "--5s",
            "+5s",
            "315576000001s",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
