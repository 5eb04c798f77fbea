//! A set of resources that belongs to one other resource: the scopes of a
//! connection manager, by SRDS.
//!
//! It goes the way of clusters and listeners: a [`Feed`] brings the answers, a
//! [`Manager`] warms each resource by itself, and what is in force is put into a
//! [`Slot`] as a whole, where workers find it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    admin::state::{self, Source},
    api::envoy::config::core::v3::ConfigSource as ConfigSourceMessage,
    config::{At, Reported, Strictness},
};

use super::{
    dependencies::Awaited,
    feed::Feed,
    manager::{Kind, Manager},
    mux::{Push, Verdict},
    slot::Slot,
    stream::Stream,
    subscriptions::Subscriptions,
    update::{Gone, Update},
    watcher::{Change, WatchId},
};

/// A kind of resource that is used as a set.
pub trait SetKind: Kind + 'static {
    /// What workers see of a set.
    type Whole: 'static;
    /// The subscription as logs and the admin name it.
    const SHORT: &'static str;
    /// The subscription as `/init_dump` names it.
    const TARGET: &'static str;

    /// What workers see of these, which are all that are in force.
    fn whole<'a>(&self, active: impl Iterator<Item = &'a Self::Built>) -> Self::Whole
    where
        Self::Built: 'a;
}

/// One subscription to a set, alive for as long as a resource depends on it.
pub struct Set<K: SetKind> {
    name: Arc<str>,
    feed: Feed,
    manager: RefCell<Manager<K>>,
    slot: Arc<Slot<K::Whole>>,
    timeout: Option<Duration>,
    /// Set when it goes.
    let_go: Rc<Cell<bool>>,
}

/// [`Set`] of any kind.
pub trait AnySet: Awaited {
    /// Whether it is asked for by this stream.
    fn is_by(&self, stream: &Rc<Stream>) -> bool;
    /// Whether resources of this type, by this stream, are for it.
    fn takes(&self, stream: &Rc<Stream>, type_url: &str) -> bool;
    /// Applies what a server says.
    fn take(&self, push: Push, subscriptions: &Subscriptions) -> Verdict;
    /// All that was accepted last, as an answer.
    fn accepted(&self) -> Option<Update>;
    /// A file was changed, which is read if it is the one of this set.
    fn changed(&self, id: WatchId, change: Change, subscriptions: &Subscriptions);
    /// Reads its file again; a server says by itself what is new.
    fn reload(&self, subscriptions: &Subscriptions);
    /// There is no server, or not any more.
    fn unreachable(&self, details: &Arc<str>, subscriptions: &Subscriptions);
    /// There is a server again.
    fn reached(&self);
    /// The server that is polled has nothing new.
    fn unchanged(&self);
    /// Gives everything that waits its chance, and publishes what came of it. True
    /// when something moved.
    fn settle(&self, now: Instant, subscriptions: &Subscriptions) -> bool;
    /// When [`AnySet::settle`] has something to do although no event came.
    fn deadline(&self) -> Option<Instant>;
    /// Whether something of it is held back for clusters.
    fn is_held_back(&self) -> bool;
    /// The subscription, for the admin.
    fn source(&self) -> Source;
    /// Its resources, for the admin.
    fn view(&self, strictness: &Strictness) -> state::Set;
}

impl<K: SetKind> Set<K> {
    /// Subscribes to the resources of `source`. `prefix` is where the stats of the
    /// subscription stand.
    ///
    /// # Errors
    /// When the source is not valid, or a file that does not exist; reported.
    pub fn open(
        name: &str,
        source: &ConfigSourceMessage,
        prefix: &str,
        kind: K,
        subscriptions: &Subscriptions,
        at: &At<'_>,
    ) -> Result<Rc<Self>, Reported> {
        let feed = Feed::open::<K>(source, K::SHORT, prefix, subscriptions, at)?;
        Ok(Rc::new(Self {
            name: name.into(),
            timeout: feed.initial_fetch_timeout(),
            feed,
            manager: RefCell::new(Manager::new(kind)),
            slot: Arc::new(Slot::new(name)),
            let_go: subscriptions.let_go().clone(),
        }))
    }

    /// Reads the file, or asks the server for the first time. `known` is what the
    /// server has sent already, and so will not send again.
    pub(super) fn begin(&self, known: Option<Update>, subscriptions: &Subscriptions) {
        let mut manager = self.manager.borrow_mut();
        self.feed.begin(&mut manager, subscriptions);
        if let Some(update) = known {
            let push = Push {
                type_url: self.feed.type_url().clone(),
                nonce: None,
                update: Ok(update),
            };
            // What is wrong with it is in the log and the dump.
            self.feed.take(push, &mut manager, subscriptions);
        }
        drop(manager);
        self.settle(Instant::now(), subscriptions);
    }

    /// Where the set is.
    pub fn slot(&self) -> &Arc<Slot<K::Whole>> {
        &self.slot
    }

    /// Whether it is asked for where this one is.
    pub(super) fn shares_stream(&self, other: &dyn AnySet) -> bool {
        self.feed
            .stream()
            .is_some_and(|stream| other.takes(stream, self.feed.type_url()))
    }
}

impl<K: SetKind> Drop for Set<K> {
    fn drop(&mut self) {
        self.let_go.set(true);
        self.manager.get_mut().relieve();
    }
}

impl<K: SetKind> Awaited for Set<K> {
    fn target(&self) -> String {
        format!("{} {}", K::TARGET, self.name)
    }

    fn is_answered(&self) -> bool {
        self.slot.is_answered()
    }

    fn has_value(&self) -> bool {
        self.slot.is_answered() && self.slot.get().is_some()
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout
    }
}

impl<K: SetKind> AnySet for Set<K> {
    fn is_by(&self, stream: &Rc<Stream>) -> bool {
        self.feed.is_by(stream)
    }

    fn takes(&self, stream: &Rc<Stream>, type_url: &str) -> bool {
        self.feed.takes(stream, type_url)
    }

    fn take(&self, push: Push, subscriptions: &Subscriptions) -> Verdict {
        let mut manager = self.manager.borrow_mut();
        self.feed.take(push, &mut manager, subscriptions)
    }

    fn accepted(&self) -> Option<Update> {
        self.feed.is_live().then(|| Update {
            version_info: self.feed.version_info(),
            resources: self.manager.borrow().accepted(),
            gone: Gone::Absent,
        })
    }

    fn changed(&self, id: WatchId, change: Change, subscriptions: &Subscriptions) {
        let own = self.feed.watches(id);
        match change {
            Change::Replaced if own => self.reload(subscriptions),
            Change::EditedInPlace if own => self.feed.edited_in_place(),
            Change::Replaced | Change::EditedInPlace => {}
        }
    }

    fn reload(&self, subscriptions: &Subscriptions) {
        let mut manager = self.manager.borrow_mut();
        self.feed.read(&mut manager, subscriptions);
    }

    fn unreachable(&self, details: &Arc<str>, subscriptions: &Subscriptions) {
        self.feed.unreachable(details);
        let mut manager = self.manager.borrow_mut();
        self.feed.fall_back(details, &mut manager, subscriptions);
    }

    fn reached(&self) {
        self.feed.reached();
    }

    fn unchanged(&self) {
        self.feed.unchanged();
    }

    fn settle(&self, now: Instant, subscriptions: &Subscriptions) -> bool {
        let mut manager = self.manager.borrow_mut();
        self.feed.poll(now, &mut manager, subscriptions);
        let mut moved = manager.refresh(subscriptions);
        moved |= manager.poll(now);
        if manager.is_whole() {
            self.feed.cured();
        }
        // Nobody refers to one of them by name.
        manager.take_touched();
        let changed = manager.take_changed();
        let is_first = !self.slot.is_answered();
        // The first answer is in force when all of it is.
        if is_first && (!self.feed.is_answered() || manager.is_warming()) {
            return moved;
        }
        if changed || is_first {
            let active = manager.active().map(|(_, built)| built);
            self.slot.set(Arc::new(manager.kind().whole(active)));
            moved = true;
        }
        moved
    }

    fn deadline(&self) -> Option<Instant> {
        let manager = self.manager.borrow().deadline();
        [manager, self.feed.deadline()].into_iter().flatten().min()
    }

    fn is_held_back(&self) -> bool {
        let manager = self.manager.borrow();
        let mut warming = manager.warming();
        warming.any(|(_, _, needs)| needs.await_clusters())
    }

    fn source(&self) -> Source {
        self.feed.source()
    }

    fn view(&self, strictness: &Strictness) -> state::Set {
        state::Set {
            name: self.name.clone(),
            source: self.feed.source(),
            resources: self.manager.borrow().view(strictness),
        }
    }
}
