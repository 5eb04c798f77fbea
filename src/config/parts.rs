//! The elements of long lists of a resource, as they were read before.
//!
//! A route table may have ten thousand virtual hosts of which one changes. What
//! an element was read as is kept, encoded, under a digest of what it says; the
//! next version of the resource takes over what it has in common with the last.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::{hash, tree::Node};
use crate::digest::Digest;

/// Lists of messages that are shorter are read as a whole.
pub const LONG: usize = 32;

type Known = HashMap<Digest, Arc<[u8]>, RandomState>;

/// What the elements of a resource's long lists were read as.
#[derive(Debug, Default)]
pub struct Parts(Known);

impl Parts {
    /// Whether the resource has no long list.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The parts of the version before, and of the one that is being read.
pub struct Reading<'p> {
    before: &'p Parts,
    now: RefCell<Known>,
}

impl<'p> Reading<'p> {
    /// Begins to read a version after another.
    pub fn after(before: &'p Parts) -> Self {
        Self {
            before,
            now: RefCell::new(Known::with_capacity_and_hasher(
                before.0.len(),
                RandomState::default(),
            )),
        }
    }

    /// The parts of what has been read, for the version to come.
    pub fn into_parts(self) -> Parts {
        Parts(self.now.into_inner())
    }

    /// Under what a message of this type is kept that was read with or without
    /// its rules.
    pub fn key(type_name: &str, checked: bool, node: &Node<'_>) -> Digest {
        Digest::of((checked, type_name, hash::node(node)))
    }

    /// What is known of an element.
    pub fn get(&self, key: Digest) -> Option<Arc<[u8]>> {
        let mut now = self.now.borrow_mut();
        let known = now.get(&key).or_else(|| self.before.0.get(&key))?.clone();
        now.entry(key).or_insert_with(|| known.clone());
        Some(known)
    }

    /// Keeps an element in which nothing was found to be wrong.
    pub fn keep(&self, key: Digest, encoded: Arc<[u8]>) {
        self.now.borrow_mut().insert(key, encoded);
    }
}

/// Adds a message field to an encoded message.
pub fn put_field(number: u32, encoded: &[u8], message: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, message);
    encode_varint(encoded.len() as u64, message);
    message.extend_from_slice(encoded);
}
