//! From the options of the API description to compiled rules.

use std::collections::HashMap;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    Value,
};

use super::{
    Check, FieldRules, ListRule, MapRule, MessageRules,
    value::{Bounds, EnumRule, StringRule, ValueRule},
};
use crate::api::validate::{self, field_rules::Type};

pub(super) fn all(
    pool: &DescriptorPool,
) -> HashMap<String, MessageRules, foldhash::fast::RandomState> {
    let (Some(rules), Some(required), Some(disabled)) = (
        pool.get_extension_by_name("validate.rules"),
        pool.get_extension_by_name("validate.required"),
        pool.get_extension_by_name("validate.disabled"),
    ) else {
        // An API without rules; the test of this room shows that ours has them.
        return HashMap::default();
    };
    let mut all = HashMap::default();
    for message in pool.all_messages() {
        if is_true(&message.options(), &disabled) {
            continue;
        }
        let compiled = compile_message(&message, &rules, &required);
        let says_nothing = compiled.fields.is_empty()
            && compiled.oneofs.is_empty()
            && compiled.deprecated.is_empty()
            && compiled.skipped.is_empty();
        if !says_nothing {
            all.insert(message.full_name().to_owned(), compiled);
        }
    }
    all
}

fn field_rules(
    field: &FieldDescriptor,
    extension: &ExtensionDescriptor,
) -> Option<validate::FieldRules> {
    let options = field.options();
    if !options.has_extension(extension) {
        return None;
    }
    let rules = options.get_extension(extension);
    let bytes = rules.as_message()?.encode_to_vec();
    validate::FieldRules::decode(bytes.as_slice()).ok()
}

/// The rule of a duration that has none: Envoy refuses a negative one wherever it
/// uses one.
fn not_negative(field: &FieldDescriptor) -> Option<validate::FieldRules> {
    let kind = field.kind();
    let is_duration = kind.as_message()?.full_name() == "google.protobuf.Duration";
    let is_ours = field.full_name().starts_with("envoy.");
    (is_duration && is_ours && !field.is_list()).then(|| validate::FieldRules {
        message: None,
        r#type: Some(Type::Duration(validate::DurationRules {
            gte: Some(prost_types::Duration::default()),
            ..Default::default()
        })),
    })
}

fn is_true(options: &DynamicMessage, extension: &ExtensionDescriptor) -> bool {
    matches!(*options.get_extension(extension), Value::Bool(true))
}

fn compile_message(
    message: &MessageDescriptor,
    rules: &ExtensionDescriptor,
    required: &ExtensionDescriptor,
) -> MessageRules {
    let (mut fields, mut skipped) = (Vec::new(), Vec::new());
    for field in message.fields() {
        let rules = field_rules(&field, rules).or_else(|| not_negative(&field));
        let Some(rules) = rules else {
            continue;
        };
        if rules.message.is_some_and(|message| message.skip()) {
            skipped.push(field.number());
        }
        fields.extend(compile_field(field, rules));
    }
    MessageRules {
        fields,
        skipped,
        oneofs: message
            .oneofs()
            .filter(|oneof| is_true(&oneof.options(), required))
            .collect(),
        deprecated: message
            .fields()
            .filter(|field| {
                let options = field.field_descriptor_proto().options.as_ref();
                options.is_some_and(|options| options.deprecated())
            })
            .collect(),
    }
}

fn compile_field(field: FieldDescriptor, rules: validate::FieldRules) -> Option<FieldRules> {
    let mut required = rules.message.is_some_and(|message| message.required());
    let kind = field.kind();
    let check = match rules.r#type {
        None => Check::Nothing,
        Some(Type::Repeated(list)) => {
            let validate::RepeatedRules {
                min_items,
                max_items,
                unique,
                items,
                ignore_empty: _, // an empty list breaks min_items only, which nobody combines
            } = *list;
            Check::List(Box::new(ListRule {
                min: min_items,
                max: max_items,
                unique: unique.unwrap_or_default(),
                items: items.and_then(|items| single(items.r#type?, &kind)),
            }))
        }
        Some(Type::Map(map)) => {
            let validate::MapRules {
                min_pairs,
                max_pairs,
                no_sparse: _, // absent values cannot be expressed
                keys,
                values,
                ignore_empty: _, // as for lists
            } = *map;
            let entry = kind.as_message()?;
            let key_kind = entry.map_entry_key_field().kind();
            let value_kind = entry.map_entry_value_field().kind();
            Check::Map(Box::new(MapRule {
                min: min_pairs,
                max: max_pairs,
                keys: keys.and_then(|keys| single(keys.r#type?, &key_kind)),
                values: values.and_then(|values| single(values.r#type?, &value_kind)),
            }))
        }
        Some(rules) => {
            required |= match &rules {
                Type::Any(any) => any.required(),
                Type::Duration(duration) => duration.required(),
                Type::Timestamp(timestamp) => timestamp.required(),
                _ => false,
            };
            single(rules, &kind).map_or(Check::Nothing, |rule| Check::Single(Box::new(rule)))
        }
    };
    // In a oneof it is about the value of the field that was chosen.
    required &= field
        .containing_oneof()
        .is_none_or(|oneof| oneof.is_synthetic());
    (required || !matches!(check, Check::Nothing)).then_some(FieldRules {
        field,
        required,
        check,
    })
}

macro_rules! bounds {
    ($rules:expr, $convert:expr) => {{
        let rules = $rules;
        let convert = $convert;
        Bounds {
            exactly: rules.r#const.map(convert),
            below: rules.lt.map(convert),
            at_most: rules.lte.map(convert),
            above: rules.gt.map(convert),
            at_least: rules.gte.map(convert),
            among: rules.r#in.into_iter().map(convert).collect(),
            not_among: rules.not_in.into_iter().map(convert).collect(),
            ignore_zero: false,
        }
    }};
}

macro_rules! number {
    ($variant:ident, $wide:ty, $rules:expr) => {{
        let rules = $rules;
        let ignore_zero = rules.ignore_empty.unwrap_or_default();
        let bounds = bounds!(rules, <$wide>::from);
        ValueRule::$variant(Bounds {
            ignore_zero,
            ..bounds
        })
    }};
}

/// The rule of one value, `None` for lists, maps and times, which have none here.
fn single(rules: Type, kind: &Kind) -> Option<ValueRule> {
    Some(match rules {
        Type::Float(rules) => number!(Float, f64, rules),
        Type::Double(rules) => number!(Float, f64, rules),
        Type::Int32(rules) => number!(Integer, i128, rules),
        Type::Int64(rules) => number!(Integer, i128, rules),
        Type::Uint32(rules) => number!(Integer, i128, rules),
        Type::Uint64(rules) => number!(Integer, i128, rules),
        Type::Sint32(rules) => number!(Integer, i128, rules),
        Type::Sint64(rules) => number!(Integer, i128, rules),
        Type::Fixed32(rules) => number!(Integer, i128, rules),
        Type::Fixed64(rules) => number!(Integer, i128, rules),
        Type::Sfixed32(rules) => number!(Integer, i128, rules),
        Type::Sfixed64(rules) => number!(Integer, i128, rules),
        Type::Duration(rules) => ValueRule::Duration(bounds!(rules, super::value::nanos)),
        Type::Bool(rules) => ValueRule::Bool(rules.r#const?),
        Type::String(rules) => ValueRule::String(Box::new(StringRule::compile(rules))),
        Type::Bytes(rules) => ValueRule::Bytes {
            min: rules.min_len,
            max: rules.max_len,
        },
        Type::Enum(rules) => ValueRule::Enum(EnumRule {
            desc: kind.as_enum().cloned(),
            exactly: rules.r#const,
            defined_only: rules.defined_only(),
            among: rules.r#in,
            not_among: rules.not_in,
        }),
        Type::Any(rules) => ValueRule::Any {
            among: rules.r#in,
            not_among: rules.not_in,
        },
        Type::Repeated(_) | Type::Map(_) | Type::Timestamp(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;

    /// What is compiled above is all that the API uses.
    #[test]
    fn every_rule_of_the_api_is_understood() {
        let pool = api::descriptors();
        let extension = pool.get_extension_by_name("validate.rules").unwrap();
        let mut seen = 0;
        for field in pool
            .all_messages()
            .flat_map(|m| m.fields().collect::<Vec<_>>())
        {
            let Some(rules) = field_rules(&field, &extension) else {
                continue;
            };
            seen += 1;
            understood(rules, field.full_name());
        }
        assert!(seen > 300, "{seen}");
        assert!(all(pool).values().any(|rules| !rules.oneofs.is_empty()));
    }

    fn understood(rules: validate::FieldRules, field: &str) {
        match rules.r#type {
            Some(Type::Bytes(rules)) => {
                let known = validate::BytesRules {
                    min_len: rules.min_len,
                    max_len: rules.max_len,
                    ..Default::default()
                };
                assert_eq!(rules, known, "{field}");
            }
            Some(Type::Timestamp(rules)) => {
                let known = validate::TimestampRules {
                    required: rules.required,
                    ..Default::default()
                };
                assert_eq!(rules, known, "{field}");
            }
            Some(Type::String(rules)) => {
                if let Some(pattern) = rules.pattern {
                    regex::Regex::new(&pattern).expect(field);
                }
            }
            Some(Type::Repeated(list)) => {
                if let Some(items) = list.items {
                    understood(*items, field);
                }
            }
            Some(Type::Map(map)) => {
                for rules in [map.keys, map.values].into_iter().flatten() {
                    understood(*rules, field);
                }
            }
            _ => {}
        }
    }
}
