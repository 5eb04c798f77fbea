//! The runtime: values by key that can change while the proxy runs, from
//! layers in the bootstrap, on disk, by RTDS and in the admin.
//!
//! A key is compiled to a [`Key`] once; reading it on the request path is one
//! load of what the control thread put there.

mod disk;
mod fraction;
mod layer;
mod value;

pub use fraction::{Denominator, Fraction, RuntimeFlag, RuntimeFraction, RuntimeNumber};
pub use layer::{Discovered, Layer, compile};
pub use value::{Value, ValueError, Values, flatten};

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use arc_swap::ArcSwapOption;

use crate::stats;

crate::stat_table! {
    /// Stats under `runtime.`.
    pub mod runtime_stats {
        counters {
            deprecated_feature_use, load_error, load_success, override_dir_exists,
            override_dir_not_exists,
        }
        gauges {
            admin_overrides_active, deprecated_feature_seen_since_process_start, num_keys,
            num_layers,
        }
        histograms { }
        texts { }
    }
}

/// A runtime key that somebody refers to. Clones share the value.
#[derive(Clone, Debug)]
pub struct Key(Arc<ArcSwapOption<Value>>);

impl Key {
    /// Reads the value in force, when there is one and `reading` makes sense of it.
    pub fn read<T>(&self, reading: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        reading(self.0.load().as_ref()?)
    }
}

/// There is no `admin_layer` to write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("No admin layer specified")]
pub struct NoAdminLayer;

/// One key in all layers, for `/runtime`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its value in each layer, empty where the layer has none.
    pub layer_values: Vec<String>,
    /// The last layer's that has one.
    pub final_value: String,
}

/// All layers and the values they give together.
#[derive(Debug)]
pub struct Runtime {
    stats: Arc<stats::Block>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    layers: Vec<Layer>,
    keys: HashMap<Box<str>, Weak<ArcSwapOption<Value>>>,
}

impl Runtime {
    /// The runtime of these layers; later ones override earlier ones. Disk
    /// layers are read at once.
    pub fn new(layers: Vec<Layer>, registry: &Arc<stats::Registry>) -> Arc<Self> {
        let runtime = Self {
            stats: registry.block("runtime.", &runtime_stats::TABLE),
            state: Mutex::new(State {
                layers,
                keys: HashMap::new(),
            }),
        };
        runtime.reload();
        Arc::new(runtime)
    }

    /// A runtime without layers, in which every default holds.
    pub fn empty(registry: &Arc<stats::Registry>) -> Arc<Self> {
        Self::new(Vec::new(), registry)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The handle of a key; `None` for the empty key, which nothing overrides.
    pub fn key(&self, name: &str) -> Option<Key> {
        if name.is_empty() {
            return None;
        }
        let mut state = self.lock();
        if let Some(cell) = state.keys.get(name).and_then(Weak::upgrade) {
            return Some(Key(cell));
        }
        state.keys.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::new(ArcSwapOption::new(state.value(name).cloned().map(Arc::new)));
        state.keys.insert(name.into(), Arc::downgrade(&cell));
        Some(Key(cell))
    }

    /// Reads the disk layers again: at the start, and whenever one of
    /// [`Runtime::roots`] was replaced. A layer that cannot be read keeps the
    /// values it had.
    pub fn reload(&self) {
        let mut state = self.lock();
        let mut failed = false;
        for layer in &mut state.layers {
            if let Err(error) = layer.reload() {
                failed = true;
                tracing::warn!(target: "runtime", "layer {:?}: {error}", layer.name());
            }
        }
        self.loaded(&state, failed);
    }

    /// The layers whose values come by RTDS.
    pub fn discovered(&self) -> Vec<Discovered> {
        let state = self.lock();
        let discovered = state.layers.iter().filter_map(Layer::discovered);
        discovered.cloned().collect()
    }

    /// Puts the values in force that RTDS gave for the layer of this name.
    pub fn set_discovered(&self, layer: &str, values: Values) {
        let mut state = self.lock();
        let mut layers = state.layers.iter_mut();
        if let Some(layer) = layers.find(|l| l.name() == layer && l.discovered().is_some()) {
            layer.set_values(values);
            self.loaded(&state, false);
        }
    }

    /// What has to be watched for the disk layers: each `symlink_root`.
    pub fn roots(&self) -> Vec<Box<Path>> {
        let state = self.lock();
        state
            .layers
            .iter()
            .filter_map(|l| l.root())
            .map(Box::from)
            .collect()
    }

    /// Sets keys in the admin layer; an empty value takes the key out of it.
    ///
    /// # Errors
    /// When there is no admin layer.
    pub fn modify(&self, changes: &[(String, String)]) -> Result<(), NoAdminLayer> {
        let mut state = self.lock();
        let values = state
            .layers
            .iter_mut()
            .find_map(Layer::admin_values)
            .ok_or(NoAdminLayer)?;
        for (key, value) in changes {
            match value.is_empty() {
                true => values.remove(key),
                false => values.insert(key.clone(), Value::from_text(value)),
            };
        }
        self.loaded(&state, false);
        Ok(())
    }

    /// The layers' names, and every key with its values, for `/runtime`.
    pub fn entries(&self) -> (Vec<String>, BTreeMap<String, Entry>) {
        let state = self.lock();
        let count = state.existing().count();
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (index, layer) in state.existing().enumerate() {
            for (key, value) in layer.values() {
                let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
                    layer_values: vec![String::new(); count],
                    final_value: String::new(),
                });
                entry.layer_values[index].clone_from(&value.raw);
                entry.final_value.clone_from(&value.raw);
            }
        }
        let names = state.existing().map(|layer| layer.name().to_owned());
        (names.collect(), entries)
    }

    /// Puts the values in force for all who hold keys, and counts it.
    fn loaded(&self, state: &State, failed: bool) {
        self.stats.inc(match failed {
            true => runtime_stats::load_error,
            false => runtime_stats::load_success,
        });
        // Envoy takes the first disk layer for the base and the second for the override.
        let on_disk = state.layers.iter().filter(|layer| layer.is_on_disk());
        self.stats.inc(match on_disk.count() > 1 {
            true => runtime_stats::override_dir_exists,
            false => runtime_stats::override_dir_not_exists,
        });
        for (name, cell) in &state.keys {
            if let Some(cell) = cell.upgrade() {
                cell.store(state.value(name).cloned().map(Arc::new));
            }
        }
        let keys: std::collections::HashSet<_> = state
            .layers
            .iter()
            .flat_map(|layer| layer.values().keys())
            .collect();
        let overrides = state
            .layers
            .iter()
            .any(|layer| layer.is_admin() && !layer.values().is_empty());
        let gauge = |gauge, value: usize| self.stats.gauge_set(gauge, value as u64);
        gauge(runtime_stats::num_keys, keys.len());
        gauge(runtime_stats::num_layers, state.existing().count());
        gauge(runtime_stats::admin_overrides_active, overrides.into());
    }
}

impl State {
    fn existing(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|layer| layer.exists())
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.layers
            .iter()
            .rev()
            .find_map(|layer| layer.values().get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> Arc<Runtime> {
        let mut base = Layer::admin("base");
        let values = base.admin_values().unwrap();
        values.insert("share".to_owned(), Value::from_text("20"));
        Runtime::new(
            vec![base.frozen(), Layer::admin("admin")],
            &stats::Registry::new(0),
        )
    }

    fn modify(runtime: &Runtime, key: &str, value: &str) {
        runtime
            .modify(&[(key.to_owned(), value.to_owned())])
            .unwrap();
    }

    #[test]
    fn the_last_layer_that_has_a_key_wins_and_handles_follow() {
        let runtime = runtime();
        let key = runtime.key("share").unwrap();
        assert_eq!(key.read(|value| value.integer), Some(20));
        modify(&runtime, "share", "30");
        assert_eq!(key.read(|value| value.integer), Some(30));
        let (layers, entries) = runtime.entries();
        assert_eq!(layers, ["base", "admin"]);
        assert_eq!(entries["share"].layer_values, ["20", "30"]);
        modify(&runtime, "share", "");
        assert_eq!(key.read(|value| value.integer), Some(20));
        assert_eq!(
            runtime.stats.gauge(runtime_stats::admin_overrides_active),
            0
        );
    }

    #[test]
    fn without_an_admin_layer_nothing_can_be_modified() {
        let runtime = Runtime::empty(&stats::Registry::new(0));
        assert_eq!(runtime.modify(&[]), Err(NoAdminLayer));
    }

    #[test]
    fn a_fraction_is_overridden_by_percent_or_fraction() {
        let runtime = runtime();
        let report = crate::config::Report::new();
        let message = crate::api::envoy::config::core::v3::RuntimeFractionalPercent {
            default_value: Some(crate::api::envoy::r#type::v3::FractionalPercent {
                numerator: 100,
                denominator: 0,
            }),
            runtime_key: "share".to_owned(),
        };
        let fraction = RuntimeFraction::compile(message, &runtime, &report.root()).unwrap();
        assert!(fraction.enabled(119) && !fraction.enabled(120));
        modify(&runtime, "share", "{numerator: 5, denominator: MILLION}");
        assert!(fraction.enabled(4) && !fraction.enabled(5));
        modify(&runtime, "share", "nonsense");
        assert!(fraction.enabled(99));
    }
}
