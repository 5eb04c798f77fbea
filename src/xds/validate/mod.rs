//! Everything that is wrong with a configuration, found without running it.
//!
//! Every file that the bootstrap leads to is read and compiled: LDS, CDS, and
//! by them RDS, EDS, SDS, RTDS, certificates and keys. References to clusters are
//! checked, which a running proxy leaves open. Nothing is bound or resolved.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use prost::{Message, Name};

use crate::{
    api::envoy::config::{
        bootstrap::v3::bootstrap::{DynamicResources, StaticResources},
        cluster::v3::Cluster as ClusterMessage,
        core::v3::{ConfigSource as ConfigSourceMessage, GrpcService},
        listener::v3::Listener as ListenerMessage,
        route::v3::ScopedRouteConfiguration,
    },
    config::{
        At, ConfigError, Discovery, RawResource, Report, Reported, Strictness, read_discovery,
        suggest,
    },
    model::{
        Context, Shared, Sources,
        cluster::{Cluster, EndpointSet},
        context::{Extension, FilterWanted, Meanwhile, ServerInfo},
        listener::Listener,
        route::{
            DiscoveredHosts, HostsWanted, RouteTable, Scope, ScopeKey, ScopeRoutes, ScopeTable,
        },
        secret::{Secret, SecretWanted},
    },
    net::Address,
    refuse,
    runtime::{Runtime, Values},
    stats,
    upstream::grpc::{Caller, Channels, Target},
};

use super::{
    api_source::{Management, Through},
    config_source::{ConfigSource, Origin},
    demand::Demand,
    kinds::{EndpointKind, ExtensionKind, RouteKind, RuntimeKind, SecretKind},
    named::{NamedKind, check_name, the_only},
    slot::Slot,
};

/// What compiling needs from the process.
pub struct Checks {
    /// Where stats are made; nobody reads them.
    pub stats: Arc<stats::Registry>,
    /// Facts about the process.
    pub server: ServerInfo,
    /// Values that may override what is configured.
    pub runtime: Arc<Runtime>,
    /// How strictly discovered resources are read.
    pub strictness: Strictness,
}

/// Reads and compiles everything. All that is wrong goes to the report of `at`,
/// the place of the bootstrap's root; what is wrong in other files has its
/// position already.
pub fn validate(
    resources: StaticResources,
    dynamic: DynamicResources,
    checks: Checks,
    at: &At<'_>,
) {
    let management = {
        let at = at.field("dynamic_resources");
        let at = at.field("ads_config");
        let channels = || Channels::new(&checks.server, &checks.runtime, &checks.stats);
        let ads = dynamic.ads_config.as_ref();
        let compiled = Management::compile(&resources, ads, channels(), &at);
        // What is wrong is on the report; the checks go on to find more.
        match compiled {
            Ok(management) => management,
            Err(_) => Management::compile(&resources, None, channels(), &at).unwrap_or_default(),
        }
    };
    let validator = Validator {
        checks,
        shared: Shared::default(),
        clusters: BTreeMap::new(),
        static_secrets: BTreeMap::new(),
        routes: RefCell::default(),
        secrets: RefCell::default(),
        endpoints: RefCell::default(),
        runtimes: RefCell::default(),
        extensions: RefCell::default(),
        management,
        report: at.report(),
    };
    validator.run(resources, dynamic, at);
}

/// Slots by file and name.
type Known<T, W = ()> = RefCell<HashMap<(ConfigSource, Box<str>, W), Arc<Slot<T>>>>;

struct Validator<'a> {
    checks: Checks,
    shared: Shared,
    management: Management,
    /// Every cluster there is to be, and where it stands.
    clusters: BTreeMap<Box<str>, String>,
    static_secrets: BTreeMap<Box<str>, Arc<Slot<Secret>>>,
    routes: Known<RouteTable>,
    secrets: Known<Secret, SecretWanted>,
    endpoints: Known<EndpointSet>,
    runtimes: Known<Values>,
    extensions: Known<Extension, FilterWanted>,
    report: &'a Report,
}

impl Validator<'_> {
    fn run(mut self, resources: StaticResources, dynamic: DynamicResources, at: &At<'_>) {
        let StaticResources {
            listeners,
            clusters,
            secrets,
        } = resources;
        let DynamicResources {
            lds_config,
            cds_config,
            // Checked before.
            ads_config: _,
            lds_resources_locator,
            cds_resources_locator,
        } = dynamic;
        let at_dynamic = at.field("dynamic_resources");
        // What is refused is on the report; the checks go on to find more.
        refuse!(at_dynamic; lds_resources_locator, cds_resources_locator).ok();
        let cds = self.read::<ClusterMessage>(cds_config, &at_dynamic.field("cds_config"));
        let lds = self.read::<ListenerMessage>(lds_config, &at_dynamic.field("lds_config"));

        let at_layers = at.field("layered_runtime");
        let at_layers = at_layers.field("layers");
        for layer in self.checks.runtime.discovered() {
            let at = at_layers.index(layer.index);
            let at = at.field("rtds_layer");
            let at = at.field("rtds_config");
            // Failures are on the report.
            self.named::<RuntimeKind>(&self.runtimes, &layer.source, &layer.resource, (), &at)
                .ok();
        }

        let at_static = at.field("static_resources");
        let at_secrets = at_static.field("secrets");
        for (index, secret) in secrets.into_iter().enumerate() {
            let at = at_secrets.index(index);
            match at.is_faulty() {
                true => self.known_secret(&secret.name),
                false => self.static_secret(secret, &at),
            }
        }

        // All names first: an earlier cluster's route may lead to a later one.
        let at_clusters = at_static.field("clusters");
        for (index, cluster) in clusters.iter().enumerate() {
            let at = at_clusters.index(index);
            let place = at.to_string();
            if let Some(first) = self.clusters.insert(cluster.name.as_str().into(), place)
                && !at.is_faulty()
            {
                let at = at.field("name");
                at.error(duplicate("cluster", &cluster.name, &first));
            }
        }
        let cds = self.distinct("cluster", cds, clusters.iter().map(|c| c.name.as_str()));
        for raw in &cds {
            self.clusters.insert(raw.name().into(), String::new());
        }
        for (index, cluster) in clusters.into_iter().enumerate() {
            let at = at_clusters.index(index);
            if !at.is_faulty() {
                // Each failure is on the report.
                Cluster::compile(cluster, None, &self.context(), &at).ok();
            }
        }
        for raw in cds {
            self.compile(&raw, |message, cx, at| {
                Cluster::compile(message, None, cx, at)
            });
        }

        let mut addresses = Addresses::default();
        let lds = self.distinct("listener", lds, listeners.iter().map(|l| l.name.as_str()));
        let at_listeners = at_static.field("listeners");
        for (index, listener) in listeners.into_iter().enumerate() {
            let at = at_listeners.index(index);
            if !at.is_faulty() {
                addresses.take(&listener, &at);
                // Each failure is on the report.
                Listener::compile(listener, &self.context(), &at).ok();
            }
        }
        for raw in lds {
            self.compile(&raw, |message, cx, at| {
                addresses.take(&message, at);
                Listener::compile(message, cx, at)
            });
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            stats: &self.checks.stats,
            sources: self,
            server: &self.checks.server,
            shared: &self.shared,
            runtime: &self.checks.runtime,
        }
    }

    /// The resources of an LDS or CDS file.
    fn read<M: Name>(&self, source: Option<ConfigSourceMessage>, at: &At<'_>) -> Vec<RawResource> {
        let Some(source) = source.filter(|_| !at.is_faulty()) else {
            return Vec::new();
        };
        // Failures are on the report.
        match ConfigSource::compile(&source, Through::Primary, &self.management, at) {
            Ok(ConfigSource {
                origin: Origin::File(file),
                initial_fetch_timeout: _,
            }) => match file.check_exists(at) {
                Ok(()) => self.read_file(&file.path, &M::type_url()),
                Err(_) => Vec::new(),
            },
            // A server is not asked.
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    fn read_file(&self, path: &Path, type_url: &str) -> Vec<RawResource> {
        match read_discovery(path, type_url) {
            // The version does not matter here.
            Ok(Discovery {
                version_info: _,
                resources,
            }) => resources,
            Err(error) => {
                error.report(self.report);
                Vec::new()
            }
        }
    }

    /// Refuses the second of a name; one that a static resource has is skipped
    /// by a running proxy, which is hardly what is meant.
    fn distinct<'a>(
        &self,
        noun: &str,
        resources: Vec<RawResource>,
        fixed: impl Iterator<Item = &'a str>,
    ) -> Vec<RawResource> {
        let mut first: HashMap<Box<str>, String> = fixed
            .map(|name| (name.into(), "the bootstrap".to_owned()))
            .collect();
        let mut distinct = Vec::with_capacity(resources.len());
        for raw in resources {
            match first.get(raw.name()) {
                Some(first) => {
                    let mut report = Report::new();
                    let root = report.root();
                    root.field("name").error(duplicate(noun, raw.name(), first));
                    self.take(&raw, &mut report);
                }
                None => {
                    first.insert(raw.name().into(), place(&raw));
                    distinct.push(raw);
                }
            }
        }
        distinct
    }

    fn compile<M: Message + Name + Default, T>(
        &self,
        raw: &RawResource,
        compile: impl FnOnce(M, &Context<'_>, &At<'_>) -> Result<T, Reported>,
    ) -> Option<T> {
        let mut report = Report::new();
        let compiled = raw
            .decode(&self.checks.strictness, &report)
            .and_then(|message| compile(message, &self.context(), &report.root()));
        self.take(raw, &mut report);
        compiled.ok()
    }

    fn take(&self, raw: &RawResource, report: &mut Report) {
        raw.locate(report);
        for error in std::mem::take(report).into_errors() {
            self.report.push(error);
        }
    }

    fn static_secret(&mut self, secret: <SecretKind as NamedKind>::Message, at: &At<'_>) {
        let name: Box<str> = SecretKind::name(&secret).into();
        if self.static_secrets.contains_key(&name) {
            let at = at.field("name");
            at.error(format_args!("duplicate static secret {name:?}"));
            return;
        }
        match SecretKind::compile(secret, &SecretWanted::Any, &self.context(), at) {
            Ok(secret) => {
                let slot = Slot::fixed(&*name, Arc::new(secret));
                self.static_secrets.insert(name, Arc::new(slot));
            }
            Err(_) => self.known_secret(&name),
        }
    }

    /// A static secret there is, but of which nothing can be used.
    fn known_secret(&mut self, name: &str) {
        let slot = || Arc::new(Slot::new(name));
        self.static_secrets.entry(name.into()).or_insert_with(slot);
    }

    /// A resource by name from a file, read at once and only once.
    fn named<K: NamedKind>(
        &self,
        known: &Known<K::Value, K::Want>,
        source: &ConfigSourceMessage,
        name: &str,
        want: K::Want,
        at: &At<'_>,
    ) -> Result<Arc<Slot<K::Value>>, Reported> {
        let source = ConfigSource::compile(source, K::THROUGH, &self.management, at)?;
        let Origin::File(file) = &source.origin else {
            // A server is not asked.
            return Ok(Arc::new(Slot::new(name)));
        };
        file.check_exists(at)?;
        let path = file.path.clone();
        let key = (source, Box::from(name), want);
        if let Some(slot) = known.borrow().get(&key) {
            return Ok(Arc::clone(slot));
        }
        let resources = self.read_file(&path, &K::Message::type_url());
        let value = match the_only::<K, _>(resources, name, &path.display().to_string()) {
            Ok(None) => None,
            Ok(Some(raw)) => self.compile(&raw, |message, cx, at| {
                check_name::<K>(&message, name, at)?;
                K::compile(message, &key.2, cx, at)
            }),
            Err(message) => {
                self.report.push(ConfigError {
                    path: String::new(),
                    message,
                    position: None,
                });
                None
            }
        };
        let slot = Arc::new(match value {
            Some(value) => Slot::fixed(name, Arc::new(value)),
            None => Slot::new(name),
        });
        known.borrow_mut().insert(key, Arc::clone(&slot));
        Ok(slot)
    }
}

impl Sources for Validator<'_> {
    fn target(&self, service: &GrpcService, at: &At<'_>) -> Result<Target, Reported> {
        self.management.target(service, at)
    }

    fn caller(&self) -> Option<Caller> {
        None
    }

    fn routes(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        _stat_prefix: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<RouteTable>>, Reported> {
        self.named::<RouteKind>(&self.routes, source, name, (), at)
    }

    fn scopes(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        routes: ScopeRoutes<'_>,
        at: &At<'_>,
    ) -> Result<(Arc<Slot<ScopeTable>>, Demand), Reported> {
        let scopes = self.read::<ScopedRouteConfiguration>(Some(source.clone()), at);
        let mut keys: HashMap<ScopeKey, Box<str>> = HashMap::new();
        for raw in self.distinct("scoped route", scopes, std::iter::empty()) {
            self.compile(&raw, |message: ScopedRouteConfiguration, cx, at| {
                let name = message.name.clone();
                // Also those that nobody has asked for yet.
                let scope = Scope::compile(message, routes, true, cx, at)?;
                match keys.insert(scope.key, name.as_str().into()) {
                    None => Ok(()),
                    Some(first) => Err(at.field("key").error(format_args!(
                        "scope key conflict found, first scope is '{first}', \
                         second scope is '{name}'"
                    ))),
                }
            });
        }
        Ok((Arc::new(Slot::new(name)), Demand::deaf()))
    }

    fn virtual_hosts(
        &self,
        source: &ConfigSourceMessage,
        wanted: HostsWanted,
        at: &At<'_>,
    ) -> Result<DiscoveredHosts, Reported> {
        let source = ConfigSource::compile(source, Through::Primary, &self.management, at)?;
        source.check_delta(at)?;
        // A server is not asked.
        Ok(DiscoveredHosts {
            hosts: Arc::new(Slot::new(wanted.route_config)),
            demand: Demand::deaf(),
        })
    }

    fn secret(
        &self,
        source: Option<&ConfigSourceMessage>,
        name: &str,
        wanted: SecretWanted,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Secret>>, Reported> {
        match source {
            Some(source) => self.named::<SecretKind>(&self.secrets, source, name, wanted, at),
            None => match self.static_secrets.get(name) {
                Some(slot) => {
                    if let Some(secret) = slot.get().as_ref() {
                        secret.check(wanted, at)?;
                    }
                    Ok(Arc::clone(slot))
                }
                None => {
                    let near =
                        suggest::near(name, self.static_secrets.keys().map(|k| k.to_string()));
                    Err(at.error(format_args!("Unknown static secret: {name}{near}")))
                }
            },
        }
    }

    fn endpoints(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        _stat_prefix: &str,
        at: &At<'_>,
    ) -> Result<Arc<Slot<EndpointSet>>, Reported> {
        self.named::<EndpointKind>(&self.endpoints, source, name, (), at)
    }

    fn filter(
        &self,
        source: &ConfigSourceMessage,
        name: &str,
        want: FilterWanted,
        _meanwhile: Meanwhile,
        at: &At<'_>,
    ) -> Result<Arc<Slot<Extension>>, Reported> {
        self.named::<ExtensionKind>(&self.extensions, source, name, want, at)
    }

    fn cluster(&self, name: &str, _must_exist: bool, at: &At<'_>) -> Result<(), Reported> {
        if self.clusters.contains_key(name) {
            return Ok(());
        }
        let near = suggest::near(name, self.clusters.keys().map(|c| c.to_string()));
        Err(at.error(format_args!("unknown cluster '{name}'{near}")))
    }

    fn depends_on_file(&self, _path: &Path) {}
}

/// Which addresses are taken, and by whom.
#[derive(Default)]
struct Addresses(HashMap<Address, Arc<str>>);

impl Addresses {
    fn take(&mut self, listener: &ListenerMessage, at: &At<'_>) {
        let additional = listener.additional_addresses.iter();
        let additional = additional.map(|additional| &additional.address);
        for address in std::iter::once(&listener.address).chain(additional) {
            // What is wrong with an address is reported when the listener is compiled.
            let report = Report::new();
            let compiled = address
                .clone()
                .and_then(|address| Address::compile(address, &report.root()).ok());
            let Some(address) = compiled else {
                continue;
            };
            if address.ip().is_some_and(|ip| ip.port() == 0) {
                continue;
            }
            match self.0.get(&address) {
                Some(other) => {
                    at.field("address").error(format_args!(
                        "error adding listener: '{}' has duplicate address '{address}' as \
                         existing listener '{other}'",
                        listener.name
                    ));
                }
                None => {
                    self.0.insert(address, listener.name.as_str().into());
                }
            }
        }
    }
}

fn duplicate(noun: &str, name: &str, first: &str) -> String {
    format!("duplicate {noun} {name} found, the first is in {first}")
}

fn place(raw: &RawResource) -> String {
    super::resource::place_of(raw)
}

#[cfg(test)]
mod tests;
