//! All blocks there are, by prefix.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use super::{Block, Table};

/// Hands out [`Block`]s and lists them for the admin.
///
/// Asking again for a prefix that is still held gives the same block, so that
/// counters survive a configuration swap in which their name does.
#[derive(Debug)]
pub struct Registry {
    threads: usize,
    blocks: Mutex<HashMap<(Box<str>, usize), Weak<Block>>>,
}

impl Registry {
    /// A registry for the control thread and `workers` workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            threads: workers + 1,
            blocks: Mutex::default(),
        })
    }

    /// The block of this prefix (which ends in a dot, or is empty) and table.
    pub fn block(&self, prefix: &str, table: &'static Table) -> Arc<Block> {
        let mut blocks = self.blocks.lock().unwrap_or_else(|e| e.into_inner());
        let key = (Box::from(prefix), std::ptr::from_ref(table) as usize);
        if let Some(block) = blocks.get(&key).and_then(Weak::upgrade) {
            return block;
        }
        let block = Arc::new(Block::new(prefix, table, self.threads));
        blocks.insert(key, Arc::downgrade(&block));
        block
    }
}
