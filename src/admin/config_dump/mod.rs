//! `/config_dump`: what is in force, what warms, and what was refused and why.

mod endpoints;
mod entry;
mod mask;
mod redact;
mod routes;
mod scopes;

use std::{rc::Rc, vec::IntoIter};

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, ReflectMessage};
use regex::Regex;

use crate::api::{self, envoy::admin::v3 as pb, envoy::config::bootstrap::v3::Bootstrap};

use super::{
    State,
    answer::{Answer, JSON, Parts},
    json::{self, Defaults},
    request::{self, Request},
    state::Kind,
};
use entry::Entry;
use mask::Mask;

pub(super) use entry::timestamp;

/// One message of the dump: what it has besides lists, and its lists.
struct Section {
    /// Full name of its type.
    type_name: String,
    /// Everything but the lists.
    head: DynamicMessage,
    /// Field names and elements.
    lists: Vec<(&'static str, Vec<Entry>)>,
}

pub(super) fn answer(state: &Rc<State>, request: &Request) -> Answer {
    let name_regex = match name_regex(request) {
        Ok(regex) => regex,
        Err(answer) => return answer,
    };
    let mut sections = sections(state, request.has("include_eds"));
    if let Some(regex) = name_regex {
        for (_, entries) in sections.iter_mut().flat_map(|section| &mut section.lists) {
            entries.retain(|entry| regex.is_match(entry.name()));
        }
    }
    let given = |name| request.param(name).filter(|value| !value.is_empty());
    let mask = given("mask").map(Mask::parse);
    match given("resource") {
        Some(resource) => one_list(sections, resource, mask),
        None => all(sections, mask),
    }
}

/// 400, in the one content type without a character set that Envoy has.
fn refused(text: String) -> Answer {
    Answer {
        status: http::StatusCode::BAD_REQUEST,
        ..Answer::whole("text/plain", text)
    }
}

/// `name_regex`, which has to match a name as a whole.
fn name_regex(request: &Request) -> Result<Option<Regex>, Answer> {
    let Some(text) = request.param("name_regex").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    // Once alone, so that it cannot close a group that it did not open.
    match request::regex(text).and_then(|_| request::regex(&format!("^(?:{text})$"))) {
        Ok(regex) => Ok(Some(regex)),
        Err(error) => Err(refused(format!(
            "INVALID_ARGUMENT: Error while parsing name_regex from {text}: {error}"
        ))),
    }
}

fn sections(state: &State, include_eds: bool) -> Vec<Section> {
    let mut sections = vec![bootstrap(state)];
    let versioned = |kind| state.config.version(kind).to_string();
    sections.push(Section::new(
        &pb::ClustersConfigDump {
            version_info: versioned(Kind::Cluster),
            ..Default::default()
        },
        entry::lists(state, Kind::Cluster),
    ));
    let filters = entry::lists(state, Kind::Extension);
    if filters.iter().any(|(_, entries)| !entries.is_empty()) {
        sections.push(Section::new(&pb::EcdsConfigDump::default(), filters));
    }
    if include_eds {
        let lists = endpoints::lists(state);
        sections.push(Section::new(&pb::EndpointsConfigDump::default(), lists));
    }
    sections.push(Section::new(
        &pb::ListenersConfigDump {
            version_info: versioned(Kind::Listener),
            ..Default::default()
        },
        entry::lists(state, Kind::Listener),
    ));
    // Without any connection manager there is no dump of routes.
    if let Some(routes::Lists { routes, scopes }) = routes::lists(state) {
        let scopes = scopes::lists(state, scopes);
        sections.push(Section::new(&pb::ScopedRoutesConfigDump::default(), scopes));
        sections.push(Section::new(&pb::RoutesConfigDump::default(), routes));
    }
    let secrets = entry::lists(state, Kind::Secret);
    sections.push(Section::new(&pb::SecretsConfigDump::default(), secrets));
    sections
}

fn bootstrap(state: &State) -> Section {
    let (bytes, read_at) = state.config.bootstrap();
    let dump = pb::BootstrapConfigDump {
        bootstrap: Bootstrap::decode(bytes).ok(),
        last_updated: Some(timestamp(read_at)),
    };
    Section::new(&dump, Vec::new())
}

/// `resource=`: the elements of one list, each with its type.
fn one_list(sections: Vec<Section>, resource: &str, mask: Option<Mask>) -> Answer {
    let mut found = None;
    for section in sections {
        let field = section.head.descriptor().get_field_by_name(resource);
        if field.is_some_and(|field| !field.is_list()) {
            return refused(format!(
                "{resource} is not a repeated field. Use ?mask={resource} to get only this field"
            ));
        }
        let lists = section.lists.into_iter();
        found = found.or(lists.into_iter().find(|(field, _)| *field == resource));
    }
    let Some((field, entries)) = found else {
        return match is_a_list(resource) {
            true => Answer::json("{}\n".to_owned()),
            false => Answer {
                status: http::StatusCode::NOT_FOUND,
                ..refused(format!("{resource} not found in config dump"))
            },
        };
    };
    if let (Some(mask), Some(first)) = (&mask, entries.first())
        && !mask.fits_resource(&first.message(field))
    {
        return refused(format!(
            "FieldMask {} could not be successfully used.",
            mask.text()
        ));
    }
    Answer::parts(
        JSON,
        OneList {
            field,
            entries: entries.into_iter(),
            mask,
            begun: false,
            done: false,
        },
    )
}

/// Whether a kind of dump that is left out when it is empty has this list.
fn is_a_list(resource: &str) -> bool {
    let kinds = [
        pb::RoutesConfigDump::full_name(),
        pb::EndpointsConfigDump::full_name(),
        pb::ScopedRoutesConfigDump::full_name(),
        pb::EcdsConfigDump::full_name(),
    ];
    kinds.iter().any(|kind| {
        let descriptor = api::descriptors().get_message_by_name(kind);
        descriptor.is_some_and(|descriptor| descriptor.get_field_by_name(resource).is_some())
    })
}

/// Every section, or those that the mask fits and what it leaves of them.
fn all(mut sections: Vec<Section>, mask: Option<Mask>) -> Answer {
    if let Some(mask) = mask {
        sections.retain(|section| mask.fits(&section.head.descriptor()));
        if sections.is_empty() {
            return refused(format!(
                "FieldMask {} could not be successfully applied to any configs.",
                mask.text()
            ));
        }
        for section in &mut sections {
            mask.trim(&mut section.head);
            let top: Vec<_> = mask.text().split(',').collect();
            section.lists.retain(|(field, _)| top.contains(field));
        }
    }
    Answer::parts(
        JSON,
        All {
            sections: sections.into_iter(),
            section: None,
            begun: false,
            done: false,
        },
    )
}

impl Section {
    fn new<M: Message + Name>(head: &M, lists: Vec<(&'static str, Vec<Entry>)>) -> Self {
        let mut head = json::reflect(head);
        redact::redact(&mut head);
        Self {
            type_name: M::full_name(),
            head,
            lists,
        }
    }
}

struct OneList {
    field: &'static str,
    entries: IntoIter<Entry>,
    mask: Option<Mask>,
    begun: bool,
    done: bool,
}

impl Parts for OneList {
    fn write_next(&mut self, out: &mut String) -> bool {
        if self.done {
            return false;
        }
        match self.entries.next() {
            Some(entry) => {
                out.push_str(if self.begun {
                    ",\n  "
                } else {
                    "{\n \"configs\": [\n  "
                });
                self.begun = true;
                let mut message = entry.message(self.field);
                if let Some(mask) = &self.mask {
                    mask.trim(&mut message);
                }
                write_typed(out, &message, 2);
            }
            None => {
                out.push_str(if self.begun { "\n ]\n}\n" } else { "{}\n" });
                self.done = true;
            }
        }
        true
    }
}

/// Appends a message as an `Any`, its type first.
fn write_typed(out: &mut String, message: &DynamicMessage, depth: usize) {
    let any = prost_types::Any {
        type_url: format!(
            "{}{}",
            api::TYPE_URL_PREFIX,
            message.descriptor().full_name()
        ),
        value: message.encode_to_vec(),
    };
    let any = json::decode("google.protobuf.Any", &any.encode_to_vec());
    json::write(
        out,
        &any.expect("an Any, just encoded"),
        depth,
        Defaults::Skip,
    );
}

/// The lists of a section that still have to be written.
struct Writing {
    lists: IntoIter<(&'static str, Vec<Entry>)>,
    list: Option<(&'static str, IntoIter<Entry>, bool)>,
}

struct All {
    sections: IntoIter<Section>,
    section: Option<Writing>,
    begun: bool,
    done: bool,
}

impl Parts for All {
    fn write_next(&mut self, out: &mut String) -> bool {
        if self.done {
            return false;
        }
        match &mut self.section {
            Some(writing) => {
                if !writing.write_next(out) {
                    out.push_str("\n  }");
                    self.section = None;
                }
            }
            None => match self.sections.next() {
                Some(section) => {
                    out.push_str(if self.begun {
                        ",\n  "
                    } else {
                        "{\n \"configs\": [\n  "
                    });
                    self.begun = true;
                    self.section = Some(section.begin(out));
                }
                None => {
                    out.push_str("\n ]\n}\n");
                    self.done = true;
                }
            },
        }
        true
    }
}

impl Section {
    /// Writes all but the lists and the end.
    fn begin(self, out: &mut String) -> Writing {
        let mut head = String::new();
        write_typed(&mut head, &self.head, 2);
        debug_assert!(head.contains(&self.type_name));
        let end = head.trim_end_matches('}').trim_end().len();
        out.push_str(&head[..end]);
        let mut lists = self.lists;
        lists.retain(|(_, entries)| !entries.is_empty());
        Writing {
            lists: lists.into_iter(),
            list: None,
        }
    }
}

impl Writing {
    fn write_next(&mut self, out: &mut String) -> bool {
        match &mut self.list {
            Some((field, entries, first)) => match entries.next() {
                Some(entry) => {
                    out.push_str(if std::mem::take(first) { "" } else { "," });
                    json::new_line(out, 4);
                    json::write(out, &entry.message(field), 4, Defaults::Skip);
                }
                None => {
                    json::new_line(out, 3);
                    out.push(']');
                    self.list = None;
                }
            },
            None => match self.lists.next() {
                Some((field, entries)) => {
                    out.push_str(&format!(",\n   \"{field}\": ["));
                    self.list = Some((field, entries.into_iter(), true));
                }
                None => return false,
            },
        }
        true
    }
}
