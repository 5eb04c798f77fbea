//! What a resource asks for while it is compiled: the [`Sources`] of one
//! compilation.

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::{Rc, Weak},
    sync::Arc,
};

use prost::{Message, Name};
use tokio::time::Instant;

use super::{OfKind, Reader, Subscriptions};
use crate::{
    api::{
        TYPE_URL_PREFIX,
        envoy::config::core::v3::{ConfigSource as ConfigSourceMessage, GrpcService},
    },
    config::{At, Reported, suggest},
    model::{
        Context, Sources,
        cluster::EndpointSet,
        context::{Extension, FilterWanted, Meanwhile},
        route::{DiscoveredHosts, HostsWanted, RouteTable, ScopeRoutes, ScopeTable},
        secret::{Secret, SecretWanted},
    },
    runtime::Values,
    upstream::grpc::{Caller, Target},
    xds::{
        api_source::Through,
        cluster_names::Reference,
        config_source::{ConfigSource, Origin},
        demand::Demand,
        dependencies::{Awaited, Dependencies, FileSeen, WithDefault},
        kinds::{HostKind, ScopeKind},
        mux::TypeUrl,
        named::{AnyNamed, Held, Named, NamedKind, Wanted},
        set::Set,
        slot::Slot,
        store::PATIENCE,
    },
};

/// The [`Sources`] of one resource that is being compiled; remembers what it
/// asked for.
pub struct Collector<'a> {
    subscriptions: &'a Subscriptions,
    /// Where the stats of its own subscription stand.
    prefix: &'a str,
    found: RefCell<Dependencies>,
    asked: Cell<u64>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(subscriptions: &'a Subscriptions, prefix: &'a str) -> Self {
        Self {
            subscriptions,
            prefix,
            found: RefCell::default(),
            asked: Cell::default(),
        }
    }
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

    /// Notes that something is asked for.
    fn note(&self) {
        self.asked.set(self.asked.get() + 1);
    }

    /// What was asked for.
    pub fn into_dependencies(self) -> Dependencies {
        self.found.into_inner()
    }

    /// Remembers that something is missing that may come without an event.
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
        registry: &OfKind<K>,
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
        registry: &OfKind<K>,
        source: &ConfigSourceMessage,
        wanted: Wanted<K::Want>,
        at: &At<'_>,
    ) -> Result<Rc<Named<K>>, Reported> {
        let subscriptions = self.subscriptions;
        let source = ConfigSource::compile(source, K::THROUGH, &subscriptions.management, at)?;
        source.check_node(&subscriptions.server, at)?;
        let key = (source, wanted);
        if let Some(named) = registry.get(&key) {
            return Ok(named);
        }
        let (source, wanted) = &key;
        let named = match &source.origin {
            Origin::File(_) => self.watch(source, wanted, at)?,
            origin => self.ask(origin, source, wanted, at)?,
        };
        registry.insert(key, &named);
        subscriptions.look_after(named.clone());
        Ok(named)
    }

    /// Remembers to try again when a file comes that does not exist.
    fn misses_file(&self, origin: &Origin) {
        let Origin::File(file) = origin else {
            return;
        };
        self.depends_on_file(&file.path);
        if file.path.exists() {
            // It has come meanwhile, and nobody will tell of it.
            self.lacks();
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
            self.misses_file(&source.origin);
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
    fn asked(&self) -> Option<u64> {
        Some(self.asked.get())
    }

    fn target(&self, service: &GrpcService, at: &At<'_>) -> Result<Target, Reported> {
        self.note();
        self.subscriptions.management.target(service, at)
    }

    fn caller(&self) -> Option<Caller> {
        self.note();
        Some(self.subscriptions.streams.caller())
    }

    fn routes(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        stat_prefix: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<RouteTable>>, Reported> {
        self.note();
        let wanted = Wanted::named(name, &format!("{stat_prefix}rds.{name}."));
        self.subscribe(&self.subscriptions.routes, source, wanted, at)
    }

    fn scopes(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        routes: ScopeRoutes<'_>,
        at: &At<'_>,
    ) -> Result<(Arc<Slot<ScopeTable>>, Demand), Reported> {
        self.note();
        let subscriptions = self.subscriptions;
        let (through, management) = (Through::Primary, &subscriptions.management);
        let key = (
            ConfigSource::compile(source, through, management, at)?,
            routes.source.map(Message::encode_to_vec),
            name.into(),
            routes.stat_prefix.into(),
        );
        let set = match subscriptions.scopes.get(&key) {
            Some(set) => set,
            None => {
                let prefix = format!("{}scoped_rds.{name}.", routes.stat_prefix);
                let kind = ScopeKind::new(routes, &prefix, &subscriptions.stats);
                let opened = Set::open(name, source, &prefix, kind, subscriptions, at);
                let set = opened.inspect_err(|_| self.misses_file(&key.0.origin))?;
                set.begin(subscriptions);
                subscriptions.scopes.insert(key, &set);
                set
            }
        };
        let found = (set.slot().clone(), set.asker().clone());
        self.found.borrow_mut().subscriptions.push(set);
        Ok(found)
    }

    fn virtual_hosts(
        &self,
        source: &ConfigSourceMessage,
        wanted: HostsWanted,
        at: &At<'_>,
    ) -> Result<DiscoveredHosts, Reported> {
        self.note();
        let subscriptions = self.subscriptions;
        let (through, management) = (Through::Primary, &subscriptions.management);
        let compiled = ConfigSource::compile(source, through, management, at)?;
        compiled.check_delta(at)?;
        let name = wanted.route_config.clone();
        // Beside the stats of the table's own subscription: `http.ingress.rds.`.
        let own = format!("{name}.");
        let prefix = self.prefix.strip_suffix(&*own).unwrap_or_default();
        let prefix = format!("{prefix}vhds.{name}.");
        let key = (compiled, wanted, prefix.as_str().into());
        let set = match subscriptions.hosts.get(&key) {
            Some(set) => set,
            None => {
                let kind = HostKind::new(key.1.clone(), &prefix, &subscriptions.stats);
                let set = Set::open(&name, source, &prefix, kind, subscriptions, at)?;
                set.begin(subscriptions);
                subscriptions.hosts.insert(key, &set);
                set
            }
        };
        let hosts = set.slot().clone();
        let demand = set.asker().clone();
        let mut found = self.found.borrow_mut();
        found.parts.push((set.clone(), hosts.version()));
        found.subscriptions.push(set);
        Ok(DiscoveredHosts { hosts, demand })
    }

    fn secret(
        &self,
        source: Option<&ConfigSourceMessage>,
        name: &str,
        wanted: SecretWanted,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Secret>>, Reported> {
        self.note();
        if let Some(source) = source {
            let wanted = Wanted {
                name: name.into(),
                prefix: format!("sds.{name}.").into(),
                want: wanted,
            };
            return self.subscribe(&self.subscriptions.secrets, source, wanted, at);
        }
        let secrets = self.subscriptions.static_secrets.borrow();
        match secrets.get(name) {
            Some(secret) => {
                let slot = secret.slot().clone();
                if let Some(secret) = slot.get().as_ref() {
                    secret.check(wanted, at)?;
                }
                Ok(slot)
            }
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
        self.note();
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
        self.note();
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
        self.note();
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
        self.found.borrow_mut().unknown.push(name.into());
        let near = clusters.near(name);
        Err(at.error(format_args!("unknown cluster '{name}'{near}")))
    }

    fn depends_on_file(&self, path: &Path) {
        self.note();
        match self.subscriptions.track(path) {
            Ok(file) => self.found.borrow_mut().files.push(FileSeen::new(file)),
            Err(error) => tracing::warn!(
                target: "file",
                "{} is not watched: {error}", path.display()
            ),
        }
    }
}
