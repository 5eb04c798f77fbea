//! The bootstrap: a file, `--config-yaml`, or the one merged over the other.

use std::path::Path;

use prost::Message;

use super::{
    check,
    document::{Document, Format, descriptor, typed},
    place::{Position, Report, Reported},
    position,
    strictness::Strictness,
};
use crate::api::envoy::config::bootstrap::v3::Bootstrap;

/// How error messages name the text of `--config-yaml`.
const CONFIG_YAML: &str = "--config-yaml";

/// The documents a bootstrap is made of: a file, the text of `--config-yaml`, or
/// both, in which case the text is merged over the file as protobuf merges:
/// messages field by field, lists appended, maps by key, anything else replaced.
#[derive(Debug)]
pub struct Origin {
    base: Document,
    over: Option<Document>,
}

impl Origin {
    /// Loads what is given.
    ///
    /// # Errors
    /// When neither is given, or the file cannot be read.
    pub fn load(
        path: Option<&Path>,
        config_yaml: Option<&str>,
        report: &Report,
    ) -> Result<Self, Reported> {
        let file = path.map(Document::await_file);
        let text = config_yaml
            .map(|text| Document::new(CONFIG_YAML, Format::Yaml, text.as_bytes().to_owned()));
        let loaded = [file, text]
            .into_iter()
            .flatten()
            .map(|document| document.map_err(|error| error.report(report)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut loaded = loaded.into_iter();
        match loaded.next() {
            Some(base) => Ok(Self {
                base,
                over: loaded.next(),
            }),
            None => Err(report
                .root()
                .error("at least one of --config-path and --config-yaml has to be given")),
        }
    }

    /// Reads the bootstrap.
    ///
    /// # Errors
    /// Everything that is wrong goes to the report, with file, line and column.
    pub fn read(&self, strictness: &Strictness, report: &Report) -> Result<Bootstrap, Reported> {
        let desc = descriptor::<Bootstrap>();
        let Some(over) = &self.over else {
            return typed(&self.base.message(&desc, strictness, true, report)?, report);
        };
        // Both are read before either's errors end it.
        let (below, above) = (
            self.base.message(&desc, strictness, false, report),
            over.message(&desc, strictness, false, report),
        );
        let (mut message, above) = (below?, above?);
        // To decode over a message is to merge.
        message
            .merge(above.encode_to_vec().as_slice())
            .map_err(|error| {
                report
                    .root()
                    .error(format_args!("cannot be merged with {CONFIG_YAML}: {error}"))
            })?;
        let before = report.marker();
        check::check(&message, strictness, &report.root());
        self.locate_since(report, before);
        report.since(before)?;
        typed(&message, report)
    }

    /// What can be read of a bootstrap with which something is wrong, for who looks
    /// for everything that is; nothing where two documents would have to be merged.
    pub fn readable(&self, strictness: &Strictness) -> Option<Bootstrap> {
        let report = Report::new();
        let desc = descriptor::<Bootstrap>();
        let message = match &self.over {
            None => self.base.readable(&desc, strictness, true, &report).ok()?,
            Some(_) => return None,
        };
        typed(&message, &report).ok()
    }

    /// Fills in the positions that are missing in a report about this bootstrap.
    pub fn locate(&self, report: &mut Report) {
        self.locate_since(report, (0, 0));
    }

    fn locate_since(&self, report: &Report, before: (usize, usize)) {
        let Some(over) = &self.over else {
            return self.base.locate_since(report, before);
        };
        match (self.base.tree(), over.tree()) {
            (Ok(Some(below)), Ok(Some(above))) => report.locate_since(before, |path| {
                let (mark, in_over) = position::find_merged(&below, &above, &position::parse(path));
                let document = if in_over { over } else { &self.base };
                Some(document.place(mark))
            }),
            _ => report.locate_since(before, |_| Some(Position::whole(self.base.file()))),
        }
    }
}
