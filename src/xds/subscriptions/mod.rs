//! Every named subscription and tracked file there is. A resource that is being
//! compiled asks for them by a [`Collector`].

mod collector;
mod registry;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    rc::{Rc, Weak},
    sync::Arc,
};

use tokio::{sync::mpsc, time::Instant};

use crate::{
    admin::state,
    api::envoy::extensions::transport_sockets::tls::v3::Secret as SecretMessage,
    config::{At, Reported, Strictness},
    model::{Shared, context::ServerInfo, route::HostsWanted},
    runtime::Runtime,
    stats,
};

pub use self::collector::Collector;
use self::registry::Registry;
use super::{
    api_source::Management,
    cluster_names::ClusterNames,
    config_source::{ConfigSource, Origin},
    demand::{Asked, Demand, MAX_UNREAD},
    dependencies::TrackedFile,
    kinds::{EndpointKind, ExtensionKind, HostKind, RouteKind, RuntimeKind, ScopeKind, SecretKind},
    mux::{Push, Verdict},
    named::{AnyNamed, Named, NamedKind, Wanted},
    set::{AnySet, Set, SetKind},
    store::{Shelf, Store},
    stream::{Stream, Streams},
    update::{Gone, Update},
    watcher::{Change, WatchId, Watcher},
};

/// Named subscriptions of one kind, by where they come from and what is wanted.
type OfKind<K> = Registry<(ConfigSource, Wanted<<K as NamedKind>::Want>), Named<K>>;

/// The scopes of a connection manager: where they and their routes come from, their
/// name, and where stats stand.
type ScopesKey = (ConfigSource, Option<Vec<u8>>, Box<str>, Box<str>);

/// The virtual hosts of a route table: where they come from, for which table, and
/// where stats stand.
type HostsKey = (ConfigSource, HostsWanted, Box<str>);

/// Who hears of a watch.
enum Reader {
    Named(Weak<dyn AnyNamed>),
    File(Weak<TrackedFile>),
}

/// Every named subscription and tracked file there is.
pub struct Subscriptions {
    stats: Arc<stats::Registry>,
    server: ServerInfo,
    strictness: Strictness,
    shared: Shared,
    runtime: Arc<Runtime>,
    watcher: Rc<Watcher>,
    management: Management,
    streams: Streams,
    store: Option<Rc<Store>>,
    /// Who is served from the store, and when; the first to be so comes first.
    impatient: RefCell<Vec<(Instant, Weak<dyn AnyNamed>)>>,
    routes: OfKind<RouteKind>,
    secrets: OfKind<SecretKind>,
    endpoints: OfKind<EndpointKind>,
    runtimes: OfKind<RuntimeKind>,
    scopes: Registry<ScopesKey, Set<ScopeKind>>,
    hosts: Registry<HostsKey, Set<HostKind>>,
    /// By which workers ask sets for more, and the receiver until it is taken.
    demands: mpsc::Sender<Asked>,
    asked: RefCell<Option<mpsc::Receiver<Asked>>>,
    /// The number of the next set.
    next_set: Cell<u64>,
    extensions: OfKind<ExtensionKind>,
    static_secrets: RefCell<BTreeMap<Arc<str>, Rc<Named<SecretKind>>>>,
    files: Registry<PathBuf, TrackedFile>,
    /// Those of them that have not been read yet.
    missing: RefCell<Vec<Weak<TrackedFile>>>,
    readers: RefCell<HashMap<WatchId, Reader>>,
    clusters: Rc<ClusterNames>,
    /// Whom an event may concern that is not theirs: see [`AnyNamed::is_restless`].
    restless: RefCell<Vec<Weak<dyn AnyNamed>>>,
    files_version: Cell<u64>,
    /// [`Self::files_version`] when everything was last looked through.
    files_seen: Cell<u64>,
    /// Something that is listed here may be held by nobody any more.
    let_go: Rc<Cell<bool>>,
}

/// Where subscriptions may lead.
pub struct Ways {
    /// What watches the files.
    pub watcher: Rc<Watcher>,
    /// What the bootstrap says of management servers.
    pub management: Management,
    /// What speaks to them.
    pub streams: Streams,
    /// Where what was accepted is kept.
    pub store: Option<Rc<Store>>,
}

impl Subscriptions {
    /// None yet.
    pub fn new(
        stats: Arc<stats::Registry>,
        server: ServerInfo,
        runtime: Arc<Runtime>,
        strictness: Strictness,
        ways: Ways,
    ) -> Self {
        let Ways {
            watcher,
            management,
            streams,
            store,
        } = ways;
        let (demands, asked) = mpsc::channel(MAX_UNREAD);
        Self {
            stats,
            server,
            strictness,
            shared: Shared::default(),
            runtime,
            watcher,
            management,
            streams,
            store,
            impatient: RefCell::default(),
            routes: OfKind::default(),
            secrets: OfKind::default(),
            endpoints: OfKind::default(),
            runtimes: OfKind::default(),
            scopes: Registry::default(),
            hosts: Registry::default(),
            demands,
            asked: RefCell::new(Some(asked)),
            next_set: Cell::new(0),
            extensions: OfKind::default(),
            static_secrets: RefCell::default(),
            files: Registry::default(),
            missing: RefCell::default(),
            readers: RefCell::default(),
            clusters: Rc::default(),
            restless: RefCell::default(),
            files_version: Cell::new(0),
            files_seen: Cell::new(0),
            let_go: Rc::default(),
        }
    }

    /// Where stats are made.
    pub fn stats(&self) -> &Arc<stats::Registry> {
        &self.stats
    }

    /// Facts about this process.
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// How strictly resources are read.
    pub fn strictness(&self) -> &Strictness {
        &self.strictness
    }

    /// What watches the files.
    pub fn watcher(&self) -> &Rc<Watcher> {
        &self.watcher
    }

    /// What the bootstrap says of management servers.
    pub fn management(&self) -> &Management {
        &self.management
    }

    /// What speaks to management servers.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Where what was accepted is kept.
    pub fn store(&self) -> Option<&Rc<Store>> {
        self.store.as_ref()
    }

    /// Where resources of a type from an origin are kept.
    pub fn shelf(&self, message: &str, origin: &Origin) -> Option<Shelf> {
        let store = self.store.as_ref()?;
        Some(store.shelf(message, &origin.key()))
    }

    /// When [`Subscriptions::fall_back`] has something to do.
    pub fn patience(&self) -> Option<Instant> {
        self.impatient.borrow().first().map(|(at, _)| *at)
    }

    /// Serves from the store whoever has waited long enough.
    pub fn fall_back(&self, now: Instant) {
        let due: Vec<_> = self
            .impatient
            .borrow_mut()
            .extract_if(.., |(at, _)| *at <= now)
            .collect();
        for named in due.iter().filter_map(|(_, named)| named.upgrade()) {
            named.fall_back("there is no answer yet", self);
        }
    }

    /// Hands an answer of a server to those who asked for its resources.
    pub fn take(&self, stream: &Rc<Stream>, push: Push) -> Verdict {
        let sets = self.sets().into_iter();
        let mut sets = sets
            .filter(|set| set.takes(stream, &push.type_url))
            .peekable();
        if sets.peek().is_none() {
            return self.take_named(stream, push);
        }
        sets.fold(Verdict::Ack, |verdict, set| {
            verdict.and(set.take(push.clone(), self))
        })
    }

    /// Hands an answer to those who asked for its resources by name.
    fn take_named(&self, stream: &Stream, push: Push) -> Verdict {
        let Push {
            type_url,
            nonce: _,
            update,
        } = push;
        let Update {
            version_info,
            resources,
            gone,
        } = match update {
            Ok(update) => update,
            Err(details) => {
                let details: Arc<str> = details.into();
                for named in stream.watchers_of(&type_url) {
                    named.refuse(&details, self);
                }
                return Verdict::refused(details);
            }
        };
        let mut refused = BTreeMap::new();
        for received in resources {
            let name = received.name.clone();
            for named in stream.watchers(&type_url, &name) {
                if let Err(details) = named.deliver(received.clone(), &version_info, self) {
                    refused.insert(name.clone(), details);
                }
                self.look_after(named);
            }
        }
        if let Gone::Named(names) = gone {
            for name in names {
                for named in stream.watchers(&type_url, &name) {
                    named.gone(&version_info);
                }
            }
        }
        if refused.is_empty() {
            return Verdict::Ack;
        }
        let reasons: Vec<_> = refused
            .iter()
            .map(|(name, details)| format!("{name}: {details}"))
            .collect();
        Verdict::Nack {
            details: reasons.join("\n").into(),
            refused: Some(refused.into_keys().collect()),
        }
    }

    /// A server that is polled has nothing new.
    pub fn unchanged(&self, stream: &Rc<Stream>) {
        for named in stream.all_watchers() {
            named.unchanged();
        }
        let sets = self.sets().into_iter();
        sets.filter(|set| set.is_by(stream))
            .for_each(|set| set.unchanged());
    }

    /// There is a server at the other end of a stream again.
    pub fn reached(&self, stream: &Rc<Stream>) {
        for named in stream.all_watchers() {
            named.reached();
        }
        let sets = self.sets().into_iter();
        sets.filter(|set| set.is_by(stream))
            .for_each(|set| set.reached());
    }

    /// There is no server at the other end of a stream, or not any more.
    pub fn unreachable(&self, stream: &Rc<Stream>, details: &Arc<str>) {
        for named in stream.all_watchers() {
            named.unreachable(details, self);
        }
        let sets = self.sets().into_iter();
        sets.filter(|set| set.is_by(stream))
            .for_each(|set| set.unreachable(details, self));
    }

    /// Every set of resources that belongs to another resource.
    pub fn sets(&self) -> Vec<Rc<dyn AnySet>> {
        fn any<K: SetKind>(set: Rc<Set<K>>) -> Rc<dyn AnySet> {
            set
        }
        let scopes = self.scopes.live().into_iter().map(any);
        let hosts = self.hosts.live().into_iter().map(any);
        scopes.chain(hosts).collect()
    }

    /// Gives what waits in sets its chance. True when something moved.
    pub fn settle(&self, now: Instant) -> bool {
        let (mut moved, mut hosts_moved) = (false, false);
        for set in self.sets() {
            let has = set.settle(now, self);
            moved |= has;
            hosts_moved |= has && set.kind() == state::Kind::VirtualHost;
        }
        if hosts_moved {
            // The tables that they are part of are compiled anew.
            let live = self.routes.live().into_iter();
            let live = live.map(|named| named as Rc<dyn AnyNamed>);
            let mut restless = self.restless.borrow_mut();
            restless.extend(live.map(|named| Rc::downgrade(&named)));
        }
        moved
    }

    /// Where what workers ask for arrives; `None` once it has been taken.
    pub fn take_asked(&self) -> Option<mpsc::Receiver<Asked>> {
        self.asked.take()
    }

    /// How a new set is asked for more.
    pub(super) fn new_demand(&self) -> Demand {
        self.next_set.set(self.next_set.get() + 1);
        Demand::new(self.next_set.get(), self.demands.clone())
    }

    /// A worker asks a set for what is not in it.
    pub fn demand(&self, asked: Asked) {
        let sets = self.sets().into_iter();
        // One that is gone has nothing to give.
        if let Some(set) = sets.into_iter().find(|set| set.id() == asked.set) {
            set.demand(asked, self);
        }
    }

    /// Answers workers who asked for what there is an answer to.
    pub fn answer(&self) {
        let routes = self.routes.live();
        let is_held_back = |table: &str| {
            let mut same = routes
                .iter()
                .filter(|named| **named.slot().name() == *table);
            same.any(|named| named.is_held_back())
        };
        for set in self.sets() {
            set.answer(&is_held_back);
        }
    }

    /// For the compilation of one resource.
    pub fn collector(&self) -> Collector<'_> {
        self.collector_under("")
    }

    /// The same, for one whose own subscription has its stats there.
    pub(super) fn collector_under<'a>(&'a self, prefix: &'a str) -> Collector<'a> {
        Collector::new(self, prefix)
    }

    /// Takes a secret of the bootstrap, to which names without a source refer.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn add_static_secret(&self, message: SecretMessage, at: &At<'_>) -> Result<(), Reported> {
        let name: Arc<str> = SecretKind::name(&message).into();
        if self.static_secrets.borrow().contains_key(&name) {
            let at = at.field("name");
            return Err(at.error(format_args!("duplicate static secret {name:?}")));
        }
        let secret = Named::fixed(message, at, &format!("sds.{name}."), self)?;
        self.static_secrets.borrow_mut().insert(name, secret);
        Ok(())
    }

    /// Which clusters there are, for [`Sources::cluster`](crate::model::Sources::cluster).
    pub fn clusters(&self) -> &ClusterNames {
        &self.clusters
    }

    /// Grows whenever a file that is part of a resource has changed.
    pub fn files_version(&self) -> u64 {
        self.files_version.get()
    }

    fn reload_file(&self, file: &TrackedFile) {
        if file.reload() {
            self.files_version.set(self.files_version.get() + 1);
        }
    }

    /// Looks for the files that were missing, each of them once, whoever waits for it.
    fn look_for_files(&self) {
        self.missing.borrow_mut().retain(|file| {
            let file = file.upgrade().filter(|file| file.is_missing());
            file.inspect(|file| file.look_for()).is_some()
        });
    }

    /// Looks at a subscription again after every event for as long as another
    /// one may change how it stands.
    fn look_after(&self, named: Rc<dyn AnyNamed>) {
        if named.is_restless() {
            self.restless.borrow_mut().push(Rc::downgrade(&named));
        }
    }

    /// To be given to whoever is listed here, who sets it when it goes.
    pub(super) fn let_go(&self) -> &Rc<Cell<bool>> {
        &self.let_go
    }

    /// Passes a file's change on to who reads it.
    pub fn changed(&self, id: WatchId, change: Change) {
        enum Found {
            Named(Rc<dyn AnyNamed>),
            File(Rc<TrackedFile>),
        }
        let found = match self.readers.borrow().get(&id) {
            Some(Reader::Named(named)) => named.upgrade().map(Found::Named),
            Some(Reader::File(file)) => file.upgrade().map(Found::File),
            None => None,
        };
        match (found, change) {
            (Some(Found::Named(named)), Change::Replaced) => {
                named.reload(self);
                self.look_after(named);
            }
            (Some(Found::Named(named)), Change::EditedInPlace) => named.edited_in_place(),
            (Some(Found::File(file)), Change::Replaced) => self.reload_file(&file),
            (Some(Found::File(file)), Change::EditedInPlace) => file.edited_in_place(),
            (None, _) => {
                for set in self.sets() {
                    set.changed(id, change, self);
                }
            }
        }
    }

    /// Compiles again what depends on files that changed, or lacked something.
    /// True when anything else is in force now.
    pub fn refresh(&self) -> bool {
        self.look_for_files();
        let unseen = self.files_version.get() != self.files_seen.replace(self.files_version.get());
        let some = match unseen {
            true => {
                self.restless.take();
                self.all()
            }
            false => {
                let mut some: Vec<_> = self
                    .restless
                    .take()
                    .iter()
                    .filter_map(Weak::upgrade)
                    .collect();
                // One that was answered twice is listed twice.
                some.sort_by_key(|named| Rc::as_ptr(named).cast::<()>().addr());
                some.dedup_by(|a, b| Rc::ptr_eq(a, b));
                some
            }
        };
        let mut changed = false;
        for named in some {
            changed |= named.refresh(self);
            self.look_after(named);
        }
        changed
    }

    /// Whether something is held back for a cluster.
    pub fn hold_back(&self) -> bool {
        let restless = self.restless.borrow();
        let mut live = restless.iter().filter_map(Weak::upgrade);
        live.any(|named| named.is_held_back()) || self.sets().iter().any(|set| set.is_held_back())
    }

    /// When something here has to be looked at again although no event came: the
    /// first of those that are held back for a cluster goes on without.
    pub fn deadline(&self) -> Option<Instant> {
        let restless = self.restless.borrow();
        let live = restless.iter().filter_map(Weak::upgrade);
        let sets = self.sets().into_iter();
        live.filter_map(|named| named.held_until())
            .chain(sets.filter_map(|set| set.deadline()))
            .min()
    }

    /// Reads every file again, whether it was replaced or not.
    pub fn reload_all(&self) {
        for named in self.all() {
            named.reload(self);
            self.look_after(named);
        }
        self.sets().iter().for_each(|set| set.reload(self));
        for file in self.files.live() {
            self.reload_file(&file);
        }
    }

    /// Every named resource, those of the bootstrap first.
    pub fn all(&self) -> Vec<Rc<dyn AnyNamed>> {
        fn add<K: NamedKind>(all: &mut Vec<Rc<dyn AnyNamed>>, registry: &OfKind<K>) {
            let live = registry.live().into_iter();
            all.extend(live.map(|named| named as Rc<dyn AnyNamed>));
        }
        let mut all: Vec<Rc<dyn AnyNamed>> = Vec::new();
        for secret in self.static_secrets.borrow().values() {
            all.push(secret.clone());
        }
        // Secrets first: what else is compiled may refer to them.
        add(&mut all, &self.secrets);
        add(&mut all, &self.endpoints);
        add(&mut all, &self.extensions);
        add(&mut all, &self.routes);
        add(&mut all, &self.runtimes);
        all
    }

    /// Every named resource of a kind, for the admin.
    pub fn view(&self, kind: state::Kind) -> Vec<state::Resource> {
        let all = self.all();
        let of_kind = all.iter().filter(|named| named.kind() == kind);
        of_kind.map(|named| named.resource(self)).collect()
    }

    /// Forgets what nobody holds any more.
    pub fn prune(&self) {
        if !self.let_go.take() {
            return;
        }
        self.routes.prune();
        self.secrets.prune();
        self.endpoints.prune();
        self.extensions.prune();
        self.runtimes.prune();
        self.scopes.prune();
        self.hosts.prune();
        self.files.prune();
        self.readers.borrow_mut().retain(|_, reader| match reader {
            Reader::Named(named) => named.strong_count() > 0,
            Reader::File(file) => file.strong_count() > 0,
        });
    }

    fn track(&self, path: &Path) -> std::io::Result<Rc<TrackedFile>> {
        let key = path.to_owned();
        if let Some(known) = self.files.get(&key) {
            return Ok(known);
        }
        let watch = self.watcher.watch(path, None)?;
        let id = watch.id();
        let file = Rc::new(TrackedFile::new(path, watch, self.let_go.clone()));
        if file.is_missing() {
            self.missing.borrow_mut().push(Rc::downgrade(&file));
        }
        let reader = Reader::File(Rc::downgrade(&file));
        self.readers.borrow_mut().insert(id, reader);
        self.files.insert(key, &file);
        Ok(file)
    }
}
