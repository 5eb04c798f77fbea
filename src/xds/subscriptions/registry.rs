//! What is shared by those who ask for the same, as long as anybody holds it.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::Hash,
    rc::{Rc, Weak},
};

/// What is shared, by what it is asked for by.
pub(super) struct Registry<K, V>(RefCell<HashMap<K, Weak<V>>>);

impl<K, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Eq + Hash, V> Registry<K, V> {
    /// What others hold already.
    pub(super) fn get(&self, key: &K) -> Option<Rc<V>> {
        self.0.borrow().get(key).and_then(Weak::upgrade)
    }

    /// Lets others find it.
    pub(super) fn insert(&self, key: K, value: &Rc<V>) {
        self.0.borrow_mut().insert(key, Rc::downgrade(value));
    }

    /// Everything that anybody holds.
    pub(super) fn live(&self) -> Vec<Rc<V>> {
        self.0.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// Forgets what nobody holds any more.
    pub(super) fn prune(&self) {
        self.0
            .borrow_mut()
            .retain(|_, value| value.strong_count() > 0);
    }
}
