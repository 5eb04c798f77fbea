//! `google.protobuf.FieldMask`, applied to what is dumped.

use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};

use crate::{admin::json, api};

/// Paths of fields to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    text: String,
    paths: Vec<Vec<String>>,
}

/// How far a path may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only through messages that are one, as a `FieldMask` has it.
    Messages,
    /// Also into an `Any` of the outermost message, as Envoy does for one resource.
    Any,
}

impl Mask {
    /// Reads `a.b,c`.
    pub fn parse(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            paths: text
                .split(',')
                .map(|path| path.split('.').map(str::to_owned).collect())
                .collect(),
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether every path leads somewhere in a message of this type.
    pub fn fits(&self, descriptor: &MessageDescriptor, reach: Reach) -> bool {
        self.paths
            .iter()
            .all(|path| path_fits(path, descriptor, reach))
    }

    /// Keeps only what the paths lead to.
    pub fn trim(&self, message: &mut DynamicMessage) {
        let paths: Vec<&[String]> = self.paths.iter().map(Vec::as_slice).collect();
        trim(&paths, message);
    }
}

const ANY: &str = "google.protobuf.Any";

fn path_fits(path: &[String], descriptor: &MessageDescriptor, reach: Reach) -> bool {
    let Some((name, rest)) = path.split_first() else {
        return true;
    };
    let Some(field) = descriptor.get_field_by_name(name) else {
        return false;
    };
    match field.kind() {
        _ if rest.is_empty() => true,
        _ if field.cardinality() == prost_reflect::Cardinality::Repeated => false,
        // What it holds differs from one resource to the next.
        Kind::Message(inner) if inner.full_name() == ANY => reach == Reach::Any,
        Kind::Message(inner) => path_fits(rest, &inner, Reach::Messages),
        _ => false,
    }
}

fn trim(paths: &[&[String]], message: &mut DynamicMessage) {
    let set: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
    for field in set {
        let inner: Vec<&[String]> = paths
            .iter()
            .filter(|path| path.first().is_some_and(|name| name == field.name()))
            .map(|path| &path[1..])
            .collect();
        if inner.is_empty() {
            message.clear_field(&field);
        } else if inner.iter().all(|path| !path.is_empty())
            && let Value::Message(value) = message.get_field_mut(&field)
        {
            match value.descriptor().full_name() == ANY {
                true => trim_any(&inner, value),
                false => trim(&inner, value),
            }
        }
    }
}

fn trim_any(paths: &[&[String]], any: &mut DynamicMessage) {
    let Ok(mut plain) = any.transcode_to::<prost_types::Any>() else {
        return;
    };
    let Some(name) = plain.type_url.strip_prefix(api::TYPE_URL_PREFIX) else {
        return;
    };
    if let Some(mut message) = json::decode(name, &plain.value) {
        trim(paths, &mut message);
        plain.value = message.encode_to_vec();
        if any.transcode_from(&plain).is_err() {
            any.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::envoy::{admin::v3 as pb, config::cluster::v3::Cluster};

    fn dump() -> DynamicMessage {
        let cluster = Cluster {
            name: "web".to_owned(),
            alt_stat_name: "w".to_owned(),
            ..Default::default()
        };
        json::reflect(&pb::clusters_config_dump::DynamicCluster {
            version_info: "1".to_owned(),
            cluster: Some(prost_types::Any {
                type_url: format!("{}envoy.config.cluster.v3.Cluster", api::TYPE_URL_PREFIX),
                value: cluster.encode_to_vec(),
            }),
            ..Default::default()
        })
    }

    #[test]
    fn a_mask_reaches_into_the_resource() {
        let mut dump = dump();
        let mask = Mask::parse("cluster.name");
        assert!(mask.fits(&dump.descriptor(), Reach::Any));
        assert!(!mask.fits(&dump.descriptor(), Reach::Messages));
        mask.trim(&mut dump);
        let mut text = String::new();
        json::write(&mut text, &dump, 0, json::Defaults::Skip);
        assert!(text.contains("\"web\"") && !text.contains("alt_stat_name"));
        assert!(!text.contains("version_info"), "{text}");
    }

    #[test]
    fn a_path_that_leads_nowhere_does_not_fit() {
        let descriptor = dump().descriptor();
        for path in ["nonesuch", "version_info.x", "cluster,nonesuch"] {
            assert!(!Mask::parse(path).fits(&descriptor, Reach::Any), "{path}");
        }
    }
}
