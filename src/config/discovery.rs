//! Answers of a discovery service, from a file or a stream, as resources that
//! are told apart and hashed but not decoded: what did not change since the last
//! answer never is.

use std::{path::Path, sync::Arc};

use prost::Name;

use super::{
    document::{Document, DocumentError, descriptor, typed},
    hash,
    place::{ConfigError, Position, Report},
    reader::{Reader, TYPE, find_field},
    resource::{Body, RawResource, Text},
    strictness::Strictness,
    tree::{Entry, Mark, Node, Value},
    values::type_of_url,
};
use crate::api::envoy::{
    config::endpoint::v3::ClusterLoadAssignment,
    service::discovery::v3::{DiscoveryResponse, Resource},
};
use crate::digest::Digest;

/// An answer of a discovery service.
#[derive(Debug, Default)]
pub struct Discovery {
    /// `version_info`, which a file may leave out.
    pub version_info: String,
    /// The resources, in the order of the answer.
    pub resources: Vec<RawResource>,
}

/// Reads a file that holds a `DiscoveryResponse` with resources of one type,
/// given by its full name or type URL.
///
/// # Errors
/// When the file cannot be read or is no such answer, or when a resource is of
/// another type or has no name.
pub fn read_discovery(path: &Path, type_url: &str) -> Result<Discovery, DocumentError> {
    Discovery::of(&Document::load(path)?, type_url)
}

impl Discovery {
    /// As [`read_discovery`], from a document that is already loaded.
    ///
    /// # Errors
    /// As there.
    pub fn of(document: &Document, type_url: &str) -> Result<Self, DocumentError> {
        split(document, type_of_url(type_url))
    }
}

fn split(document: &Document, expected: &str) -> Result<Discovery, DocumentError> {
    // Resources need not be read to be told apart.
    if let Ok(Some(outline)) = document.outline()
        && let Ok(discovery) = split_tree(document.file(), outline, expected)
    {
        return Ok(discovery);
    }
    // The whole tree says what is wrong and where.
    match document.tree() {
        Err(error) => Err(DocumentError::Invalid(vec![error])),
        Ok(Some(tree)) => split_tree(document.file(), tree, expected),
        Ok(None) => split_encoded(document, expected),
    }
}

/// The way for every document with lines, which says what is wrong with it.
fn split_tree(file: &str, tree: Node<'_>, expected: &str) -> Result<Discovery, DocumentError> {
    let desc = descriptor::<DiscoveryResponse>();
    let is_resources = |entry: &mut Entry<'_>| {
        find_field(&desc, &entry.key).is_some_and(|field| field.name() == "resources")
    };
    let (mut rest, mut items) = (tree, Vec::new());
    if let Value::Map(entries) = &mut rest.value {
        for entry in entries.extract_if(.., is_resources) {
            match entry.value.value {
                Value::List(list) => items.extend(list),
                Value::Null => {}
                _ => items.push(entry.value),
            }
        }
    }
    // Everything but the resources is read as the message it is.
    let report = Report::new();
    let reader = Reader {
        file,
        start: Mark::START,
        strictness: &Strictness::default(),
        check_rules: true,
        parts: None,
    };
    let message = reader.message(&rest, &desc, &report.root());
    let response = match typed::<DiscoveryResponse>(&message, &report) {
        Ok(response) if report.is_empty() => response,
        _ => return Err(DocumentError::Invalid(report.into_errors())),
    };

    let refuse = |path: String, mark: Mark, message: String| {
        report.push(ConfigError {
            path,
            message,
            position: Some(reader.position(mark)),
        });
    };
    if let Some(message) = check_type(&response.type_url, expected) {
        let mark = rest.get("type_url").map_or(rest.mark, |node| node.mark);
        refuse("type_url".to_owned(), mark, message);
    }
    let file: Arc<str> = file.into();
    let mut resources = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        if let Some(resource) = unread(&item, expected, &file) {
            resources.push(resource);
            continue;
        }
        let item = match item.read() {
            Ok(item) => unwrap(item.into_owned()),
            Err(error) => {
                refuse(format!("resources[{i}]"), error.mark, error.message);
                continue;
            }
        };
        match name(&item, expected) {
            Ok(name) => {
                let (name, hash) = (name.to_owned(), hash::node(&item));
                let body = Body::Text(Text::Tree {
                    file: Arc::clone(&file),
                    node: item.into_owned(),
                });
                resources.push(RawResource::new(name, hash, body));
            }
            Err((mark, message)) => refuse(format!("resources[{i}]"), mark, message),
        }
    }
    finish(response.version_info, resources, report)
}

/// A resource that stays unread; `None` when it is not as it should be, or in a
/// wrapper.
fn unread(item: &Node<'_>, expected: &str, file: &Arc<str>) -> Option<RawResource> {
    let Value::Unread(unread) = &item.value else {
        return None;
    };
    let (mut url, mut name) = (None, None);
    for (key, text) in unread.strings() {
        match &*key {
            TYPE => url = Some(text),
            key if name_keys(expected).contains(&key) => name = Some(text),
            _ => continue,
        }
        if let (Some(url), Some(name)) = (&url, &name) {
            if type_of_url(url) != expected || name.is_empty() {
                return None;
            }
            let (name, text) = (name.clone().into_owned(), unread.text());
            let body = Body::Text(Text::Json {
                file: Arc::clone(file),
                text: text.into(),
                start: item.mark,
            });
            return Some(RawResource::new(
                name,
                Digest::of_bytes(text.as_bytes()),
                body,
            ));
        }
    }
    None
}

/// A resource out of its wrapper, if it is in one.
fn unwrap(mut item: Node<'_>) -> Node<'_> {
    let wrapper = item.get(TYPE).and_then(Node::text).map(type_of_url);
    let is_wrapped = wrapper == Some(Resource::full_name().as_str());
    if let (true, Value::Map(entries)) = (is_wrapped, &mut item.value)
        && let Some(inner) = entries.iter().position(|entry| entry.key == "resource")
    {
        return entries.swap_remove(inner).value;
    }
    item
}

/// The name of a resource of the expected type.
fn name<'n>(node: &'n Node<'_>, expected: &str) -> Result<&'n str, (Mark, String)> {
    if !matches!(node.value, Value::Map(_)) {
        let found = node.value.describe();
        return Err((node.mark, format!("expected {expected}, found {found}")));
    }
    let Some(found) = node.get(TYPE) else {
        return Err((
            node.mark,
            format!("\"@type\" is missing, expected {expected}"),
        ));
    };
    let url = found.text().unwrap_or_default();
    if type_of_url(url) != expected {
        return Err((found.mark, mismatch(expected, url)));
    }
    let keys = name_keys(expected);
    let Some(name) = keys.iter().find_map(|key| node.get(key)) else {
        return Err((node.mark, format!("{} is required", keys[0])));
    };
    match name.text() {
        Some("") => Err((name.mark, format!("{} must not be empty", keys[0]))),
        Some(text) => Ok(text),
        None => {
            let found = name.value.describe();
            let message = format!("{}: expected a string, found {found}", keys[0]);
            Err((name.mark, message))
        }
    }
}

/// The way for documents without lines.
fn split_encoded(document: &Document, expected: &str) -> Result<Discovery, DocumentError> {
    let report = Report::new();
    let whole = || Some(Position::whole(document.file()));
    let refuse = |path: String, message: String| {
        report.push(ConfigError {
            path,
            message,
            position: whole(),
        });
    };
    let desc = descriptor::<DiscoveryResponse>();
    let message = document.message(&desc, &Strictness::default(), false, &report);
    if let Ok(message) = &message
        && let Some(unknown) = message.unknown_fields().next()
    {
        // Most bytes that are something else look like this.
        let (name, number) = (desc.full_name(), unknown.number());
        refuse(
            String::new(),
            format!("is not a {name}: it has a field of the unknown number {number}"),
        );
    }
    let response = message.and_then(|message| typed::<DiscoveryResponse>(&message, &report));
    let response = match response {
        Ok(response) if report.is_empty() => response,
        _ => return Err(DocumentError::Invalid(report.into_errors())),
    };
    if let Some(message) = check_type(&response.type_url, expected) {
        refuse("type_url".to_owned(), message);
    }
    let file: Arc<str> = document.file().into();
    let mut resources = Vec::with_capacity(response.resources.len());
    for (i, any) in response.resources.into_iter().enumerate() {
        match RawResource::encoded(any, expected, Some(Arc::clone(&file))) {
            Ok(resource) => resources.push(resource),
            Err(message) => refuse(format!("resources[{i}]"), message),
        }
    }
    finish(response.version_info, resources, report)
}

fn finish(
    version_info: String,
    resources: Vec<RawResource>,
    report: Report,
) -> Result<Discovery, DocumentError> {
    match report.is_empty() {
        true => Ok(Discovery {
            version_info,
            resources,
        }),
        false => Err(DocumentError::Refused(report.into_errors())),
    }
}

/// What is wrong with the type that an answer says it is of; it may say none.
fn check_type(found: &str, expected: &str) -> Option<String> {
    (!found.is_empty() && type_of_url(found) != expected).then(|| mismatch(expected, found))
}

pub(super) fn mismatch(expected: &str, found: &str) -> String {
    format!("expected {expected}, found {}", type_of_url(found))
}

/// The keys of a resource's name. Endpoints are the one resource whose name is
/// called otherwise.
fn name_keys(expected: &str) -> &'static [&'static str] {
    match expected == ClusterLoadAssignment::full_name() {
        true => &["cluster_name", "clusterName"],
        false => &["name"],
    }
}
