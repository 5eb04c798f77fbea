//! Constraint rules: what the API description says of its fields beyond their
//! types, as options of the same meaning as protoc-gen-validate's.
//!
//! The options are read once for the whole API and compiled; checking a message
//! looks up its rules by name and finds every violation, not only the first.

mod compile;
mod value;

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{DynamicMessage, FieldDescriptor, OneofDescriptor, ReflectMessage, Value};

use self::value::ValueRule;
use super::place::{At, ConfigError};
use crate::api;

/// The rules of every message of the API that has any, by full name.
///
/// Immutable, compiled at the first call.
fn compiled() -> &'static HashMap<String, MessageRules, foldhash::fast::RandomState> {
    static RULES: LazyLock<HashMap<String, MessageRules, foldhash::fast::RandomState>> =
        LazyLock::new(|| compile::all(api::descriptors()));
    &RULES
}

/// What is said of one message.
#[derive(Debug, Default)]
struct MessageRules {
    fields: Vec<FieldRules>,
    /// Oneofs of which one field has to be set.
    oneofs: Vec<OneofDescriptor>,
    /// Fields that are going to leave the API.
    deprecated: Vec<FieldDescriptor>,
}

/// What is said of one field.
#[derive(Debug)]
struct FieldRules {
    field: FieldDescriptor,
    /// Has to be set.
    required: bool,
    check: Check,
}

/// What is said of a field's value, by the shape of the field.
#[derive(Debug)]
enum Check {
    Nothing,
    Single(ValueRule),
    List {
        min: Option<u64>,
        max: Option<u64>,
        unique: bool,
        items: Option<ValueRule>,
    },
    Map {
        min: Option<u64>,
        max: Option<u64>,
        keys: Option<ValueRule>,
        values: Option<ValueRule>,
    },
}

/// Checks the rules of one message, but not of the messages in it; the fields
/// numbered in `except` are left out.
///
/// Every violation goes to the report of `at` without a position, and deprecated
/// fields that are set as warnings.
pub fn check(message: &DynamicMessage, except: &[u32], at: &At<'_>) {
    let desc = message.descriptor();
    let Some(rules) = compiled().get(desc.full_name()) else {
        return;
    };
    for rule in &rules.fields {
        if !except.contains(&rule.field.number()) {
            rule.check(message, at);
        }
    }
    for oneof in &rules.oneofs {
        let set =
            |field: FieldDescriptor| message.has_field(&field) || except.contains(&field.number());
        if !oneof.fields().any(set) {
            let names: Vec<_> = oneof.fields().map(|f| f.name().to_owned()).collect();
            at.error(match names.as_slice() {
                [only] => format!("{only} is required"),
                _ => format!("one of {} is required", names.join(", ")),
            });
        }
    }
    for field in &rules.deprecated {
        if message.has_field(field) {
            at.report().warn(ConfigError {
                path: at.field(field.name()).to_string(),
                message: format!("deprecated field {}", field.full_name()),
                position: None,
            });
        }
    }
}

/// Whether the rules say that the message in this field is not to be checked.
pub(super) fn skips(field: &FieldDescriptor) -> bool {
    compile::of_field(field)
        .and_then(|rules| rules.message)
        .is_some_and(|message| message.skip())
}

impl FieldRules {
    fn check(&self, message: &DynamicMessage, at: &At<'_>) {
        let is_set = message.has_field(&self.field);
        if !is_set && self.field.supports_presence() {
            if self.required {
                at.field(self.field.name()).error("is required");
            }
            return;
        }
        let value = message.get_field(&self.field);
        let at = at.field(self.field.name());
        match (&self.check, value.as_ref()) {
            (Check::Nothing, _) => {}
            (Check::Single(rule), value) => {
                if let Err(violation) = rule.check(value) {
                    at.error(violation);
                }
            }
            (
                Check::List {
                    min,
                    max,
                    unique,
                    items,
                },
                Value::List(list),
            ) => {
                check_count(list.len(), *min, *max, &at);
                for (i, value) in list.iter().enumerate() {
                    if *unique && list[..i].contains(value) {
                        at.index(i).error("is in the list twice");
                    }
                    if let Some(Err(violation)) = items.as_ref().map(|rule| rule.check(value)) {
                        at.index(i).error(violation);
                    }
                }
            }
            (
                Check::Map {
                    min,
                    max,
                    keys,
                    values,
                },
                Value::Map(map),
            ) => {
                check_count(map.len(), *min, *max, &at);
                for (key, value) in map {
                    let name = key.as_str().unwrap_or_default();
                    let key = Value::from(key.clone());
                    if let Some(Err(violation)) = keys.as_ref().map(|rule| rule.check(&key)) {
                        at.key(name).error(format_args!("the key: {violation}"));
                    }
                    if let Some(Err(violation)) = values.as_ref().map(|rule| rule.check(value)) {
                        at.key(name).error(violation);
                    }
                }
            }
            // The compiler gives lists and maps only to fields of that shape.
            (Check::List { .. } | Check::Map { .. }, _) => {}
        }
    }
}

fn check_count(count: usize, min: Option<u64>, max: Option<u64>, at: &At<'_>) {
    let count = count as u64;
    if let Some(min) = min.filter(|min| count < *min) {
        at.error(match count {
            0 if min == 1 => "must not be empty".to_owned(),
            _ => format!("must have at least {min} elements, has {count}"),
        });
    }
    if let Some(max) = max.filter(|max| count > *max) {
        at.error(format_args!(
            "must have at most {max} elements, has {count}"
        ));
    }
}
