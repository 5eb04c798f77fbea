//! What holds for every text and every message.

use std::collections::HashMap;

use proptest::prelude::*;
use prost::{Message, Name};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};

use super::{
    Discovery, Document, Format, RawResource,
    document::descriptor,
    json::{self, ALL},
    place::Report,
    position,
    reader::Reader,
    strictness::Strictness,
    tree::{self, Mark, Node},
    well_known, yaml,
};
use crate::{
    admin::json::{self as print, Defaults},
    api::envoy::config::{bootstrap::v3::Bootstrap, cluster::v3::Cluster},
};

/// JSON values with what is awkward about them.
fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        // Quotes, escapes, controls, and what needs more than one byte.
        "[a-z\"\\\\\n\t/\u{1}ä€😀]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map("[a-z_\"\n]{1,6}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn without_places(node: &Node<'_>) -> serde_json::Value {
    match &node.value {
        tree::Value::Null => serde_json::Value::Null,
        tree::Value::Bool(value) => (*value).into(),
        tree::Value::Number(literal) => serde_json::from_str(literal).unwrap(),
        tree::Value::Text(text) => text.as_ref().into(),
        tree::Value::List(items) => items.iter().map(without_places).collect(),
        tree::Value::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.clone().into_owned(), without_places(&entry.value)))
            .collect(),
        tree::Value::Unread(unread) => panic!("{} is unread", unread.text()),
    }
}

fn to_json(message: &DynamicMessage) -> String {
    let mut text = String::new();
    print::write(&mut text, message, 0, Defaults::Skip);
    text
}

proptest! {
    #[test]
    fn json_is_read_as_serde_json_reads_it(value in values(), pretty: bool) {
        let text = match pretty {
            true => serde_json::to_string_pretty(&value),
            false => serde_json::to_string(&value),
        }.unwrap();
        prop_assert_eq!(without_places(&json::parse(&text, ALL).unwrap()), value);
    }

    #[test]
    fn what_stays_unread_is_read_as_the_whole_is(value in values(), most in 0..4usize) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        let outline = json::parse(&text, most).unwrap();
        let whole = json::parse(&text, ALL).unwrap();
        // Places and all.
        prop_assert_eq!(outline.read().unwrap().into_owned(), whole);
    }

    #[test]
    fn a_json_text_is_yaml_of_the_same_value(value in values()) {
        // Escaped, since YAML allows fewer characters as they are.
        let text = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(without_places(&yaml::parse(&text).unwrap()), value);
    }

    #[test]
    fn a_broken_json_text_is_an_error_within_it(
        value in values(), at in any::<prop::sample::Index>(), with in "[\\[\\]{}:,\"a0 ]?",
    ) {
        let mut text: Vec<char> = serde_json::to_string_pretty(&value).unwrap().chars().collect();
        let at = at.index(text.len());
        text.splice(at..=at, with.chars());
        let text: String = text.into_iter().collect();
        let expected = serde_json::from_str::<serde_json::Value>(&text);
        // What is broken is seen whether it is read or not; a key that stands twice
        // is seen when it is read.
        match (json::parse(&text, 0), json::parse(&text, ALL)) {
            (Ok(outline), whole) => prop_assert_eq!(outline.read().map(|n| n.into_owned()), whole),
            (outline, whole) => prop_assert_eq!(outline, whole),
        }
        match json::parse(&text, ALL) {
            // More passes than JSON allows.
            Ok(node) => if let Ok(expected) = expected {
                prop_assert_eq!(without_places(&node), expected);
            }
            Err(error) => {
                let lines = text.lines().count().max(1);
                prop_assert!((1..=lines + 1).contains(&(error.mark.line as usize)));
                prop_assert!(expected.is_err() || error.message.starts_with("duplicate key"));
            }
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in "[a-z0-9:\\-\\[\\]{},&*!|>#'\"\\\\ \n\t]{0,80}") {
        let report = Report::new();
        for (tree, file) in [(yaml::parse(&text), "y"), (json::parse(&text, ALL), "j")] {
            if let Ok(tree) = tree {
                reader(file).message(&tree, &descriptor::<Bootstrap>(), &report.root());
            }
        }
        prop_assert!(report.into_errors().iter().all(|error| error.position.is_some()));
    }

    #[test]
    fn no_damage_to_a_document_makes_a_reader_panic(
        damage in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()),
            1..6,
        ),
    ) {
        for (text, format) in [(YAML, Format::Yaml), (JSON, Format::Json)] {
            let bytes = damaged(text.as_bytes().to_owned(), &damage);
            let Ok(document) = Document::new("x", format, bytes) else { continue };
            let report = Report::new();
            if document.read::<Bootstrap>(&Strictness::default(), &report).is_err() {
                prop_assert!(report.into_errors().iter().all(|error| error.position.is_some()));
            }
            let Ok(discovery) = Discovery::of(&document, &Cluster::type_url()) else { continue };
            for resource in &discovery.resources {
                let mut report = Report::new();
                if let Ok(cluster) = resource.decode::<Cluster>(&Strictness::default(), &report) {
                    prop_assert_eq!(&cluster.name, resource.name());
                    let bytes = damaged(cluster.encode_to_vec(), &damage);
                    let any = prost_types::Any { type_url: Cluster::type_url(), value: bytes };
                    if let Ok(resource) = RawResource::from_any(any, &Cluster::type_url())
                        && let Ok(cluster) = resource.decode::<Cluster>(&Strictness::default(), &report)
                    {
                        print::document(&cluster, Defaults::Skip);
                    }
                }
                resource.locate(&mut report);
            }
        }
    }

    #[test]
    fn every_step_of_a_path_is_read_back(
        steps in prop::collection::vec(
            prop_oneof![
                "[a-z][a-z0-9_]{0,6}".prop_map(position::Step::Field),
                (0..1000_usize).prop_map(position::Step::Index),
                "[a-z.\"\\[\\] ]{0,8}".prop_map(position::Step::Key),
            ],
            1..8,
        ),
    ) {
        let report = Report::new();
        fn place(at: &super::At<'_>, steps: &[position::Step]) {
            match steps.split_first() {
                None => {
                    at.error("here");
                }
                Some((position::Step::Field(name), rest)) => place(&at.field(name), rest),
                Some((position::Step::Index(index), rest)) => place(&at.index(*index), rest),
                Some((position::Step::Key(key), rest)) => place(&at.key(key), rest),
            }
        }
        place(&report.root(), &steps);
        let path = report.into_errors().remove(0).path;
        prop_assert_eq!(position::parse(&path), steps, "{}", path);
    }

    #[test]
    fn what_is_printed_is_read_back(seed: u64) {
        let mut maker = Maker(seed | 1);
        let message = maker.message(&descriptor::<Bootstrap>(), 5);
        let text = to_json(&message);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let report = Report::new();
        for tree in [json::parse(&text, ALL), yaml::parse(&text)] {
            let read = reader("x").message(&tree.unwrap(), &message.descriptor(), &report.root());
            prop_assert_eq!(report.to_string(), "");
            // Maps have no order.
            prop_assert_eq!(value(&to_json(&read)), value(&text));
        }
    }
}

#[test]
fn an_empty_message_is_read_beside_its_type_and_under_value() {
    let any = descriptor::<Bootstrap>()
        .parent_pool()
        .get_message_by_name("google.protobuf.Any")
        .unwrap();
    let empty = "\"@type\": \"type.googleapis.com/google.protobuf.Empty\"";
    for (text, expected) in [
        (format!("{{{empty}}}"), true),
        (format!("{{{empty}, \"value\": {{}}}}"), true),
        (format!("{{{empty}, \"value\": {{\"x\": 1}}}}"), false),
    ] {
        let report = Report::new();
        let tree = json::parse(&text, ALL).unwrap();
        reader("x").message(&tree, &any, &report.root());
        assert_eq!(report.to_string().is_empty(), expected, "{report}");
    }
}

/// A discovery answer with a bit of everything.
const YAML: &str = "\
version_info: '1'
resources:
- &a
  \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: a
  connect_timeout: 0.25s
  type: STATIC
  load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: []}]}
  metadata: {filter_metadata: {x: {y: [1, 2.5, ~, yes, 'z']}}}
  typed_extension_protocol_options:
    http:
      \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 100}}
- \"@type\": type.googleapis.com/envoy.service.discovery.v3.Resource
  resource:
    \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: |
      b
- *a
";

const JSON: &str = r#"{"version_info": "1", "resources": [
  {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "a\u00e4",
   "connectTimeout": "0.25s", "type": 1, "perConnectionBufferLimitBytes": 1e3},
  {"name": "ä", "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
   "health_checks": [{"timeout": "1s"}], "lb_policy": "random"}]}"#;

/// Bytes that were cut, overwritten, repeated or removed in places.
fn damaged(
    mut bytes: Vec<u8>,
    damage: &[(prop::sample::Index, prop::sample::Index, u8)],
) -> Vec<u8> {
    for (at, other, how) in damage {
        if bytes.is_empty() {
            break;
        }
        let (at, other) = (at.index(bytes.len()), other.index(bytes.len()));
        let (from, to) = (at.min(other), at.max(other).min(at.min(other) + 40));
        match how % 16 {
            0 => bytes.truncate(at),
            1..4 => drop(bytes.drain(from..to)),
            4..7 => {
                let part = bytes[from..to].to_vec();
                bytes.splice(other..other, part);
            }
            7..11 => bytes[at] = b"{}[]:,-\"'&*!|>#\n \t0~"[usize::from(*how) % 20],
            11..14 => bytes.swap(at, other),
            _ => bytes[at] = *how,
        }
    }
    bytes
}

fn reader(file: &str) -> Reader<'_> {
    Reader {
        file,
        start: Mark::START,
        strictness: &Strictness {
            unknown: super::Unknown::Refuse,
        },
        check_rules: false,
        parts: None,
    }
}

/// Makes messages of any type; xorshift, since the shape is what matters.
struct Maker(u64);

impl Maker {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    fn message(&mut self, desc: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(desc.clone());
        match desc.full_name() {
            "google.protobuf.Any" => {
                let pool = desc.parent_pool();
                let types = pool.all_messages().len() as u64;
                let inner = loop {
                    let index = self.next(types) as usize;
                    let inner = pool.all_messages().nth(index).unwrap();
                    if !inner.is_map_entry() && !well_known::is_not_a_map(inner.full_name()) {
                        break inner;
                    }
                };
                let url = format!("type.googleapis.com/{}", inner.full_name());
                let inner = self.message(&inner, depth.saturating_sub(1));
                message.set_field_by_number(1, Value::String(url));
                message.set_field_by_number(2, Value::Bytes(inner.encode_to_vec().into()));
            }
            "google.protobuf.Duration" => {
                let seconds = self.next(100_000) as i64 - 50_000;
                let nanos = self.next(1_000_000_000) as i32 * seconds.signum() as i32;
                message.set_field_by_number(1, Value::I64(seconds));
                message.set_field_by_number(2, Value::I32(nanos));
            }
            "google.protobuf.Timestamp" => {
                message.set_field_by_number(1, Value::I64(self.next(1 << 32) as i64));
            }
            "google.protobuf.Value" => {
                message.set_field_by_number(2, Value::F64(self.next(1000) as f64));
            }
            "google.protobuf.FieldMask" => {}
            _ if depth == 0 => {}
            _ => {
                for field in desc.fields() {
                    if self.next(4) == 0 {
                        let value = self.field(&field, depth);
                        message.set_field(&field, value);
                    }
                }
            }
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        let count = self.next(3) + 1;
        let kind = field.kind();
        if field.is_list() {
            return Value::List((0..count).map(|_| self.value(&kind, depth)).collect());
        }
        if field.is_map() {
            let value = kind.as_message().unwrap().map_entry_value_field().kind();
            let entries = (0..count).map(|_| {
                let key = MapKey::String(format!("k{}", self.next(9)));
                (key, self.value(&value, depth))
            });
            return Value::Map(entries.collect::<HashMap<_, _>>());
        }
        self.value(&kind, depth)
    }

    fn value(&mut self, kind: &Kind, depth: u32) -> Value {
        let number = self.next(1 << 40);
        match kind {
            Kind::Bool => Value::Bool(number & 1 == 0),
            Kind::String => Value::String(format!("yes \"{number}\" ä\n")),
            Kind::Bytes => Value::Bytes(number.to_be_bytes().to_vec().into()),
            Kind::Double => Value::F64(number as f64 / 1024.0),
            Kind::Float => Value::F32(number as f32 / 1024.0),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(-(number as i64)),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(number as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::MAX - number),
            Kind::Enum(desc) => {
                let values = desc.values().len() as u64;
                let index = self.next(values) as usize;
                Value::EnumNumber(desc.values().nth(index).unwrap().number())
            }
            Kind::Message(desc) => Value::Message(self.message(desc, depth - 1)),
        }
    }
}
