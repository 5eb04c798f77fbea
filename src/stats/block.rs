//! The stats of one component instance: one cluster, one listener.

use std::sync::{
    Mutex, MutexGuard, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    Counter, Gauge, Histogram, Table, Text,
    codes::{Codes, Family},
    histogram::{Bins, Counts},
};

/// The stats of one component instance, such as `cluster.web.`.
///
/// Costs little until it is written: a thread's array is made by its first
/// write, a histogram's bins by the first value in their decade.
#[derive(Debug)]
pub struct Block {
    prefix: Box<str>,
    table: &'static Table,
    threads: Box<[OnceLock<Box<Cells>>]>,
    aside: Mutex<Option<Box<Aside>>>,
}

/// What one thread writes: only that thread stores, anybody may load.
#[derive(Debug)]
struct Cells {
    /// Counters, then gauges, then one bit for each gauge ever written.
    numbers: Box<[AtomicU64]>,
    histograms: Box<[OnceLock<Box<Bins>>]>,
    codes: OnceLock<Box<Family>>,
}

/// What is written seldom, and never on the request path.
#[derive(Debug, Default)]
struct Aside {
    texts: Vec<Option<Box<str>>>,
    /// By histogram, as of the last flush.
    merged: Vec<Merged>,
    /// What counters stood at when they were last reset.
    reset: Option<(Box<[u64]>, Vec<Codes>)>,
}

/// A histogram as of the last flush.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    /// Between the last two flushes.
    pub interval: Counts,
    /// Since the start.
    pub cumulative: Counts,
}

const USED_BITS: usize = u64::BITS as usize;

impl Block {
    pub(super) fn new(prefix: &str, table: &'static Table, threads: usize) -> Self {
        Self {
            prefix: prefix.into(),
            table,
            threads: (0..threads).map(|_| OnceLock::new()).collect(),
            aside: Mutex::new(None),
        }
    }

    /// What stands before each name, with its final dot: `cluster.web.`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The names.
    pub fn table(&self) -> &'static Table {
        self.table
    }

    fn cells(&self) -> &Cells {
        self.threads[super::thread()].get_or_init(|| {
            let gauges = self.table.gauges.len();
            let numbers = self.table.counters.len() + gauges + gauges.div_ceil(USED_BITS);
            Box::new(Cells {
                numbers: (0..numbers).map(|_| AtomicU64::new(0)).collect(),
                histograms: self
                    .table
                    .histograms
                    .iter()
                    .map(|_| OnceLock::new())
                    .collect(),
                codes: OnceLock::new(),
            })
        })
    }

    fn written(&self) -> impl Iterator<Item = &Cells> {
        self.threads.iter().filter_map(|t| t.get().map(|b| &**b))
    }

    fn aside(&self) -> MutexGuard<'_, Option<Box<Aside>>> {
        self.aside.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn sum(&self, index: usize) -> u64 {
        self.written().fold(0, |sum, cells| {
            sum.wrapping_add(cells.numbers[index].load(Relaxed))
        })
    }

    /// Adds one to a counter.
    pub fn inc(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Counter, by: u64) {
        bump(&self.cells().numbers[usize::from(counter.0)], by);
    }

    /// Adds to a counter from a thread that has no array of its own. Exact as
    /// long as the control thread does not count the same.
    pub fn add_by_helper(&self, counter: Counter, by: u64) {
        self.cells().numbers[usize::from(counter.0)].fetch_add(by, Relaxed);
    }

    /// Takes away from a gauge, as [`Block::add_by_helper`] adds to a counter.
    pub fn gauge_sub_by_helper(&self, gauge: Gauge, by: u64) {
        self.gauge_cell(gauge).fetch_sub(by, Relaxed);
    }

    /// A counter's sum over all threads, since the last reset.
    pub fn counter(&self, counter: Counter) -> u64 {
        let index = usize::from(counter.0);
        let total = self.sum(index);
        match self.aside().as_ref().and_then(|aside| aside.reset.as_ref()) {
            Some((base, _)) => total.wrapping_sub(base[index]),
            None => total,
        }
    }

    /// Whether a counter was ever added to.
    pub fn counter_used(&self, counter: Counter) -> bool {
        self.sum(counter.0.into()) != 0
    }

    fn gauge_cell(&self, gauge: Gauge) -> &AtomicU64 {
        let (cells, index) = (self.cells(), usize::from(gauge.0));
        let first = self.table.counters.len();
        let used = &cells.numbers[first + self.table.gauges.len() + index / USED_BITS];
        let (bits, bit) = (used.load(Relaxed), 1 << (index % USED_BITS));
        if bits & bit == 0 {
            used.store(bits | bit, Relaxed);
        }
        &cells.numbers[first + index]
    }

    /// Adds to a gauge; the thread that takes away may be another.
    pub fn gauge_add(&self, gauge: Gauge, by: u64) {
        bump(self.gauge_cell(gauge), by);
    }

    /// Takes away from a gauge.
    pub fn gauge_sub(&self, gauge: Gauge, by: u64) {
        bump(self.gauge_cell(gauge), by.wrapping_neg());
    }

    /// Sets this thread's share of a gauge. For gauges that one thread alone writes.
    pub fn gauge_set(&self, gauge: Gauge, value: u64) {
        self.gauge_cell(gauge).store(value, Relaxed);
    }

    /// A gauge's sum over all threads.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.sum(self.table.counters.len() + usize::from(gauge.0))
    }

    /// Whether a gauge was ever written, be it with 0.
    pub fn gauge_used(&self, gauge: Gauge) -> bool {
        let index = usize::from(gauge.0);
        let word = self.table.counters.len() + self.table.gauges.len() + index / USED_BITS;
        self.written()
            .any(|cells| cells.numbers[word].load(Relaxed) & (1 << (index % USED_BITS)) != 0)
    }

    /// Records one value of a histogram, in the histogram's unit.
    pub fn record(&self, histogram: Histogram, value: u64) {
        self.cells().histograms[usize::from(histogram.0)]
            .get_or_init(Box::default)
            .record(value);
    }

    /// A histogram as of the last [`Block::flush`]; `None` when nothing was recorded by then.
    pub fn histogram(&self, histogram: Histogram) -> Option<Merged> {
        let aside = self.aside();
        let merged = aside.as_ref()?.merged.get(usize::from(histogram.0))?;
        (!merged.cumulative.is_empty()).then(|| merged.clone())
    }

    /// Ends an interval: what was recorded since the last call becomes the
    /// histograms' interval, and is added to what they show.
    pub fn flush(&self) {
        for index in 0..self.table.histograms.len() {
            let mut total = Counts::default();
            for bins in self
                .written()
                .filter_map(|cells| cells.histograms[index].get())
            {
                total.add(bins);
            }
            if total.is_empty() {
                continue;
            }
            let mut aside = self.aside();
            let merged = &mut aside.get_or_insert_default().merged;
            if merged.is_empty() {
                merged.resize_with(self.table.histograms.len(), Merged::default);
            }
            merged[index] = Merged {
                interval: total.since(&merged[index].cumulative),
                cumulative: total,
            };
        }
    }

    /// Sets a text readout.
    pub fn set_text(&self, text: Text, value: &str) {
        let mut aside = self.aside();
        let texts = &mut aside.get_or_insert_default().texts;
        texts.resize(self.table.texts.len(), None);
        texts[usize::from(text.0)] = Some(value.into());
    }

    /// A text readout; `None` when it was never set.
    pub fn text(&self, text: Text) -> Option<Box<str>> {
        self.aside()
            .as_ref()?
            .texts
            .get(usize::from(text.0))?
            .clone()
    }

    /// Counts one response: `PREFIX` + `upstream_rq_200`, `_2xx` and `_completed` as
    /// `family` (`upstream_rq`, `external.upstream_rq`, …) says.
    pub fn count_code(&self, family: &'static str, status: u16) {
        Family::count(&self.cells().codes, family, status);
    }

    /// How often each status was counted, by family, since the last reset. A family
    /// of the table is among them from the start.
    pub fn codes(&self) -> Vec<Codes> {
        let mut all = self.all_codes();
        if let Some((_, base)) = self.aside().as_ref().and_then(|aside| aside.reset.as_ref()) {
            for codes in &mut all {
                if let Some(base) = base.iter().find(|b| b.family == codes.family) {
                    codes.subtract(base);
                }
            }
        }
        all
    }

    /// How often this status was counted in this family since the last reset.
    pub fn code(&self, family: &str, status: u16) -> u64 {
        self.codes()
            .iter()
            .find(|codes| codes.family == family)
            .map_or(0, |codes| codes.status(status))
    }

    fn all_codes(&self) -> Vec<Codes> {
        let mut all = Vec::new();
        for cells in self.written() {
            Family::collect(&cells.codes, &mut all);
        }
        for family in self.table.codes {
            if all.iter().all(|codes| codes.family != *family) {
                all.push(Codes::of(family));
            }
        }
        all.sort_by_key(|codes| codes.family);
        all
    }

    /// Sets the counters to zero, for readers. The threads' arrays go on, so
    /// that nothing a worker counts meanwhile is lost.
    pub fn reset_counters(&self) {
        if self.written().next().is_none() {
            return;
        }
        let counters = (0..self.table.counters.len())
            .map(|i| self.sum(i))
            .collect();
        let codes = self.all_codes();
        self.aside().get_or_insert_default().reset = Some((counters, codes));
    }
}

/// Adds to a cell that this thread alone writes: a load and a store, not a
/// locked instruction.
pub(super) fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Registry, set_thread};

    crate::stat_table! {
        mod sample {
            counters { a, b = "x.b" }
            gauges { g }
            histograms { h: Milliseconds }
            texts { t }
        }
    }

    #[test]
    fn threads_write_their_own_arrays_and_readers_sum() {
        let block = Registry::new(1).block("s.", &sample::TABLE);
        block.add(sample::a, 2);
        block.gauge_add(sample::g, 5);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                set_thread(1);
                block.inc(sample::a);
                block.gauge_sub(sample::g, 4);
            });
        });
        assert_eq!(block.counter(sample::a), 3);
        assert_eq!(block.gauge(sample::g), 1);
        assert!(!block.counter_used(sample::b));
    }

    #[test]
    fn a_gauge_set_to_zero_counts_as_used() {
        let block = Registry::new(1).block("s.", &sample::TABLE);
        assert!(!block.gauge_used(sample::g));
        block.gauge_set(sample::g, 0);
        assert!(block.gauge_used(sample::g));
    }

    #[test]
    fn a_reset_counter_starts_from_zero_and_stays_used() {
        let block = Registry::new(1).block("s.", &sample::TABLE);
        block.add(sample::a, 7);
        block.count_code("rq", 200);
        block.reset_counters();
        assert_eq!(block.counter(sample::a), 0);
        assert!(block.counter_used(sample::a));
        block.inc(sample::a);
        block.count_code("rq", 200);
        assert_eq!(block.counter(sample::a), 1);
        assert_eq!(block.code("rq", 200), 1);
    }

    #[test]
    fn a_flush_separates_intervals() {
        let block = Registry::new(1).block("s.", &sample::TABLE);
        assert!(block.histogram(sample::h).is_none());
        block.record(sample::h, 3);
        block.flush();
        block.record(sample::h, 300);
        block.flush();
        let merged = block.histogram(sample::h).unwrap();
        assert_eq!(merged.interval.total(), 1);
        assert_eq!(merged.cumulative.total(), 2);
        block.flush();
        assert!(block.histogram(sample::h).unwrap().interval.is_empty());
    }

    #[test]
    fn a_text_is_absent_until_set() {
        let block = Registry::new(1).block("s.", &sample::TABLE);
        assert_eq!(block.text(sample::t), None);
        block.set_text(sample::t, "v1");
        assert_eq!(block.text(sample::t).as_deref(), Some("v1"));
    }

    #[test]
    fn a_block_nobody_writes_is_small() {
        let per_thread = size_of::<OnceLock<Box<Cells>>>();
        assert!(size_of::<Block>() + 9 * per_thread + 40 < 300);
    }
}
