//! The start: what the bootstrap holds, and the first answer of CDS where it is a file.

use std::{
    cell::{Cell, RefCell},
    hash::BuildHasher,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::{Configurator, State};
use crate::{
    admin::state::ServerState,
    api::envoy::config::{
        bootstrap::v3::bootstrap::{DynamicResources, StaticResources},
        core::v3::Node,
    },
    config::{At, Reported, Strictness},
    http::request_id,
    model::{SnapshotSlot, context::ServerInfo},
    refuse,
    runtime::Runtime,
    stats,
    upstream::grpc::{Channels, Upstreams},
    xds::{
        api_source::Management,
        feed::Feed,
        kinds::{ClusterKind, ListenerKind},
        manager::Manager,
        runtime_layers::RuntimeLayers,
        store::Store,
        stream::Streams,
        subscriptions::{Subscriptions, Ways},
        watcher::Watcher,
    },
};

/// What the configurator needs from the process.
pub struct Setup {
    /// Where stats are made.
    pub stats: Arc<stats::Registry>,
    /// Facts about the process.
    pub server: ServerInfo,
    /// How it introduces itself to management servers.
    pub node: Node,
    /// Values that may override what is configured.
    pub runtime: Arc<Runtime>,
    /// How strictly discovered resources are read.
    pub strictness: Strictness,
    /// Where accepted resources are kept.
    pub state_dir: Option<PathBuf>,
    /// Where snapshots are put.
    pub snapshot: SnapshotSlot,
    /// The bootstrap as merged, encoded, and when it was read, for the admin.
    pub bootstrap: (Bytes, SystemTime),
    /// Told the generation of each snapshot that was put there.
    pub publish: Box<dyn Fn(u64)>,
}

impl Configurator {
    /// Takes the resources of the bootstrap, then those of CDS.
    ///
    /// # Errors
    /// A resource of the bootstrap that is not valid, a listener of it that
    /// cannot be bound, a file for LDS or CDS that does not exist; reported.
    pub fn start(
        resources: Option<StaticResources>,
        dynamic: Option<DynamicResources>,
        setup: Setup,
        at: &At<'_>,
    ) -> Result<Rc<Self>, Reported> {
        let Setup {
            stats,
            server,
            node,
            runtime,
            strictness,
            state_dir,
            snapshot,
            bootstrap,
            publish,
        } = setup;
        let store = state_dir.map(|directory| Store::open(&directory, strictness, &stats));
        let (resources, mut dynamic) = (resources.unwrap_or_default(), dynamic.unwrap_or_default());
        let ads = dynamic.ads_config.take();
        let at_dynamic = at.field("dynamic_resources");
        let at_ads = at_dynamic.field("ads_config");
        let channels = Channels::new(&server, &runtime, &stats);
        let management = Management::compile(&resources, ads.as_ref(), channels, &at_ads)?;
        let upstreams = Upstreams::new(snapshot.clone(), &stats);
        let (streams, arrivals) = Streams::new(upstreams, Arc::new(node), stats.clone());
        let watcher = Watcher::new().map_err(|error| at.error(error))?;
        let workers = server.concurrency;
        let listeners = ListenerKind::new(workers, server.drain_time, &stats);
        let warmed = Rc::new(Notify::new());
        let clusters = ClusterKind::new(&stats, Rc::clone(&warmed));
        let this = Self {
            subscriptions: Subscriptions::new(
                stats,
                server,
                Arc::clone(&runtime),
                strictness,
                Ways {
                    watcher: Rc::clone(&watcher),
                    management,
                    streams,
                    store,
                },
            ),
            runtime,
            watcher,
            arrivals: RefCell::new(Some(arrivals)),
            state: RefCell::new(State {
                clusters: Manager::new(clusters),
                listeners: Manager::new(listeners),
                cds: None,
                lds: None,
                runtime: RuntimeLayers::default(),
                lds_begun: false,
            }),
            unpublished: RefCell::default(),
            snapshot,
            bootstrap,
            publish,
            phase: watch::Sender::new(ServerState::PreInitializing),
            reload: Notify::new(),
            warmed,
            swept: Cell::new(false),
        };
        this.begin(resources, dynamic, at)?;
        Ok(Rc::new(this))
    }

    fn begin(
        &self,
        resources: StaticResources,
        dynamic: DynamicResources,
        at: &At<'_>,
    ) -> Result<(), Reported> {
        let StaticResources {
            listeners,
            clusters,
            secrets,
        } = resources;
        let DynamicResources {
            lds_config,
            cds_config,
            // Taken before.
            ads_config: _,
            lds_resources_locator,
            cds_resources_locator,
        } = dynamic;
        let at_dynamic = at.field("dynamic_resources");
        let mut outcome = refuse!(at_dynamic; lds_resources_locator, cds_resources_locator);
        let mut note = |result: Result<(), Reported>| {
            if let Err(reported) = result {
                outcome = Err(reported);
            }
        };
        let mut state = self.state.borrow_mut();
        let State {
            clusters: cluster_manager,
            cds,
            lds,
            ..
        } = &mut *state;
        if let Some(config) = cds_config {
            let at = at_dynamic.field("cds_config");
            let found = Feed::open::<ClusterKind>(
                &config,
                "cds",
                "cluster_manager.cds.",
                &self.subscriptions,
                &at,
            );
            note(found.map(|found| *cds = Some(found)));
        }
        if let Some(config) = lds_config {
            let at = at_dynamic.field("lds_config");
            let found = Feed::open::<ListenerKind>(
                &config,
                "lds",
                "listener_manager.lds.",
                &self.subscriptions,
                &at,
            );
            note(found.map(|found| *lds = Some(found)));
        }
        let at_static = at.field("static_resources");
        let at_secrets = at_static.field("secrets");
        for (i, secret) in secrets.into_iter().enumerate() {
            note(
                self.subscriptions
                    .add_static_secret(secret, &at_secrets.index(i)),
            );
        }
        let at_clusters = at_static.field("clusters");
        for (i, cluster) in clusters.into_iter().enumerate() {
            let at = at_clusters.index(i);
            note(cluster_manager.add_static(cluster, &at, &self.subscriptions));
        }
        let layers = RuntimeLayers::open(
            &self.runtime,
            &self.watcher,
            &self.subscriptions,
            &at.field("layered_runtime"),
        );
        note(layers.map(|layers| state.runtime = layers));
        let State { clusters, cds, .. } = &mut *state;
        if let Some(cds) = cds {
            cds.begin(clusters, &self.subscriptions);
        }
        self.follow_clusters(clusters);
        let at_listeners = at_static.field("listeners");
        for (i, mut listener) in listeners.into_iter().enumerate() {
            let at = at_listeners.index(i);
            if listener.name.is_empty() {
                // Several may be without one.
                listener.name = unique_name();
            }
            note(
                state
                    .listeners
                    .add_static(listener, &at, &self.subscriptions),
            );
        }
        drop(state);
        outcome?;
        self.settle();
        Ok(())
    }
}

/// A name for what has none: a UUID, as Envoy's.
fn unique_name() -> String {
    let random = || std::hash::RandomState::new().hash_one(());
    let uuid = request_id::generate(random(), random());
    String::from_utf8_lossy(uuid.as_bytes()).into_owned()
}
