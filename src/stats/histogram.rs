//! Histograms as Envoy keeps them (libcircllhist): log-linear bins, two
//! significant decimal digits, so that a bin is at most 10% wide.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::block::bump;

/// The quantiles that Envoy prints.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

/// The upper bounds of the buckets that Envoy prints unless
/// `histogram_bucket_settings` says otherwise.
pub const DEFAULT_BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0,
    60000.0, 300000.0, 600000.0, 1800000.0, 3600000.0,
];

/// Decades of two and more digits that a `u64` can have.
const DECADES: usize = 19;
/// Bins in a decade: 10, 11, … 99.
const PER_DECADE: usize = 90;

/// One thread's bins of one histogram.
#[derive(Debug, Default)]
pub(super) struct Bins {
    /// 0 to 9, which are exact.
    ones: [AtomicU64; 10],
    /// 10 to 99 in steps of one, 100 to 999 in steps of ten, and so on.
    decades: [OnceLock<Box<[AtomicU64]>>; DECADES],
}

impl Bins {
    pub fn record(&self, value: u64) {
        if value < 10 {
            bump(&self.ones[value as usize], 1);
            return;
        }
        let decade = value.ilog10() as usize - 1;
        let mantissa = (value / 10u64.pow(decade as u32)) as usize;
        let bins = self.decades[decade]
            .get_or_init(|| (0..PER_DECADE).map(|_| AtomicU64::new(0)).collect());
        bump(&bins[mantissa - 10], 1);
    }
}

/// A bin's place in the order of all bins: 0 for zero, then 90 to a decade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bin(u16);

impl Bin {
    /// The bin that holds a value; one below one counts as zero.
    fn of(value: f64) -> Self {
        if value < 1.0 {
            return Self(0);
        }
        let (mut mantissa, mut exponent) = (value, 0u16);
        while mantissa >= 10.0 {
            mantissa /= 10.0;
            exponent += 1;
        }
        // Guards against a division that fell just short: 2.9999… is 3.0.
        let mantissa = (mantissa * 10.0 + 1e-9) as u16;
        Self(1 + exponent * PER_DECADE as u16 + (mantissa - 10))
    }

    fn exponent(self) -> i32 {
        i32::from((self.0 - 1) / PER_DECADE as u16)
    }

    /// Its least value.
    pub fn lower_bound(self) -> f64 {
        match self.0 {
            0 => 0.0,
            _ => {
                let mantissa = 10 + (self.0 - 1) % PER_DECADE as u16;
                f64::from(mantissa) / 10.0 * 10f64.powi(self.exponent())
            }
        }
    }

    /// How much it spans: nothing for zero.
    pub fn width(self) -> f64 {
        match self.0 {
            0 => 0.0,
            _ => 10f64.powi(self.exponent()) / 10.0,
        }
    }

    /// Where its values are taken to lie on average.
    fn midpoint(self) -> f64 {
        if self.0 == 0 {
            return 0.0;
        }
        let (bottom, width) = (self.lower_bound(), self.width());
        bottom + width * (bottom / (bottom + bottom + width))
    }
}

/// How many values each bin holds; bins without any are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(Vec<(Bin, u64)>);

impl Counts {
    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many values were recorded.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// The sum of all values, as near as bins can tell.
    pub fn sum(&self) -> f64 {
        // Not by `sum`, which makes a negative zero of nothing.
        self.0.iter().fold(0.0, |sum, (bin, count)| {
            sum + bin.midpoint() * *count as f64
        })
    }

    /// The bins that hold something, in order.
    pub fn bins(&self) -> &[(Bin, u64)] {
        &self.0
    }

    /// Values up to and with the bin in which `bound` lies.
    pub fn at_most(&self, bound: f64) -> u64 {
        let last = Bin::of(bound);
        self.0
            .iter()
            .take_while(|(bin, _)| *bin <= last)
            .map(|(_, count)| count)
            .sum()
    }

    /// The values at these quantiles, which ascend; NaN when nothing was recorded.
    pub fn quantiles<const N: usize>(&self, quantiles: &[f64; N]) -> [f64; N] {
        let mut bins = self.0.iter();
        let Some(mut current) = bins.next() else {
            return [f64::NAN; N];
        };
        let (total, mut lower, mut upper) = (self.total() as f64, 0.0, current.1 as f64);
        quantiles.map(|q| {
            let target = total * q;
            while upper < target {
                let Some(next) = bins.next() else { break };
                current = next;
                lower = upper;
                upper += current.1 as f64;
            }
            // A bin's values are taken to lie evenly spread within it.
            let nth = (target - lower).ceil().max(1.0);
            let (bin, count) = current;
            bin.lower_bound() + nth / (*count as f64 + 1.0) * bin.width()
        })
    }

    pub(super) fn add(&mut self, bins: &Bins) {
        let ones = bins.ones.iter().enumerate().map(|(value, cell)| {
            let bin = match value {
                0 => 0,
                _ => 1 + (value - 1) * 10,
            };
            (bin, cell)
        });
        let decades = bins.decades.iter().enumerate().flat_map(|(decade, cells)| {
            let first = 1 + (decade + 1) * PER_DECADE;
            cells
                .get()
                .into_iter()
                .flat_map(move |cells| cells.iter().enumerate().map(move |(i, c)| (first + i, c)))
        });
        for (bin, cell) in ones.chain(decades) {
            let count = cell.load(Relaxed);
            if count == 0 {
                continue;
            }
            let bin = Bin(bin as u16);
            match self.0.binary_search_by_key(&bin, |(bin, _)| *bin) {
                Ok(index) => self.0[index].1 += count,
                Err(index) => self.0.insert(index, (bin, count)),
            }
        }
    }

    /// What came since an earlier state of the same histogram.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before = |bin: &Bin| {
            earlier
                .0
                .binary_search_by_key(bin, |(bin, _)| *bin)
                .map_or(0, |index| earlier.0[index].1)
        };
        Self(
            self.0
                .iter()
                .map(|(bin, count)| (*bin, count - before(bin)))
                .filter(|(_, count)| *count != 0)
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(values: &[u64]) -> Counts {
        let bins = Bins::default();
        for value in values {
            bins.record(*value);
        }
        let mut counts = Counts::default();
        counts.add(&bins);
        counts
    }

    #[test]
    fn quantiles_are_those_that_envoy_prints() {
        // What Envoy 1.40 printed for these values.
        let q = counts(&[0, 0, 0, 0, 1, 2, 44, 47]).quantiles(&QUANTILES);
        assert_eq!(q, [0.0, 0.0, 0.0, 2.05, 47.5, 47.5, 47.5, 47.5, 47.5, 47.5]);
        let q = counts(&[1; 8]).quantiles(&QUANTILES);
        assert_eq!(
            q[..3],
            [1.011111111111111, 1.0222222222222221, 1.0444444444444445]
        );
    }

    #[test]
    fn sums_are_those_that_envoy_prints() {
        assert_eq!(counts(&[0, 0, 0, 0, 1, 2, 44, 47]).sum(), 95.08551840000109);
        assert_eq!(counts(&[1]).sum(), 1.0476190476190477);
    }

    #[test]
    fn nothing_recorded_is_not_a_number() {
        assert!(counts(&[]).quantiles(&QUANTILES).iter().all(|q| q.is_nan()));
    }

    #[test]
    fn a_bound_takes_in_its_own_bin() {
        let counts = counts(&[0, 1, 2, 44, 47]);
        let below = DEFAULT_BUCKETS.map(|bound| counts.at_most(bound));
        assert_eq!(below[..6], [1, 2, 3, 3, 3, 5]);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bin(value: u64) {
            let counts = counts(&[value]);
            let (bin, count) = counts.bins()[0];
            prop_assert_eq!(count, 1);
            let value = value as f64;
            prop_assert!(bin.lower_bound() <= value * (1.0 + 1e-12));
            prop_assert!(value <= (bin.lower_bound() + bin.width().max(0.0)) * (1.0 + 1e-12));
        }

        #[test]
        fn bins_and_bounds_agree(value in 0u64..1u64 << 52) {
            prop_assert_eq!(counts(&[value]).at_most(value as f64), 1);
        }
    }
}
