//! From the JSON that tests are written in to the messages that are sent.

use nuncio::api::{descriptors, envoy::service::discovery::v3::Resource};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::{Any, DescriptorProto, FileDescriptorProto};
use serde_json::{Map, Value};

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
    let mut resource = resource.clone();
    let mut unknown = Vec::new();
    strip(&mut resource, &mut unknown);
    let type_url = text(&resource, "@type").to_owned();
    let pool = with_types(&unknown);
    let kind = pool
        .get_message_by_name(type_url.trim_start_matches(PREFIX))
        .unwrap_or_else(|| panic!("{type_url} is not known"));
    let members = resource.as_object_mut().expect("an object");
    members.remove("@type");
    let message = DynamicMessage::deserialize(kind, &resource)
        .unwrap_or_else(|error| panic!("{type_url}: {error}\n{resource:#}"));
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

/// Takes the fields away from every extension of an unknown type.
fn strip(value: &mut Value, unknown: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| strip(item, unknown)),
        Value::Object(members) => {
            if let Some(type_url) = members.get("@type").and_then(Value::as_str) {
                let name = type_url.trim_start_matches(PREFIX).to_owned();
                if descriptors().get_message_by_name(&name).is_none() {
                    let type_url = Value::from(type_url);
                    *members = Map::from_iter([("@type".to_owned(), type_url)]);
                    unknown.push(name);
                    return;
                }
            }
            members.values_mut().for_each(|item| strip(item, unknown));
        }
        _ => {}
    }
}

/// The API's descriptors, and messages without fields of these names.
fn with_types(names: &[String]) -> DescriptorPool {
    let mut pool = descriptors().clone();
    for (i, full_name) in names.iter().enumerate() {
        if pool.get_message_by_name(full_name).is_some() {
            continue;
        }
        let (package, name) = full_name.rsplit_once('.').expect("a full name");
        let file = FileDescriptorProto {
            name: Some(format!("unknown/{i}.proto")),
            package: Some(package.to_owned()),
            message_type: vec![DescriptorProto {
                name: Some(name.to_owned()),
                ..DescriptorProto::default()
            }],
            syntax: Some("proto3".to_owned()),
            ..FileDescriptorProto::default()
        };
        pool.add_file_descriptor_proto(file)
            .expect("a name that was not there");
    }
    pool
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
