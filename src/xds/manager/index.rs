//! Which entries there is something to do for, so that an event costs what it
//! changes, however many resources there are.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::entry::Entry;

/// Names of entries by what is the matter with them.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// A version is in force.
    pub active: HashSet<Arc<str>, foldhash::fast::RandomState>,
    /// A version waits.
    pub warming: BTreeSet<Arc<str>>,
    /// Refused, and not of the bootstrap.
    pub refused: BTreeSet<Arc<str>>,
    /// Refused for something that may come.
    pub restless: BTreeSet<Arc<str>>,
    /// Of the bootstrap.
    pub fixed: BTreeSet<Arc<str>>,
    /// Changed since it was last asked.
    pub touched: Vec<Arc<str>>,
}

impl Index {
    /// To be called whenever an entry has changed, `None` being one that is gone.
    pub fn note<B>(&mut self, name: &Arc<str>, entry: Option<&Entry<B>>) {
        let is = |what: fn(&Entry<B>) -> bool| entry.is_some_and(what);
        match is(|e| e.active.is_some()) {
            true => self.active.insert(name.clone()),
            false => self.active.remove(name),
        };
        let sets = [
            (&mut self.warming, is(|e| e.warming.is_some())),
            (
                &mut self.refused,
                is(|e| !e.is_static() && e.refused.is_some()),
            ),
            (
                &mut self.restless,
                is(|e| e.refused.as_ref().is_some_and(|r| r.may_be_cured())),
            ),
            (&mut self.fixed, is(Entry::is_static)),
        ];
        for (set, belongs) in sets {
            match belongs {
                true => set.insert(name.clone()),
                false => set.remove(name),
            };
        }
        self.touched.push(name.clone());
    }
}
