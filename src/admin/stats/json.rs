//! `/stats?format=json`.

use std::fmt::Write;

use crate::{
    admin::{answer::Parts, endpoint::WRITE, json::number},
    stats::{
        Merged, Unit,
        listing::{Stat, Value},
    },
};

use super::{
    Phase, Selection,
    histogram::{self, percents},
    query::Buckets,
};

/// One object, part by part.
pub struct Json {
    selection: Selection,
    begun: bool,
    has_stats: bool,
    has_histograms: bool,
    done: bool,
}

impl Json {
    /// None written yet.
    pub fn new(selection: Selection) -> Self {
        Self {
            selection,
            begun: false,
            has_stats: false,
            has_histograms: false,
            done: false,
        }
    }

    fn write_value(&mut self, out: &mut String, name: &str, value: &str) {
        out.push_str(if self.has_stats { "," } else { "" });
        self.has_stats = true;
        write!(out, "{{\"name\":{},\"value\":{value}}}", quoted(name)).expect(WRITE);
    }

    fn write_histogram(
        &mut self,
        out: &mut String,
        name: &str,
        merged: Option<Merged>,
        unit: Unit,
    ) {
        let mode = self.selection.query.buckets;
        if self.has_histograms {
            out.push(',');
        } else {
            self.has_histograms = true;
            out.push_str(if self.has_stats { "," } else { "" });
            out.push_str(&beginning(mode));
        }
        let bounds = self.selection.settings.bounds(name);
        let name = quoted(name);
        let merged = merged.as_ref();
        match mode {
            None | Some(Buckets::Summary) => {
                write!(out, "{{\"name\":{name},\"values\":[").expect(WRITE);
                histogram::write_json_quantiles(out, merged, unit).expect(WRITE);
            }
            Some(mode @ (Buckets::Cumulative | Buckets::Disjoint)) => {
                let empty = Merged::default();
                let merged = merged.unwrap_or(&empty);
                write!(out, "{{\"name\":{name},\"buckets\":[").expect(WRITE);
                let buckets = histogram::buckets(merged, unit, bounds, mode);
                for (index, (bound, interval, cumulative)) in buckets.into_iter().enumerate() {
                    let separator = if index == 0 { "" } else { "," };
                    write!(
                        out,
                        "{separator}{{\"upper_bound\":{},\"interval\":{interval},\"cumulative\":{cumulative}}}",
                        number(bound)
                    )
                    .expect(WRITE);
                }
            }
            Some(Buckets::Detailed) => {
                let empty = Merged::default();
                let all = merged.unwrap_or(&empty);
                write!(out, "{{\"name\":{name}").expect(WRITE);
                for (label, counts) in [("totals", &all.cumulative), ("intervals", &all.interval)] {
                    let bins: Vec<_> = counts
                        .bins()
                        .iter()
                        .map(|(bin, count)| {
                            format!(
                                "{{\"lower_bound\":{},\"width\":{},\"count\":{count}}}",
                                number(bin.lower_bound() * unit.scale()),
                                number(bin.width() * unit.scale()),
                            )
                        })
                        .collect();
                    write!(out, ",\"{label}\":[{}]", bins.join(",")).expect(WRITE);
                }
                out.push_str(",\"percentiles\":[");
                histogram::write_json_quantiles(out, merged, unit).expect(WRITE);
            }
        }
        out.push_str("]}");
    }
}

fn beginning(mode: Option<Buckets>) -> String {
    let percents = percents().map(|percent| percent.to_string()).join(",");
    match mode {
        None | Some(Buckets::Summary) => format!(
            "{{\"histograms\":{{\"supported_quantiles\":[{percents}],\"computed_quantiles\":["
        ),
        Some(Buckets::Cumulative | Buckets::Disjoint) => "{\"histograms\":[".to_owned(),
        Some(Buckets::Detailed) => {
            format!("{{\"histograms\":{{\"supported_percentiles\":[{percents}],\"details\":[")
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Parts for Json {
    fn write_next(&mut self, out: &mut String) -> bool {
        if self.done {
            return false;
        }
        if !self.begun {
            self.begun = true;
            out.push_str("{\"stats\":[");
        }
        let Some((phase, stats)) = self.selection.next() else {
            self.done = true;
            if self.has_histograms {
                out.push_str(match self.selection.query.buckets {
                    Some(Buckets::Cumulative | Buckets::Disjoint) => "]}",
                    None | Some(Buckets::Summary | Buckets::Detailed) => "]}}",
                });
            }
            out.push_str("]}");
            return true;
        };
        debug_assert!(stats.is_empty() || phase != Phase::Texts || !self.has_histograms);
        for Stat { name, value, .. } in stats {
            match value {
                Value::Counter(number) | Value::Gauge(number) => {
                    self.write_value(out, &name, &number.to_string());
                }
                Value::Text(text) => {
                    self.write_value(out, &name, &quoted(&text.unwrap_or_default()));
                }
                Value::Histogram(merged, unit) => self.write_histogram(out, &name, merged, unit),
            }
        }
        true
    }
}
