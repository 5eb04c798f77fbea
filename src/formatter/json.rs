//! `json_format`: a JSON object whose strings are formats.
//!
//! Keys come sorted, as Envoy prints them. A string that is one command and
//! nothing else keeps the command's type: a number, or `null` when absent.

use prost_types::{Struct, Value as Proto, value::Kind};

use crate::config::{At, Reported};

use super::{FormatContext, Formatter, Needs, value::Value};

/// A parsed JSON format.
#[derive(Clone, Debug)]
pub struct JsonFormatter {
    root: Node,
    omit_empty: bool,
}

#[derive(Clone, Debug)]
enum Node {
    /// JSON text that is the same for all.
    Constant(Box<str>),
    Null,
    Format(Formatter),
    /// Keys as JSON text with the colon.
    Object(Vec<(Box<str>, Node)>),
    List(Vec<Node>),
}

impl JsonFormatter {
    /// Parses a format. With `omit_empty`, members that are null are left out,
    /// and a missing value inside of a text is nothing rather than `-`.
    ///
    /// # Errors
    /// A malformed or unknown command.
    pub fn parse(format: Struct, omit_empty: bool, at: &At<'_>) -> Result<Self, Reported> {
        Ok(Self {
            root: object(format, omit_empty, at)?,
            omit_empty,
        })
    }

    /// Appends the object and a line feed.
    pub fn write(&self, out: &mut Vec<u8>, cx: &FormatContext<'_>) {
        if !self.node(&self.root, out, cx) {
            out.extend_from_slice(b"{}");
        }
        out.push(b'\n');
    }

    /// The headers it reads.
    pub fn needs(&self) -> Needs {
        fn walk(node: &Node, needs: &mut Needs) {
            match node {
                Node::Constant(_) | Node::Null => {}
                Node::Format(format) => needs.merge(&format.needs()),
                Node::Object(members) => members.iter().for_each(|(_, node)| walk(node, needs)),
                Node::List(items) => items.iter().for_each(|node| walk(node, needs)),
            }
        }
        let mut needs = Needs::default();
        walk(&self.root, &mut needs);
        needs
    }

    /// Appends a value; false when it was left out.
    fn node(&self, node: &Node, out: &mut Vec<u8>, cx: &FormatContext<'_>) -> bool {
        match node {
            Node::Constant(json) => out.extend_from_slice(json.as_bytes()),
            Node::Null => return self.null(out),
            Node::Format(format) => return self.format(format, out, cx),
            Node::Object(members) => {
                let start = out.len();
                let mut opened = false;
                for (key, node) in members {
                    let before = out.len();
                    out.push(if opened { b',' } else { b'{' });
                    out.extend_from_slice(key.as_bytes());
                    match self.node(node, out, cx) {
                        true => opened = true,
                        false => out.truncate(before),
                    }
                }
                match opened {
                    true => out.push(b'}'),
                    false if self.omit_empty => {
                        out.truncate(start);
                        return false;
                    }
                    false => out.extend_from_slice(b"{}"),
                }
            }
            Node::List(items) => {
                out.push(b'[');
                let mut opened = false;
                for node in items {
                    let before = out.len();
                    if opened {
                        out.push(b',');
                    }
                    match self.node(node, out, cx) {
                        true => opened = true,
                        false => out.truncate(before),
                    }
                }
                out.push(b']');
            }
        }
        true
    }

    fn null(&self, out: &mut Vec<u8>) -> bool {
        if !self.omit_empty {
            out.extend_from_slice(b"null");
        }
        !self.omit_empty
    }

    fn format(&self, format: &Formatter, out: &mut Vec<u8>, cx: &FormatContext<'_>) -> bool {
        let mut text = Vec::new();
        match format.single(cx) {
            Some((Value::Absent, _)) => return self.null(out),
            Some((Value::Number(n), _)) => {
                out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
                return true;
            }
            Some((value, max)) => {
                value.write(&mut text, max);
            }
            None => format.write(&mut text, cx),
        }
        escape(out, &text);
        true
    }
}

fn object(format: Struct, omit: bool, at: &At<'_>) -> Result<Node, Reported> {
    let mut members = Vec::new();
    let mut outcome = Ok(());
    for (key, value) in format.fields {
        match node(value, omit, &at.key(&key)) {
            Ok(node) => members.push((format!("{}:", quoted(&key)).into(), node)),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| Node::Object(members))
}

fn node(value: Proto, omit: bool, at: &At<'_>) -> Result<Node, Reported> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Node::Null,
        Some(Kind::BoolValue(b)) => Node::Constant(b.to_string().into()),
        Some(Kind::NumberValue(n)) => Node::Constant(number(n).into()),
        Some(Kind::StringValue(text)) => {
            let format = Formatter::parse(&text, at)?;
            match format.as_literal() {
                Some(literal) => Node::Constant(quoted(literal).into()),
                None if omit => Node::Format(format.omitting_empty()),
                None => Node::Format(format),
            }
        }
        Some(Kind::StructValue(inner)) => object(inner, omit, at)?,
        Some(Kind::ListValue(list)) => {
            let mut items = Vec::new();
            let mut outcome = Ok(());
            for (index, value) in list.values.into_iter().enumerate() {
                match node(value, omit, &at.index(index)) {
                    Ok(node) => items.push(node),
                    Err(reported) => outcome = Err(reported),
                }
            }
            outcome.map(|()| Node::List(items))?
        }
    })
}

/// Envoy writes whole numbers as numbers and others as strings.
fn number(n: f64) -> String {
    match n.fract() == 0.0 && n.abs() < 9e15 {
        true => format!("{n:.0}"),
        false => format!("\"{n}\""),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Appends a JSON string. Bytes that are not UTF-8 are read as Latin-1, and
/// then everything but plain ASCII is escaped, as Envoy does.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let plain = |b: &u8| (0x20..0x7f).contains(b) && *b != b'"' && *b != b'\\';
    if text.iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
        return;
    }
    match std::str::from_utf8(text) {
        Ok(text) => out.extend_from_slice(quoted(text).as_bytes()),
        Err(_) => {
            out.push(b'"');
            for b in text {
                match plain(b) {
                    true => out.push(*b),
                    false => out.extend_from_slice(format!("\\u{b:04x}").as_bytes()),
                }
            }
            out.push(b'"');
        }
    }
}
