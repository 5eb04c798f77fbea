//! Hashes of what a resource says, to know whether it changed.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::quality::FixedState;

use super::tree::{Node, Value};

/// A hash of some bytes. The same in every run.
pub fn bytes(bytes: &[u8]) -> u64 {
    FixedState::default().hash_one(bytes)
}

/// For a hash of several things. The same in every run.
pub fn hasher() -> impl Hasher {
    FixedState::default().build_hasher()
}

/// A hash of a value of a document, whatever its layout, but for what is unread.
pub fn node(node: &Node<'_>) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    add(&node.value, &mut hasher);
    hasher.finish()
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
