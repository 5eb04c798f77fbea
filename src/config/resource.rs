//! One resource of a discovery answer, decoded only when it has changed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use prost_types::Any;

use super::{
    check,
    discovery::mismatch,
    document::{descriptor, place},
    json,
    parts::{LONG, Parts, Reading},
    place::{ConfigError, Position, Report, Reported},
    position,
    reader::Reader,
    strictness::Strictness,
    tree::{Mark, Node},
    values::{type_name, type_of_url},
};
use crate::{
    api::{descriptors, envoy::service::discovery::v3::Resource},
    digest::Digest,
};

/// One resource of an answer, named and hashed, but not yet decoded.
#[derive(Debug)]
pub struct RawResource {
    name: String,
    hash: Digest,
    body: Body,
    /// What its long lists were read as. Read and written by the control thread.
    parts: Mutex<Option<Arc<Parts>>>,
}

#[derive(Debug)]
pub(super) enum Body {
    /// A part of a file that has lines.
    Text(Text),
    /// A message from a stream, or of a binary file.
    Encoded { file: Option<Arc<str>>, any: Any },
}

#[derive(Debug)]
pub(super) enum Text {
    /// A part of a JSON file and where it starts. A copy, so that a resource that
    /// stays does not keep the whole file that it came in.
    Json {
        file: Arc<str>,
        text: Box<str>,
        start: Mark,
    },
    /// A part of the tree of a file.
    Tree { file: Arc<str>, node: Node<'static> },
}

/// The wrapper that a resource may be in; `None` when it is in none.
///
/// # Errors
/// When the wrapper cannot be decoded.
pub fn wrapper(any: &Any, expected: &str) -> Result<Option<Resource>, String> {
    if type_name(any) != Resource::full_name() {
        return Ok(None);
    }
    Resource::decode(any.value.as_slice())
        .map(Some)
        .map_err(|error| format!("is not a valid {expected}: {error}"))
}

impl RawResource {
    /// A resource of a document that has been split.
    pub(super) fn new(name: String, hash: Digest, body: Body) -> Self {
        Self {
            name,
            hash,
            body,
            parts: Mutex::default(),
        }
    }

    /// A resource from a stream, without its wrapper; `expected` is the full
    /// name of its type or its type URL.
    ///
    /// # Errors
    /// When it is of another type, or has no name.
    pub fn from_any(any: Any, expected: &str) -> Result<Self, String> {
        Self::of(any, type_of_url(expected), None)
    }

    /// As [`RawResource::from_any`], from a file, and perhaps in its wrapper.
    pub(super) fn encoded(
        any: Any,
        expected: &str,
        file: Option<Arc<str>>,
    ) -> Result<Self, String> {
        match wrapper(&any, expected)? {
            Some(wrapper) => {
                let any = wrapper.resource.ok_or("resource is required")?;
                Self::of(any, expected, file)
            }
            None => Self::of(any, expected, file),
        }
    }

    fn of(any: Any, expected: &str, file: Option<Arc<str>>) -> Result<Self, String> {
        /// In all resource types the name is field 1.
        #[derive(Clone, PartialEq, prost::Message)]
        struct Named {
            #[prost(string, tag = "1")]
            name: String,
        }
        if type_name(&any) != expected {
            return Err(mismatch(expected, &any.type_url));
        }
        let Named { name } = Named::decode(any.value.as_slice())
            .map_err(|error| format!("is not a valid {expected}: {error}"))?;
        match name.is_empty() {
            true => Err("name is required".to_owned()),
            false => {
                let hash = Digest::of_bytes(&any.value);
                Ok(Self::new(name, hash, Body::Encoded { file, any }))
            }
        }
    }

    /// The resource's name, not empty; the caller refuses duplicates.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A digest of the resource as it is written. Equal resources may differ in it
    /// when they are written differently; different ones always differ.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// The encoded message, however it is written; `expected` is its type URL.
    /// `None` when it cannot be read.
    pub fn encode(&self, expected: &str, strictness: &Strictness) -> Option<Bytes> {
        match &self.body {
            Body::Encoded { any, .. } => Some(Bytes::copy_from_slice(&any.value)),
            Body::Text(_) => {
                let desc = descriptors().get_message_by_name(type_of_url(expected))?;
                let encoded = self.checked(&desc, strictness, &Report::new());
                encoded.ok().map(Bytes::from)
            }
        }
    }

    /// Tells that this comes after a version that has been decoded: elements of
    /// long lists that both have are not read again.
    pub fn follow(&self, before: &Self) {
        let parts = lock(&before.parts).clone();
        *lock(&self.parts) = parts;
    }

    /// Decodes the resource and checks its rules.
    ///
    /// # Errors
    /// Everything that is wrong goes to the report, with paths from the root of
    /// the resource and places in the file.
    pub fn decode<M: Message + Name + Default>(
        &self,
        strictness: &Strictness,
        report: &Report,
    ) -> Result<M, Reported> {
        let desc = descriptor::<M>();
        let encoded = self.checked(&desc, strictness, report)?;
        M::decode(encoded.as_slice()).map_err(|error| {
            let name = desc.full_name();
            report
                .root()
                .error(format_args!("is not a valid {name}: {error}"))
        })
    }

    /// The message of the resource as bytes, once it has been checked.
    fn checked(
        &self,
        desc: &MessageDescriptor,
        strictness: &Strictness,
        report: &Report,
    ) -> Result<Vec<u8>, Reported> {
        let marker = report.marker();
        let at = report.root();
        let encoded = match &self.body {
            Body::Encoded { any, .. } => {
                let message = DynamicMessage::decode(desc.clone(), any.value.as_slice());
                let message = message.map_err(|error| {
                    at.error(format_args!("is not a valid {}: {error}", desc.full_name()))
                })?;
                check::check(&message, strictness, &at);
                any.value.clone()
            }
            Body::Text(text) => {
                let before = lock(&self.parts).clone().unwrap_or_default();
                let parts = Reading::after(&before);
                let read = |parts: Option<&Reading<'_>>, report: &Report| {
                    let most = parts.map_or(json::ALL, |_| LONG);
                    let encoded = text.with_tree(most, |file, start, node| {
                        let reader = Reader {
                            file,
                            start,
                            strictness,
                            check_rules: true,
                            parts,
                        };
                        reader.any_of(node, desc, &report.root())
                    });
                    encoded.map_err(|error| report.push(error))
                };
                // Where there is something wrong, the whole says all of it.
                let attempt = Report::new();
                let encoded = match read(Some(&parts), &attempt) {
                    Ok(encoded) if attempt.is_empty() => {
                        attempt
                            .take_warnings()
                            .into_iter()
                            .for_each(|w| report.warn(w));
                        encoded
                    }
                    _ => read(None, report)?,
                };
                let parts = parts.into_parts();
                *lock(&self.parts) = (!parts.is_empty()).then(|| Arc::new(parts));
                encoded
            }
        };
        if report.marker() != marker {
            self.locate_since(report, marker);
        }
        report.since(marker).map(|()| encoded)
    }

    /// Fills in the positions that are missing in a report about this resource.
    pub fn locate(&self, report: &mut Report) {
        self.locate_since(report, (0, 0));
    }

    fn locate_since(&self, report: &Report, before: (usize, usize)) {
        let text = match &self.body {
            Body::Text(text) => text,
            Body::Encoded { file, .. } => {
                return report.locate_since(before, |_| file.as_deref().map(Position::whole));
            }
        };
        let located = text.with_tree(json::ALL, |file, start, node| {
            report.locate_since(before, |path| {
                let mark = position::find(node, &position::parse(path));
                Some(place(file, mark.after(start)))
            });
        });
        if let Err(error) = located {
            // What cannot be read has one place for everything.
            report.locate_since(before, |_| error.position.clone());
        }
    }
}

fn lock(parts: &Mutex<Option<Arc<Parts>>>) -> MutexGuard<'_, Option<Arc<Parts>>> {
    // What it guards is replaced as a whole.
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Text {
    /// Hands out the tree of the resource with the file it is from and the place
    /// in it from which the tree's places count. Lists in it are read up to `most`.
    fn with_tree<T>(
        &self,
        most: usize,
        then: impl FnOnce(&str, Mark, &Node<'_>) -> T,
    ) -> Result<T, ConfigError> {
        match self {
            Self::Tree { file, node } => Ok(then(file, Mark::START, node)),
            Self::Json { file, text, start } => match json::parse(text, most) {
                Ok(node) => Ok(then(file, *start, &node)),
                Err(error) => Err(ConfigError {
                    path: String::new(),
                    message: error.message,
                    position: Some(place(file, error.mark.after(*start))),
                }),
            },
        }
    }
}
