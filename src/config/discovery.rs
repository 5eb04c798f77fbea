//! Answers of a discovery service, from a file or a stream, as resources that
//! are told apart and hashed but not decoded: what did not change since the last
//! answer never is.

use std::{borrow::Cow, ops::Range, path::Path, sync::Arc};

use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use prost_types::Any;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    check,
    document::{Document, DocumentError, descriptor, place, typed},
    hash, json,
    place::{ConfigError, Position, Report, Reported},
    position,
    reader::{Reader, TYPE, find_field},
    strictness::Strictness,
    tree::{Entry, Mark, Node, Value},
    values::type_of_url,
};
use crate::api::envoy::{
    config::endpoint::v3::ClusterLoadAssignment,
    service::discovery::v3::{DiscoveryResponse, Resource},
};

/// An answer of a discovery service.
#[derive(Debug, Default)]
pub struct Discovery {
    /// `version_info`, which a file may leave out.
    pub version_info: String,
    /// The resources, in the order of the answer.
    pub resources: Vec<RawResource>,
}

/// One resource of an answer, named and hashed, but not yet decoded.
#[derive(Debug)]
pub struct RawResource {
    name: String,
    hash: u64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// A part of a JSON file and where it starts.
    Json {
        document: Arc<Document>,
        range: Range<usize>,
        start: Mark,
    },
    /// A part of the tree of a file.
    Tree { file: Arc<str>, node: Node<'static> },
    /// A message from a stream, or of a binary file.
    Encoded { file: Option<Arc<str>>, any: Any },
}

/// Reads a file that holds a `DiscoveryResponse` with resources of one type,
/// given by its full name or type URL.
///
/// # Errors
/// When the file cannot be read or is no such answer, or when a resource is of
/// another type or has no name.
pub fn read_discovery(path: &Path, type_url: &str) -> Result<Discovery, DocumentError> {
    Discovery::of(Document::load(path)?, type_url)
}

impl Discovery {
    /// As [`read_discovery`], from a document that is already loaded.
    ///
    /// # Errors
    /// As there.
    pub fn of(document: Document, type_url: &str) -> Result<Self, DocumentError> {
        split(&Arc::new(document), type_of_url(type_url))
    }
}

fn split(document: &Arc<Document>, expected: &str) -> Result<Discovery, DocumentError> {
    if let Some(text) = document.json()
        && let Ok(response) = serde_json::from_str::<Response<'_>>(text)
        && let Some(discovery) = split_json(document, text, &response, expected)
    {
        return Ok(discovery);
    }
    // Not JSON, or something is wrong or unusual: the tree says what and where.
    match document.tree() {
        Err(error) => Err(DocumentError::Invalid(vec![error])),
        Ok(Some(tree)) => split_tree(document.file(), &tree, expected),
        Ok(None) => split_encoded(document, expected),
    }
}

/// A `DiscoveryResponse` whose resources stay text. Fields that hold nothing of
/// interest are skipped by the tree only.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Response<'a> {
    #[serde(default, borrow, alias = "versionInfo")]
    version_info: Cow<'a, str>,
    #[serde(default, borrow, alias = "typeUrl")]
    type_url: Cow<'a, str>,
    #[serde(default, borrow, rename = "nonce")]
    _nonce: Cow<'a, str>,
    #[serde(default, borrow)]
    resources: Vec<&'a RawValue>,
}

/// What is looked at in a resource before it is decoded.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "@type")]
    type_url: Cow<'a, str>,
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    #[serde(default, borrow, alias = "clusterName")]
    cluster_name: Cow<'a, str>,
}

/// The fast way for a JSON file that is as it should be; `None` for any other.
fn split_json(
    document: &Arc<Document>,
    text: &str,
    response: &Response<'_>,
    expected: &str,
) -> Option<Discovery> {
    if !response.type_url.is_empty() && type_of_url(&response.type_url) != expected {
        return None;
    }
    let (mut start, mut counted) = (Mark::START, 0);
    let mut resources = Vec::with_capacity(response.resources.len());
    for raw in &response.resources {
        let raw = raw.get();
        let head: Head<'_> = serde_json::from_str(raw).ok()?;
        let name = match is_assignment(expected) {
            true => head.cluster_name,
            false => head.name,
        };
        if type_of_url(&head.type_url) != expected || name.is_empty() {
            return None;
        }
        // The raw value is a slice of the text, so this is its offset.
        let offset = raw.as_ptr().addr() - text.as_ptr().addr();
        start = Mark::of_offset(&text[counted..], offset - counted).after(start);
        counted = offset;
        resources.push(RawResource {
            name: name.into_owned(),
            hash: hash::bytes(raw.as_bytes()),
            body: Body::Json {
                document: Arc::clone(document),
                range: offset..offset + raw.len(),
                start,
            },
        });
    }
    Some(Discovery {
        version_info: response.version_info.clone().into_owned(),
        resources,
    })
}

fn split_tree(file: &str, tree: &Node<'_>, expected: &str) -> Result<Discovery, DocumentError> {
    let report = Report::new();
    let reader = Reader {
        file,
        start: Mark::START,
        strictness: &Strictness::default(),
        check_rules: true,
    };
    let desc = descriptor::<DiscoveryResponse>();
    // Everything but the resources is read as the message it is.
    let is_resources = |entry: &&Entry<'_>| {
        find_field(&desc, &entry.key).is_some_and(|field| field.name() == "resources")
    };
    let rest = match &tree.value {
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .filter(|entry| !is_resources(entry))
                .cloned()
                .collect(),
        ),
        other => other.clone(),
    };
    let rest = Node {
        mark: tree.mark,
        value: rest,
    };
    let message = reader.message(&rest, &desc, &report.root());
    let items: &[Node<'_>] = match &tree.value {
        Value::Map(entries) => match entries.iter().find(is_resources).map(|e| &e.value) {
            Some(Node {
                value: Value::List(items),
                ..
            }) => items,
            None
            | Some(Node {
                value: Value::Null, ..
            }) => &[],
            Some(other) => {
                report.push(ConfigError {
                    path: "resources".to_owned(),
                    message: format!("expected a list, found {}", other.value.describe()),
                    position: Some(reader.position(other.mark)),
                });
                &[]
            }
        },
        _ => &[],
    };
    if !report.is_empty() {
        return Err(DocumentError::Invalid(report.into_errors()));
    }
    let response: DiscoveryResponse = match typed(&message, &report) {
        Ok(response) => response,
        Err(_) => return Err(DocumentError::Invalid(report.into_errors())),
    };

    let refuse = |path: String, mark: Mark, message: String| {
        report.push(ConfigError {
            path,
            message,
            position: Some(reader.position(mark)),
        });
    };
    if !response.type_url.is_empty() && type_of_url(&response.type_url) != expected {
        let mark = tree.get("type_url").map_or(tree.mark, |node| node.mark);
        refuse(
            "type_url".to_owned(),
            mark,
            mismatch(expected, &response.type_url),
        );
    }
    let file: Arc<str> = file.into();
    let mut resources = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        match head(item, expected) {
            Ok((name, node)) => resources.push(RawResource {
                name: name.to_owned(),
                hash: hash::node(node),
                body: Body::Tree {
                    file: Arc::clone(&file),
                    node: node.clone().into_owned(),
                },
            }),
            Err((mark, message)) => refuse(format!("resources[{i}]"), mark, message),
        }
    }
    match report.is_empty() {
        true => Ok(Discovery {
            version_info: response.version_info,
            resources,
        }),
        false => Err(DocumentError::Refused(report.into_errors())),
    }
}

/// The name of a resource and the resource itself, out of its wrapper.
fn head<'n, 'a>(
    item: &'n Node<'a>,
    expected: &str,
) -> Result<(&'n str, &'n Node<'a>), (Mark, String)> {
    let found = match &item.value {
        Value::Map(_) => item.get(TYPE).and_then(Node::text),
        other => {
            let found = other.describe();
            return Err((
                item.mark,
                format!("expected a map of {expected}, found {found}"),
            ));
        }
    };
    let mark = item.get(TYPE).map_or(item.mark, |node| node.mark);
    let Some(found) = found else {
        return Err((mark, format!("\"@type\" is missing, expected {expected}")));
    };
    if type_of_url(found) == Resource::full_name() && expected != Resource::full_name() {
        return match item.get("resource") {
            Some(inner) => head(inner, expected),
            None => Err((item.mark, "resource is required".to_owned())),
        };
    }
    if type_of_url(found) != expected {
        return Err((mark, mismatch(expected, found)));
    }
    let keys: &[&str] = match is_assignment(expected) {
        true => &["cluster_name", "clusterName"],
        false => &["name"],
    };
    let name = keys.iter().find_map(|key| item.get(key));
    match name.map(|name| (name, name.text())) {
        Some((_, Some(name))) if !name.is_empty() => Ok((name, item)),
        Some((name, None)) => {
            let found = name.value.describe();
            Err((
                name.mark,
                format!("{}: expected a string, found {found}", keys[0]),
            ))
        }
        Some((name, _)) => Err((name.mark, format!("{} must not be empty", keys[0]))),
        None => Err((item.mark, format!("{} is required", keys[0]))),
    }
}

fn split_encoded(document: &Document, expected: &str) -> Result<Discovery, DocumentError> {
    let report = Report::new();
    let desc = descriptor::<DiscoveryResponse>();
    let response = document
        .message(&desc, &Strictness::default(), false, &report)
        .and_then(|message| typed::<DiscoveryResponse>(&message, &report));
    let Ok(response) = response else {
        return Err(DocumentError::Invalid(report.into_errors()));
    };
    let refuse = |path: String, message: String| {
        report.push(ConfigError {
            path,
            message,
            position: Some(document.whole()),
        });
    };
    if !response.type_url.is_empty() && type_of_url(&response.type_url) != expected {
        refuse(
            "type_url".to_owned(),
            mismatch(expected, &response.type_url),
        );
    }
    let mut resources = Vec::with_capacity(response.resources.len());
    for (i, any) in response.resources.into_iter().enumerate() {
        match RawResource::from_any(any, expected) {
            Ok(mut resource) => {
                if let Body::Encoded { file, .. } = &mut resource.body {
                    *file = Some(document.file().into());
                }
                resources.push(resource);
            }
            Err(message) => refuse(format!("resources[{i}]"), message),
        }
    }
    match report.is_empty() {
        true => Ok(Discovery {
            version_info: response.version_info,
            resources,
        }),
        false => Err(DocumentError::Refused(report.into_errors())),
    }
}

fn mismatch(expected: &str, found: &str) -> String {
    format!("expected {expected}, found {}", type_of_url(found))
}

/// Endpoints are the one resource whose name is called otherwise.
fn is_assignment(expected: &str) -> bool {
    expected == ClusterLoadAssignment::full_name()
}

impl RawResource {
    /// A resource from a stream, perhaps in its wrapper; `expected` is the full
    /// name of its type or its type URL.
    ///
    /// # Errors
    /// When it is of another type, or has no name.
    pub fn from_any(any: Any, expected: &str) -> Result<Self, String> {
        /// In all resource types the name is field 1.
        #[derive(Clone, PartialEq, prost::Message)]
        struct Named {
            #[prost(string, tag = "1")]
            name: String,
        }
        let expected = type_of_url(expected);
        let invalid = |error| format!("is not a valid {expected}: {error}");
        if type_of_url(&any.type_url) == Resource::full_name() && expected != Resource::full_name()
        {
            let wrapper = Resource::decode(any.value.as_slice()).map_err(invalid)?;
            return match wrapper.resource {
                Some(inner) => Self::from_any(inner, expected),
                None => Err("resource is required".to_owned()),
            };
        }
        if type_of_url(&any.type_url) != expected {
            return Err(mismatch(expected, &any.type_url));
        }
        let Named { name } = Named::decode(any.value.as_slice()).map_err(invalid)?;
        match name.is_empty() {
            true => Err("name is required".to_owned()),
            false => Ok(Self {
                name,
                hash: hash::bytes(&any.value),
                body: Body::Encoded { file: None, any },
            }),
        }
    }

    /// The resource's name, not empty; the caller refuses duplicates.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A hash of the resource as it is written. Equal resources may differ in it
    /// when they are written differently; different ones have different hashes.
    pub fn hash(&self) -> u64 {
        self.hash
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
        let message = self.message(&descriptor::<M>(), strictness, report)?;
        typed(&message, report)
    }

    /// As [`RawResource::decode`], without a generated type.
    fn message(
        &self,
        desc: &prost_reflect::MessageDescriptor,
        strictness: &Strictness,
        report: &Report,
    ) -> Result<DynamicMessage, Reported> {
        let before = report.marker();
        let at = report.root();
        let read = |file: &str, start: Mark, node: &Node<'_>| {
            let reader = Reader {
                file,
                start,
                strictness,
                check_rules: true,
            };
            let message = reader.any_of(node, desc, &at);
            report.locate_since(before, |path| {
                Some(reader.position(position::find(node, &position::parse(path))))
            });
            message
        };
        let message = match &self.body {
            Body::Tree { file, node } => read(file, Mark::START, node),
            Body::Json {
                document,
                range,
                start,
            } => match json::parse(&document.json().unwrap_or_default()[range.clone()]) {
                Ok(node) => read(document.file(), *start, &node),
                Err(error) => {
                    return Err(report.push(ConfigError {
                        path: String::new(),
                        message: error.message,
                        position: Some(place(document.file(), error.mark.after(*start))),
                    }));
                }
            },
            Body::Encoded { any, .. } => {
                let message = DynamicMessage::decode(desc.clone(), any.value.as_slice()).map_err(
                    |error| at.error(format_args!("is not a valid {}: {error}", desc.full_name())),
                )?;
                check::check(&message, strictness, &at);
                report.locate_since(before, |_| self.position(""));
                message
            }
        };
        report.since(before).map(|()| message)
    }

    /// Fills in the positions that are missing in a report about this resource.
    pub fn locate(&self, report: &mut Report) {
        match &self.body {
            Body::Json {
                document,
                range,
                start,
            } => {
                let text = document.json().unwrap_or_default();
                if let Ok(node) = json::parse(&text[range.clone()]) {
                    report.locate(|path| {
                        let mark = position::find(&node, &position::parse(path));
                        Some(place(document.file(), mark.after(*start)))
                    });
                }
            }
            _ => report.locate(|path| self.position(path)),
        }
    }

    fn position(&self, path: &str) -> Option<Position> {
        match &self.body {
            Body::Json {
                document, start, ..
            } => Some(place(document.file(), *start)),
            Body::Tree { file, node } => {
                Some(place(file, position::find(node, &position::parse(path))))
            }
            Body::Encoded { file, .. } => file.as_ref().map(|file| Position {
                file: file.to_string(),
                line: 0,
                column: 0,
            }),
        }
    }
}
