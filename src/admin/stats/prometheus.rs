//! `/stats/prometheus`: the exposition format, all samples of a metric together.

use std::{
    collections::{BTreeMap, btree_map},
    fmt::Write,
    rc::Rc,
    sync::Arc,
};

use crate::{
    admin::{State, answer::Parts, endpoint::WRITE},
    stats::{
        Block, Counter, Gauge, Histogram, Merged, Settings, Text, Unit, histogram::QUANTILES,
        listing::Kind, tags::Tagged,
    },
};

use super::{
    histogram::{self, plain},
    query::{Buckets, Query},
};

/// How many blocks are looked through at a time.
const BLOCKS: usize = 16;

/// Where a sample's value is.
#[derive(Clone, Copy)]
enum Place {
    Counter(u16),
    /// A count of a response code, which has no index: its value as it was seen.
    Code(u64),
    Gauge(u16),
    Text(u16),
    Histogram(u16),
}

/// One sample of a metric; the tags of a name that is not its block's own.
struct Sample {
    block: u32,
    place: Place,
    tags: Option<Box<str>>,
}

/// All metrics, part by part.
pub struct Prometheus {
    query: Query,
    settings: Rc<Settings>,
    blocks: Vec<Arc<Block>>,
    /// Of each block, what its names begin with, and its tags, once they were taken out.
    tagged: Vec<(Box<str>, Box<str>)>,
    kinds: std::vec::IntoIter<Kind>,
    kind: Option<Kind>,
    /// Blocks looked through for this kind.
    seen: usize,
    /// By name without tags, which is Envoy's order.
    metrics: BTreeMap<String, Vec<Sample>>,
    writing: Option<btree_map::IntoIter<String, Vec<Sample>>>,
    /// The rest of a metric with many samples.
    metric: Option<(String, std::vec::IntoIter<Sample>)>,
}

impl Prometheus {
    /// None written yet.
    pub fn new(state: &State, query: Query) -> Self {
        let mut kinds = vec![Kind::Counter, Kind::Gauge];
        if query.text_readouts {
            kinds.push(Kind::Text);
        }
        kinds.push(Kind::Histogram);
        kinds.retain(|kind| query.kind.is_none_or(|wanted| wanted == *kind));
        Self {
            query,
            settings: Rc::clone(&state.settings),
            blocks: state.stats.parts().blocks().to_vec(),
            tagged: Vec::new(),
            kinds: kinds.into_iter(),
            kind: None,
            seen: 0,
            metrics: BTreeMap::new(),
            writing: None,
            metric: None,
        }
    }

    /// Sorts the stats of the next blocks by metric.
    fn look_through(&mut self, kind: Kind) {
        let end = (self.seen + BLOCKS).min(self.blocks.len());
        for index in self.seen..end {
            let block = Arc::clone(&self.blocks[index]);
            if self.tagged.len() == index {
                // Any last part will do: the rules that look at it look for more.
                let Tagged { name, tags } =
                    self.settings.tags.extract(&[block.prefix(), "x"].concat());
                let base = name.strip_suffix('x').unwrap_or(block.prefix());
                self.tagged.push((base.into(), labels(&tags)));
            }
            self.add_block(index, &block, kind);
        }
        self.seen = end;
    }

    fn add_block(&mut self, index: usize, block: &Block, kind: Kind) {
        let table = block.table();
        let indices = |len: usize| 0..len as u16;
        let mut add = |name: &str, used: bool, place| {
            if self.query.wants_used(used) && table.lists(name, used) {
                self.add(index, block, name, place);
            }
        };
        match kind {
            Kind::Counter => {
                for (i, name) in indices(table.counters.len()).zip(table.counters) {
                    add(name, block.counter_used(Counter(i)), Place::Counter(i));
                }
                for codes in block.codes() {
                    codes.each(|name, count| add(name, codes.used, Place::Code(count)));
                }
            }
            Kind::Gauge => {
                for (i, name) in indices(table.gauges.len()).zip(table.gauges) {
                    add(name, block.gauge_used(Gauge(i)), Place::Gauge(i));
                }
            }
            Kind::Text => {
                for (i, name) in indices(table.texts.len()).zip(table.texts) {
                    add(name, block.text(Text(i)).is_some(), Place::Text(i));
                }
            }
            Kind::Histogram => {
                for (i, (name, _)) in indices(table.histograms.len()).zip(table.histograms) {
                    let used = block.histogram(Histogram(i)).is_some();
                    add(name, used, Place::Histogram(i));
                }
            }
        }
    }

    fn add(&mut self, index: usize, block: &Block, name: &str, place: Place) {
        if self.query.filter.is_some() || self.settings.hides_some() {
            let full = [block.prefix(), name].concat();
            if !self.query.wants_name(&full) || !self.settings.shows(&full) {
                return;
            }
        }
        let (metric, tags) = match has_own_tags(name) || self.settings.tags.has_own_patterns() {
            false => ([&self.tagged[index].0, name].concat(), None),
            true => {
                let full = [block.prefix(), name].concat();
                let Tagged { name, tags } = self.settings.tags.extract(&full);
                (name, Some(labels(&tags)))
            }
        };
        self.metrics.entry(metric).or_default().push(Sample {
            block: index as u32,
            place,
            tags,
        });
    }

    fn write_sample(&self, out: &mut String, metric: &str, sample: &Sample) {
        let block = &self.blocks[sample.block as usize];
        let tags = match &sample.tags {
            Some(tags) => tags,
            None => &self.tagged[sample.block as usize].1,
        };
        match sample.place {
            Place::Counter(i) => {
                let value = block.counter(Counter(i));
                writeln!(out, "{metric}{{{tags}}} {value}").expect(WRITE);
            }
            Place::Code(value) => writeln!(out, "{metric}{{{tags}}} {value}").expect(WRITE),
            Place::Gauge(i) => {
                let value = block.gauge(Gauge(i));
                writeln!(out, "{metric}{{{tags}}} {value}").expect(WRITE);
            }
            Place::Text(i) => {
                let text = block.text(Text(i)).unwrap_or_default();
                let tags = with(tags, "text_value", &escaped(&text));
                writeln!(out, "{metric}{{{tags}}} 0").expect(WRITE);
            }
            Place::Histogram(i) => {
                let merged = block.histogram(Histogram(i)).unwrap_or_default();
                let (name, unit) = block.table().histograms[usize::from(i)];
                match self.query.buckets {
                    Some(Buckets::Summary) => write_summary(out, metric, tags, &merged, unit),
                    _ => {
                        let full = [block.prefix(), name].concat();
                        let bounds = self.settings.bounds(&full);
                        write_buckets(out, metric, tags, &merged, unit, bounds);
                    }
                }
            }
        }
    }

    fn type_name(&self) -> &'static str {
        match self.kind {
            Some(Kind::Counter) => "counter",
            Some(Kind::Gauge | Kind::Text) | None => "gauge",
            Some(Kind::Histogram) => match self.query.buckets {
                Some(Buckets::Summary) => "summary",
                _ => "histogram",
            },
        }
    }
}

impl Parts for Prometheus {
    fn write_next(&mut self, out: &mut String) -> bool {
        if let Some((metric, mut samples)) = self.metric.take() {
            for sample in samples.by_ref().take(BLOCKS) {
                self.write_sample(out, &metric, &sample);
            }
            if samples.len() > 0 {
                self.metric = Some((metric, samples));
            }
            return true;
        }
        if let Some(writing) = &mut self.writing {
            match writing.next() {
                Some((name, samples)) => {
                    let metric = sanitized(&name);
                    writeln!(out, "# TYPE {metric} {}", self.type_name()).expect(WRITE);
                    self.metric = Some((metric, samples.into_iter()));
                }
                None => {
                    self.writing = None;
                    self.kind = None;
                }
            }
            return true;
        }
        match self.kind {
            Some(kind) if self.seen < self.blocks.len() => self.look_through(kind),
            Some(_) => self.writing = Some(std::mem::take(&mut self.metrics).into_iter()),
            None => match self.kinds.next() {
                Some(kind) => {
                    self.kind = Some(kind);
                    self.seen = 0;
                }
                None => return false,
            },
        }
        true
    }
}

/// Whether the tags of a name within its block may differ from its neighbours'.
fn has_own_tags(name: &str) -> bool {
    let is_code = name.rsplit_once("_rq_").is_some_and(|(_, rest)| {
        rest.bytes()
            .next()
            .is_some_and(|first| first.is_ascii_digit())
    });
    is_code || name.contains('.')
}

/// A metric's name: `envoy_` and what the format allows.
fn sanitized(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 6);
    out.push_str("envoy_");
    push_sanitized(&mut out, name);
    out
}

fn push_sanitized(out: &mut String, name: &str) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    out.extend(name.chars().map(|c| if allowed(c) { c } else { '_' }));
}

fn labels(tags: &[(String, String)]) -> Box<str> {
    let mut out = String::new();
    for (name, value) in tags {
        if !out.is_empty() {
            out.push(',');
        }
        push_sanitized(&mut out, name);
        write!(out, "=\"{}\"", escaped(value)).expect(WRITE);
    }
    out.into()
}

fn with(tags: &str, name: &str, value: &str) -> String {
    let comma = if tags.is_empty() { "" } else { "," };
    format!("{tags}{comma}{name}=\"{value}\"")
}

/// A label's value.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('"', "\\\"")
}

fn write_buckets(
    out: &mut String,
    metric: &str,
    tags: &str,
    merged: &Merged,
    unit: Unit,
    bounds: &[f64],
) {
    let total = merged.cumulative.total();
    for (bound, _, count) in histogram::buckets(merged, unit, bounds, Buckets::Cumulative) {
        let tags = with(tags, "le", &digits(bound));
        writeln!(out, "{metric}_bucket{{{tags}}} {count}").expect(WRITE);
    }
    let all = with(tags, "le", "+Inf");
    writeln!(out, "{metric}_bucket{{{all}}} {total}").expect(WRITE);
    let sum = digits(merged.cumulative.sum() * unit.scale());
    writeln!(out, "{metric}_sum{{{tags}}} {sum}").expect(WRITE);
    writeln!(out, "{metric}_count{{{tags}}} {total}").expect(WRITE);
}

/// Quantiles of the last interval, as Envoy has it.
fn write_summary(out: &mut String, metric: &str, tags: &str, merged: &Merged, unit: Unit) {
    for (q, (interval, _)) in QUANTILES.iter().zip(histogram::quantiles(merged, unit)) {
        let tags = with(tags, "quantile", &q.to_string());
        writeln!(out, "{metric}{{{tags}}} {}", plain(interval)).expect(WRITE);
    }
    let sum = digits(merged.interval.sum() * unit.scale());
    writeln!(out, "{metric}_sum{{{tags}}} {sum}").expect(WRITE);
    writeln!(out, "{metric}_count{{{tags}}} {}", merged.interval.total()).expect(WRITE);
}

/// A number with up to 32 significant digits.
fn digits(value: f64) -> String {
    const SIGNIFICANT: usize = 32;
    let before = if value >= 1.0 {
        value.log10() as usize + 1
    } else {
        1
    };
    let text = format!("{value:.*}", SIGNIFICANT.saturating_sub(before));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_envoy_prints() {
        assert_eq!(digits(0.5), "0.5");
        assert_eq!(digits(1800000.0), "1800000");
        assert_eq!(digits(0.0), "0");
        assert_eq!(
            digits(1.0476190476190477),
            "1.0476190476190476719153821250075"
        );
    }

    #[test]
    fn names_and_values_are_made_safe() {
        assert_eq!(sanitized("cluster.a-b.x"), "envoy_cluster_a_b_x");
        assert_eq!(escaped("a\"b\\\n"), "a\\\"b\\\\\\n");
        assert!(has_own_tags("upstream_rq_200") && has_own_tags("http1.flood"));
        assert!(!has_own_tags("upstream_rq_timeout"));
    }
}
