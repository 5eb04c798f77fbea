//! Secrets are not shown: what a private key, password or token is read from
//! is replaced, wherever it stands.

use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};

use crate::{admin::json, api};

/// Fields that hold secrets, by their message: those that the API marks as sensitive.
const SENSITIVE: [(&str, &str); 9] = [
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        "private_key",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        "private_key_provider",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        "password",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        "pkcs12",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.PrivateKeyProvider",
        "typed_config",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys",
        "keys",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.GenericSecret",
        "secret",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.GenericSecret",
        "secrets",
    ),
    (
        "envoy.config.core.v3.GrpcService.GoogleGrpc.SslCredentials",
        "private_key",
    ),
];

const REDACTED: &str = "[redacted]";

/// Replaces every secret in a message and in what it holds as `Any`.
pub fn redact(message: &mut DynamicMessage) {
    walk(message, false);
}

fn is_sensitive(field: &FieldDescriptor) -> bool {
    let message = field.parent_message();
    SENSITIVE.contains(&(message.full_name(), field.name()))
}

fn walk(message: &mut DynamicMessage, secret: bool) {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        return walk_any(message, secret);
    }
    let set: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
    for field in set {
        let secret = secret || is_sensitive(&field);
        // Strings outside of secrets need no look, and messages are most of the rest.
        if secret || matches!(field.kind(), Kind::Message(_)) {
            walk_value(message.get_field_mut(&field), secret);
        }
    }
}

fn walk_value(value: &mut Value, secret: bool) {
    match value {
        Value::Message(message) => walk(message, secret),
        Value::List(values) => values
            .iter_mut()
            .for_each(|value| walk_value(value, secret)),
        Value::Map(values) => values
            .values_mut()
            .for_each(|value| walk_value(value, secret)),
        Value::String(text) if secret => REDACTED.clone_into(text),
        Value::Bytes(bytes) if secret => *bytes = REDACTED.as_bytes().into(),
        _ => {}
    }
}

fn walk_any(any: &mut DynamicMessage, secret: bool) {
    let Ok(mut plain) = any.transcode_to::<prost_types::Any>() else {
        return;
    };
    let name = plain.type_url.strip_prefix(api::TYPE_URL_PREFIX);
    match name.and_then(|name| json::decode(name, &plain.value)) {
        Some(mut message) => {
            walk(&mut message, secret);
            plain.value = message.encode_to_vec();
        }
        // Of an unknown type: not shown where it may hold a secret.
        None if secret => plain.value.clear(),
        None => return,
    }
    if any.transcode_from(&plain).is_err() {
        any.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::json::{Defaults, reflect, write},
        api::envoy::{
            config::core::v3::{
                DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType,
            },
            extensions::transport_sockets::tls::v3 as tls,
        },
    };

    fn source(specifier: Specifier) -> Option<DataSource> {
        Some(DataSource {
            specifier: Some(specifier),
            ..Default::default()
        })
    }

    #[test]
    fn keys_are_hidden_and_certificates_are_not() {
        let context = tls::DownstreamTlsContext {
            common_tls_context: Some(tls::CommonTlsContext {
                tls_certificates: vec![tls::TlsCertificate {
                    certificate_chain: source(Specifier::Filename("c.pem".to_owned())),
                    private_key: source(Specifier::InlineBytes(b"key".to_vec())),
                    password: source(Specifier::Filename("p".to_owned())),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let socket = TransportSocket {
            name: "tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(prost_types::Any {
                type_url: format!(
                    "{}envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    api::TYPE_URL_PREFIX
                ),
                value: context.encode_to_vec(),
            })),
        };
        let mut message = reflect(&socket);
        redact(&mut message);
        let mut text = String::new();
        write(&mut text, &message, 0, Defaults::Skip);
        assert!(text.contains("\"c.pem\""));
        assert!(
            text.contains("\"inline_bytes\": \"W3JlZGFjdGVkXQ==\""),
            "{text}"
        );
        assert!(text.contains("\"filename\": \"[redacted]\""));
    }
}
