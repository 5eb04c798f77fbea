//! The forms in which a histogram is shown.

use std::fmt::{Result, Write};

use crate::{
    admin::json::number,
    stats::{
        Merged, Unit,
        histogram::{Counts, QUANTILES},
    },
};

use super::query::Buckets;

/// The quantiles as percents: `99.5`.
pub fn percents() -> [f64; QUANTILES.len()] {
    // The product 0.999 * 100 is not the number nearest to 99.9.
    QUANTILES.map(|q| (q * 1e6).round() / 1e4)
}

/// A number as it stands in texts: `nan` where there is none.
pub fn plain(value: f64) -> String {
    if value.is_nan() {
        "nan".to_owned()
    } else {
        value.to_string()
    }
}

/// A number with at most six digits, as C's `%g` prints it.
pub fn general(value: f64) -> String {
    let rounded: f64 = format!("{value:.5e}").parse().unwrap_or(value);
    if rounded != 0.0 && (rounded.abs() >= 1e6 || rounded.abs() < 1e-4) {
        let text = format!("{rounded:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    rounded.to_string()
}

/// The quantiles of the interval and of all time, scaled to their unit.
pub fn quantiles(merged: &Merged, unit: Unit) -> Vec<(f64, f64)> {
    let of = |counts: &Counts| counts.quantiles(&QUANTILES).map(|q| q * unit.scale());
    of(&merged.interval)
        .into_iter()
        .zip(of(&merged.cumulative))
        .collect()
}

/// Each bound with the counts of the interval and of all time.
pub fn buckets(merged: &Merged, unit: Unit, bounds: &[f64], mode: Buckets) -> Vec<(f64, u64, u64)> {
    let mut below = (0, 0);
    bounds
        .iter()
        .map(|bound| {
            let unscaled = bound / unit.scale();
            let (interval, cumulative) = (
                merged.interval.at_most(unscaled),
                merged.cumulative.at_most(unscaled),
            );
            match mode {
                Buckets::Disjoint => {
                    let before = std::mem::replace(&mut below, (interval, cumulative));
                    (*bound, interval - before.0, cumulative - before.1)
                }
                _ => (*bound, interval, cumulative),
            }
        })
        .collect()
}

/// Appends what stands after `name:` in a text, with the end of the line.
pub fn write_text(
    out: &mut String,
    merged: Option<&Merged>,
    unit: Unit,
    bounds: &[f64],
    mode: Buckets,
) -> Result {
    let Some(merged) = merged else {
        return out.write_str(" No recorded values\n");
    };
    match mode {
        Buckets::Summary => {
            write_quantiles(out, merged, unit)?;
        }
        Buckets::Cumulative | Buckets::Disjoint => {
            for (bound, interval, cumulative) in buckets(merged, unit, bounds, mode) {
                write!(out, " B{}({interval},{cumulative})", general(bound))?;
            }
        }
        Buckets::Detailed => {
            for (label, counts) in [
                ("totals", &merged.cumulative),
                ("intervals", &merged.interval),
            ] {
                write!(out, "\n  {label}=")?;
                for (index, (bin, count)) in counts.bins().iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    let (low, width) = (
                        general(bin.lower_bound() * unit.scale()),
                        general(bin.width() * unit.scale()),
                    );
                    write!(out, "{separator}{low},{width}:{count}")?;
                }
            }
            out.write_str("\n  summary=")?;
            let mut summary = String::new();
            write_quantiles(&mut summary, merged, unit)?;
            out.write_str(summary.trim_start())?;
        }
    }
    out.write_char('\n')
}

fn write_quantiles(out: &mut String, merged: &Merged, unit: Unit) -> Result {
    for (percent, (interval, cumulative)) in percents().iter().zip(quantiles(merged, unit)) {
        write!(
            out,
            " P{percent}({},{})",
            plain(interval),
            plain(cumulative)
        )?;
    }
    Ok(())
}

/// Appends a JSON list of pairs of quantiles.
pub fn write_json_quantiles(out: &mut String, merged: Option<&Merged>, unit: Unit) -> Result {
    let empty = Merged::default();
    let pairs = quantiles(merged.unwrap_or(&empty), unit);
    for (index, (interval, cumulative)) in pairs.into_iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        write!(
            out,
            "{separator}{{\"cumulative\":{},\"interval\":{}}}",
            number(cumulative),
            number(interval)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Registry, histogram::DEFAULT_BUCKETS};

    crate::stat_table! {
        mod sample {
            counters { }
            gauges { }
            histograms { h: Milliseconds }
            texts { }
        }
    }

    fn merged() -> Merged {
        let block = Registry::new(0).block("s.", &sample::TABLE);
        for value in [0, 0, 0, 0, 1, 2, 44, 47] {
            block.record(sample::h, value);
        }
        block.flush();
        block.histogram(sample::h).unwrap()
    }

    fn text(mode: Buckets) -> String {
        let mut out = String::new();
        let merged = merged();
        write_text(
            &mut out,
            Some(&merged),
            Unit::Milliseconds,
            &DEFAULT_BUCKETS,
            mode,
        )
        .unwrap();
        out
    }

    #[test]
    fn each_mode_looks_as_in_envoy() {
        // As printed by Envoy 1.40 for the same values.
        assert_eq!(
            text(Buckets::Summary),
            " P0(0,0) P25(0,0) P50(0,0) P75(2.05,2.05) P90(47.5,47.5) P95(47.5,47.5) \
             P99(47.5,47.5) P99.5(47.5,47.5) P99.9(47.5,47.5) P100(47.5,47.5)\n"
        );
        assert_eq!(
            text(Buckets::Cumulative),
            " B0.5(4,4) B1(5,5) B5(6,6) B10(6,6) B25(6,6) B50(8,8) B100(8,8) B250(8,8) B500(8,8) \
             B1000(8,8) B2500(8,8) B5000(8,8) B10000(8,8) B30000(8,8) B60000(8,8) B300000(8,8) \
             B600000(8,8) B1.8e+06(8,8) B3.6e+06(8,8)\n"
        );
        assert!(text(Buckets::Disjoint).starts_with(" B0.5(4,4) B1(1,1) B5(1,1) B10(0,0)"));
        assert_eq!(
            text(Buckets::Detailed).lines().collect::<Vec<_>>()[..3],
            [
                "",
                "  totals=0,0:4, 1,0.1:1, 2,0.1:1, 44,1:1, 47,1:1",
                "  intervals=0,0:4, 1,0.1:1, 2,0.1:1, 44,1:1, 47,1:1",
            ]
        );
    }

    #[test]
    fn nothing_recorded_is_said() {
        let mut out = String::new();
        write_text(&mut out, None, Unit::Bytes, &[], Buckets::Summary).unwrap();
        assert_eq!(out, " No recorded values\n");
    }
}
