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

/// Where a bootstrap came from, to find the places of errors that are found in
/// it later.
#[derive(Debug)]
pub struct Origin {
    base: Document,
    over: Option<Document>,
}

/// Reads the bootstrap of a file and of `--config-yaml`, one of which may be
/// absent. The text is merged over the file as protobuf merges: messages field
/// by field, lists appended, maps by key, anything else replaced.
///
/// # Errors
/// Everything that is wrong goes to the report, with file, line and column.
pub fn read_bootstrap(
    path: Option<&Path>,
    config_yaml: Option<&str>,
    strictness: &Strictness,
    report: &Report,
) -> Result<(Bootstrap, Origin), Reported> {
    let file = path.map(Document::load);
    let text = config_yaml
        .map(|text| Document::new(CONFIG_YAML, Format::Yaml, text.as_bytes().to_owned()));
    let loaded = [file, text]
        .into_iter()
        .flatten()
        .map(|document| document.map_err(|error| error.report(report)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut loaded = loaded.into_iter();
    let Some(base) = loaded.next() else {
        return Err(report
            .root()
            .error("at least one of --config-path and --config-yaml has to be given"));
    };
    let desc = descriptor::<Bootstrap>();
    let Some(over) = loaded.next() else {
        let message = base.message(&desc, strictness, true, report)?;
        return Ok((typed(&message, report)?, Origin { base, over: None }));
    };

    // Both are read before either's errors end it.
    let (below, above) = (
        base.message(&desc, strictness, false, report),
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
    let origin = Origin {
        base,
        over: Some(over),
    };
    let before = report.marker();
    check::check(&message, strictness, &report.root());
    origin.locate_since(report, before);
    report.since(before)?;
    Ok((typed(&message, report)?, origin))
}

impl Origin {
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
            _ => report.locate_since(before, |_| {
                Some(Position {
                    file: self.base.file().to_owned(),
                    line: 0,
                    column: 0,
                })
            }),
        }
    }
}
