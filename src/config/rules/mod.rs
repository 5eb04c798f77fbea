//! Constraint rules: what the API description says of its fields beyond their
//! types, as options of the same meaning as protoc-gen-validate's.
//!
//! The options are read once for the whole API and compiled; checking a message
//! looks up its rules by name and finds every violation, not only the first.

mod compile;
mod value;

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{
    DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, OneofDescriptor, Value,
};

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

/// The rules of one message, if it has any.
pub fn of(desc: &MessageDescriptor) -> Option<&'static MessageRules> {
    compiled().get(desc.full_name())
}

/// What is said of one message.
#[derive(Debug, Default)]
pub struct MessageRules {
    fields: Vec<FieldRules>,
    /// Fields, by number, whose messages are not to be checked.
    skipped: Vec<u32>,
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
    Single(Box<ValueRule>),
    List(Box<ListRule>),
    Map(Box<MapRule>),
}

/// What is said of a list and of each element.
#[derive(Debug)]
struct ListRule {
    min: Option<u64>,
    max: Option<u64>,
    unique: bool,
    items: Option<ValueRule>,
}

/// What is said of a map and of each key and value.
#[derive(Debug)]
struct MapRule {
    min: Option<u64>,
    max: Option<u64>,
    keys: Option<ValueRule>,
    values: Option<ValueRule>,
}

impl MessageRules {
    /// Whether the message in this field is not to be checked.
    pub fn skips(&self, field: &FieldDescriptor) -> bool {
        self.skipped.contains(&field.number())
    }

    /// Whether anything is said of this field, for which its value is needed.
    pub fn concern(&self, field: &FieldDescriptor) -> bool {
        let number = field.number();
        self.fields.iter().any(|rule| rule.field.number() == number)
            || self.deprecated.iter().any(|f| f.number() == number)
    }

    /// Checks one message, but not the messages in it; the fields numbered in
    /// `except` are left out.
    ///
    /// Every violation goes to the report of `at` without a position, and
    /// deprecated fields that are set as warnings.
    pub fn check(&self, message: &DynamicMessage, except: &[u32], at: &At<'_>) {
        for rule in &self.fields {
            if !except.contains(&rule.field.number()) {
                rule.check(message, at);
            }
        }
        for oneof in &self.oneofs {
            let set = |field: FieldDescriptor| {
                message.has_field(&field) || except.contains(&field.number())
            };
            if !oneof.fields().any(set) {
                let names: Vec<_> = oneof.fields().map(|f| f.name().to_owned()).collect();
                at.error(match names.as_slice() {
                    [only] => format!("{only} is required"),
                    _ => format!("one of {} is required", names.join(", ")),
                });
            }
        }
        for field in &self.deprecated {
            if message.has_field(field) {
                at.report().warn(ConfigError {
                    path: at.field(field.name()).to_string(),
                    message: format!("deprecated field {}", field.full_name()),
                    position: None,
                });
            }
        }
    }
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
            (Check::List(rule), Value::List(list)) => rule.check(list, &at),
            (Check::Map(rule), Value::Map(map)) => rule.check(map, &at),
            // The compiler gives lists and maps only to fields of that shape.
            (Check::List(_) | Check::Map(_), _) => {}
        }
    }
}

impl ListRule {
    fn check(&self, list: &[Value], at: &At<'_>) {
        check_count(list.len(), self.min, self.max, at);
        for (i, value) in list.iter().enumerate() {
            if self.unique && list[..i].contains(value) {
                at.index(i).error("is in the list twice");
            }
            if let Some(Err(violation)) = self.items.as_ref().map(|rule| rule.check(value)) {
                at.index(i).error(violation);
            }
        }
    }
}

impl MapRule {
    fn check(&self, map: &HashMap<MapKey, Value>, at: &At<'_>) {
        check_count(map.len(), self.min, self.max, at);
        for (key, value) in map {
            let name = key.as_str().unwrap_or_default();
            let key = Value::from(key.clone());
            if let Some(Err(violation)) = self.keys.as_ref().map(|rule| rule.check(&key)) {
                at.key(name).error(format_args!("the key {violation}"));
            }
            if let Some(Err(violation)) = self.values.as_ref().map(|rule| rule.check(value)) {
                at.key(name).error(violation);
            }
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
