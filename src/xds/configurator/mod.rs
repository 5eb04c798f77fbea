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
mod settle;
mod start;
#[cfg(test)]
mod tests;
mod view;

use std::{
    cell::{Cell, RefCell},
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
    model::SnapshotSlot,
    runtime::Runtime,
};

use super::{
    feed::Feed,
    kinds::{ClusterKind, ListenerKind},
    manager::Manager,
    runtime_layers::RuntimeLayers,
    stream::Arrival,
    subscriptions::Subscriptions,
    watcher::{Change, Watcher},
};

pub use start::Setup;

/// How often a listener is tried again whose address another process has.
const BIND_RETRY: Duration = Duration::from_secs(1);

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
