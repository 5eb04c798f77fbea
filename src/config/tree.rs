//! A document as a tree in which every node knows its line and column.
//!
//! YAML and JSON both become this tree; what is read, checked and reported
//! afterwards is the same for both.

use std::{borrow::Cow, collections::HashMap, fmt};

use super::json::{ALL, Unread};

/// How deep lists and maps may nest. The protobuf decoder stops at 100 too.
pub const MAX_DEPTH: usize = 100;

/// Line and column of a place in a text, both from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Mark {
    /// The first character of a text.
    pub const START: Self = Self { line: 1, column: 1 };

    /// The place of the byte `offset` of `text`.
    pub fn of_offset(text: &str, offset: usize) -> Self {
        let before = &text.as_bytes()[..offset.min(text.len())];
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |i| i + 1);
        Self {
            line: number(memchr::memchr_iter(b'\n', before).count() + 1),
            column: number(characters(&before[line_start..]) + 1),
        }
    }

    /// This place, found in a slice of a text that starts at `start`, as a place
    /// in the whole text.
    pub fn after(self, start: Self) -> Self {
        match self.line {
            1 => Self {
                line: start.line,
                column: start.column.saturating_add(self.column - 1),
            },
            _ => Self {
                line: start.line.saturating_add(self.line - 1),
                column: self.column,
            },
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Whether a character starts with this byte of a UTF-8 text.
pub(super) fn starts_character(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

/// How many characters start in these bytes of a UTF-8 text.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| starts_character(**b)).count()
}

/// A count of lines or columns, which stops counting where `u32` ends.
pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// One value of a document and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<'a> {
    /// Where it starts.
    pub mark: Mark,
    /// What it is.
    pub value: Value<'a>,
}

/// What JSON can express.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`, or nothing at all in YAML.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as JSON writes it.
    Number(Cow<'a, str>),
    /// A string.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Node<'a>>),
    /// A map in the order of the document, without duplicate keys.
    Map(Vec<Entry<'a>>),
    /// A map or a list that is read when it is needed.
    Unread(Unread<'a>),
}

/// One key of a map with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'a> {
    /// The key.
    pub key: Cow<'a, str>,
    /// Where the key starts.
    pub mark: Mark,
    /// What stands under the key.
    pub value: Node<'a>,
}

/// Why a text is not a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{mark}: {message}")]
pub struct SyntaxError {
    /// Where.
    pub mark: Mark,
    /// What is wrong, for a person.
    pub message: String,
}

impl SyntaxError {
    pub(super) fn new(mark: Mark, message: impl Into<String>) -> Self {
        Self {
            mark,
            message: message.into(),
        }
    }
}

impl<'a> Node<'a> {
    /// The value under a key, when this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node<'a>> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }

    /// The string this node is, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The same without a text to borrow from.
    pub(super) fn into_owned(self) -> Node<'static> {
        let owned = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        Node {
            mark: self.mark,
            value: match self.value {
                Value::Null => Value::Null,
                Value::Bool(value) => Value::Bool(value),
                Value::Number(literal) => Value::Number(owned(literal)),
                Value::Text(text) => Value::Text(owned(text)),
                Value::List(items) => {
                    Value::List(items.into_iter().map(Node::into_owned).collect())
                }
                Value::Map(entries) => Value::Map(
                    entries
                        .into_iter()
                        .map(|entry| Entry {
                            key: owned(entry.key),
                            mark: entry.mark,
                            value: entry.value.into_owned(),
                        })
                        .collect(),
                ),
                Value::Unread(unread) => Value::Unread(unread.into_owned()),
            },
        }
    }

    /// The same with nothing in it that is unread.
    ///
    /// # Errors
    /// When what was unread has a key twice.
    pub(super) fn read<'n>(&'n self) -> Result<Cow<'n, Node<'n>>, SyntaxError> {
        fn is_read(node: &Node<'_>) -> bool {
            match &node.value {
                Value::List(items) => items.iter().all(is_read),
                Value::Map(entries) => entries.iter().all(|entry| is_read(&entry.value)),
                Value::Unread(_) => false,
                _ => true,
            }
        }
        fn read<'n>(node: &'n Node<'_>) -> Result<Node<'n>, SyntaxError> {
            let value = match &node.value {
                Value::Unread(unread) => return unread.read(node.mark, ALL),
                Value::Null => Value::Null,
                Value::Bool(value) => Value::Bool(*value),
                Value::Number(literal) => Value::Number(Cow::Borrowed(literal)),
                Value::Text(text) => Value::Text(Cow::Borrowed(text)),
                Value::List(items) => {
                    Value::List(items.iter().map(read).collect::<Result<_, _>>()?)
                }
                Value::Map(entries) => {
                    let entries = entries.iter().map(|entry| {
                        Ok(Entry {
                            key: Cow::Borrowed(&*entry.key),
                            mark: entry.mark,
                            value: read(&entry.value)?,
                        })
                    });
                    Value::Map(entries.collect::<Result<_, _>>()?)
                }
            };
            Ok(Node {
                mark: node.mark,
                value,
            })
        }
        match is_read(self) {
            true => Ok(Cow::Borrowed(self)),
            false => read(self).map(Cow::Owned),
        }
    }

    /// How many nodes there are from here down.
    pub(super) fn size(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::size).sum(),
            Value::Map(entries) => entries.iter().map(|e| e.value.size()).sum(),
            _ => 0,
        }
    }

    /// How many levels of lists and maps there are from here down.
    pub(super) fn depth(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Value::Map(entries) => 1 + entries.iter().map(|e| e.value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }
}

impl Value<'_> {
    /// What this is, with the value where it is short.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(literal) => literal.to_string(),
            Self::Text(text) => quoted(text),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a map".to_owned(),
            Self::Unread(unread) if unread.text().starts_with('[') => "a list".to_owned(),
            Self::Unread(_) => "a map".to_owned(),
        }
    }
}

/// A text in quotes, cut when it is long.
pub(super) fn quoted(text: &str) -> String {
    quoted_up_to(80, text)
}

/// A text in quotes, cut when it is longer than `longest` characters.
pub(super) fn quoted_up_to(longest: usize, text: &str) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Refuses a map that has the same key twice, naming both places.
pub(super) fn check_duplicates(entries: &[Entry<'_>]) -> Result<(), SyntaxError> {
    /// Below this a comparison of all pairs is faster than hashing.
    const FEW: usize = 12;
    let duplicate = |first: &Entry<'_>, second: &Entry<'_>| {
        SyntaxError::new(
            second.mark,
            format!(
                "duplicate key {}, first at {}",
                quoted(&second.key),
                first.mark
            ),
        )
    };
    if entries.len() <= FEW {
        for (i, second) in entries.iter().enumerate() {
            if let Some(first) = entries[..i].iter().find(|first| first.key == second.key) {
                return Err(duplicate(first, second));
            }
        }
        return Ok(());
    }
    let mut seen =
        HashMap::with_capacity_and_hasher(entries.len(), foldhash::fast::RandomState::default());
    for second in entries {
        if let Some(first) = seen.insert(second.key.as_ref(), second) {
            return Err(duplicate(first, second));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_characters() {
        assert_eq!(Mark::of_offset("a\näöx", 6), Mark { line: 2, column: 3 });
        let start = Mark { line: 3, column: 5 };
        assert_eq!(
            Mark { line: 1, column: 2 }.after(start),
            Mark { line: 3, column: 6 }
        );
        assert_eq!(
            Mark { line: 2, column: 2 }.after(start),
            Mark { line: 4, column: 2 }
        );
    }
}
