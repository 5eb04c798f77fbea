//! Where in a document something stands, and what is wrong there.
//!
//! Compiling a message walks it with an [`At`], which knows the path from the
//! root of the resource and the [`Report`] that collects every error found on
//! the way. A function that reports an error returns [`Reported`]: proof that
//! somebody has been told, so that a caller can go on with the next sibling and
//! find more errors before it gives up.

use std::{
    cell::{Cell, RefCell},
    fmt,
};

/// A position in a file, counted from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file as the configuration names it.
    pub file: String,
    /// Line, from 1; 0 when the format has no lines (binary protobuf).
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Position {
    /// A file as a whole, where it has no lines.
    pub(super) fn whole(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
        }
    }
}

/// One thing that is wrong, where, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Path from the root of the document or resource: `filters[0].name`.
    pub path: String,
    /// What was found and what is allowed, for a person.
    pub message: String,
    /// Filled in by the document the resource came from, where it has lines.
    pub position: Option<Position>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(p) = &self.position {
            match p.line {
                0 => write!(f, "{}: ", p.file)?,
                _ => write!(f, "{}:{}:{}: ", p.file, p.line, p.column)?,
            }
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Every error found in one document or resource.
#[derive(Debug, Default)]
pub struct Report {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
    unknown: Cell<u64>,
}

/// Proof that an error has been put on the [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported(());

impl Report {
    /// An empty report.
    pub fn new() -> Self {
        Self::default()
    }

    /// The root place, from which paths are counted.
    pub fn root(&self) -> At<'_> {
        At {
            report: self,
            parent: None,
            step: Step::Root,
        }
    }

    /// Adds an error that already knows its place.
    pub fn push(&self, error: ConfigError) -> Reported {
        self.errors.borrow_mut().push(error);
        Reported(())
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    /// How many errors there are so far.
    pub fn len(&self) -> usize {
        self.errors.borrow().len()
    }

    /// The errors, in the order they were found.
    pub fn into_errors(self) -> Vec<ConfigError> {
        self.errors.into_inner()
    }

    /// Adds something that is accepted but that a person should know: a
    /// deprecated field, or an unknown one that is let pass.
    pub fn warn(&self, warning: ConfigError) {
        self.warnings.borrow_mut().push(warning);
    }

    /// As [`Report::warn`], of a field or a value that the API does not have.
    pub fn warn_unknown(&self, warning: ConfigError) {
        self.unknown.set(self.unknown.get() + 1);
        self.warn(warning);
    }

    /// How many unknown fields and values were let pass with a warning.
    pub fn unknown(&self) -> u64 {
        self.unknown.get()
    }

    /// Takes the warnings, in the order they were found.
    pub fn take_warnings(&self) -> Vec<ConfigError> {
        self.warnings.take()
    }

    /// Lets a document fill in the positions that are missing.
    pub fn locate(&mut self, position: impl FnMut(&str) -> Option<Position>) {
        self.locate_since((0, 0), position);
    }

    /// How many errors and warnings there are, so that what comes later
    /// can be told apart.
    pub fn marker(&self) -> (usize, usize) {
        (self.errors.borrow().len(), self.warnings.borrow().len())
    }

    /// An error when errors were added since `marker` was taken.
    pub(super) fn since(&self, (errors, _): (usize, usize)) -> Result<(), Reported> {
        match self.len() > errors {
            true => Err(Reported(())),
            false => Ok(()),
        }
    }

    /// Fills in the positions of what was found after `marker`, so that several
    /// documents can share a report.
    pub(super) fn locate_since(
        &self,
        (errors, warnings): (usize, usize),
        mut position: impl FnMut(&str) -> Option<Position>,
    ) {
        let (mut all_errors, mut all_warnings) =
            (self.errors.borrow_mut(), self.warnings.borrow_mut());
        let found = all_errors[errors..].iter_mut();
        for error in found.chain(&mut all_warnings[warnings..]) {
            if error.position.is_none() {
                error.position = position(&error.path);
            }
        }
        // In the order of the document, where there is one.
        let line = |error: &ConfigError| error.position.as_ref().map(|p| (p.line, p.column));
        all_errors[errors..].sort_by_key(line);
        all_warnings[warnings..].sort_by_key(line);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.borrow().iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

/// A place in a message that is being compiled.
#[derive(Clone, Copy)]
pub struct At<'a> {
    report: &'a Report,
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

impl<'a> At<'a> {
    /// The place of a field of this message.
    pub fn field<'b>(&'b self, name: &'b str) -> At<'b> {
        At {
            report: self.report,
            parent: Some(self),
            step: Step::Field(name),
        }
    }

    /// The place of an element of this repeated field.
    pub fn index(&self, index: usize) -> At<'_> {
        At {
            report: self.report,
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// The place of a value of this map field.
    pub fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        At {
            report: self.report,
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    /// Reports what is wrong at this place.
    pub fn error(&self, message: impl fmt::Display) -> Reported {
        self.report.push(ConfigError {
            path: self.to_string(),
            message: message.to_string(),
            position: None,
        })
    }

    /// Tells what is taken as it is, but is hardly what was meant.
    pub fn warn(&self, message: impl fmt::Display) {
        self.report.warn(ConfigError {
            path: self.to_string(),
            message: message.to_string(),
            position: None,
        });
    }

    /// Reports that a field is valid in the API but does nothing here yet.
    pub fn unsupported(&self) -> Reported {
        self.error("is not supported yet")
    }

    /// Refuses a field that is set: [`refuse!`](crate::refuse) calls it for each.
    /// `field` is its name as Rust spells it. Nearly none is, so nothing is done for
    /// the rest.
    pub fn refuse<T: IsSet + ?Sized>(&self, field: &str, value: &T) -> Result<(), Reported> {
        match value.is_set() {
            true => Err(self.field(field.trim_start_matches("r#")).unsupported()),
            false => Ok(()),
        }
    }

    /// Whether anything is wrong at this place or below it.
    pub fn is_faulty(&self) -> bool {
        let path = self.to_string();
        let errors = self.report.errors.borrow();
        errors.iter().any(|error| {
            let below = error.path.strip_prefix(path.as_str());
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// The report this place writes to.
    pub fn report(&self) -> &'a Report {
        self.report
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) => match self.parent {
                Some(At {
                    step: Step::Root, ..
                })
                | None => f.write_str(name),
                _ => write!(f, ".{name}"),
            },
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

/// Whether a field of a message differs from its default, that is, was written.
pub trait IsSet {
    /// True when the field has a value that a serializer would write.
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}
impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}
impl<K, V> IsSet for std::collections::BTreeMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}
impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}
macro_rules! number_is_set {
    ($($t:ty),*) => { $(impl IsSet for $t {
        fn is_set(&self) -> bool { *self != <$t>::default() }
    })* };
}
number_is_set!(bool, i32, i64, u32, u64, f32, f64);

/// Refuses each of the named fields that is set, by its path, as not supported yet.
///
/// Evaluates to `Result<(), Reported>`; every set field is reported, not only
/// the first. The arguments are variables bound by destructuring, so that their
/// names are the fields' names.
#[macro_export]
macro_rules! refuse {
    ($at:expr; $($field:ident),* $(,)?) => {{
        let at = &$at;
        let mut outcome = Ok(());
        $(if let Err(reported) = at.refuse(stringify!($field), &$field) {
            outcome = Err(reported);
        })*
        outcome
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_document() {
        let report = Report::new();
        let root = report.root();
        let chains = root.field("filter_chains");
        let chain = chains.index(1);
        let metadata = chain.field("metadata");
        metadata.key("a.b").error("wrong");
        root.field("name").error("missing");
        assert_eq!(
            report.to_string(),
            "filter_chains[1].metadata[\"a.b\"]: wrong\nname: missing"
        );
    }

    #[test]
    fn a_place_is_faulty_when_something_is_wrong_below_it() {
        let report = Report::new();
        let root = report.root();
        let clusters = root.field("clusters");
        clusters.index(1).field("name").error("wrong");
        assert!(clusters.is_faulty());
        assert!(clusters.index(1).is_faulty());
        assert!(!clusters.index(10).is_faulty());
        assert!(!root.field("cluster").is_faulty());
    }

    #[test]
    fn refuse_names_every_field_that_is_set() {
        let report = Report::new();
        let (freebind, transparent, name) = (Some(true), None::<bool>, "x".to_owned());
        let r#type = 1;
        let at = report.root();
        assert!(refuse!(at; freebind, transparent, name, r#type).is_err());
        assert_eq!(
            report.to_string(),
            "freebind: is not supported yet\nname: is not supported yet\ntype: is not supported yet"
        );
    }
}
