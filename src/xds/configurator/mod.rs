//! The road of every resource into the running configuration.
//!
//! Static resources and files meet here; so can streams, for [`Feed::take`] does
//! not ask what brought an answer.
//!
//! The order: secrets and clusters of the bootstrap, layers of the runtime, CDS,
//! listeners of the bootstrap; once no cluster warms and no layer is awaited, LDS; once no listener warms any
//! more, the process is live. After that every event (a file replaced, endpoints
//! that came, a time that ran out) is handled in the same way: it is applied,
//! then everything that waited for it gets its chance, and at the end one
//! snapshot is published.

mod arrivals;
#[cfg(test)]
mod tests;
mod view;

use std::{
    cell::{Cell, RefCell},
    hash::BuildHasher,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use crate::{
    admin::state::{Kind, ServerState},
    api::envoy::config::{
        bootstrap::v3::bootstrap::{DynamicResources, StaticResources},
        core::v3::Node,
    },
    config::{At, Reported, Strictness},
    http::request_id,
    model::{Snapshot, SnapshotSlot, context::ServerInfo},
    refuse,
    runtime::Runtime,
    stats,
    upstream::grpc::{Channels, Upstreams},
};

use super::{
    api_source::Management,
    feed::Feed,
    kinds::{ClusterKind, ListenerKind},
    manager::Manager,
    runtime_layers::RuntimeLayers,
    store::Store,
    stream::{Arrival, Streams},
    subscriptions::{Subscriptions, Ways},
    watcher::{Change, Watcher},
};

/// How often a listener is tried again whose address another process has.
const BIND_RETRY: Duration = Duration::from_secs(1);

/// How many times things that wait for one another are gone through for one event.
const MAX_ROUNDS: usize = 16;

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

/// The running configuration, on the control thread.
pub struct Configurator {
    subscriptions: Subscriptions,
    runtime: Arc<Runtime>,
    watcher: Rc<Watcher>,
    /// What streams tell, for whom [`Configurator::run`] listens.
    arrivals: RefCell<Option<mpsc::Receiver<Arrival>>>,
    state: RefCell<State>,
    /// Clusters that have changed since the last snapshot.
    unpublished: RefCell<Vec<Arc<str>>>,
    snapshot: SnapshotSlot,
    bootstrap: (Bytes, SystemTime),
    publish: Box<dyn Fn(u64)>,
    phase: watch::Sender<ServerState>,
    reload: Notify,
    warmed: Rc<Notify>,
    /// What is no longer needed of an earlier run has been forgotten.
    swept: Cell<bool>,
}

impl Drop for Configurator {
    fn drop(&mut self) {
        // What goes now goes because the process ends.
        if let Some(store) = self.subscriptions.store() {
            store.close();
        }
    }
}

struct State {
    clusters: Manager<ClusterKind>,
    listeners: Manager<ListenerKind>,
    cds: Option<Feed>,
    lds: Option<Feed>,
    runtime: RuntimeLayers,
    lds_begun: bool,
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

    /// Runs for as long as the process does.
    pub async fn run(&self) {
        let (Some(mut arrivals), Some(mut asked)) =
            (self.arrivals.take(), self.subscriptions.take_asked())
        else {
            return;
        };
        loop {
            let deadline = self.deadline();
            let time_is_up = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.watcher.ready() => self.files_changed(),
                Some(arrival) = arrivals.recv() => self.arrived(arrival),
                Some(asked) = asked.recv() => self.subscriptions.demand(asked),
                () = self.reload.notified() => self.read_all(),
                () = self.warmed.notified() => {}
                () = time_is_up => self.time_is_up(),
            }
            self.settle();
        }
    }

    /// Reads every file again: SIGHUP.
    pub fn reload_all(&self) {
        self.reload.notify_one();
    }

    /// The state of the process as far as its configuration goes. It is
    /// [`ServerState::Live`] once workers can begin to accept.
    pub fn phase(&self) -> watch::Receiver<ServerState> {
        self.phase.subscribe()
    }

    fn files_changed(&self) {
        for (id, change) in self.watcher.changes() {
            if self.state.borrow().runtime.watches(id) {
                // What is written below a directory in place is not applied either.
                if change == Change::Replaced {
                    self.runtime.reload();
                }
                continue;
            }
            let feed = {
                let state = self.state.borrow();
                let is = |feed: &Option<Feed>| feed.as_ref().is_some_and(|f| f.watches(id));
                match (is(&state.cds), is(&state.lds)) {
                    (true, _) => Some(Kind::Cluster),
                    (_, true) => Some(Kind::Listener),
                    _ => None,
                }
            };
            match (feed, change) {
                (Some(Kind::Cluster), Change::Replaced) => self.read_cds(),
                (Some(_), Change::Replaced) => self.read_lds(),
                (Some(kind), Change::EditedInPlace) => {
                    if let Some(feed) = self.state.borrow().feed(kind) {
                        feed.edited_in_place();
                    }
                }
                (None, change) => self.subscriptions.changed(id, change),
            }
        }
    }

    /// Something that was awaited did not come, or does not live any longer.
    fn time_is_up(&self) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        let State {
            clusters,
            listeners,
            cds,
            lds,
            ..
        } = &mut *state;
        if let Some(cds) = cds {
            cds.poll(now, clusters, &self.subscriptions);
        }
        if let Some(lds) = lds {
            lds.poll(now, listeners, &self.subscriptions);
        }
        drop(state);
        self.subscriptions.fall_back(now);
        for (stream, ended) in self.subscriptions.streams().expire(now.into_std()) {
            for push in ended {
                self.take(&stream, push);
            }
        }
    }

    fn read_all(&self) {
        tracing::info!(target: "config", "reading every configuration file again");
        self.subscriptions.reload_all();
        self.read_cds();
        self.read_lds();
    }

    fn read_cds(&self) {
        let mut state = self.state.borrow_mut();
        let State { clusters, cds, .. } = &mut *state;
        if let Some(feed) = cds {
            feed.read(clusters, &self.subscriptions);
        }
    }

    fn read_lds(&self) {
        let mut state = self.state.borrow_mut();
        let State {
            listeners,
            lds,
            lds_begun: true,
            ..
        } = &mut *state
        else {
            // It is read once the clusters are there.
            return;
        };
        if let Some(feed) = lds {
            feed.read(listeners, &self.subscriptions);
        }
    }

    /// Gives everything that waits its chance, until nothing moves any more;
    /// then publishes.
    fn settle(&self) {
        for _ in 0..MAX_ROUNDS {
            self.move_on();
            // What leads to clusters waits until requests find them.
            if !self.publish() {
                break;
            }
        }
        self.hold_back_acks();
        self.subscriptions.answer();
        self.subscriptions.prune();
        self.keep();
    }

    /// Once the first clusters are there, CDS acknowledges what has warmed.
    fn hold_back_acks(&self) {
        let state = self.state.borrow();
        if let Some(cds) = &state.cds {
            cds.hold(state.lds_begun && state.clusters.is_warming());
        }
    }

    fn move_on(&self) {
        for _ in 0..MAX_ROUNDS {
            let now = Instant::now();
            let mut state = self.state.borrow_mut();
            self.follow_clusters(&mut state.clusters);
            let mut moved = self.subscriptions.refresh();
            state.runtime.follow(&self.runtime);
            moved |= state.clusters.refresh(&self.subscriptions);
            moved |= state.clusters.poll(now);
            moved |= state.listeners.refresh(&self.subscriptions);
            moved |= state.listeners.poll(now);
            let mut warming = state.listeners.warming();
            moved |= self.subscriptions.settle(now);
            let held = self.subscriptions.hold_back()
                || warming.any(|(_, _, needs)| needs.await_clusters());
            drop(warming);
            state.clusters.let_go(now, held, &self.subscriptions);
            drop(state);
            moved |= self.next_phase();
            if !moved {
                break;
            }
        }
    }

    /// Tells those who refer to clusters which there are.
    fn follow_clusters(&self, clusters: &mut Manager<ClusterKind>) {
        let names = self.subscriptions.clusters();
        for name in clusters.take_touched() {
            match clusters.has(&name) {
                true => names.exists(&name),
                false => names.is_gone(&name),
            }
            self.unpublished.borrow_mut().push(name);
        }
    }

    /// Keeps what is in force.
    fn keep(&self) {
        let Some(store) = self.subscriptions.store() else {
            return;
        };
        let state = self.state.borrow();
        let is_live = |feed: &Option<Feed>| feed.as_ref().is_none_or(Feed::is_live);
        if !self.swept.get()
            && *self.phase.borrow() == ServerState::Live
            && is_live(&state.cds)
            && is_live(&state.lds)
            && !state.clusters.is_warming()
            && !state.listeners.is_warming()
        {
            self.swept.set(true);
            store.forget_unused();
        }
        store.flush();
    }

    /// Goes on with the start when what it waits for is there.
    fn next_phase(&self) -> bool {
        let phase = *self.phase.borrow();
        let mut state = self.state.borrow_mut();
        match phase {
            ServerState::PreInitializing
                if !state.clusters.is_warming()
                    && state.runtime.is_settled(Instant::now())
                    && state.cds.as_ref().is_none_or(Feed::is_answered) =>
            {
                tracing::info!(target: "main", "all clusters initialized. initializing init manager");
                state.lds_begun = true;
                let State { listeners, lds, .. } = &mut *state;
                if let Some(lds) = lds {
                    lds.begin(listeners, &self.subscriptions);
                }
                drop(state);
                self.phase.send_replace(ServerState::Initializing);
                true
            }
            ServerState::Initializing
                if !state.listeners.is_warming()
                    && state.lds.as_ref().is_none_or(Feed::is_answered) =>
            {
                tracing::info!(target: "config", "all dependencies initialized. starting workers");
                let (kind, active) = state.listeners.kind_and_active();
                kind.start_workers(active.map(|(_, listener)| listener));
                self.phase.send_replace(ServerState::Live);
                true
            }
            _ => false,
        }
    }

    /// Puts what has changed into a new snapshot, in one step. True when clusters
    /// have come into force that others may wait for.
    fn publish(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let State {
            clusters,
            listeners,
            cds,
            lds,
            ..
        } = &mut *state;
        for (feed, whole) in [(cds, clusters.is_whole()), (lds, listeners.is_whole())] {
            if let (Some(feed), true) = (feed, whole) {
                feed.cured();
            }
        }
        let (clusters_changed, listeners_changed) =
            (clusters.take_changed(), listeners.take_changed());
        // Nobody refers to a listener.
        listeners.take_touched();
        if !clusters_changed && !listeners_changed {
            return false;
        }
        let old = self.snapshot.load();
        let generation = old.generation + 1;
        let new = Snapshot {
            generation,
            clusters: match clusters_changed {
                true => Arc::new(shared(
                    clusters.active().map(|(_, driver)| driver.cluster()),
                    |c| &c.name,
                )),
                false => old.clusters.clone(),
            },
            listeners: match listeners_changed {
                true => Arc::new(shared(
                    listeners.active().map(|(_, listener)| listener),
                    |l| &l.name,
                )),
                false => old.listeners.clone(),
            },
        };
        let new = Arc::new(new);
        self.snapshot.store(new.clone());
        (self.publish)(generation);
        let upstreams = self.subscriptions.streams().upstreams();
        upstreams.snapshot_changed(&new);
        let names = self.subscriptions.clusters();
        let touched = self.unpublished.take();
        let in_force = touched.iter().filter(|name| clusters.is_active(name));
        in_force.for_each(|name| names.is_in_force(name));
        clusters_changed
    }

    /// When something has to be looked at again although no event came.
    fn deadline(&self) -> Option<Instant> {
        let state = self.state.borrow();
        let bind = state
            .listeners
            .is_to_be_tried_again()
            .then(|| Instant::now() + BIND_RETRY);
        let feeds = state.cds.iter().chain(&state.lds);
        let first_answer = feeds.filter_map(Feed::deadline).min();
        let expiry = self.subscriptions.streams().next_expiry();
        let deadlines = [
            state.runtime.deadline(),
            state.clusters.deadline(),
            state.listeners.deadline(),
            self.subscriptions.deadline(),
            bind,
            first_answer,
            expiry.map(Instant::from_std),
            self.subscriptions.patience(),
        ];
        deadlines.into_iter().flatten().min()
    }
}

impl State {
    fn feed(&self, kind: Kind) -> Option<&Feed> {
        match kind {
            Kind::Cluster => self.cds.as_ref(),
            _ => self.lds.as_ref(),
        }
    }
}

fn shared<'a, T: 'a, M: FromIterator<(Arc<str>, Arc<T>)>>(
    active: impl Iterator<Item = &'a Arc<T>>,
    name: impl Fn(&T) -> &Arc<str>,
) -> M {
    active
        .map(|built| (name(built).clone(), built.clone()))
        .collect()
}

/// A name for what has none: a UUID, as Envoy's.
fn unique_name() -> String {
    let random = || std::hash::RandomState::new().hash_one(());
    let uuid = request_id::generate(random(), random());
    String::from_utf8_lossy(uuid.as_bytes()).into_owned()
}
