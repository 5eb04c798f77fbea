//! From a [tree](super::tree) to a message, by the proto3 JSON mapping.
//!
//! One walk finds everything that is wrong, each with its line and column, and
//! builds the message meanwhile. Both spellings of a field name are known
//! (`stat_prefix`, `statPrefix`), and what is known of Envoy's reading holds
//! here too: enum names in any case, booleans in quotes, `1e3` for an integer,
//! `null` for an absent field.

use std::sync::Arc;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    OneofDescriptor, Value as Proto,
};

use super::{
    parts::{LONG, Reading, put_field},
    place::{At, ConfigError, Position},
    rules,
    scalar::{self, Refused},
    strictness::{Strictness, Unknown},
    suggest,
    tree::{Entry, Mark, Node, SyntaxError, Value, quoted, quoted_up_to},
    well_known,
};

/// The key beside the fields of an `Any` that says what it is.
pub(super) const TYPE: &str = "@type";

/// Reads trees that came from one text.
pub struct Reader<'r> {
    /// The file as the configuration names it.
    pub file: &'r str,
    /// Where in the file the text starts that the tree was made of.
    pub start: Mark,
    /// What becomes of unknown fields.
    pub strictness: &'r Strictness,
    /// Whether constraint rules are checked, which is left for later when the
    /// message is still to be merged with another.
    pub check_rules: bool,
    /// What is known of the elements of long lists, for a reader that reads with
    /// [`Reader::any_of`] alone: these lists stay encoded.
    pub parts: Option<&'r Reading<'r>>,
}

/// A message that has been read.
struct Read {
    message: DynamicMessage,
    /// Fields that stay encoded, to be put behind the encoded message: protobuf
    /// adds the elements of a list, and the fields of a message, that come twice.
    encoded: Vec<u8>,
}

impl Read {
    fn encode(&self) -> Vec<u8> {
        let mut encoded = self.message.encode_to_vec();
        encoded.extend_from_slice(&self.encoded);
        encoded
    }
}

impl From<DynamicMessage> for Read {
    fn from(message: DynamicMessage) -> Self {
        Self {
            message,
            encoded: Vec::new(),
        }
    }
}

/// What a field was read as.
enum Field {
    Value(Proto),
    /// A message of which a part stays encoded.
    Message(Read),
    /// A list that stays encoded: with the keys of its elements.
    List(Vec<u8>),
}

impl Reader<'_> {
    /// Reads a message. What is wrong is put on the report of `at`; what is
    /// returned is complete only when nothing was.
    pub fn message(
        &self,
        node: &Node<'_>,
        desc: &MessageDescriptor,
        at: &At<'_>,
    ) -> DynamicMessage {
        debug_assert!(self.parts.is_none(), "what stays encoded would be lost");
        self.read(node, desc, at)
            .map_or_else(|| DynamicMessage::new(desc.clone()), |read| read.message)
    }

    /// Reads a message, `None` when there is nothing in it that can be read.
    fn read(&self, node: &Node<'_>, desc: &MessageDescriptor, at: &At<'_>) -> Option<Read> {
        let is_not_read = |error: SyntaxError| self.error(at, error.mark, error.message);
        if let Value::Unread(unread) = &node.value {
            let node = unread.read(node.mark, LONG).map_err(is_not_read).ok()?;
            return self.read(&node, desc, at);
        }
        if let Some(name) = desc.full_name().strip_prefix("google.protobuf.") {
            // What has a form of its own may also be written as the message it is.
            let is_map = matches!(node.value, Value::Map(_));
            match name {
                "Any" => return self.any(node, desc, at).map(Read::from),
                "Value" | "ListValue" => {}
                name if name.ends_with("Value") && !is_map => {
                    let field = desc.get_field(1)?;
                    let mut wrapper = DynamicMessage::new(desc.clone());
                    wrapper.set_field(&field, self.scalar(node, &field.kind(), at)?);
                    return Some(wrapper.into());
                }
                _ => {}
            }
            let has_own_form = !is_map || matches!(name, "Struct" | "Value" | "ListValue");
            if has_own_form {
                let whole = node.read().map_err(is_not_read).ok()?;
                if let Some(read) = well_known::read(name, &whole, desc) {
                    return read
                        .map(Read::from)
                        .map_err(|(mark, message)| self.error(at, mark, message))
                        .ok();
                }
            }
        }
        match &node.value {
            Value::Map(entries) => Some(self.fields(entries, desc, false, at)),
            // Absent, or an element that is left empty.
            Value::Null => Some(self.fields(&[], desc, false, at)),
            other => {
                let (expected, found) = (desc.full_name(), other.describe());
                self.error(
                    at,
                    node.mark,
                    format!("expected a map of {expected}, found {found}"),
                );
                None
            }
        }
    }

    /// Reads a message of a type that is already known but stands beside `@type`.
    /// What is wrong is put on the report of `at`; the encoded message that is
    /// returned is complete only when nothing was.
    pub fn any_of(&self, node: &Node<'_>, desc: &MessageDescriptor, at: &At<'_>) -> Vec<u8> {
        let read = match &node.value {
            Value::Map(entries) => Some(self.fields(entries, desc, true, at)),
            _ => self.read(node, desc, at),
        };
        read.map_or_else(Vec::new, |read| read.encode())
    }

    /// The place of a mark of this tree.
    pub fn position(&self, mark: Mark) -> Position {
        let mark = mark.after(self.start);
        Position {
            file: self.file.to_owned(),
            line: mark.line as usize,
            column: mark.column as usize,
        }
    }

    fn error(&self, at: &At<'_>, mark: Mark, message: impl Into<String>) {
        at.report().push(self.found(at, mark, message));
    }

    fn found(&self, at: &At<'_>, mark: Mark, message: impl Into<String>) -> ConfigError {
        ConfigError {
            path: at.to_string(),
            message: message.into(),
            position: Some(self.position(mark)),
        }
    }

    /// Reads the fields of a message, then checks the rules of those that could
    /// be read; the messages in them have been checked by then.
    fn fields(
        &self,
        entries: &[Entry<'_>],
        desc: &MessageDescriptor,
        in_any: bool,
        at: &At<'_>,
    ) -> Read {
        let mut read = Read::from(DynamicMessage::new(desc.clone()));
        let rules = rules::of(desc).filter(|_| self.check_rules);
        let unchecked = Self {
            check_rules: false,
            parts: None,
            ..*self
        };
        let whole = self.whole();
        let mut seen: Vec<Seen<'_>> = Vec::with_capacity(entries.len());
        let mut failed = Vec::new();
        for entry in entries {
            if in_any && entry.key == TYPE {
                continue;
            }
            let Some(field) = find_field(desc, &entry.key) else {
                // A field that is only misspelt is not missing.
                failed.extend(self.unknown_field(entry, desc, at));
                continue;
            };
            if matches!(entry.value.value, Value::Null) && !takes_null(&field) {
                continue;
            }
            let place = at.field(field.name());
            let now = Seen {
                number: field.number(),
                oneof: field.containing_oneof(),
                entry,
            };
            if let Some(earlier) = seen.iter().find(|earlier| earlier.excludes(&now)) {
                let how = match earlier.number == now.number {
                    true => "is set a second time, first as",
                    false => "cannot be set together with",
                };
                let (key, mark) = (&earlier.entry.key, earlier.entry.mark.after(self.start));
                self.error(&place, entry.mark, format!("{how} {key} at {mark}"));
                continue;
            }
            seen.push(now);
            let reader = match rules {
                Some(rules) if rules.skips(&field) => &unchecked,
                Some(rules) if field.is_list() && rules.concern(&field) => &whole,
                _ => self,
            };
            match reader.field(&entry.value, &field, &place) {
                Some(Field::Value(value)) => read.message.set_field(&field, value),
                Some(Field::Message(part)) => {
                    put_field(field.number(), &part.encoded, &mut read.encoded);
                    read.message.set_field(&field, Proto::Message(part.message));
                }
                Some(Field::List(list)) => read.encoded.extend_from_slice(&list),
                None => failed.push(field.number()),
            }
        }
        if let Some(rules) = rules {
            rules.check(&read.message, &failed, at);
        }
        read
    }

    /// This reader, but one that leaves nothing encoded.
    fn whole(&self) -> Self {
        Self {
            parts: None,
            ..*self
        }
    }

    fn field(&self, node: &Node<'_>, field: &FieldDescriptor, at: &At<'_>) -> Option<Field> {
        if field.is_map() {
            return self.whole().map(node, field, at).map(Field::Value);
        }
        let kind = field.kind();
        if !field.is_list() {
            let Kind::Message(desc) = &kind else {
                return self.scalar(node, &kind, at).map(Field::Value);
            };
            let read = self.read(node, desc, at)?;
            return Some(match read.encoded.is_empty() {
                true => Field::Value(Proto::Message(read.message)),
                false => Field::Message(read),
            });
        }
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            // A single element may stand without a list, as in Envoy.
            _ => std::slice::from_ref(node),
        };
        match (&kind, self.parts) {
            (Kind::Message(desc), Some(parts)) if items.len() >= LONG => {
                self.long_list(items, field.number(), desc, parts, at)
            }
            (Kind::Message(desc), _) => self.list(items, field.number(), desc, at),
            _ => {
                let mut values = Vec::with_capacity(items.len());
                for (i, item) in items.iter().enumerate() {
                    values.push(self.scalar(item, &kind, &at.index(i)));
                }
                let values = values.into_iter().collect::<Option<_>>()?;
                Some(Field::Value(Proto::List(values)))
            }
        }
    }

    /// A list of messages. When a part of one stays encoded, all of it does.
    fn list(
        &self,
        items: &[Node<'_>],
        number: u32,
        desc: &MessageDescriptor,
        at: &At<'_>,
    ) -> Option<Field> {
        // An element that cannot be read leaves its place empty, so that those after
        // it are found where they stand.
        let read = items.iter().enumerate().map(|(i, item)| {
            self.read(item, desc, &at.index(i))
                .unwrap_or_else(|| DynamicMessage::new(desc.clone()).into())
        });
        let read: Vec<Read> = read.collect();
        if read.iter().all(|read| read.encoded.is_empty()) {
            let values = read.into_iter().map(|read| Proto::Message(read.message));
            return Some(Field::Value(Proto::List(values.collect())));
        }
        let mut encoded = Vec::new();
        for read in read {
            put_field(number, &read.encode(), &mut encoded);
        }
        Some(Field::List(encoded))
    }

    /// A list of messages whose elements are looked up among those that were read
    /// before, and kept for the next time.
    fn long_list(
        &self,
        items: &[Node<'_>],
        number: u32,
        desc: &MessageDescriptor,
        parts: &Reading<'_>,
        at: &At<'_>,
    ) -> Option<Field> {
        let mut encoded = Some(Vec::new());
        for (i, item) in items.iter().enumerate() {
            let at = at.index(i);
            let key = Reading::key(desc.full_name(), self.check_rules, item);
            let element = parts.get(key).or_else(|| {
                let before = at.report().marker();
                let element: Arc<[u8]> = self.read(item, desc, &at)?.encode().into();
                // What is wrong, or to be warned of, is said each time.
                if at.report().marker() == before {
                    parts.keep(key, element.clone());
                }
                Some(element)
            });
            match (element, &mut encoded) {
                (Some(element), Some(encoded)) => put_field(number, &element, encoded),
                _ => encoded = None,
            }
        }
        encoded.map(Field::List)
    }

    fn map(&self, node: &Node<'_>, field: &FieldDescriptor, at: &At<'_>) -> Option<Proto> {
        let Value::Map(entries) = &node.value else {
            self.error(
                at,
                node.mark,
                format!("expected a map, found {}", node.value.describe()),
            );
            return None;
        };
        let entry_kind = field.kind();
        let entry_desc = entry_kind.as_message()?;
        let key_kind = entry_desc.map_entry_key_field().kind();
        let value_kind = entry_desc.map_entry_value_field().kind();
        let mut complete = true;
        let mut map = std::collections::HashMap::with_capacity(entries.len());
        for entry in entries {
            let place = at.key(&entry.key);
            let key = match scalar::map_key(&entry.key, &key_kind) {
                Ok(key) => Some(key),
                Err(refused) => {
                    self.refused(&place, entry.mark, &Value::Text(entry.key.clone()), refused);
                    None
                }
            };
            match (key, self.value(&entry.value, &value_kind, &place)) {
                (Some(key), Some(value)) => {
                    map.insert(key, value);
                }
                _ => complete = false,
            }
        }
        complete.then_some(Proto::Map(map))
    }

    /// A value of a map.
    fn value(&self, node: &Node<'_>, kind: &Kind, at: &At<'_>) -> Option<Proto> {
        match kind {
            Kind::Message(desc) => {
                let read = self.read(node, desc, at)?;
                Some(Proto::Message(read.message))
            }
            _ => self.scalar(node, kind, at),
        }
    }

    /// A value of any kind but message.
    fn scalar(&self, node: &Node<'_>, kind: &Kind, at: &At<'_>) -> Option<Proto> {
        match kind {
            Kind::Enum(desc) => self.enumeration(node, desc, at),
            _ => match scalar::read(&node.value, kind) {
                Ok(value) => Some(value),
                Err(refused) => {
                    self.refused(at, node.mark, &node.value, refused);
                    None
                }
            },
        }
    }

    fn refused(&self, at: &At<'_>, mark: Mark, found: &Value<'_>, refused: Refused) {
        self.error(at, mark, refused.explain(found));
    }

    fn enumeration(&self, node: &Node<'_>, desc: &EnumDescriptor, at: &At<'_>) -> Option<Proto> {
        let name = match &node.value {
            Value::Null => return Some(Proto::EnumNumber(desc.default_value().number())),
            Value::Text(name) | Value::Number(name) => name,
            other => {
                let names = suggest::list(desc.values().map(|v| v.name().to_owned()));
                let found = other.describe();
                self.error(
                    at,
                    node.mark,
                    format!("expected one of {names}, found {found}"),
                );
                return None;
            }
        };
        let any_case = || desc.values().find(|v| v.name().eq_ignore_ascii_case(name));
        if let Some(value) = desc.get_value_by_name(name).or_else(any_case) {
            return Some(Proto::EnumNumber(value.number()));
        }
        if let Ok(number) = scalar::enum_number(&node.value) {
            return Some(Proto::EnumNumber(number));
        }
        let values = desc.values().map(|v| v.name().to_owned());
        let message = format!(
            "unknown value {}{}",
            quoted(name),
            suggest::among(name, values)
        );
        if self.strictness.unknown == Unknown::Refuse {
            self.error(at, node.mark, message);
        } else {
            // The mapping says: an unknown name is as if the field were absent.
            self.pass(at, node.mark, message);
        }
        None
    }

    /// Lets something unknown pass, with a warning when that is asked for.
    fn pass(&self, at: &At<'_>, mark: Mark, message: String) {
        if self.strictness.unknown == Unknown::Warn {
            at.report().warn_unknown(self.found(at, mark, message));
        }
    }

    /// Reports an unknown field; returns the number of the one that was meant.
    fn unknown_field(
        &self,
        entry: &Entry<'_>,
        desc: &MessageDescriptor,
        at: &At<'_>,
    ) -> Option<u32> {
        let place = at.field(&entry.key);
        let names: Vec<_> = desc.fields().map(|f| f.name().to_owned()).collect();
        let message = match entry.key.as_ref() {
            "<<" => "YAML merge keys are not part of the format, repeat the fields".to_owned(),
            key => {
                let suggestion = suggest::among(key, names.iter().cloned());
                format!("unknown field in {}{suggestion}", desc.full_name())
            }
        };
        match self.strictness.unknown {
            Unknown::Refuse => self.error(&place, entry.mark, message),
            Unknown::Warn | Unknown::Ignore => self.pass(&place, entry.mark, message),
        }
        let meant = suggest::nearest(&entry.key, &names)?;
        desc.get_field_by_name(meant).map(|field| field.number())
    }

    /// An `Any`: `@type` names a message, whose fields stand beside it, or under
    /// `value` when the message is written as something other than a map.
    fn any(
        &self,
        node: &Node<'_>,
        desc: &MessageDescriptor,
        at: &At<'_>,
    ) -> Option<DynamicMessage> {
        let mut any = DynamicMessage::new(desc.clone());
        let entries = match &node.value {
            Value::Map(entries) if entries.is_empty() => return Some(any),
            Value::Map(entries) => entries,
            other => {
                let found = other.describe();
                self.error(
                    at,
                    node.mark,
                    format!("expected a map with \"@type\", found {found}"),
                );
                return None;
            }
        };
        let Some(type_url) = node.get(TYPE) else {
            self.error(
                at,
                node.mark,
                "\"@type\" is missing, which says what this is",
            );
            return None;
        };
        let Some(url) = type_url.text() else {
            let found = type_url.value.describe();
            self.error(
                at,
                type_url.mark,
                format!("expected a type URL, found {found}"),
            );
            return None;
        };
        let inner = match resolve(desc.parent_pool(), url) {
            Ok(inner) => inner,
            Err(message) => {
                self.error(at, type_url.mark, message);
                return None;
            }
        };
        // Some write an empty message beside its type, others under `value`.
        let empty = inner.full_name() == "google.protobuf.Empty" && node.get("value").is_some();
        let encoded = match empty || well_known::is_not_a_map(inner.full_name()) {
            false => self.fields(entries, &inner, true, at).encode(),
            true => {
                let others = entries.iter().filter(|e| e.key != TYPE && e.key != "value");
                for other in others {
                    self.unknown_field(other, &inner, at);
                }
                match node.get("value") {
                    Some(value) => self.read(value, &inner, at)?.encode(),
                    None => {
                        self.error(at, node.mark, "\"value\" is missing beside \"@type\"");
                        return None;
                    }
                }
            }
        };
        any.set_field_by_number(1, Proto::String(url.to_owned()));
        any.set_field_by_number(2, Proto::Bytes(encoded.into()));
        Some(any)
    }
}

/// A field that has been met in a map.
struct Seen<'n> {
    number: u32,
    oneof: Option<OneofDescriptor>,
    entry: &'n Entry<'n>,
}

impl Seen<'_> {
    fn excludes(&self, other: &Seen<'_>) -> bool {
        self.number == other.number || (self.oneof.is_some() && self.oneof == other.oneof)
    }
}

/// The message a type URL names.
///
/// # Errors
/// When it is not a type URL or names a message that is not in the API here.
pub(super) fn resolve(pool: &DescriptorPool, url: &str) -> Result<MessageDescriptor, String> {
    let Some((_, name)) = url.rsplit_once('/') else {
        let hint = match pool.get_message_by_name(url) {
            Some(_) => format!(", did you mean \"type.googleapis.com/{url}\"?"),
            None => ", which looks like \"type.googleapis.com/…\"".to_owned(),
        };
        return Err(format!("{} is not a type URL{hint}", quoted(url)));
    };
    pool.get_message_by_name(name).ok_or_else(|| {
        let names = pool.all_messages().map(|m| m.full_name().to_owned());
        format!(
            "the type {} is not supported{}",
            // Of a name that is cut nobody knows which type is meant.
            quoted_up_to(256, name),
            suggest::near_type(name, names)
        )
    })
}

/// A field by either of its names.
pub(super) fn find_field(desc: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    desc.get_field_by_name(key)
        .or_else(|| desc.get_field_by_json_name(key))
}

/// Whether `null` is a value for this field, not its absence.
fn takes_null(field: &FieldDescriptor) -> bool {
    !field.is_list()
        && !field.is_map()
        && match field.kind() {
            Kind::Message(desc) => desc.full_name() == "google.protobuf.Value",
            Kind::Enum(desc) => desc.full_name() == "google.protobuf.NullValue",
            _ => false,
        }
}
