//! What is particular to a kind of resource: clusters, listeners, scopes.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use prost::{Message, Name};

use crate::{
    admin::state,
    config::{At, Reported, Strictness},
    model::Context,
    xds::{
        dependencies::Dependencies,
        subscriptions::Subscriptions,
        update::{Received, Update},
    },
};

use super::entry::{Entries, Lingering, Version};

/// What is particular to a kind of resource.
pub trait Kind {
    /// As it comes.
    type Message: Message + Name + Default;
    /// What it is built to.
    type Built;
    /// For the admin.
    const KIND: state::Kind;
    /// `cluster`, `listener`.
    const NOUN: &'static str;
    /// Whether an update takes away before it adds: listeners do, to free their
    /// addresses; clusters do not, so that routes always find one.
    const REMOVE_FIRST: bool;

    /// The resource's name.
    fn name(message: &Self::Message) -> &str;

    /// What it is known as: what it calls itself, unless it has another name for
    /// those who ask for it.
    fn key(received: &Received) -> &str {
        received.resource.name()
    }

    /// Whether a resource of this name is one of these; others by the same stream
    /// may not be.
    fn concerns(&self, _name: &str) -> bool {
        true
    }

    /// An answer is about to be applied. `peers` has every resource there is.
    fn prepare(
        &mut self,
        _answer: &Update,
        _peers: &Peers<'_, Self::Built>,
        _strictness: &Strictness,
    ) {
    }

    /// Compiles it and takes what it needs from the system.
    ///
    /// # Errors
    /// What is wrong has been reported.
    fn build(
        &mut self,
        message: Self::Message,
        peers: &Peers<'_, Self::Built>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Built, Reported>;

    /// Whether it can serve.
    fn is_ready(&self, built: &Self::Built, needs: &Needs<'_>) -> bool;

    /// It comes into force, in the place of `previous`.
    fn activate(&mut self, built: &Self::Built, previous: Option<&Self::Built>);

    /// Whether requests may still be led to it, so that it serves on for a while
    /// after it has been taken away.
    fn is_in_use(&self, _name: &str, _subscriptions: &Subscriptions) -> bool {
        false
    }

    /// Counts what happened.
    fn count(&mut self, event: Event<'_, Self::Built>);
}

/// What [`Kind::count`] is told.
#[derive(Debug)]
pub enum Event<'a, B> {
    /// There is a resource of a name that was not there before.
    Added,
    /// A resource got another version, which may have to warm.
    Modified {
        /// The version it had.
        old: &'a B,
        /// The version it gets.
        new: &'a B,
    },
    /// A resource is no longer there.
    Removed,
    /// How many there are now.
    Totals {
        /// In force.
        active: usize,
        /// Warming.
        warming: usize,
    },
}

/// How a version stands with what it depends on.
#[derive(Debug)]
pub struct Needs<'a> {
    /// What it depends on.
    pub dependencies: &'a Dependencies,
    /// Whether there is an active version that serves meanwhile.
    pub replaces: bool,
    /// Whether `initial_fetch_timeout` has run out.
    pub waited: bool,
}

impl Needs<'_> {
    /// Whether its subscriptions let it serve. The first version of a resource
    /// goes on when each has been answered, good or bad, as in Envoy; one that
    /// would replace a version that serves waits longer, for values. Neither
    /// goes before the clusters it leads to.
    pub fn are_met(&self) -> bool {
        self.waited
            || !self.dependencies.await_clusters()
                && match self.replaces {
                    true => self.dependencies.complete(),
                    false => self.dependencies.answered(),
                }
    }
}

/// The other resources, for checks that concern more than one.
pub struct Peers<'a, B> {
    pub(super) name: &'a str,
    pub(super) entries: &'a Entries<B>,
    pub(super) leaving: &'a [Version<B>],
    pub(super) lingering: &'a BTreeMap<Arc<str>, Lingering<B>>,
    pub(super) lacks: Cell<bool>,
}

impl<'a, B> Peers<'a, B> {
    /// The version that serves under the same name, be it on its way out.
    pub fn previous(&self) -> Option<&'a B> {
        let entry = self.entries.get(self.name);
        let active = entry.and_then(|entry| entry.active.as_ref());
        let active = active.map(|version| &version.built);
        active.or_else(|| self.lingering.get(self.name).map(|l| &l.built))
    }

    /// What serves or warms under the same name.
    pub fn same(&self) -> impl Iterator<Item = &'a B> {
        let entry = self.entries.get(self.name);
        entry.into_iter().flat_map(|entry| entry.built())
    }

    /// What serves or warms under other names.
    pub fn others(&self) -> impl Iterator<Item = (&'a Arc<str>, &'a B)> {
        let own = self.name;
        let others = self.entries.iter().filter(move |(name, _)| ***name != *own);
        others.flat_map(|(name, entry)| entry.built().map(move |built| (name, built)))
    }

    /// What this very update took away and the workers have not been told of yet.
    pub fn leaving(&self) -> impl Iterator<Item = &'a B> {
        self.leaving.iter().map(|version| &version.built)
    }

    /// Says that what is wrong now may be right later although this resource
    /// stays the same: it is tried again.
    pub fn try_again(&self) {
        self.lacks.set(true);
    }
}
