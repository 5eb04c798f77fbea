//! Secrets are not shown: what a private key, password or token is read from
//! is replaced, wherever it stands.

use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};

use crate::{admin::json, config::type_name};

/// Fields that hold secrets: those that the API marks as sensitive.
const SENSITIVE: [&str; 12] = [
    "envoy.extensions.transport_sockets.tls.v3.TlsCertificate.private_key",
    "envoy.extensions.transport_sockets.tls.v3.TlsCertificate.private_key_provider",
    "envoy.extensions.transport_sockets.tls.v3.TlsCertificate.password",
    "envoy.extensions.transport_sockets.tls.v3.TlsCertificate.pkcs12",
    "envoy.extensions.transport_sockets.tls.v3.PrivateKeyProvider.typed_config",
    "envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys.keys",
    "envoy.extensions.transport_sockets.tls.v3.GenericSecret.secret",
    "envoy.extensions.transport_sockets.tls.v3.GenericSecret.secrets",
    "envoy.config.core.v3.GrpcService.GoogleGrpc.SslCredentials.private_key",
    "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.access_token",
    "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.google_refresh_token",
    "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.ServiceAccountJWTAccessCredentials.json_key",
];

const REDACTED: &str = "[redacted]";

/// Replaces every secret in a message and in what it holds as `Any`.
pub fn redact(message: &mut DynamicMessage) {
    walk(message, false);
}

fn walk(message: &mut DynamicMessage, secret: bool) {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        return walk_any(message, secret);
    }
    let set: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
    for field in set {
        let secret = secret || SENSITIVE.contains(&field.full_name());
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
    match json::decode(type_name(&plain), &plain.value) {
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
        api::{
            self,
            envoy::{
                config::core::v3::{
                    DataSource, TransportSocket, data_source::Specifier,
                    transport_socket::ConfigType,
                },
                extensions::transport_sockets::tls::v3 as tls,
            },
        },
    };

    fn source(specifier: Specifier) -> Option<DataSource> {
        Some(DataSource {
            specifier: Some(specifier),
            ..Default::default()
        })
    }

    /// What is shown of a transport socket with a private key, under a type URL that
    /// begins like this.
    fn shown(prefix: &str) -> String {
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
                    "{prefix}envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
                ),
                value: context.encode_to_vec(),
            })),
        };
        let mut message = reflect(&socket);
        redact(&mut message);
        let mut text = String::new();
        write(&mut text, &message, 0, Defaults::Skip);
        text
    }

    #[test]
    fn keys_are_hidden_and_certificates_are_not() {
        for prefix in [api::TYPE_URL_PREFIX, "example.com/types/", "/"] {
            let text = shown(prefix);
            assert!(text.contains("\"c.pem\""), "{text}");
            assert!(
                text.contains("\"inline_bytes\": \"W3JlZGFjdGVkXQ==\""),
                "{text}"
            );
            assert!(text.contains("\"filename\": \"[redacted]\""), "{text}");
        }
    }

    #[test]
    fn every_sensitive_field_exists() {
        for name in SENSITIVE {
            let (message, field) = name.rsplit_once('.').unwrap();
            let message = api::descriptors().get_message_by_name(message).expect(name);
            assert!(message.get_field_by_name(field).is_some(), "{name}");
        }
    }
}
