//! Every named subscription and tracked file there is, and the [`Sources`] by
//! which a resource that is being compiled asks for them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    rc::{Rc, Weak},
    sync::Arc,
};

use prost::{Message, Name};
use tokio::time::Instant;

use crate::{
    admin::state,
    api::{
        TYPE_URL_PREFIX,
        envoy::{
            config::core::v3::{ConfigSource as ConfigSourceMessage, GrpcService},
            extensions::transport_sockets::tls::v3::Secret as SecretMessage,
        },
    },
    config::{At, Reported, Strictness, suggest},
    model::{
        Context, Shared, Sources,
        cluster::EndpointSet,
        context::{Extension, FilterWanted, Meanwhile, ServerInfo},
        route::{RouteTable, ScopeRoutes, ScopeTable},
        secret::Secret,
    },
    runtime::{Runtime, Values},
    stats,
    upstream::grpc::{Caller, Target},
};

use super::{
    api_source::{Management, Through},
    cluster_names::{ClusterNames, Reference},
    config_source::{ConfigSource, Origin},
    dependencies::{Awaited, Dependencies, TrackedFile, WithDefault},
    kinds::{EndpointKind, ExtensionKind, RouteKind, RuntimeKind, ScopeKind, SecretKind},
    mux::{Push, TypeUrl, Verdict},
    named::{AnyNamed, Held, Named, NamedKind, Wanted},
    set::{AnySet, Set},
    slot::Slot,
    store::{PATIENCE, Shelf, Store},
    stream::{Stream, Streams},
    update::{Gone, Update},
    watcher::{Change, WatchId, Watcher},
};

/// Named subscriptions of one kind, by where they come from and what is wanted.
type Registry<K> = RefCell<HashMap<Key<K>, Weak<Named<K>>>>;
type Key<K> = (ConfigSource, Wanted<<K as NamedKind>::Want>);

/// The scopes of a connection manager: where they and their routes come from, their
/// name, and where stats stand.
type ScopesKey = (ConfigSource, Option<Vec<u8>>, Box<str>, Box<str>);

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
    routes: Registry<RouteKind>,
    secrets: Registry<SecretKind>,
    endpoints: Registry<EndpointKind>,
    runtimes: Registry<RuntimeKind>,
    scopes: RefCell<HashMap<ScopesKey, Weak<Set<ScopeKind>>>>,
    extensions: Registry<ExtensionKind>,
    static_secrets: RefCell<BTreeMap<Arc<str>, Rc<Named<SecretKind>>>>,
    files: RefCell<HashMap<PathBuf, Weak<TrackedFile>>>,
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
            routes: Registry::default(),
            secrets: Registry::default(),
            endpoints: Registry::default(),
            runtimes: Registry::default(),
            scopes: RefCell::default(),
            extensions: Registry::default(),
            static_secrets: RefCell::default(),
            files: RefCell::default(),
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
        let scopes = self.scopes.borrow();
        let live = scopes.values().filter_map(Weak::upgrade);
        live.map(|set| set as Rc<dyn AnySet>).collect()
    }

    /// Gives what waits in sets its chance. True when something moved.
    pub fn settle(&self, now: Instant) -> bool {
        let sets = self.sets().into_iter();
        sets.fold(false, |moved, set| set.settle(now, self) | moved)
    }

    /// For the compilation of one resource.
    pub fn collector(&self) -> Collector<'_> {
        Collector {
            subscriptions: self,
            found: RefCell::default(),
        }
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

    /// Which clusters there are, for [`Sources::cluster`].
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

    /// Passes a file's change on to who reads it. A path that was missing has no
    /// reader yet: whoever lacks it is given a chance after every event.
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
        for file in self.live_files() {
            self.reload_file(&file);
        }
    }

    /// Every named resource, those of the bootstrap first.
    pub fn all(&self) -> Vec<Rc<dyn AnyNamed>> {
        fn add<K: NamedKind>(all: &mut Vec<Rc<dyn AnyNamed>>, registry: &Registry<K>) {
            let registry = registry.borrow();
            let live = registry.values().filter_map(Weak::upgrade);
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
        self.routes
            .borrow_mut()
            .retain(|_, named| named.strong_count() > 0);
        self.secrets
            .borrow_mut()
            .retain(|_, named| named.strong_count() > 0);
        self.endpoints
            .borrow_mut()
            .retain(|_, named| named.strong_count() > 0);
        self.extensions
            .borrow_mut()
            .retain(|_, named| named.strong_count() > 0);
        self.runtimes
            .borrow_mut()
            .retain(|_, named| named.strong_count() > 0);
        self.scopes
            .borrow_mut()
            .retain(|_, set| set.strong_count() > 0);
        self.files
            .borrow_mut()
            .retain(|_, file| file.strong_count() > 0);
        self.readers.borrow_mut().retain(|_, reader| match reader {
            Reader::Named(named) => named.strong_count() > 0,
            Reader::File(file) => file.strong_count() > 0,
        });
    }

    fn live_files(&self) -> Vec<Rc<TrackedFile>> {
        self.files
            .borrow()
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }

    fn track(&self, path: &Path) -> std::io::Result<Rc<TrackedFile>> {
        if let Some(known) = self.files.borrow().get(path).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let watch = self.watcher.watch(path, None)?;
        let id = watch.id();
        let file = Rc::new(TrackedFile::new(path, watch, self.let_go.clone()));
        let reader = Reader::File(Rc::downgrade(&file));
        self.readers.borrow_mut().insert(id, reader);
        self.files
            .borrow_mut()
            .insert(path.to_owned(), Rc::downgrade(&file));
        Ok(file)
    }
}

/// The [`Sources`] of one resource that is being compiled; remembers what it
/// asked for.
pub struct Collector<'a> {
    subscriptions: &'a Subscriptions,
    found: RefCell<Dependencies>,
}

impl Collector<'_> {
    /// What `compile` functions are handed.
    pub fn context(&self) -> Context<'_> {
        Context {
            stats: &self.subscriptions.stats,
            sources: self,
            server: &self.subscriptions.server,
            shared: &self.subscriptions.shared,
            runtime: &self.subscriptions.runtime,
        }
    }

    /// What was asked for.
    pub fn into_dependencies(self) -> Dependencies {
        self.found.into_inner()
    }

    /// Remembers that something was missing that may come.
    pub fn lacks(&self) {
        self.found.borrow_mut().lacks_other = true;
    }

    /// A layer of the runtime by RTDS.
    ///
    /// # Errors
    /// When the source is of a kind that is not supported, or its file is missing.
    pub fn runtime(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Values>>, Reported> {
        let wanted = Wanted::named(name, "runtime.");
        self.subscribe(&self.subscriptions.runtimes, source, wanted, at)
    }

    /// Joins a subscription, or begins it. Secrets keep their name's prefix, so
    /// `prefix` is part of what makes two subscriptions one.
    fn subscribe<K: NamedKind>(
        &self,
        registry: &Registry<K>,
        source: &ConfigSourceMessage,
        wanted: Wanted<K::Want>,
        at: &At<'_>,
    ) -> Result<Arc<Slot<K::Value>>, Reported> {
        let named = self.join(registry, source, wanted, at)?;
        let slot = named.slot().clone();
        self.found.borrow_mut().subscriptions.push(named);
        Ok(slot)
    }

    fn join<K: NamedKind>(
        &self,
        registry: &Registry<K>,
        source: &ConfigSourceMessage,
        wanted: Wanted<K::Want>,
        at: &At<'_>,
    ) -> Result<Rc<Named<K>>, Reported> {
        let subscriptions = self.subscriptions;
        let source = ConfigSource::compile(source, K::THROUGH, &subscriptions.management, at)?;
        source.check_node(&subscriptions.server, at)?;
        let key = (source, wanted);
        let known = registry.borrow().get(&key).and_then(Weak::upgrade);
        if let Some(named) = known {
            return Ok(named);
        }
        let (source, wanted) = &key;
        let named = match &source.origin {
            Origin::File(_) => self.watch(source, wanted, at)?,
            origin => self.ask(origin, source, wanted, at)?,
        };
        registry.borrow_mut().insert(key, Rc::downgrade(&named));
        subscriptions.look_after(named.clone());
        Ok(named)
    }
}

impl Collector<'_> {
    /// Remembers to try again when a file comes that does not exist.
    fn misses_file(&self, origin: &Origin) {
        if let Origin::File(file) = origin
            && let Ok(watch) = self.subscriptions.watcher.watch(&file.path, None)
        {
            self.found.borrow_mut().missing.push(watch);
        }
    }

    /// Begins a subscription to a file.
    fn watch<K: NamedKind>(
        &self,
        source: &ConfigSource,
        wanted: &Wanted<K::Want>,
        at: &At<'_>,
    ) -> Result<Rc<Named<K>>, Reported> {
        let Origin::File(file) = &source.origin else {
            return Err(at.error("is no file"));
        };
        let subscriptions = self.subscriptions;
        let directory = file.watched_directory.as_deref().map(PathBuf::as_path);
        let watch = subscriptions
            .watcher
            .watch(&file.path, directory)
            .map_err(|error| at.error(error))?;
        let shelf = subscriptions.shelf(&K::Message::full_name(), &source.origin);
        let is_kept = shelf.is_some_and(|shelf| shelf.get(&wanted.name).is_some());
        if !is_kept && let Err(reported) = file.check_exists(at) {
            self.found.borrow_mut().missing.push(watch);
            return Err(reported);
        }
        let id = watch.id();
        let held = Held::Watch(watch);
        let named = Named::subscribe(wanted, source.clone(), held, subscriptions);
        let reader: Weak<dyn AnyNamed> = Rc::<Named<K>>::downgrade(&named);
        let mut readers = subscriptions.readers.borrow_mut();
        readers.insert(id, Reader::Named(reader));
        Ok(named)
    }

    /// Begins a subscription at a server. What the server has sent already, and
    /// so will not send again, is handed over at once.
    fn ask<K: NamedKind>(
        &self,
        origin: &Origin,
        source: &ConfigSource,
        wanted: &Wanted<K::Want>,
        at: &At<'_>,
    ) -> Result<Rc<Named<K>>, Reported> {
        let Wanted { name, prefix, .. } = wanted;
        let subscriptions = self.subscriptions;
        let type_url: TypeUrl = format!("{TYPE_URL_PREFIX}{}", K::Message::full_name()).into();
        let stream = subscriptions
            .streams
            .join(origin, &type_url, name, prefix, at)?;
        let interest = stream.subscribe(&type_url, name);
        let held = Held::Interest(interest);
        let named = Named::subscribe(wanted, source.clone(), held, subscriptions);
        let watcher: Weak<dyn AnyNamed> = Rc::<Named<K>>::downgrade(&named);
        stream.watch(&type_url, name, watcher);
        if let Some(known) = stream.known(&type_url, name) {
            let version = known.version.clone();
            // What is wrong with it is in the log and the dump.
            named.deliver(known, &version, subscriptions).ok();
        } else if named.is_kept() {
            match stream.failure() {
                Some(why) => named.fall_back(&why, subscriptions),
                None => {
                    let named: Weak<dyn AnyNamed> = Rc::<Named<K>>::downgrade(&named);
                    let due = (Instant::now() + PATIENCE, named);
                    subscriptions.impatient.borrow_mut().push(due);
                }
            }
        }
        Ok(named)
    }
}

impl Sources for Collector<'_> {
    fn target(&self, service: &GrpcService, at: &At<'_>) -> Result<Target, Reported> {
        self.subscriptions.management.target(service, at)
    }

    fn caller(&self) -> Option<Caller> {
        Some(self.subscriptions.streams.caller())
    }

    fn routes(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        stat_prefix: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<RouteTable>>, Reported> {
        let wanted = Wanted::named(name, &format!("{stat_prefix}rds.{name}."));
        self.subscribe(&self.subscriptions.routes, source, wanted, at)
    }

    fn scopes(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        routes: ScopeRoutes<'_>,
        at: &At<'_>,
    ) -> Result<Arc<Slot<ScopeTable>>, Reported> {
        let subscriptions = self.subscriptions;
        let (through, management) = (Through::Primary, &subscriptions.management);
        let key = (
            ConfigSource::compile(source, through, management, at)?,
            routes.source.map(Message::encode_to_vec),
            name.into(),
            routes.stat_prefix.into(),
        );
        let known = subscriptions
            .scopes
            .borrow()
            .get(&key)
            .and_then(Weak::upgrade);
        let set = match known {
            Some(set) => set,
            None => {
                let prefix = format!("{}scoped_rds.{name}.", routes.stat_prefix);
                let kind = ScopeKind::new(routes, &prefix, &subscriptions.stats);
                let opened = Set::open(name, source, &prefix, kind, subscriptions, at);
                let set = opened.inspect_err(|_| self.misses_file(&key.0.origin))?;
                let others = subscriptions.sets();
                let mut same = others.iter().filter(|other| set.shares_stream(&***other));
                set.begin(same.find_map(|other| other.accepted()), subscriptions);
                let mut scopes = subscriptions.scopes.borrow_mut();
                scopes.insert(key, Rc::downgrade(&set));
                set
            }
        };
        let slot = set.slot().clone();
        self.found.borrow_mut().subscriptions.push(set);
        Ok(slot)
    }

    fn secret(
        &self,
        source: Option<&ConfigSourceMessage>,
        name: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Secret>>, Reported> {
        if let Some(source) = source {
            let wanted = Wanted::named(name, &format!("sds.{name}."));
            return self.subscribe(&self.subscriptions.secrets, source, wanted, at);
        }
        let secrets = self.subscriptions.static_secrets.borrow();
        match secrets.get(name) {
            Some(secret) => Ok(secret.slot().clone()),
            None => {
                let near = suggest::near(name, secrets.keys().map(|k| k.to_string()));
                Err(at.error(format_args!("Unknown static secret: {name}{near}")))
            }
        }
    }

    fn endpoints(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        stat_prefix: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<EndpointSet>>, Reported> {
        let wanted = Wanted::named(name, stat_prefix);
        self.subscribe(&self.subscriptions.endpoints, source, wanted, at)
    }

    fn filter(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        want: FilterWanted,
        meanwhile: Meanwhile,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Extension>>, Reported> {
        let wanted = Wanted {
            name: name.into(),
            prefix: format!("extension_config_discovery.http_filter.{name}.").into(),
            want,
        };
        let named = self.join(&self.subscriptions.extensions, source, wanted, at)?;
        let slot = named.slot().clone();
        let awaited: Rc<dyn Awaited> = match meanwhile {
            Meanwhile::Nothing => named,
            Meanwhile::Default { at_once } => Rc::new(WithDefault { named, at_once }),
        };
        self.found.borrow_mut().subscriptions.push(awaited);
        Ok(slot)
    }

    fn cluster(&self, name: &str, must_exist: bool, at: &At<'_>) -> Result<(), Reported> {
        let clusters = &self.subscriptions.clusters;
        let mut found = self.found.borrow_mut();
        if !found.clusters.contains_key(name) {
            let reference = Reference::new(clusters, name);
            found.clusters.insert(reference.name().clone(), reference);
        }
        drop(found);
        if !must_exist || clusters.standing(name).is_some() {
            return Ok(());
        }
        self.lacks();
        let near = clusters.near(name);
        Err(at.error(format_args!("unknown cluster '{name}'{near}")))
    }

    fn depends_on_file(&self, path: &Path) {
        match self.subscriptions.track(path) {
            Ok(file) => {
                let version = file.version();
                self.found.borrow_mut().files.push((file, version));
            }
            Err(error) => tracing::warn!(
                target: "file",
                "{} is not watched: {error}", path.display()
            ),
        }
    }
}
