//! Files and texts of every format that configuration comes in.

use std::{fs::File, io, path::Path};

use miette::Diagnostic;
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage};

use super::{
    check,
    file::{MAX_DOCUMENT, read_file, read_up_to},
    json,
    place::{ConfigError, Position, Report, Reported},
    position,
    reader::Reader,
    strictness::Strictness,
    tree::{Mark, Node, SyntaxError, Value},
    yaml,
};
use crate::api;

/// How a document is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.yaml`, `.yml`.
    Yaml,
    /// `.json`, and every extension that is not another format's, as in Envoy.
    Json,
    /// `.pb`: protobuf's wire format.
    Binary,
    /// `.pb_text`: protobuf's text format.
    ProtoText,
}

impl Format {
    /// The format of a file, by its extension.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("yaml" | "yml") => Self::Yaml,
            Some("pb") => Self::Binary,
            Some("pb_text") => Self::ProtoText,
            _ => Self::Json,
        }
    }
}

/// Why nothing can be taken from a document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The file cannot be read.
    #[error("unable to read file: {path}: {source}")]
    Read {
        /// As the configuration names it.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// It is not a document of its format, or not of the expected type.
    #[error("{}", lines(.0))]
    Invalid(Vec<ConfigError>),
    /// It is one, but says what cannot be accepted as an update.
    #[error("{}", lines(.0))]
    Refused(Vec<ConfigError>),
}

fn lines(errors: &[ConfigError]) -> String {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl DocumentError {
    /// Puts the errors on a report.
    pub fn report(self, report: &Report) -> Reported {
        let errors = match self {
            Self::Read { .. } => vec![ConfigError {
                path: String::new(),
                message: self.to_string(),
                position: None,
            }],
            Self::Invalid(errors) | Self::Refused(errors) => errors,
        };
        let mut reported = None;
        for error in errors {
            reported = Some(report.push(error));
        }
        reported.unwrap_or_else(|| report.root().error("is not valid"))
    }
}

/// A document that has been loaded but not interpreted.
#[derive(Debug)]
pub struct Document {
    /// As the configuration names it.
    file: String,
    content: Content,
    /// A file whose name does not say what it is, so that it is read as JSON.
    unnamed_format: bool,
}

#[derive(Debug)]
enum Content {
    Yaml(String),
    Json(String),
    Binary(Vec<u8>),
    ProtoText(String),
}

impl Document {
    /// Loads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is a text that is not UTF-8.
    pub fn load(path: &Path) -> Result<Self, DocumentError> {
        Self::of(path, read_file(path, MAX_DOCUMENT))
    }

    /// As [`Document::load`], a file that may also be a pipe or a device, which is
    /// waited for: who started the process named it.
    ///
    /// # Errors
    /// As there.
    pub fn await_file(path: &Path) -> Result<Self, DocumentError> {
        Self::of(
            path,
            File::open(path).and_then(|file| read_up_to(file, MAX_DOCUMENT)),
        )
    }

    fn of(path: &Path, read: io::Result<Vec<u8>>) -> Result<Self, DocumentError> {
        let file = path.display().to_string();
        match read {
            Ok(bytes) => {
                let format = Format::of(path);
                let is_json = path.extension().is_some_and(|e| e == "json");
                let document = Self::new(file, format, bytes)?;
                Ok(Self {
                    unnamed_format: format == Format::Json && !is_json,
                    ..document
                })
            }
            Err(source) => Err(DocumentError::Read { path: file, source }),
        }
    }

    /// A document that is already in memory, with a name for error messages.
    ///
    /// # Errors
    /// When it is a text that is not UTF-8.
    pub fn new(
        file: impl Into<String>,
        format: Format,
        bytes: Vec<u8>,
    ) -> Result<Self, DocumentError> {
        let file = file.into();
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|error| {
                let valid = error.utf8_error().valid_up_to();
                let bytes = error.as_bytes();
                // Everything before `valid` is UTF-8, so nothing is replaced.
                let before = String::from_utf8_lossy(&bytes[..valid]);
                let mark = Mark::of_offset(&before, valid);
                let message = format!("the byte 0x{:02x} is not valid UTF-8", bytes[valid]);
                let error = SyntaxError::new(mark, message);
                DocumentError::Invalid(vec![located(&file, error)])
            })
        };
        let content = match format {
            Format::Yaml => Content::Yaml(text(bytes)?),
            Format::Json => Content::Json(text(bytes)?),
            Format::Binary => Content::Binary(bytes),
            Format::ProtoText => Content::ProtoText(text(bytes)?),
        };
        Ok(Self {
            file,
            content,
            unnamed_format: false,
        })
    }

    /// The file as the configuration names it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The tree of a document that has one.
    pub(super) fn tree(&self) -> Result<Option<Node<'_>>, ConfigError> {
        self.tree_up_to(json::ALL)
    }

    /// The tree of a document that has one, in which the maps of lists may be unread.
    pub(super) fn outline(&self) -> Result<Option<Node<'_>>, ConfigError> {
        self.tree_up_to(0)
    }

    fn tree_up_to(&self, most: usize) -> Result<Option<Node<'_>>, ConfigError> {
        let tree = match &self.content {
            Content::Yaml(text) => yaml::parse(text),
            Content::Json(text) => json::parse(text, most),
            Content::Binary(_) | Content::ProtoText(_) => return Ok(None),
        };
        let tree = match tree {
            // An empty document is not an empty message: it would remove everything.
            Ok(tree) if tree.value == Value::Null => {
                Err(SyntaxError::new(tree.mark, "the document is empty"))
            }
            tree => tree,
        };
        tree.map(Some).map_err(|mut error| {
            if self.unnamed_format {
                error.message.push_str(
                    "; a file is read as JSON unless its name ends in .yaml, .yml, .pb or .pb_text",
                );
            }
            located(&self.file, error)
        })
    }

    /// Reads the document as a message; what is wrong is reported with its place.
    ///
    /// Rules are left unchecked when `check_rules` is false, for a message that
    /// is still to be merged.
    pub(super) fn message(
        &self,
        desc: &MessageDescriptor,
        strictness: &Strictness,
        check_rules: bool,
        report: &Report,
    ) -> Result<DynamicMessage, Reported> {
        let before = report.marker();
        let message = self.readable(desc, strictness, check_rules, report)?;
        report.since(before).map(|()| message)
    }

    /// As [`Document::message`], but what can be read is returned also when
    /// something is wrong with the rest.
    ///
    /// # Errors
    /// When nothing can be read.
    pub(super) fn readable(
        &self,
        desc: &MessageDescriptor,
        strictness: &Strictness,
        check_rules: bool,
        report: &Report,
    ) -> Result<DynamicMessage, Reported> {
        let before = report.marker();
        Ok(match self.tree().map_err(|error| report.push(error))? {
            Some(tree) => {
                let reader = Reader {
                    file: &self.file,
                    start: Mark::START,
                    strictness,
                    check_rules,
                    parts: None,
                };
                let message = reader.message(&tree, desc, &report.root());
                report.locate_since(before, |path| {
                    let mark = position::find(&tree, &position::parse(path));
                    Some(reader.position(mark))
                });
                message
            }
            None => {
                let message = self.encoded(desc).map_err(|error| report.push(error))?;
                if check_rules {
                    check::check(&message, strictness, &report.root());
                    report.locate_since(before, |_| Some(Position::whole(&self.file)));
                }
                message
            }
        })
    }

    /// The message of a document that has no tree.
    fn encoded(&self, desc: &MessageDescriptor) -> Result<DynamicMessage, ConfigError> {
        let invalid = |message: String| ConfigError {
            path: String::new(),
            message,
            position: Some(Position::whole(&self.file)),
        };
        let expected = desc.full_name();
        match &self.content {
            Content::Binary(bytes) => DynamicMessage::decode(desc.clone(), bytes.as_slice())
                .map_err(|error| invalid(format!("is not a {expected}: {error}"))),
            Content::ProtoText(text) => DynamicMessage::parse_text_format(desc.clone(), text)
                .map_err(|error| {
                    // The error's own text has no place, but its label has.
                    let mut labels = error.labels().into_iter().flatten();
                    let offset = labels.next().map_or(text.len(), |label| label.offset());
                    ConfigError {
                        position: Some(self.place(Mark::of_offset(text, offset))),
                        ..invalid(format!("is not a {expected}: {error}"))
                    }
                }),
            Content::Yaml(_) | Content::Json(_) => Err(invalid("has a tree".to_owned())),
        }
    }

    /// Reads the whole document as one message.
    ///
    /// # Errors
    /// Everything that is wrong goes to the report, with file, line and column.
    pub fn read<M: Message + Name + Default>(
        &self,
        strictness: &Strictness,
        report: &Report,
    ) -> Result<M, Reported> {
        typed(
            &self.message(&descriptor::<M>(), strictness, true, report)?,
            report,
        )
    }

    /// A place in this document.
    pub(super) fn place(&self, mark: Mark) -> Position {
        place(&self.file, mark)
    }

    /// Fills in the positions of what was found in this document after `before`.
    pub(super) fn locate_since(&self, report: &Report, before: (usize, usize)) {
        match self.tree() {
            Ok(Some(tree)) => report.locate_since(before, |path| {
                Some(self.place(position::find(&tree, &position::parse(path))))
            }),
            _ => report.locate_since(before, |_| Some(Position::whole(&self.file))),
        }
    }
}

/// A place in a file.
pub(super) fn place(file: &str, mark: Mark) -> Position {
    Position {
        file: file.to_owned(),
        line: mark.line as usize,
        column: mark.column as usize,
    }
}

pub(super) fn located(file: &str, error: SyntaxError) -> ConfigError {
    ConfigError {
        path: String::new(),
        message: error.message,
        position: Some(place(file, error.mark)),
    }
}

/// The descriptor of a generated message type.
pub(super) fn descriptor<M: Name>() -> MessageDescriptor {
    api::descriptors()
        .get_message_by_name(&M::full_name())
        .expect("generated types and descriptors come from the same files")
}

/// The generated form of a message.
pub(super) fn typed<M: Message + Default>(
    message: &DynamicMessage,
    report: &Report,
) -> Result<M, Reported> {
    message.transcode_to().map_err(|error| {
        let name = message.descriptor().full_name().to_owned();
        report
            .root()
            .error(format_args!("is not a valid {name}: {error}"))
    })
}

/// Reads a whole file as one message.
///
/// # Errors
/// Everything that is wrong goes to the report, with file, line and column.
pub fn read<M: Message + Name + Default>(
    path: &Path,
    strictness: &Strictness,
    report: &Report,
) -> Result<M, Reported> {
    let document = Document::load(path).map_err(|error| error.report(report))?;
    document.read(strictness, report)
}
