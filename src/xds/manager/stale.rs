//! What an earlier run accepted, and what is kept for a later one: such a version
//! serves, marked stale, until live data takes its place or leaves it out.

use std::{collections::HashMap, sync::Arc};

use super::{Kind, Manager, Outcome, apply::Update, entry::Entry};
use crate::{
    admin::state::Origin,
    xds::{
        subscriptions::Subscriptions,
        update::{Gone, Received},
    },
};

impl<K: Kind> Manager<K> {
    /// Takes what an earlier run accepted, where there is nothing else. Returns
    /// how many of them serve, or warm.
    pub fn recall(
        &mut self,
        resources: Vec<Received>,
        stale: &Arc<str>,
        subscriptions: &Subscriptions,
    ) -> usize {
        let Some(shelf) = self.shelf.clone() else {
            return 0;
        };
        let mut recalled = 0;
        for received in resources {
            let Received {
                name,
                // For those who ask.
                aliases: _,
                version,
                resource,
            } = received;
            if !self.kind.concerns(&name) {
                continue;
            }
            let known = self.entries.get(&name);
            if known.is_some_and(|entry| entry.built().next().is_some()) {
                continue;
            }
            match self.attempt(&name, resource, &version, subscriptions) {
                Ok(version) => {
                    let new = || Entry::new(Origin::Dynamic(shelf.place().clone()));
                    let entry = self.entries.entry(name.clone()).or_insert_with(new);
                    entry.stale = Some(stale.clone());
                    // What is wrong with the newest is still to be seen.
                    let refused = entry.refused.take();
                    let origin = entry.origin.clone();
                    self.accept(&name, origin, version);
                    if let Some(entry) = self.entries.get_mut(&name) {
                        entry.refused = refused;
                    }
                    self.note(&name);
                    recalled += 1;
                }
                Err(refused) => tracing::warn!(
                    target: "config",
                    "{} '{name}' of an earlier run refused: {}", K::NOUN, refused.details
                ),
            }
        }
        shelf.served(recalled);
        self.count_totals();
        recalled
    }

    /// Takes away what is still of an earlier run. Returns how many there were.
    pub fn remove_stale(&mut self, subscriptions: &Subscriptions) -> usize {
        let entries = self.entries.iter();
        let stale = entries.filter(|(_, entry)| entry.stale.is_some());
        let gone = Gone::Named(stale.map(|(name, _)| name.clone()).collect());
        let mut update = Update {
            place: Arc::default(),
            named: HashMap::default(),
            outcome: Outcome::default(),
        };
        self.remove(&gone, &mut update, subscriptions);
        self.count_totals();
        update.outcome.removed
    }

    /// Nothing is served any more: what was so from an earlier run is no longer
    /// counted.
    pub fn relieve(&mut self) {
        let stale = self.entries.values().filter(|entry| entry.stale.is_some());
        if let Some(shelf) = &self.shelf {
            shelf.relieved(stale.count());
        }
    }

    /// Whether anything is of an earlier run.
    pub fn has_stale(&self) -> bool {
        self.entries.values().any(|entry| entry.stale.is_some())
    }

    /// A live version takes the place of what may be of an earlier run.
    pub(super) fn is_live(&mut self, name: &str) {
        if let (Some(entry), Some(shelf)) = (self.entries.get_mut(name), &self.shelf)
            && entry.stale.take().is_some()
        {
            shelf.relieved(1);
        }
    }
}
