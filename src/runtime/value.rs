//! One runtime value, and the readings it has.

use prost_types::{Struct, Value as PbValue, value::Kind};

use super::fraction::{Denominator, Fraction};

/// A value as it was written, with every reading that makes sense of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// As `/runtime` shows it.
    pub raw: String,
    /// When it is a whole number that is not negative.
    pub integer: Option<u64>,
    /// When it is a number.
    pub double: Option<f64>,
    /// When it is `true` or `false`.
    pub boolean: Option<bool>,
    /// When it has a `numerator` or a `denominator`.
    pub fraction: Option<Fraction>,
}

/// The values of a layer, by key.
pub type Values = std::collections::BTreeMap<String, Value>;

/// Why a layer cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid runtime entry value for {key:?}: {found}; it must be a number, a string, a bool or an object"
)]
pub struct ValueError {
    /// The key, with the keys of the objects around it.
    pub key: String,
    /// What was found.
    pub found: &'static str,
}

impl Value {
    /// Reads a text: a runtime file's content, or a parameter of `/runtime_modify`.
    pub fn from_text(raw: &str) -> Self {
        let text = raw.trim();
        let double = text.parse::<f64>().ok().filter(|n| n.is_finite());
        Self {
            raw: raw.to_owned(),
            integer: double.and_then(whole),
            double,
            boolean: match text.to_ascii_lowercase().as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            fraction: serde_yaml::from_str::<serde_json::Value>(text)
                .ok()
                .as_ref()
                .and_then(serde_json::Value::as_object)
                .and_then(|object| {
                    let field = |name| object.get(name);
                    fraction(
                        object.contains_key("numerator") || object.contains_key("denominator"),
                        field("numerator").map(|n| n.as_f64()),
                        field("denominator").map(|d| d.as_str()),
                    )
                }),
        }
    }

    fn from_number(number: f64) -> Self {
        Self {
            raw: number.to_string(),
            integer: whole(number),
            double: Some(number),
            boolean: None,
            fraction: None,
        }
    }

    fn from_struct(object: &Struct) -> Self {
        let field = |name: &str| {
            object
                .fields
                .get(name)
                .and_then(|value| value.kind.as_ref())
        };
        Self {
            raw: text_of(object),
            integer: None,
            double: None,
            boolean: None,
            fraction: fraction(
                true,
                field("numerator").map(|kind| match kind {
                    Kind::NumberValue(number) => Some(*number),
                    _ => None,
                }),
                field("denominator").map(|kind| match kind {
                    Kind::StringValue(name) => Some(name.as_str()),
                    _ => None,
                }),
            ),
        }
    }
}

fn whole(number: f64) -> Option<u64> {
    // Beyond 2^53 a double no longer tells whole numbers apart.
    (number >= 0.0 && number.fract() == 0.0 && number <= (1u64 << 53) as f64)
        .then_some(number as u64)
}

fn fraction(
    is_fraction: bool,
    numerator: Option<Option<f64>>,
    denominator: Option<Option<&str>>,
) -> Option<Fraction> {
    let numerator = match numerator {
        None => 0,
        Some(number) => u32::try_from(whole(number?)?).ok()?,
    };
    let denominator = match denominator {
        None => Denominator::Hundred,
        Some(name) => Denominator::named(name?)?,
    };
    is_fraction.then_some(Fraction {
        numerator,
        denominator,
    })
}

/// An object in one line.
fn text_of(object: &Struct) -> String {
    let fields: Vec<_> = object
        .fields
        .iter()
        .map(|(name, value)| format!("{name}: {}", text_of_value(value)))
        .collect();
    format!("{{ {} }}", fields.join(", "))
}

fn text_of_value(value: &PbValue) -> String {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => "null".to_owned(),
        Some(Kind::NumberValue(number)) => number.to_string(),
        Some(Kind::StringValue(text)) => text.clone(),
        Some(Kind::BoolValue(bool)) => bool.to_string(),
        Some(Kind::StructValue(object)) => text_of(object),
        Some(Kind::ListValue(list)) => {
            let values: Vec<_> = list.values.iter().map(text_of_value).collect();
            format!("[{}]", values.join(", "))
        }
    }
}

/// Flattens a `static_layer`, or what RTDS gave: the keys of nested objects are joined by dots,
/// but an object with a `numerator` or `denominator` is a value.
///
/// # Errors
/// When a value is null or a list.
pub fn flatten(layer: &Struct) -> Result<Values, ValueError> {
    let mut values = Values::new();
    for (key, value) in &layer.fields {
        walk(key, value, &mut values)?;
    }
    Ok(values)
}

fn walk(key: &str, value: &PbValue, values: &mut Values) -> Result<(), ValueError> {
    let error = |found| ValueError {
        key: key.to_owned(),
        found,
    };
    let value = match &value.kind {
        None | Some(Kind::NullValue(_)) => return Err(error("null")),
        Some(Kind::ListValue(_)) => return Err(error("a list")),
        Some(Kind::NumberValue(number)) => Value::from_number(*number),
        Some(Kind::StringValue(text)) => Value::from_text(text),
        Some(Kind::BoolValue(bool)) => Value::from_text(if *bool { "true" } else { "false" }),
        Some(Kind::StructValue(object)) => {
            let names = ["numerator", "denominator"];
            let is_value = object.fields.is_empty()
                || names.iter().any(|name| object.fields.contains_key(*name));
            if !is_value {
                for (name, value) in &object.fields {
                    walk(&format!("{key}.{name}"), value, values)?;
                }
                return Ok(());
            }
            Value::from_struct(object)
        }
    };
    values.insert(key.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_every_reading_that_fits() {
        let seven = Value::from_text("7");
        assert_eq!((seven.integer, seven.double), (Some(7), Some(7.0)));
        assert_eq!(Value::from_text("-1").integer, None);
        assert_eq!(Value::from_text("1.5").integer, None);
        assert_eq!(Value::from_text("True").boolean, Some(true));
        let fraction = Value::from_text("{numerator: 3, denominator: TEN_THOUSAND}").fraction;
        assert_eq!(
            fraction,
            Some(Fraction {
                numerator: 3,
                denominator: Denominator::TenThousand
            })
        );
        assert_eq!(Value::from_text("numerator: -3").fraction, None);
        assert_eq!(Value::from_text("other: 3").fraction, None);
    }

    #[test]
    fn nested_keys_are_joined_and_fractions_stay_whole() {
        let number = |n| PbValue {
            kind: Some(Kind::NumberValue(n)),
        };
        let object = |fields: Vec<(&str, PbValue)>| Struct {
            fields: fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        };
        let nested = |object| PbValue {
            kind: Some(Kind::StructValue(object)),
        };
        let layer = object(vec![
            ("health", nested(object(vec![("min", number(5.0))]))),
            ("share", nested(object(vec![("numerator", number(30.0))]))),
        ]);
        let values: Vec<_> = flatten(&layer).unwrap().into_iter().collect();
        assert_eq!(values[0].0, "health.min");
        assert_eq!(values[0].1.raw, "5");
        assert_eq!(values[1].0, "share");
        assert_eq!(values[1].1.fraction.map(|f| f.numerator), Some(30));
        let bad = object(vec![("x", PbValue { kind: None })]);
        assert_eq!(flatten(&bad).unwrap_err().found, "null");
    }
}
