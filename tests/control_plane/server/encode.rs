//! From the JSON that tests are written in to the messages that are sent.

use std::sync::LazyLock;

use base64::{Engine, prelude::BASE64_STANDARD};
use nuncio::api::{descriptors, envoy::service::discovery::v3::Resource};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::{Any, DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};

/// The prefix of every type URL.
const PREFIX: &str = "type.googleapis.com/";

/// A resource: JSON with its `@type`.
///
/// An extension whose type this build does not know is sent with that type and
/// no fields, for nobody here could say what they are.
///
/// # Panics
/// When it is no valid JSON of its type.
pub fn any(resource: &Value) -> Any {
    let mut members = resource.as_object().expect("an object").clone();
    // An `Any` that is empty has no type.
    let Some(Value::String(type_url)) = members.remove("@type") else {
        return Any::default();
    };
    let Some(kind) = POOL.get_message_by_name(type_url.trim_start_matches(PREFIX)) else {
        return Any {
            type_url,
            value: Vec::new(),
        };
    };
    let content = match members.remove("value") {
        // A well-known type stands for its value.
        Some(value) if kind.package_name() == "google.protobuf" => value,
        Some(value) => {
            members.insert("value".to_owned(), value);
            Value::Object(members)
        }
        None => Value::Object(members),
    };
    let content = with_bytes(content);
    let message = DynamicMessage::deserialize(kind, &content)
        .unwrap_or_else(|error| panic!("{type_url}: {error}\n{content:#}"));
    Any {
        type_url,
        value: message.encode_to_vec(),
    }
}

/// What a resource is called.
pub fn name_of(resource: &Value) -> &str {
    let names = ["name", "cluster_name", "clusterName"];
    let found = names.iter().find_map(|key| resource.get(key)?.as_str());
    found.unwrap_or_default()
}

/// A resource in its wrapper, as state-of-the-world answers carry it.
pub fn wrapped(resource: &Resource) -> Any {
    Any {
        type_url: format!("{PREFIX}{}", Resource::full_name()),
        value: resource.encode_to_vec(),
    }
}

/// Encodes everything that is packed into an `Any`.
fn with_bytes(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(with_bytes).collect(),
        Value::Object(members) if members.contains_key("@type") => {
            let Any { type_url, value } = any(&Value::Object(members));
            json!({ "type_url": type_url, "value": BASE64_STANDARD.encode(value) })
        }
        Value::Object(members) => {
            let members = members.into_iter();
            let members: Map<_, _> = members
                .map(|(key, value)| (key, with_bytes(value)))
                .collect();
            Value::Object(members)
        }
        other => other,
    }
}

/// The API with an `Any` whose JSON is that of any message, so that it can hold
/// what is not known, and be empty.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let original = descriptors().get_message_by_name("google.protobuf.Any");
    let original = original.expect("the API refers to it");
    let any = FileDescriptorProto {
        name: Some("raw.proto".to_owned()),
        package: Some("raw".to_owned()),
        message_type: vec![original.descriptor_proto().clone()],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    let files = descriptors().file_descriptor_protos().cloned();
    let files = files.map(|mut file| {
        file.message_type.iter_mut().for_each(use_raw);
        file.dependency.push("raw.proto".to_owned());
        file
    });
    DescriptorPool::from_file_descriptor_set(FileDescriptorSet {
        file: std::iter::once(any).chain(files).collect(),
    })
    .expect("the API, with another Any")
});

fn use_raw(message: &mut DescriptorProto) {
    message.nested_type.iter_mut().for_each(use_raw);
    for field in &mut message.field {
        if field.type_name.as_deref() == Some(".google.protobuf.Any") {
            field.type_name = Some(".raw.Any".to_owned());
        }
    }
}
