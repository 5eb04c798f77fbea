//! Every stat by its full name, in order, for the admin and for sinks.

use std::sync::Arc;

use super::{Block, Counter, Gauge, Histogram, Text, Unit, block::Merged};

/// A stat's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Only ever grows, but for a reset.
    Counter(u64),
    /// Goes up and down.
    Gauge(u64),
    /// A string; `None` when never set.
    Text(Option<Box<str>>),
    /// As of the last flush; `None` when nothing was recorded by then.
    Histogram(Option<Merged>, Unit),
}

/// One stat.
#[derive(Clone, Debug, PartialEq)]
pub struct Stat {
    /// Its full name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// Whether it was written since the start.
    pub used: bool,
}

/// Which of the four kinds to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counters, codes included.
    Counter,
    /// Gauges.
    Gauge,
    /// Text readouts.
    Text,
    /// Histograms.
    Histogram,
}

impl Block {
    /// Every stat of this block of one of these kinds, in no order.
    pub fn list(&self, kinds: &[Kind], out: &mut Vec<Stat>) {
        let table = self.table();
        let mut push = |name: &str, value, used| {
            if table.lists(name, used) {
                out.push(Stat {
                    name: [self.prefix(), name].concat(),
                    value,
                    used,
                });
            }
        };
        let indices = |len: usize| 0..len as u16;
        for kind in kinds {
            match kind {
                Kind::Counter => {
                    for (index, name) in indices(table.counters.len()).zip(table.counters) {
                        let counter = Counter(index);
                        let value = Value::Counter(self.counter(counter));
                        push(name, value, self.counter_used(counter));
                    }
                    for codes in self.codes() {
                        let used = codes.used;
                        codes.each(|name, count| push(name, Value::Counter(count), used));
                    }
                }
                Kind::Gauge => {
                    for (index, name) in indices(table.gauges.len()).zip(table.gauges) {
                        let gauge = Gauge(index);
                        let value = Value::Gauge(self.gauge(gauge));
                        push(name, value, self.gauge_used(gauge));
                    }
                }
                Kind::Text => {
                    for (index, name) in indices(table.texts.len()).zip(table.texts) {
                        let text = self.text(Text(index));
                        let used = text.is_some();
                        push(name, Value::Text(text), used);
                    }
                }
                Kind::Histogram => {
                    for (index, (name, unit)) in
                        indices(table.histograms.len()).zip(table.histograms)
                    {
                        let merged = self.histogram(Histogram(index));
                        let used = merged.is_some();
                        push(name, Value::Histogram(merged, *unit), used);
                    }
                }
            }
        }
    }
}

/// Blocks sorted by prefix, cut where the names of one part all stand before
/// those of the next, so that a long listing can be sorted and sent in parts.
#[derive(Debug)]
pub struct Parts {
    blocks: Vec<Arc<Block>>,
    next: usize,
}

impl Parts {
    pub(super) fn new(mut blocks: Vec<Arc<Block>>) -> Self {
        blocks.sort_by(|a, b| a.prefix().cmp(b.prefix()));
        Self { blocks, next: 0 }
    }

    /// Starts again from the first part.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// All blocks, sorted by prefix.
    pub fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    /// The next part: a block and those whose prefix begins with its own.
    pub fn next_blocks(&mut self) -> Option<&[Arc<Block>]> {
        let first = self.blocks.get(self.next)?;
        let len = self.blocks[self.next..]
            .iter()
            .take_while(|block| block.prefix().starts_with(first.prefix()))
            .count();
        let part = &self.blocks[self.next..self.next + len];
        self.next += len;
        Some(part)
    }

    /// The stats of the next part, sorted by name.
    pub fn next_stats(&mut self, kinds: &[Kind]) -> Option<Vec<Stat>> {
        let mut stats = Vec::new();
        for block in self.next_blocks()? {
            block.list(kinds, &mut stats);
        }
        stats.sort_by(|a, b| a.name.cmp(&b.name));
        Some(stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;

    crate::stat_table! {
        mod sample {
            counters { a, m = "m.x", z }
            gauges { g }
            histograms { }
            texts { }
        }
    }

    #[test]
    fn parts_in_sequence_are_sorted_as_a_whole() {
        let registry = Registry::new(0);
        let blocks = ["s.", "s.m.", "r.", "s.n.", "t."].map(|p| registry.block(p, &sample::TABLE));
        blocks[1].count_code("rq", 404);
        let mut parts = registry.parts();
        let mut names = Vec::new();
        let mut count = 0;
        while let Some(stats) = parts.next_stats(&[Kind::Counter, Kind::Gauge]) {
            count += 1;
            names.extend(stats.into_iter().map(|stat| stat.name));
        }
        assert_eq!(count, 3);
        assert!(names.contains(&"s.m.rq_4xx".to_owned()));
        assert!(names.is_sorted(), "{names:?}");
    }
}
