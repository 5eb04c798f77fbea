//! JSON to a [tree](super::tree) with places.
//!
//! `serde_json` keeps no places, so the text is read here. The grammar is RFC
//! 8259's and what Envoy's reader lets pass beyond it: a comma after the last
//! element, single quotes, keys without quotes, control characters in strings.

use std::borrow::Cow;

use super::tree::{
    Entry, MAX_DEPTH, Mark, Node, SyntaxError, Value, check_duplicates, starts_character,
};

/// For [`parse`], to read all of a text.
pub const ALL: usize = usize::MAX;

/// Reads a whole JSON text, but of the maps and lists in a list only the first
/// `most`: those after them stay [`Unread`].
///
/// # Errors
/// When it is not JSON, nests deeper than [`MAX_DEPTH`], or has a duplicate key in
/// what is read.
pub fn parse(text: &str, most: usize) -> Result<Node<'_>, SyntaxError> {
    let mut reader = Reader::new(text, Mark::START, 0, most);
    reader.skip_space();
    if reader.at == text.len() {
        return Err(SyntaxError::new(Mark::START, "the file is empty"));
    }
    let node = reader.node()?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(reader.unexpected("the end of the file after the value")),
    }
}

/// A map or a list of which nothing has been looked at but that it is JSON; a key
/// may stand twice in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread<'a> {
    text: Cow<'a, str>,
    /// How many lists and maps it is in.
    depth: usize,
}

impl Unread<'_> {
    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Reads it; `mark` is where it starts. Lists in it are read up to `most`.
    ///
    /// # Errors
    /// When a key stands twice.
    pub fn read(&self, mark: Mark, most: usize) -> Result<Node<'_>, SyntaxError> {
        Reader::new(&self.text, mark, self.depth, most).node()
    }

    /// The strings in a map and their keys, read no further than is asked for.
    pub fn strings(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let mut reader = Reader::new(&self.text, Mark::START, self.depth, 0);
        let is_map = reader.peek() == Some(b'{') && reader.open(b'{').is_ok();
        std::iter::from_fn(move || {
            while is_map && reader.peek() != Some(b'}') {
                let key = reader.key().ok()?;
                let value = match reader.peek() {
                    Some(quote @ (b'"' | b'\'')) => Some(reader.string(quote).ok()?),
                    _ => reader.skip().map(|()| None).ok()?,
                };
                reader.separator(b'}', "").ok()?;
                if let Some(value) = value {
                    return Some((key, value));
                }
            }
            None
        })
    }

    pub(super) fn into_owned(self) -> Unread<'static> {
        Unread {
            text: Cow::Owned(self.text.into_owned()),
            depth: self.depth,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Byte offset of what is read next.
    at: usize,
    /// Byte offset that `mark` is the place of; never beyond `at`.
    counted: usize,
    mark: Mark,
    /// The place of the text.
    start: Mark,
    /// How many lists and maps the text is in.
    depth: usize,
    /// The byte offsets of the lists and maps that are not closed yet.
    open: Vec<(u8, usize)>,
    /// How many elements of a list are read.
    most: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, start: Mark, depth: usize, most: usize) -> Self {
        Self {
            text,
            at: 0,
            counted: 0,
            mark: start,
            start,
            depth,
            open: Vec::new(),
            most,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The place of `self.at`; each byte of the text is counted once.
    fn mark(&mut self) -> Mark {
        /// From one value to the next it is a few bytes, for which nothing is faster.
        const FEW: usize = 64;
        let passed = &self.text.as_bytes()[self.counted..self.at];
        if passed.len() > FEW {
            let rest = &self.text[self.counted..];
            self.mark = Mark::of_offset(rest, passed.len()).after(self.mark);
        } else {
            for byte in passed {
                if *byte == b'\n' {
                    self.mark.line = self.mark.line.saturating_add(1);
                    self.mark.column = 1;
                } else if starts_character(*byte) {
                    self.mark.column = self.mark.column.saturating_add(1);
                }
            }
        }
        self.counted = self.at;
        self.mark
    }

    /// The place of a byte that has been passed.
    fn mark_of(&self, offset: usize) -> Mark {
        Mark::of_offset(self.text, offset).after(self.start)
    }

    fn error(&mut self, message: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.mark(), message)
    }

    fn unexpected(&mut self, expected: &str) -> SyntaxError {
        let found = match self.text[self.at..].chars().next() {
            Some(c) => format!("found {c:?}"),
            None => match self.open.last() {
                Some((bracket, offset)) => {
                    let what = if *bracket == b'{' { "map" } else { "list" };
                    let mark = self.mark_of(*offset);
                    format!("the file ends inside the {what} that starts at {mark}")
                }
                None => "the file ends".to_owned(),
            },
        };
        self.error(format!("expected {expected}, {found}"))
    }

    fn node(&mut self) -> Result<Node<'a>, SyntaxError> {
        let mark = self.mark();
        let value = match self.peek() {
            Some(b'{') => self.map()?,
            Some(b'[') => self.list()?,
            Some(quote @ (b'"' | b'\'')) => Value::Text(self.string(quote)?),
            Some(b'-' | b'0'..=b'9') => Value::Number(Cow::Borrowed(self.number()?)),
            _ => self.word()?,
        };
        Ok(Node { mark, value })
    }

    fn word(&mut self) -> Result<Value<'a>, SyntaxError> {
        let rest = &self.text[self.at..];
        for (word, value) in [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
        ] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.unexpected("a value"))
    }

    /// Passes a value by.
    fn skip(&mut self) -> Result<(), SyntaxError> {
        match self.peek() {
            Some(b'{') => {
                self.open(b'{')?;
                while self.peek() != Some(b'}') {
                    self.key()?;
                    self.skip()?;
                    self.separator(b'}', "',' or '}'")?;
                }
                self.close();
            }
            Some(b'[') => {
                self.open(b'[')?;
                while self.peek() != Some(b']') {
                    self.skip()?;
                    self.separator(b']', "',' or ']'")?;
                }
                self.close();
            }
            Some(quote @ (b'"' | b'\'')) => {
                self.string(quote)?;
            }
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
            }
            _ => {
                self.word()?;
            }
        }
        Ok(())
    }

    /// Passes a map or a list by, of which the text is kept.
    fn unread(&mut self) -> Result<Node<'a>, SyntaxError> {
        let (mark, start) = (self.mark(), self.at);
        self.skip()?;
        let unread = Unread {
            text: Cow::Borrowed(&self.text[start..self.at]),
            depth: self.depth + self.open.len(),
        };
        Ok(Node {
            mark,
            value: Value::Unread(unread),
        })
    }

    fn open(&mut self, bracket: u8) -> Result<(), SyntaxError> {
        if self.depth + self.open.len() == MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.open.push((bracket, self.at));
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn close(&mut self) {
        self.open.pop();
        self.at += 1;
    }

    fn map(&mut self) -> Result<Value<'a>, SyntaxError> {
        self.open(b'{')?;
        let mut entries = Vec::new();
        while self.peek() != Some(b'}') {
            let mark = self.mark();
            let key = self.key()?;
            let value = self.node()?;
            entries.push(Entry { key, mark, value });
            self.separator(b'}', "',' or '}'")?;
        }
        self.close();
        check_duplicates(&entries)?;
        Ok(Value::Map(entries))
    }

    fn list(&mut self) -> Result<Value<'a>, SyntaxError> {
        self.open(b'[')?;
        let mut items = Vec::new();
        while self.peek() != Some(b']') {
            items.push(match self.peek() {
                Some(b'{' | b'[') if items.len() >= self.most => self.unread()?,
                _ => self.node()?,
            });
            self.separator(b']', "',' or ']'")?;
        }
        self.close();
        Ok(Value::List(items))
    }

    /// Passes the comma after an element, unless the bracket closes.
    fn separator(&mut self, bracket: u8, expected: &str) -> Result<(), SyntaxError> {
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_space();
                Ok(())
            }
            Some(closing) if closing == bracket => Ok(()),
            _ => Err(self.unexpected(expected)),
        }
    }

    /// A key with the colon behind it.
    fn key(&mut self) -> Result<Cow<'a, str>, SyntaxError> {
        let key = match self.peek() {
            Some(quote @ (b'"' | b'\'')) => self.string(quote)?,
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') => {
                let start = self.at;
                while let Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_') = self.peek() {
                    self.at += 1;
                }
                Cow::Borrowed(&self.text[start..self.at])
            }
            _ => return Err(self.unexpected("a key")),
        };
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("':' after the key"));
        }
        self.at += 1;
        self.skip_space();
        Ok(key)
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return Err(self.unexpected("a digit"));
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, SyntaxError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let literal = &self.text[start..self.at];
        match literal.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(literal),
            _ => Err(self.error(format!("the number {literal} is too large"))),
        }
    }

    /// Reads a string; it is copied only when it has escapes.
    fn string(&mut self, quote: u8) -> Result<Cow<'a, str>, SyntaxError> {
        let opened = self.at;
        self.at += 1;
        let mut copied = String::new();
        let mut start = self.at;
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let Some(passed) = memchr::memchr2(quote, b'\\', rest) else {
                self.at = self.text.len();
                let opened = self.mark_of(opened);
                return Err(self.error(format!(
                    "the file ends inside the string that starts at {opened}"
                )));
            };
            self.at += passed;
            let plain = &self.text[start..self.at];
            if rest[passed] == quote {
                self.at += 1;
                return Ok(match copied.is_empty() {
                    true => Cow::Borrowed(plain),
                    false => Cow::Owned(copied + plain),
                });
            }
            copied.push_str(plain);
            copied.push(self.escape()?);
            start = self.at;
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        self.at += 1;
        let plain = match self.peek() {
            Some(c @ (b'"' | b'\'' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("an escape: one of \" \\ / b f n r t u")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, SyntaxError> {
        let first = self.hex()?;
        let code = match first {
            0xd800..=0xdbff if self.text[self.at..].starts_with("\\u") => {
                self.at += 2;
                let second = self.hex()?;
                match second {
                    0xdc00..=0xdfff => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                    _ => first,
                }
            }
            _ => first,
        };
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => Err(self.error("half of a surrogate pair without the other half")),
        }
    }

    fn hex(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            match self.peek().and_then(|b| char::from(b).to_digit(16)) {
                Some(digit) => code = code * 16 + digit,
                None => return Err(self.unexpected("four hexadecimal digits after \\u")),
            }
            self.at += 1;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_envoy_lets_pass_passes() {
        let tree = parse("{a: 'x\"\\'', \"b\": [1, 2,], c_1: {},}", ALL).unwrap();
        assert_eq!(tree.get("a").unwrap().text(), Some("x\"'"));
        assert!(matches!(&tree.get("b").unwrap().value, Value::List(items) if items.len() == 2));
        assert!(parse("\"a\nb\"", ALL).is_ok());
        for wrong in [
            "[,]",
            "[1,,]",
            "{a-b: 1}",
            "{1a: 1}",
            "[01]",
            "[+1]",
            "[.5]",
            "[5.]",
            "[1e999]",
            "[tru]",
            "// x\n1",
            "'\\x'",
            "'\\ud83d'",
            "x",
        ] {
            assert!(parse(wrong, ALL).is_err(), "{wrong}");
        }
    }
    #[test]
    fn depth_is_counted_through_what_is_unread() {
        let nested = |depth| format!("{{\"a\": [{}{}]}}", "[".repeat(depth), "]".repeat(depth));
        let text = nested(MAX_DEPTH - 2);
        let outline = parse(&text, 0).unwrap();
        assert_eq!(outline.read().unwrap().depth(), MAX_DEPTH);
        let Some(Value::List(items)) = outline.get("a").map(|node| &node.value) else {
            panic!("{outline:?}");
        };
        assert!(matches!(&items[0].value, Value::Unread(u) if u.depth == 2));
        for most in [0, ALL] {
            let error = parse(&nested(MAX_DEPTH - 1), most).unwrap_err();
            assert_eq!(error.message, "nested deeper than 100 levels");
        }
    }
}
