//! The stats of one component instance: one cluster, one listener.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Index of a counter in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(pub u16);
/// Index of a gauge in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge(pub u16);
/// Index of a histogram in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram(pub u16);
/// Index of a text readout in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text(pub u16);

/// What a histogram counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// No unit.
    Unspecified,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Percent, scaled by Envoy's factor.
    Percent,
}

/// The names of a kind of component's stats, made by [`stat_table!`](crate::stat_table).
#[derive(Debug)]
pub struct Table {
    /// Counter names, by index.
    pub counters: &'static [&'static str],
    /// Gauge names, by index.
    pub gauges: &'static [&'static str],
    /// Histogram names and units, by index.
    pub histograms: &'static [(&'static str, Unit)],
    /// Text readout names, by index.
    pub texts: &'static [&'static str],
}

/// Declares a module with one constant for each stat, named as Envoy names it,
/// and the `TABLE` of their names. A dotted name is given after `=`.
///
/// Constants are lower case on purpose: the name in the code is the name a
/// person greps for.
#[macro_export]
macro_rules! stat_table {
    (@name $stat:ident) => { stringify!($stat) };
    (@name $stat:ident $name:literal) => { $name };
    ($(#[$doc:meta])* $vis:vis mod $module:ident {
        counters { $($c:ident $(= $cn:literal)?),* $(,)? }
        gauges { $($g:ident $(= $gn:literal)?),* $(,)? }
        histograms { $($h:ident $(= $hn:literal)? : $unit:ident),* $(,)? }
        texts { $($t:ident $(= $tn:literal)?),* $(,)? }
    }) => {
        $(#[$doc])*
        #[allow(non_upper_case_globals, non_camel_case_types, missing_docs, dead_code)]
        $vis mod $module {
            use $crate::stats::block::*;
            enum C { $($c),* }
            enum G { $($g),* }
            enum H { $($h),* }
            enum T { $($t),* }
            $(pub const $c: Counter = Counter(C::$c as u16);)*
            $(pub const $g: Gauge = Gauge(G::$g as u16);)*
            $(pub const $h: Histogram = Histogram(H::$h as u16);)*
            $(pub const $t: Text = Text(T::$t as u16);)*
            pub static TABLE: Table = Table {
                counters: &[$($crate::stat_table!(@name $c $($cn)?)),*],
                gauges: &[$($crate::stat_table!(@name $g $($gn)?)),*],
                histograms: &[$(($crate::stat_table!(@name $h $($hn)?), Unit::$unit)),*],
                texts: &[$($crate::stat_table!(@name $t $($tn)?)),*],
            };
        }
    };
}

/// The stats of one component instance, such as `cluster.web.`.
#[derive(Debug)]
pub struct Block {
    prefix: Box<str>,
    table: &'static Table,
    threads: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl Block {
    pub(super) fn new(prefix: &str, table: &'static Table, threads: usize) -> Self {
        Self {
            prefix: prefix.into(),
            table,
            threads: (0..threads).map(|_| OnceLock::new()).collect(),
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

    fn cells(&self) -> &[AtomicU64] {
        self.threads[super::thread()].get_or_init(|| {
            let len = self.table.counters.len() + self.table.gauges.len();
            (0..len).map(|_| AtomicU64::new(0)).collect()
        })
    }

    fn bump(&self, index: usize, by: u64) {
        let cell = &self.cells()[index];
        cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
    }

    fn sum(&self, index: usize) -> u64 {
        self.threads
            .iter()
            .filter_map(|t| t.get())
            .fold(0, |sum, cells| sum.wrapping_add(cells[index].load(Relaxed)))
    }

    /// Adds one to a counter.
    pub fn inc(&self, counter: Counter) {
        self.bump(counter.0.into(), 1);
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Counter, by: u64) {
        self.bump(counter.0.into(), by);
    }

    /// A counter's sum over all threads.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.sum(counter.0.into())
    }

    /// Adds to a gauge; the thread that takes away may be another.
    pub fn gauge_add(&self, gauge: Gauge, by: u64) {
        self.bump(self.table.counters.len() + usize::from(gauge.0), by);
    }

    /// Takes away from a gauge.
    pub fn gauge_sub(&self, gauge: Gauge, by: u64) {
        self.bump(
            self.table.counters.len() + usize::from(gauge.0),
            by.wrapping_neg(),
        );
    }

    /// Sets this thread's share of a gauge. For gauges that one thread alone writes.
    pub fn gauge_set(&self, gauge: Gauge, value: u64) {
        self.cells()[self.table.counters.len() + usize::from(gauge.0)].store(value, Relaxed);
    }

    /// A gauge's sum over all threads.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.sum(self.table.counters.len() + usize::from(gauge.0))
    }

    /// Records one value of a histogram, in the histogram's unit.
    pub fn record(&self, _histogram: Histogram, _value: u64) {}

    /// Sets a text readout.
    pub fn set_text(&self, _text: Text, _value: &str) {}

    /// Counts one response: `PREFIX` + `upstream_rq_200`, `_2xx` and `_completed` as
    /// `family` (`upstream_rq`, `downstream_rq`, …) says.
    pub fn count_code(&self, _family: &'static str, _status: u16) {}
}
