//! YAML to a [tree](super::tree) with places, reading scalars as Envoy does.
//!
//! A scalar without quotes is a boolean (`true`, `yes`, `on`, `y` and their
//! opposites), an integer (also hexadecimal, and octal with a leading zero), or
//! else a string, from which a fraction is read where the API wants one.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput, Tag};

use super::{
    tree::{Entry, MAX_DEPTH, Mark, Node, SyntaxError, Value, check_duplicates, number},
    yaml_error,
};

/// How many nodes aliases (`*name`) may add to a document in all. A document
/// beyond it is a bomb, not a configuration.
pub const MAX_ALIAS_NODES: usize = 100_000;

/// Reads a YAML text of one document.
///
/// # Errors
/// When it is not YAML, is empty, has a second document, nests deeper than
/// [`MAX_DEPTH`], has a duplicate key, or expands beyond [`MAX_ALIAS_NODES`].
pub fn parse(text: &str) -> Result<Node<'_>, SyntaxError> {
    let mut builder = Builder {
        text,
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        alias_nodes: 0,
    };
    let mut root = None;
    while let Some((event, _)) = builder.next()? {
        match event {
            Event::DocumentStart(_) => {
                let (event, mark) = builder.expect()?;
                let node = builder.node(event, mark, 0)?;
                match (&root, &node.value) {
                    (None, _) => root = Some(node),
                    (Some(_), Value::Null) => {}
                    (Some(_), _) => {
                        return Err(SyntaxError::new(
                            node.mark,
                            "a second document in the same file would be ignored: remove it",
                        ));
                    }
                }
            }
            Event::StreamEnd => break,
            _ => {}
        }
    }
    root.ok_or_else(|| SyntaxError::new(Mark::START, "the file is empty"))
}

struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    alias_nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Mark)>, SyntaxError> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, mark(&span.start)))),
            Some(Err(error)) => Err(yaml_error::explain(self.text, &error)),
        }
    }

    fn expect(&mut self) -> Result<(Event<'a>, Mark), SyntaxError> {
        self.next()?
            .ok_or_else(|| SyntaxError::new(Mark::START, "the document ends too early"))
    }

    fn node(
        &mut self,
        event: Event<'a>,
        mark: Mark,
        depth: usize,
    ) -> Result<Node<'a>, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(too_deep(mark));
        }
        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, mark, depth),
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, scalar(text, style, tag.as_deref(), mark)?)
            }
            Event::SequenceStart(anchor, tag) => {
                check_collection_tag(tag.as_deref(), "seq", mark)?;
                (anchor, self.list(depth)?)
            }
            Event::MappingStart(anchor, tag) => {
                check_collection_tag(tag.as_deref(), "map", mark)?;
                (anchor, self.map(depth)?)
            }
            _ => return Err(SyntaxError::new(mark, "expected a value")),
        };
        let node = Node { mark, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value<'a>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.expect()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, mark) => items.push(self.node(event, mark, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value<'a>, SyntaxError> {
        let mut entries = Vec::new();
        loop {
            let (key, mark) = match self.expect()? {
                (Event::MappingEnd, _) => break,
                (Event::Scalar(key, ..), mark) => (key, mark),
                (Event::Alias(anchor), mark) => match self.alias(anchor, mark, depth)?.value {
                    Value::Text(key) => (key, mark),
                    _ => return Err(SyntaxError::new(mark, "a key must be a string")),
                },
                (_, mark) => return Err(SyntaxError::new(mark, "a key must be a string")),
            };
            let (event, value_mark) = self.expect()?;
            let value = self.node(event, value_mark, depth + 1)?;
            entries.push(Entry { key, mark, value });
        }
        check_duplicates(&entries)?;
        Ok(Value::Map(entries))
    }

    fn alias(&mut self, anchor: usize, mark: Mark, depth: usize) -> Result<Node<'a>, SyntaxError> {
        // An anchor is known once its node is complete, so an alias inside its
        // own node finds none.
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(SyntaxError::new(
                mark,
                "the alias refers to the node that contains it",
            ));
        };
        self.alias_nodes += node.size();
        if self.alias_nodes > MAX_ALIAS_NODES {
            return Err(SyntaxError::new(
                mark,
                format!("aliases expand to more than {MAX_ALIAS_NODES} values"),
            ));
        }
        if depth + node.depth() > MAX_DEPTH {
            return Err(too_deep(mark));
        }
        Ok(node.clone())
    }
}

pub(super) fn mark(marker: &Marker) -> Mark {
    Mark {
        line: number(marker.line().max(1)),
        column: number(marker.col() + 1),
    }
}

pub(super) fn too_deep(mark: Mark) -> SyntaxError {
    SyntaxError::new(mark, format!("nested deeper than {MAX_DEPTH} levels"))
}

fn check_collection_tag(tag: Option<&Tag>, expected: &str, mark: Mark) -> Result<(), SyntaxError> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == expected => Ok(()),
        Some(tag) => Err(unknown_tag(tag, mark)),
    }
}

fn unknown_tag(tag: &Tag, mark: Mark) -> SyntaxError {
    SyntaxError::new(mark, format!("the tag {tag} means nothing here"))
}

fn scalar<'a>(
    text: Cow<'a, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
    mark: Mark,
) -> Result<Value<'a>, SyntaxError> {
    match tag {
        None => {}
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" => return Ok(Value::Text(text)),
            "null" | "bool" | "int" | "float" => return Ok(plain(text)),
            _ => return Err(unknown_tag(tag, mark)),
        },
        // A lone `!`, which says: not to be interpreted.
        Some(tag) if tag.suffix.is_empty() => return Ok(Value::Text(text)),
        Some(tag) => return Err(unknown_tag(tag, mark)),
    }
    Ok(match style {
        ScalarStyle::Plain => plain(text),
        _ => Value::Text(text),
    })
}

/// Envoy's reading of a scalar without quotes.
fn plain(text: Cow<'_, str>) -> Value<'_> {
    if matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    if let Some(value) = boolean(&text) {
        return Value::Bool(value);
    }
    match integer(&text) {
        // Beyond 32 bits an integer stays exact as a string, which the JSON
        // mapping accepts wherever it accepts a number.
        Some(value) if i32::try_from(value).is_err() => Value::Text(Cow::Owned(value.to_string())),
        Some(value) => Value::Number(Cow::Owned(value.to_string())),
        None => Value::Text(text),
    }
}

/// A YAML 1.1 boolean in lower case, upper case, or with a capital first letter.
fn boolean(text: &str) -> Option<bool> {
    const WORDS: [(&str, bool); 8] = [
        ("true", true),
        ("false", false),
        ("yes", true),
        ("no", false),
        ("on", true),
        ("off", false),
        ("y", true),
        ("n", false),
    ];
    let (_, value) = WORDS
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text))?;
    let rest = &text.as_bytes()[1..];
    let lower = rest.iter().all(u8::is_ascii_lowercase);
    let upper = text.bytes().all(|b| b.is_ascii_uppercase());
    (lower || upper).then_some(*value)
}

/// A signed 64-bit integer in C notation: `12`, `-0x1f`, `0644`.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // `from_str_radix` would accept another sign.
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_as_envoy_reads_them() {
        let cases = [
            ("yes", Value::Bool(true)),
            ("OFF", Value::Bool(false)),
            ("True", Value::Bool(true)),
            ("tRue", Value::Text("tRue".into())),
            ("0x1F", Value::Number("31".into())),
            ("0644", Value::Number("420".into())),
            ("08", Value::Text("08".into())),
            ("-5", Value::Number("-5".into())),
            ("1.5", Value::Text("1.5".into())),
            ("4294967296", Value::Text("4294967296".into())),
            ("'5'", Value::Text("5".into())),
            ("!!str 5", Value::Text("5".into())),
            ("~", Value::Null),
            ("5s", Value::Text("5s".into())),
            ("127.0.0.1", Value::Text("127.0.0.1".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap().value, expected, "{text}");
        }
    }
}
