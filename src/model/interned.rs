//! What many resources have in common, kept once.
//!
//! Ten thousand clusters that trust the same authorities share one parsed copy
//! of them. Entries are found by a digest of their content and live for as long
//! as somebody uses them.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Weak},
};

use crate::digest::Digest;

/// Values of one kind, by a digest of what they are made of.
#[derive(Debug)]
pub struct Interned<T>(RefCell<HashMap<Digest, Weak<T>>>);

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Interned<T> {
    /// The value made of this content, made now unless it is already there.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get<E>(&self, digest: Digest, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        if let Some(value) = self.known(digest) {
            return Ok(value);
        }
        let value = Arc::new(make()?);
        self.keep(digest, &value);
        Ok(value)
    }

    /// The value made of this content, where it is already there.
    pub fn known(&self, digest: Digest) -> Option<Arc<T>> {
        self.0.borrow().get(&digest).and_then(Weak::upgrade)
    }

    /// Lets others have this value, made of this content.
    pub fn keep(&self, digest: Digest, value: &Arc<T>) {
        let mut values = self.0.borrow_mut();
        if values.len() == values.capacity() {
            values.retain(|_, value| value.strong_count() > 0);
        }
        values.insert(digest, Arc::downgrade(value));
    }

    /// The value of this digest: the one that is already there, or this one.
    pub fn share(&self, digest: Digest, value: T) -> Arc<T> {
        let shared = self.get(digest, || Ok::<_, std::convert::Infallible>(value));
        shared.unwrap_or_else(|never| match never {})
    }
}
