//! `google.protobuf.FieldMask`, applied to what is dumped.

use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};

use crate::{admin::json, config::type_name};

/// Paths of fields to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    text: String,
    paths: Vec<Vec<String>>,
}

impl Mask {
    /// Reads `a.b,c`.
    pub fn parse(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            paths: text
                .split(',')
                .filter(|path| !path.is_empty())
                .map(|path| path.split('.').map(str::to_owned).collect())
                .collect(),
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether every path leads somewhere in a message of this type.
    pub fn fits(&self, descriptor: &MessageDescriptor) -> bool {
        self.paths.iter().all(|path| path_fits(path, descriptor))
    }

    /// Whether every path leads somewhere in a resource: also into an `Any` of the
    /// outermost message, of which it has to name a field, as in Envoy.
    pub fn fits_resource(&self, message: &DynamicMessage) -> bool {
        let descriptor = message.descriptor();
        let fits = |path: &Vec<String>| {
            let first = path.first().and_then(|name| {
                let field = descriptor.get_field_by_name(name)?;
                is_any(&field).then_some(field)
            });
            match first {
                None => path_fits(path, &descriptor),
                Some(any) => match (path.len(), message.has_field(&any)) {
                    (1, _) => false,
                    (_, false) => true,
                    (_, true) => opened(message.get_field(&any).as_ref())
                        .is_some_and(|(_, inner)| path_fits(&path[1..], &inner.descriptor())),
                },
            }
        };
        self.paths.iter().all(fits)
    }

    /// Keeps only what the paths lead to.
    pub fn trim(&self, message: &mut DynamicMessage) {
        let paths: Vec<&[String]> = self.paths.iter().map(Vec::as_slice).collect();
        trim(&paths, message);
    }
}

const ANY: &str = "google.protobuf.Any";

fn is_any(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(inner) if inner.full_name() == ANY) && !field.is_list()
}

fn path_fits(path: &[String], descriptor: &MessageDescriptor) -> bool {
    let Some((name, rest)) = path.split_first() else {
        return true;
    };
    let Some(field) = descriptor.get_field_by_name(name) else {
        return false;
    };
    match field.kind() {
        _ if rest.is_empty() => true,
        _ if field.cardinality() == prost_reflect::Cardinality::Repeated => false,
        Kind::Message(inner) => inner.full_name() != ANY && path_fits(rest, &inner),
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
    if let Some((mut plain, mut message)) = opened(&Value::Message(any.clone())) {
        trim(paths, &mut message);
        plain.value = message.encode_to_vec();
        if any.transcode_from(&plain).is_err() {
            any.clear();
        }
    }
}

/// What an `Any` holds, when its type is known.
fn opened(any: &Value) -> Option<(prost_types::Any, DynamicMessage)> {
    let plain = any.as_message()?.transcode_to::<prost_types::Any>().ok()?;
    let message = json::decode(type_name(&plain), &plain.value)?;
    Some((plain, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        self,
        envoy::{admin::v3 as pb, config::cluster::v3::Cluster},
    };

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
        assert!(mask.fits_resource(&dump));
        assert!(!mask.fits(&dump.descriptor()));
        mask.trim(&mut dump);
        let mut text = String::new();
        json::write(&mut text, &dump, 0, json::Defaults::Skip);
        assert!(text.contains("\"web\"") && !text.contains("alt_stat_name"));
        assert!(!text.contains("version_info"), "{text}");
    }

    #[test]
    fn a_path_that_leads_nowhere_does_not_fit() {
        let dump = dump();
        for path in ["nonesuch", "version_info.x", "cluster.name,nonesuch"] {
            assert!(!Mask::parse(path).fits_resource(&dump), "{path}");
        }
        for path in ["cluster", "cluster.nonesuch", "cluster.name.x"] {
            assert!(!Mask::parse(path).fits_resource(&dump), "{path}");
        }
    }
}
