//! `/stats`: a line for each stat.

use std::fmt::Write;

use crate::{
    admin::{answer::Parts, endpoint::WRITE},
    stats::listing::{Stat, Value},
};

use super::{Phase, Selection, histogram, query::Buckets};

/// The lines of a selection.
pub struct Text {
    selection: Selection,
}

impl Text {
    /// None written yet.
    pub fn new(selection: Selection) -> Self {
        Self { selection }
    }

    /// Writes the next lines, and says what they are of.
    pub fn write_phase(&mut self, out: &mut String) -> Option<Phase> {
        let (phase, stats) = self.selection.next()?;
        let mode = self.selection.query.buckets.unwrap_or(Buckets::Summary);
        for Stat { name, value, .. } in stats {
            match value {
                Value::Counter(number) | Value::Gauge(number) => {
                    writeln!(out, "{name}: {number}").expect(WRITE);
                }
                Value::Text(text) => {
                    let text = text.unwrap_or_default();
                    writeln!(out, "{name}: \"{}\"", super::page::escape(&text)).expect(WRITE);
                }
                Value::Histogram(merged, unit) => {
                    write!(out, "{name}:").expect(WRITE);
                    let bounds = self.selection.settings.bounds(&name);
                    histogram::write_text(out, merged.as_ref(), unit, bounds, mode).expect(WRITE);
                }
            }
        }
        Some(phase)
    }
}

impl Parts for Text {
    fn write_next(&mut self, out: &mut String) -> bool {
        self.write_phase(out).is_some()
    }
}
