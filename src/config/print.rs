//! Messages as JSON for people: proto field names, enums by name, `Any`s opened,
//! secrets hidden; the form of Envoy's `/config_dump`.

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::{
    document::descriptor,
    reader::{TYPE, resolve},
    well_known,
};

/// Fields whose value is shown to nobody.
const SENSITIVE: [&str; 11] = [
    "envoy.extensions.transport_sockets.tls.v3.TlsCertificate.private_key",
    "envoy.extensions.transport_sockets.tls.v3.TlsCertificate.pkcs12",
    "envoy.extensions.transport_sockets.tls.v3.TlsCertificate.password",
    "envoy.extensions.transport_sockets.tls.v3.PrivateKeyProvider.typed_config",
    "envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys.keys",
    "envoy.extensions.transport_sockets.tls.v3.GenericSecret.secret",
    "envoy.extensions.transport_sockets.tls.v3.GenericSecret.secrets",
    "envoy.config.core.v3.GrpcService.GoogleGrpc.SslCredentials.private_key",
    "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.access_token",
    "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.google_refresh_token",
    "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.ServiceAccountJWTAccessCredentials.json_key",
];

/// What stands in place of a sensitive string.
const REDACTED: &str = "[redacted]";

/// A generated message as a dynamic one, to be printed.
pub fn to_dynamic<M: Message + Name>(message: &M) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic
        .transcode_from(message)
        .expect("generated types and descriptors come from the same files");
    dynamic
}

/// A message as indented JSON, as Envoy's admin indents it.
pub fn to_json(message: &DynamicMessage) -> String {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, format);
    Printed::new(message)
        .serialize(&mut serializer)
        .expect("a buffer takes every write and every key is a string");
    String::from_utf8(text).expect("JSON is written as UTF-8")
}

/// A message that serializes as JSON for people.
#[derive(Clone, Copy, Debug)]
pub struct Printed<'m> {
    message: &'m DynamicMessage,
    hidden: bool,
    typed: Option<&'m str>,
}

impl<'m> Printed<'m> {
    /// Prints all but what is sensitive.
    pub fn new(message: &'m DynamicMessage) -> Self {
        Self {
            message,
            hidden: false,
            typed: None,
        }
    }

    fn any<S: Serializer>(self, serializer: S) -> Result<S::Ok, S::Error> {
        let (url, bytes) = (
            self.message.get_field_by_number(1),
            self.message.get_field_by_number(2),
        );
        let url = url.as_deref().and_then(Value::as_str).unwrap_or_default();
        let bytes = bytes.as_deref().and_then(Value::as_bytes);
        let bytes = bytes.cloned().unwrap_or_default();
        if url.is_empty() && bytes.is_empty() {
            return serializer.collect_map::<&str, &str, _>([]);
        }
        let inner = resolve(self.message.descriptor().parent_pool(), url)
            .ok()
            .and_then(|desc| DynamicMessage::decode(desc, bytes.clone()).ok());
        let Some(inner) = inner else {
            // A type that is not known here, or bytes that are not of the type.
            let value = Printable {
                value: &Value::Bytes(bytes),
                kind: &Kind::Bytes,
                hidden: self.hidden,
            };
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry(TYPE, url)?;
            map.serialize_entry("value", &value)?;
            return map.end();
        };
        let inner = Printed {
            message: &inner,
            hidden: self.hidden,
            typed: Some(url),
        };
        if !well_known::is_not_a_map(inner.message.descriptor().full_name()) {
            return inner.fields(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(TYPE, url)?;
        let value = Printed {
            typed: None,
            ..inner
        };
        map.serialize_entry("value", &value)?;
        map.end()
    }

    fn fields<S: Serializer>(self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(url) = self.typed {
            map.serialize_entry(TYPE, url)?;
        }
        for (field, value) in self.message.fields() {
            let hidden = self.hidden || SENSITIVE.contains(&field.full_name());
            if hidden && !can_be_hidden(&field) {
                continue;
            }
            let value = Field {
                field: &field,
                value,
                hidden,
            };
            map.serialize_entry(field.name(), &value)?;
        }
        map.end()
    }

    /// The only field of a message that JSON writes as the field's value.
    fn only<S: Serializer>(self, number: u32, serializer: S) -> Result<S::Ok, S::Error> {
        let desc = self.message.descriptor();
        match (
            desc.get_field(number),
            self.message.get_field_by_number(number),
        ) {
            (Some(field), Some(value)) => Field {
                field: &field,
                value: &value,
                hidden: self.hidden,
            }
            .serialize(serializer),
            _ => serializer.serialize_none(),
        }
    }
}

/// Whether there is a value that says it is hidden; others are left out.
fn can_be_hidden(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::String | Kind::Bytes => true,
        Kind::Message(desc) => {
            let name = desc.full_name();
            !name.starts_with("google.protobuf.")
                || matches!(
                    name,
                    "google.protobuf.Any"
                        | "google.protobuf.Struct"
                        | "google.protobuf.StringValue"
                        | "google.protobuf.BytesValue"
                )
        }
        _ => false,
    }
}

impl Serialize for Printed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let desc = self.message.descriptor();
        let Some(name) = desc.full_name().strip_prefix("google.protobuf.") else {
            return self.fields(serializer);
        };
        match name {
            "Any" => self.any(serializer),
            "Value" => match self.message.fields().next() {
                Some((field, _)) => self.only(field.number(), serializer),
                None => serializer.serialize_none(),
            },
            "Struct" | "ListValue" => self.only(1, serializer),
            name if name.ends_with("Value") => self.only(1, serializer),
            // Times and field masks have forms of their own.
            _ => self.message.serialize(serializer),
        }
    }
}

/// A field's value of whatever shape.
struct Field<'v> {
    field: &'v FieldDescriptor,
    value: &'v Value,
    hidden: bool,
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, hidden) = (self.field.kind(), self.hidden);
        match self.value {
            Value::List(list) => {
                let mut seq = serializer.serialize_seq(Some(list.len()))?;
                for value in list {
                    let kind = &kind;
                    seq.serialize_element(&Printable {
                        value,
                        kind,
                        hidden,
                    })?;
                }
                seq.end()
            }
            Value::Map(entries) => {
                let entry = kind.as_message().map(|m| m.map_entry_value_field().kind());
                let kind = entry.unwrap_or(kind);
                let mut entries: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| (key_text(key), value))
                    .collect();
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    let kind = &kind;
                    let value = Printable {
                        value,
                        kind,
                        hidden,
                    };
                    map.serialize_entry(&key, &value)?;
                }
                map.end()
            }
            value => Printable {
                value,
                kind: &kind,
                hidden,
            }
            .serialize(serializer),
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// A single value.
struct Printable<'v> {
    value: &'v Value,
    kind: &'v Kind,
    hidden: bool,
}

impl Serialize for Printable<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        match self.value {
            Value::String(_) if self.hidden => serializer.serialize_str(REDACTED),
            Value::Bytes(_) if self.hidden => serializer.serialize_str(&STANDARD.encode(REDACTED)),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            // JSON's numbers are doubles to many readers.
            Value::I64(value) => serializer.collect_str(value),
            Value::U64(value) => serializer.collect_str(value),
            Value::F32(value) => number(f64::from(*value), Some(*value), serializer),
            Value::F64(value) => number(*value, None, serializer),
            Value::String(value) => serializer.serialize_str(value),
            Value::Bytes(value) => serializer.serialize_str(&STANDARD.encode(value)),
            Value::EnumNumber(number) => {
                let name = self.kind.as_enum().and_then(|desc| desc.get_value(*number));
                match name {
                    Some(null) if null.full_name() == "google.protobuf.NULL_VALUE" => {
                        serializer.serialize_none()
                    }
                    Some(name) => serializer.serialize_str(name.name()),
                    None => serializer.serialize_i32(*number),
                }
            }
            Value::Message(message) => Printed {
                message,
                hidden: self.hidden,
                typed: None,
            }
            .serialize(serializer),
            // Lists hold no lists and maps no maps.
            Value::List(_) | Value::Map(_) => serializer.serialize_none(),
        }
    }
}

/// A float without a point where it is whole, as protobuf prints it.
fn number<S: Serializer>(
    value: f64,
    narrow: Option<f32>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    /// Up to here every whole double is an integer with the same digits.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.is_nan() {
        return serializer.serialize_str("NaN");
    }
    if value.is_infinite() {
        return serializer.serialize_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[allow(clippy::cast_possible_truncation)] // whole and in range
        return serializer.serialize_i64(value as i64);
    }
    match narrow {
        Some(narrow) => serializer.serialize_f32(narrow),
        None => serializer.serialize_f64(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::{DataSource, data_source::Specifier},
        },
        extensions::transport_sockets::tls::v3::TlsCertificate,
    };

    fn compact(message: &DynamicMessage) -> String {
        serde_json::to_string(&Printed::new(message)).unwrap()
    }

    #[test]
    fn a_message_reads_like_a_configuration() {
        let mut cluster = Cluster {
            name: "a".into(),
            connect_timeout: Some(prost_types::Duration {
                seconds: 0,
                nanos: 250_000_000,
            }),
            per_connection_buffer_limit_bytes: Some(5),
            lb_policy: 1,
            ..Default::default()
        };
        let unknown = prost_types::Any {
            type_url: "type.googleapis.com/made.Up".into(),
            value: vec![1, 2],
        };
        cluster
            .typed_extension_protocol_options
            .insert("x".into(), unknown);
        assert_eq!(
            compact(&to_dynamic(&cluster)),
            "{\"name\":\"a\",\"connect_timeout\":\"0.250s\",\
             \"per_connection_buffer_limit_bytes\":5,\"lb_policy\":\"LEAST_REQUEST\",\
             \"typed_extension_protocol_options\":{\"x\":{\"@type\":\
             \"type.googleapis.com/made.Up\",\"value\":\"AQI=\"}}}"
        );
    }

    #[test]
    fn private_keys_are_hidden() {
        let inline = |text: &str| DataSource {
            specifier: Some(Specifier::InlineString(text.into())),
            ..Default::default()
        };
        let certificate = TlsCertificate {
            certificate_chain: Some(inline("public")),
            private_key: Some(inline("secret")),
            password: Some(DataSource {
                specifier: Some(Specifier::InlineBytes(b"secret".to_vec())),
                ..Default::default()
            }),
            ..Default::default()
        };
        let any = prost_types::Any {
            type_url: format!("type.googleapis.com{}", TlsCertificate::type_url()),
            value: certificate.encode_to_vec(),
        };
        assert_eq!(
            compact(&to_dynamic(&any)),
            "{\"@type\":\"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.TlsCertificate\",\
             \"certificate_chain\":{\"inline_string\":\"public\"},\
             \"private_key\":{\"inline_string\":\"[redacted]\"},\
             \"password\":{\"inline_bytes\":\"W3JlZGFjdGVkXQ==\"}}"
        );
    }

    #[test]
    fn every_sensitive_field_exists() {
        let pool = crate::api::descriptors();
        for name in SENSITIVE {
            let (message, field) = name.rsplit_once('.').unwrap();
            let message = pool.get_message_by_name(message).expect(name);
            assert!(message.get_field_by_name(field).is_some(), "{name}");
        }
    }
}
