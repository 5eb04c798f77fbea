//! The layers of the runtime that change: those by RTDS, and directories whose
//! symbolic link is swapped.

use std::{rc::Rc, sync::Arc};

use tokio::time::Instant;

use crate::{
    config::{At, Reported},
    runtime::{Runtime, Values},
};

use super::{
    dependencies::Dependencies,
    slot::Slot,
    subscriptions::Subscriptions,
    watcher::{Watch, WatchId, Watcher},
};

/// What the layers of the runtime follow.
#[derive(Default)]
pub struct RuntimeLayers {
    discovered: Vec<Layer>,
    /// Each `symlink_root`.
    roots: Vec<Watch>,
    dependencies: Dependencies,
    /// When the start goes on without what was not answered; `None` is never.
    deadline: Option<Instant>,
}

struct Layer {
    name: Box<str>,
    slot: Arc<Slot<Values>>,
    /// What the runtime was given last.
    given: Option<Arc<Values>>,
}

impl RuntimeLayers {
    /// Subscribes to the layers by RTDS, and watches those on disk.
    ///
    /// # Errors
    /// A source that is not supported, or a file that does not exist; reported.
    pub fn open(
        runtime: &Runtime,
        watcher: &Rc<Watcher>,
        subscriptions: &Subscriptions,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut outcome = Ok(());
        let mut roots = Vec::new();
        for root in runtime.roots() {
            match watcher.watch(&root, None) {
                Ok(watch) => roots.push(watch),
                Err(error) => outcome = Err(at.error(error)),
            }
        }
        let collector = subscriptions.collector();
        let mut discovered = Vec::new();
        let at = at.field("layers");
        for layer in runtime.discovered() {
            let at = at.index(layer.index);
            let at = at.field("rtds_layer");
            let at = at.field("rtds_config");
            match collector.runtime(&layer.source, &layer.resource, &at) {
                Ok(slot) => discovered.push(Layer {
                    name: layer.layer,
                    slot,
                    given: None,
                }),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome?;
        let dependencies = collector.into_dependencies();
        let timeout = dependencies.timeout();
        Ok(Self {
            discovered,
            roots,
            dependencies,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
        })
    }

    /// Whether this is the watch of a directory.
    pub fn watches(&self, id: WatchId) -> bool {
        self.roots.iter().any(|root| root.id() == id)
    }

    /// Gives the runtime what has come since.
    pub fn follow(&mut self, runtime: &Runtime) {
        for layer in &mut self.discovered {
            let now = layer.slot.get();
            let same = match (&*now, &layer.given) {
                (Some(now), Some(given)) => Arc::ptr_eq(now, given),
                (None, None) => true,
                _ => false,
            };
            if !same {
                let values = now.as_deref().cloned().unwrap_or_default();
                runtime.set_discovered(&layer.name, values);
                layer.given.clone_from(&now);
            }
        }
    }

    /// Whether each has been answered, good or bad, or has had the time to be.
    pub fn is_settled(&self, now: Instant) -> bool {
        self.dependencies.answered() || self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// When the start goes on without what is not answered yet.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.dependencies.answered())
    }

    /// What is not answered yet, as `/init_dump` names it.
    pub fn awaited(&self) -> impl Iterator<Item = String> {
        self.dependencies.awaited()
    }
}
