//! All blocks there are, by prefix.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use super::{Block, Table, listing::Parts};

/// Hands out [`Block`]s and lists them for the admin.
///
/// Asking again for a prefix that is still held gives the same block, so that
/// counters survive a configuration swap in which their name does. A block
/// that nobody holds any more is gone, with its counts.
#[derive(Debug)]
pub struct Registry {
    threads: usize,
    blocks: Mutex<Blocks>,
}

/// By prefix and the address of the table.
type Key = (Box<str>, usize);

#[derive(Debug, Default)]
struct Blocks {
    by_key: HashMap<Key, Weak<Block>, foldhash::fast::RandomState>,
    /// How many entries there may be before the dead ones are swept out.
    sweep_at: usize,
}

/// Fewer entries than this are never worth a sweep.
const LEAST_SWEEP: usize = 1024;

impl Registry {
    /// A registry for the control thread, `workers` workers, and the watchdog's
    /// thread, which writes the array after theirs.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            threads: workers + 2,
            blocks: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The block of this prefix (which ends in a dot, or is empty) and table.
    pub fn block(&self, prefix: &str, table: &'static Table) -> Arc<Block> {
        let mut blocks = self.lock();
        let key = (Box::from(prefix), std::ptr::from_ref(table) as usize);
        if let Some(block) = blocks.by_key.get(&key).and_then(Weak::upgrade) {
            return block;
        }
        if blocks.by_key.len() >= blocks.sweep_at {
            blocks.by_key.retain(|_, block| block.strong_count() > 0);
            blocks.sweep_at = (blocks.by_key.len() * 2).max(LEAST_SWEEP);
        }
        let block = Arc::new(Block::new(prefix, table, self.threads));
        blocks.by_key.insert(key, Arc::downgrade(&block));
        block
    }

    /// Every block that is held, for reading in order.
    pub fn parts(&self) -> Parts {
        Parts::new(self.held())
    }

    fn held(&self) -> Vec<Arc<Block>> {
        self.lock()
            .by_key
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Ends an interval of all histograms; called each `stats_flush_interval`.
    pub fn flush(&self) {
        self.held().iter().for_each(|block| block.flush());
    }

    /// `POST /reset_counters`: sets every counter to zero.
    pub fn reset_counters(&self) {
        self.held().iter().for_each(|block| block.reset_counters());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::stat_table! {
        mod sample {
            counters { a }
            gauges { }
            histograms { }
            texts { }
        }
    }

    #[test]
    fn a_held_prefix_gives_the_same_block_and_a_dropped_one_a_new_one() {
        let registry = Registry::new(0);
        let first = registry.block("s.", &sample::TABLE);
        first.inc(sample::a);
        assert_eq!(registry.block("s.", &sample::TABLE).counter(sample::a), 1);
        drop(first);
        assert_eq!(registry.block("s.", &sample::TABLE).counter(sample::a), 0);
    }

    #[test]
    fn dead_blocks_are_swept() {
        let registry = Registry::new(0);
        for i in 0..10 * LEAST_SWEEP {
            registry.block(&format!("s{i}."), &sample::TABLE);
        }
        assert!(registry.lock().by_key.len() <= LEAST_SWEEP);
    }
}
