//! Checks a message that came as bytes, or that was merged from several, as
//! deeply as [`reader`](super::reader) checks one that is read from a text.

use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use super::{
    place::{At, ConfigError},
    reader::resolve,
    rules,
    strictness::{Strictness, Unknown},
};

/// How many `Any`s may be nested in one another.
pub const MAX_ANY_DEPTH: usize = 32;

/// Reports unknown fields, broken rules and unknown types, from here down and
/// through every `Any`.
pub fn check(message: &DynamicMessage, strictness: &Strictness, at: &At<'_>) {
    Checker {
        strictness,
        anys: MAX_ANY_DEPTH,
    }
    .message(message, at);
}

#[derive(Clone, Copy)]
struct Checker<'c> {
    strictness: &'c Strictness,
    /// How many more `Any`s may be nested.
    anys: usize,
}

impl Checker<'_> {
    fn message(self, message: &DynamicMessage, at: &At<'_>) {
        let desc = message.descriptor();
        match desc.full_name() {
            "google.protobuf.Any" => return self.any(message, at),
            name if name.starts_with("google.protobuf.") => return,
            _ => {}
        }
        for unknown in message.unknown_fields() {
            let text = format!(
                "unknown field number {} in {}",
                unknown.number(),
                desc.full_name()
            );
            match self.strictness.unknown {
                Unknown::Refuse => {
                    at.error(text);
                }
                Unknown::Warn => at.report().warn_unknown(ConfigError {
                    path: at.to_string(),
                    message: text,
                    position: None,
                }),
                Unknown::Ignore => {}
            }
        }
        let rules = rules::of(&desc);
        if let Some(rules) = rules {
            rules.check(message, &[], at);
        }
        for (field, value) in message.fields() {
            let place = at.field(field.name());
            match value {
                Value::Message(_) if rules.is_some_and(|rules| rules.skips(&field)) => {}
                Value::Message(inner) => self.message(inner, &place),
                Value::List(list) => {
                    for (i, item) in list.iter().enumerate() {
                        if let Value::Message(inner) = item {
                            self.message(inner, &place.index(i));
                        }
                    }
                }
                Value::Map(map) => {
                    for (key, item) in map {
                        if let Value::Message(inner) = item {
                            let key = key.as_str().unwrap_or_default();
                            self.message(inner, &place.key(key));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn any(self, any: &DynamicMessage, at: &At<'_>) {
        let (Some(url), Some(value)) = (any.get_field_by_number(1), any.get_field_by_number(2))
        else {
            return;
        };
        let (Some(url), Some(value)) = (url.as_str(), value.as_bytes()) else {
            return;
        };
        if url.is_empty() && value.is_empty() {
            return;
        }
        let Some(anys) = self.anys.checked_sub(1) else {
            at.error(format_args!(
                "more than {MAX_ANY_DEPTH} messages are nested by type URL"
            ));
            return;
        };
        let desc = match resolve(any.descriptor().parent_pool(), url) {
            Ok(desc) => desc,
            Err(message) => {
                at.error(message);
                return;
            }
        };
        let name = desc.full_name().to_owned();
        match DynamicMessage::decode(desc, value.clone()) {
            Ok(inner) => Self { anys, ..self }.message(&inner, at),
            Err(error) => {
                at.error(format_args!("is not a valid {name}: {error}"));
            }
        }
    }
}
