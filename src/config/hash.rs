//! Whether a resource, or a part of it, says something else than before.

use std::hash::{Hash, Hasher};

use super::tree::{Node, Value};
use crate::digest::{Digest, Said};

/// That of a value of a document, whatever its layout, but for what is unread.
pub fn node(node: &Node<'_>) -> Digest {
    let mut said = Said::default();
    add(&node.value, &mut said);
    said.digest()
}

fn add(value: &Value<'_>, hasher: &mut impl Hasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Null => {}
        Value::Bool(value) => value.hash(hasher),
        Value::Number(text) | Value::Text(text) => text.hash(hasher),
        Value::List(items) => {
            items.len().hash(hasher);
            for item in items {
                add(&item.value, hasher);
            }
        }
        Value::Map(entries) => {
            entries.len().hash(hasher);
            for entry in entries {
                entry.key.hash(hasher);
                add(&entry.value.value, hasher);
            }
        }
        Value::Unread(unread) => unread.text().hash(hasher),
    }
}
