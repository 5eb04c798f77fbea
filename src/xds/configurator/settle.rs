//! After each event: everything that waited for it gets its chance, and what has
//! changed is published.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Configurator, State};
use crate::{
    admin::state::ServerState,
    model::Snapshot,
    xds::{feed::Feed, kinds::ClusterKind, manager::Manager},
};

/// How many times things that wait for one another are gone through for one event.
const MAX_ROUNDS: usize = 16;

impl Configurator {
    /// Gives everything that waits its chance, until nothing moves any more;
    /// then publishes.
    pub(super) fn settle(&self) {
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
    pub(super) fn follow_clusters(&self, clusters: &mut Manager<ClusterKind>) {
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
}

fn shared<'a, T: 'a, M: FromIterator<(Arc<str>, Arc<T>)>>(
    active: impl Iterator<Item = &'a Arc<T>>,
    name: impl Fn(&T) -> &Arc<str>,
) -> M {
    active
        .map(|built| (name(built).clone(), built.clone()))
        .collect()
}
