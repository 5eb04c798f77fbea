//! A set of resources that belongs to one other resource: the scopes of a
//! connection manager, by SRDS, or the virtual hosts of a route table, by VHDS.
//!
//! It goes the way of clusters and listeners: a [`Feed`] brings the answers, a
//! [`Manager`] warms each resource by itself, and what is in force is put into a
//! [`Slot`] as a whole, where workers find it. What is not in it may be asked for
//! ([`Demand`]): it is subscribed to by name, and whoever asked is answered when it
//! is in force, or the server has said that there is none.

mod askers;

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

use self::askers::Askers;
use super::{
    demand::{Asked, Demand, What},
    dependencies::Awaited,
    feed::Feed,
    manager::{Kind, Manager},
    mux::{Push, Verdict},
    resource::Encoded,
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

    /// The route table that the set is part of.
    fn part_of(&self) -> Option<&str> {
        None
    }

    /// What is to be done for somebody who asks for this. `active` is all that is in
    /// force.
    fn wants<'a>(
        &mut self,
        what: &What,
        active: impl Iterator<Item = (&'a Arc<str>, &'a Self::Built)>,
    ) -> Wanted
    where
        Self::Built: 'a;
}

/// What is to be done for somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: there is no such thing.
    Nothing,
    /// The server is asked for a resource by its name.
    Subscription(Arc<str>),
    /// A resource is built again, which then depends on what is asked for.
    Rebuilt(Arc<str>),
    /// That has been done already.
    Awaited(Arc<str>),
}

/// One subscription to a set, alive for as long as a resource depends on it.
pub struct Set<K: SetKind> {
    name: Arc<str>,
    feed: Feed,
    manager: RefCell<Manager<K>>,
    slot: Arc<Slot<K::Whole>>,
    timeout: Option<Duration>,
    demand: Demand,
    askers: RefCell<Askers>,
    /// Set when it goes.
    let_go: Rc<Cell<bool>>,
}

/// [`Set`] of any kind.
pub trait AnySet: Awaited {
    /// Which kind.
    fn kind(&self) -> state::Kind;
    /// Its number.
    fn id(&self) -> u64;
    /// Somebody asks for what is not in it.
    fn demand(&self, asked: Asked, subscriptions: &Subscriptions);
    /// Answers those who asked for what is now in force, or known not to be there,
    /// unless the table that it is part of is held back.
    fn answer(&self, is_held_back: &dyn Fn(&str) -> bool);
    /// Whether it is asked for by this stream.
    fn is_by(&self, stream: &Rc<Stream>) -> bool;
    /// Whether resources of this type, by this stream, are for it.
    fn takes(&self, stream: &Rc<Stream>, type_url: &str) -> bool;
    /// Applies what a server says.
    fn take(&self, push: Push, subscriptions: &Subscriptions) -> Verdict;
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
    /// Grows with each change of what is in force.
    fn version(&self) -> u64;
    /// What is in force, as it came.
    fn in_force(&self) -> Vec<Encoded>;
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
            demand: subscriptions.new_demand(),
            askers: RefCell::default(),
            let_go: subscriptions.let_go().clone(),
        }))
    }

    /// Reads the file, or asks the server for the first time. What the server has sent
    /// already, and so will not send again, is taken at once.
    pub(super) fn begin(&self, subscriptions: &Subscriptions) {
        self.feed
            .begin(&mut self.manager.borrow_mut(), subscriptions);
        let type_url = self.feed.type_url();
        let stream = self.feed.stream();
        if let Some(update) = stream.and_then(|stream| stream.accepted(type_url)) {
            let push = Push {
                type_url: type_url.clone(),
                nonce: None,
                update: Ok(update),
            };
            // What is wrong with it is in the log and the dump.
            self.take(push, subscriptions);
        }
        self.settle(Instant::now(), subscriptions);
    }

    /// Where the set is.
    pub fn slot(&self) -> &Arc<Slot<K::Whole>> {
        &self.slot
    }

    /// How what is not in it is asked for.
    pub fn asker(&self) -> &Demand {
        &self.demand
    }

    /// The part of an answer that concerns this set; `None` when there is none.
    fn own(&self, mut push: Push) -> Option<Push> {
        if let Ok(Update {
            version_info: _,
            resources,
            gone,
        }) = &mut push.update
        {
            let manager = self.manager.borrow();
            let kind = manager.kind();
            let size = |resources: &Vec<_>, gone: &Gone| match gone {
                Gone::Absent => resources.len(),
                Gone::Named(names) => resources.len() + names.len(),
            };
            let before = size(resources, gone);
            resources.retain(|received| kind.concerns(&received.name));
            if let Gone::Named(names) = gone {
                names.retain(|name| kind.concerns(name));
            }
            let is_of_others = before > 0 && size(resources, gone) == 0;
            // The first answer says that there are none, whatever else is in it.
            if is_of_others && self.feed.is_answered() {
                return None;
            }
        }
        Some(push)
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

    fn kind(&self) -> state::Kind {
        K::KIND
    }

    fn id(&self) -> u64 {
        self.demand.set()
    }

    fn demand(&self, asked: Asked, subscriptions: &Subscriptions) {
        let Asked {
            set: _,
            what,
            answered,
        } = asked;
        let mut manager = self.manager.borrow_mut();
        let mut askers = self.askers.borrow_mut();
        let (kind, active) = manager.kind_and_active();
        match kind.wants(&what, active) {
            Wanted::Nothing => {}
            Wanted::Subscription(name) => {
                if let Some(stream) = self.feed.stream() {
                    let subscribe = |name: &str| stream.subscribe(self.feed.type_url(), name);
                    askers.ask(name, answered, subscribe, |name| manager.warms(name));
                }
            }
            Wanted::Rebuilt(name) => {
                manager.rebuild(&name, subscriptions);
                askers.wait(name, answered);
            }
            Wanted::Awaited(name) => askers.wait(name, answered),
        }
    }

    fn answer(&self, is_held_back: &dyn Fn(&str) -> bool) {
        let (manager, mut askers) = (self.manager.borrow(), self.askers.borrow_mut());
        if !askers.is_awaited() || manager.kind().part_of().is_some_and(is_held_back) {
            return;
        }
        askers.answer(|name| manager.warms(name));
    }

    fn take(&self, push: Push, subscriptions: &Subscriptions) -> Verdict {
        let Some(push) = self.own(push) else {
            return Verdict::Ack;
        };
        if let Ok(update) = &push.update {
            self.askers.borrow_mut().note(update);
        }
        let mut manager = self.manager.borrow_mut();
        self.feed.take(push, &mut manager, subscriptions)
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

    fn version(&self) -> u64 {
        self.slot.version()
    }

    fn in_force(&self) -> Vec<Encoded> {
        self.manager.borrow().in_force().cloned().collect()
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
