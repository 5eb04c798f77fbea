//! Scalars of the proto3 JSON mapping.

use std::borrow::Cow;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{Kind, MapKey, Value as Proto};

use super::tree::Value;

/// Why a value is not what the field wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not of the right type.
    Type(&'static str),
    /// A number that the type cannot hold.
    Range(&'static str),
}

impl Refused {
    /// What is wrong, for a person.
    pub fn explain(self, found: &Value<'_>) -> String {
        let (Self::Type(expected) | Self::Range(expected)) = self;
        let mut message = format!("expected {expected}, found {}", found.describe());
        match (self, found) {
            (Self::Type(STRING), Value::Bool(_)) => {
                message += "; put it in quotes (true, false, yes, no, on, off, y and n are \
                            booleans without)";
            }
            (Self::Type(STRING), Value::Number(_)) => message += "; put it in quotes",
            (Self::Range(_), _) => message += ", which is out of range",
            _ => {}
        }
        message
    }
}

const STRING: &str = "a string";
const BOOL: &str = "true or false";
const BYTES: &str = "a string of base64";

/// Reads a value of any kind but message and enum.
///
/// # Errors
/// When the value is of another type or out of range.
pub fn read(value: &Value<'_>, kind: &Kind) -> Result<Proto, Refused> {
    // An element that is left empty.
    if let Value::Null = value {
        return Ok(kind.default_value());
    }
    match kind {
        Kind::String => match value {
            Value::Text(text) => Ok(Proto::String(text.clone().into_owned())),
            _ => Err(Refused::Type(STRING)),
        },
        Kind::Bool => match value {
            Value::Bool(value) => Ok(Proto::Bool(*value)),
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "1" => Ok(Proto::Bool(true)),
                "false" | "f" | "no" | "n" | "0" => Ok(Proto::Bool(false)),
                _ => Err(Refused::Type(BOOL)),
            },
            _ => Err(Refused::Type(BOOL)),
        },
        Kind::Bytes => match value {
            Value::Text(text) => bytes(text).map(|bytes| Proto::Bytes(bytes.into())),
            _ => Err(Refused::Type(BYTES)),
        },
        Kind::Double => Ok(Proto::F64(float(value)?)),
        Kind::Float => {
            let wide = float(value)?;
            match wide.is_finite() && wide.abs() > f64::from(f32::MAX) {
                true => Err(Refused::Range("a 32-bit number")),
                #[allow(clippy::cast_possible_truncation)] // rounding is what is asked for
                false => Ok(Proto::F32(wide as f32)),
            }
        }
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            integer(value, "an integer from -2147483648 to 2147483647").map(Proto::I32)
        }
        Kind::Uint32 | Kind::Fixed32 => {
            integer(value, "an integer from 0 to 4294967295").map(Proto::U32)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            integer(value, "a signed 64-bit integer").map(Proto::I64)
        }
        Kind::Uint64 | Kind::Fixed64 => {
            integer(value, "an unsigned 64-bit integer").map(Proto::U64)
        }
        Kind::Message(_) | Kind::Enum(_) => Err(Refused::Type("a scalar")),
    }
}

/// Reads the key of a map field, which JSON always writes as a string.
///
/// # Errors
/// As for [`read`].
pub fn map_key(key: &str, kind: &Kind) -> Result<MapKey, Refused> {
    if let Kind::String = kind {
        return Ok(MapKey::String(key.to_owned()));
    }
    read(&Value::Text(Cow::Borrowed(key)), kind)?
        .into_map_key()
        .ok_or(Refused::Type("a key"))
}

/// Reads the number of an enum, where it is not given by name.
///
/// # Errors
/// As for [`read`].
pub fn enum_number(value: &Value<'_>) -> Result<i32, Refused> {
    integer(value, "a name or its number")
}

fn integer<T: TryFrom<i128>>(value: &Value<'_>, expected: &'static str) -> Result<T, Refused> {
    let (Value::Number(literal) | Value::Text(literal)) = value else {
        return Err(Refused::Type(expected));
    };
    let exact = match literal.parse::<i128>() {
        Ok(exact) if !literal.starts_with('+') => exact,
        // `1e3` and `10.0` are integers too.
        _ => match literal.parse::<f64>() {
            Ok(float) if float.fract() == 0.0 && float.abs() < 1e19 && !literal.is_empty() => {
                #[allow(clippy::cast_possible_truncation)] // whole and in range
                let exact = float as i128;
                exact
            }
            _ => return Err(Refused::Type(expected)),
        },
    };
    T::try_from(exact).map_err(|_| Refused::Range(expected))
}

fn float(value: &Value<'_>) -> Result<f64, Refused> {
    let literal = match value {
        Value::Number(literal) | Value::Text(literal) => literal.as_ref(),
        _ => return Err(Refused::Type("a number")),
    };
    match literal {
        "NaN" => return Ok(f64::NAN),
        "Infinity" => return Ok(f64::INFINITY),
        "-Infinity" => return Ok(f64::NEG_INFINITY),
        _ => {}
    }
    // Rust also reads `inf` and `nan`, which the mapping does not know.
    match literal.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok(float),
        Ok(_) if literal.bytes().any(|b| b.is_ascii_digit()) => Err(Refused::Range("a number")),
        _ => Err(Refused::Type("a number")),
    }
}

/// Base64 in either alphabet, with or without padding.
fn bytes(text: &str) -> Result<Vec<u8>, Refused> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let engine = match text.contains(['-', '_']) {
        true => URL_SAFE,
        false => STANDARD,
    };
    engine.decode(text).map_err(|_| Refused::Type(BYTES))
}
