//! How many connections may be open: in one listener, and in all.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::runtime::{Key, Runtime};

/// The runtime key of the limit of all listeners.
const ALL: &str = "overload.global_downstream_max_connections";

/// Open connections that are counted together, on all workers.
#[derive(Debug)]
pub struct OpenConnections {
    open: AtomicU64,
    limit: Limit,
}

#[derive(Debug)]
enum Limit {
    /// Whoever counts says so.
    None,
    /// Always so many.
    Fixed(u64),
    /// What the runtime says; none where it has no value.
    Runtime(Option<Key>),
}

impl OpenConnections {
    fn new(limit: Limit) -> Arc<Self> {
        let open = AtomicU64::new(0);
        Arc::new(Self { open, limit })
    }

    fn by_runtime(key: &str, runtime: &Runtime) -> Arc<Self> {
        Self::new(Limit::Runtime(runtime.key(key)))
    }

    /// So many at most.
    pub fn at_most(limit: u64) -> Arc<Self> {
        Self::new(Limit::Fixed(limit))
    }

    /// As many as may come.
    pub fn unlimited() -> Arc<Self> {
        Self::new(Limit::None)
    }

    /// How many there are.
    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Counts one more; `None` when there are as many as may be.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let limit = match &self.limit {
            Limit::None => None,
            Limit::Fixed(limit) => Some(*limit),
            Limit::Runtime(key) => key.as_ref().and_then(|key| key.read(|v| v.integer)),
        };
        match limit {
            Some(limit) => self.enter_below(limit),
            None => Some(self.enter_anyway()),
        }
    }

    /// Counts one more; `None` when there are `limit` or more.
    pub fn enter_below(self: &Arc<Self>, limit: u64) -> Option<Place> {
        let one_more = |open| (open < limit).then_some(open + 1);
        let entered = self.open.fetch_update(Relaxed, Relaxed, one_more);
        entered.ok().map(|_| Place(self.clone()))
    }

    /// Counts one more, whatever the limit.
    pub fn enter_anyway(self: &Arc<Self>) -> Place {
        self.open.fetch_add(1, Relaxed);
        Place(self.clone())
    }
}

/// One of the connections that are counted.
#[derive(Debug)]
pub struct Place(Arc<OpenConnections>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// What is counted for each listener by its name, and for all together. It
/// outlives a listener's configuration as its connections do.
#[derive(Debug, Default)]
pub struct ConnectionLimits(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    all: Option<Arc<OpenConnections>>,
    listeners: HashMap<Box<str>, Weak<OpenConnections>>,
    filters: HashMap<Box<str>, Weak<OpenConnections>>,
}

impl ConnectionLimits {
    /// The count of a listener, and that of all.
    pub fn of(
        &self,
        listener: &str,
        runtime: &Runtime,
    ) -> (Arc<OpenConnections>, Arc<OpenConnections>) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { all, listeners, .. } = &mut *counted;
        let all = all.get_or_insert_with(|| OpenConnections::by_runtime(ALL, runtime));
        let own = match listeners.get(listener).and_then(Weak::upgrade) {
            Some(own) => own,
            None => {
                listeners.retain(|_, count| count.strong_count() > 0);
                let key = format!("envoy.resource_limits.listener.{listener}.connection_limit");
                let own = OpenConnections::by_runtime(&key, runtime);
                listeners.insert(listener.into(), Arc::downgrade(&own));
                own
            }
        };
        (own, all.clone())
    }

    /// What a network filter counts at its site, whose limit is the filter's own.
    pub fn at(&self, site: &str) -> Arc<OpenConnections> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let filters = &mut counted.filters;
        if let Some(open) = filters.get(site).and_then(Weak::upgrade) {
            return open;
        }
        filters.retain(|_, count| count.strong_count() > 0);
        let open = OpenConnections::unlimited();
        filters.insert(site.into(), Arc::downgrade(&open));
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{runtime::Layer, stats};

    #[test]
    fn the_last_place_is_taken_once_and_given_back() {
        let runtime = Runtime::new(vec![Layer::admin("limits")], &stats::Registry::new(0));
        let key = "envoy.resource_limits.listener.edge.connection_limit";
        runtime.modify(&[(key.to_owned(), "2".to_owned())]).unwrap();
        let limits = ConnectionLimits::default();
        let (edge, all) = limits.of("edge", &runtime);
        let places = [edge.enter(), edge.enter()];
        assert!(places.iter().all(Option::is_some));
        assert!(edge.enter().is_none());
        // A configuration that replaces it counts on.
        assert!(limits.of("edge", &runtime).0.enter().is_none());
        drop(places);
        assert_eq!(edge.open(), 0);
        assert!(edge.enter().is_some());
        assert!(all.enter().is_some());
    }
}
