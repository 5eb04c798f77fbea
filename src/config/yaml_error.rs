//! What the YAML parser complains of, in words for who wrote the text.

use saphyr_parser::ScanError;

use super::{
    tree::{Mark, SyntaxError},
    yaml::{mark, too_deep},
};

/// Says where a text is no YAML, why, and what would be.
pub fn explain(text: &str, error: &ScanError) -> SyntaxError {
    let at = mark(error.marker());
    let info = error.info();
    let (at, message) = match info {
        "recursion limit exceeded" => return too_deep(at),
        "simple key expected" => return key_without_colon(text, at),
        "mapping values are not allowed in this context" | "illegal placement of ':' indicator" => {
            return colon(text, at);
        }
        "did not find expected <document start>" => (
            at,
            "this line is indented less than the first one".to_owned(),
        ),
        "while parsing a block mapping, did not find expected key"
        | "while parsing a block collection, did not find expected '-' indicator" => (
            line_start(text, at),
            "this line belongs to nothing above it: check its indentation".to_owned(),
        ),
        "while parsing a flow mapping, did not find expected ',' or '}'" => (
            at,
            "expected ',' or '}': the '{' before is still open".to_owned(),
        ),
        "while parsing a flow sequence, expected ',' or ']'" => (
            at,
            "expected ',' or ']': the '[' before is still open".to_owned(),
        ),
        "while parsing a node, did not find expected node content" => (
            at,
            "expected a value: is a bracket still open, or a ',' too many?".to_owned(),
        ),
        "misplaced bracket" => (at, "closes a bracket that is not open".to_owned()),
        "while parsing node, found unknown anchor" => {
            let name = word(text, at).trim_start_matches('*');
            let message = format!("nothing above is named &{name}, which *{name} stands for");
            (at, message)
        }
        "while scanning an anchor or alias, did not find expected alphabetic or numeric character" => {
            (at, quote_it(text, at))
        }
        "while scanning a quoted scalar, found unexpected end of stream"
        | "invalid indentation in quoted scalar" => {
            (at, "the quote that opens here is not closed".to_owned())
        }
        "invalid trailing content after double-quoted scalar" => (
            at,
            "text after the quote that closes; within single quotes ' is written '', within \
             double quotes \" is written \\\""
                .to_owned(),
        ),
        "while parsing a quoted scalar, found unknown escape character" => (
            at,
            "a backslash in double quotes begins an escape, and this one is unknown; within \
             single quotes it is a plain backslash"
                .to_owned(),
        ),
        _ if info.starts_with("tab") || info.ends_with("found a tab") => match tab(text, at) {
            Some(tab) => (tab, "a tab; lines are indented with spaces only".to_owned()),
            None => (at, info.to_owned()),
        },
        _ if info.starts_with("unexpected character") => (at, quote_it(text, at)),
        _ => (at, info.to_owned()),
    };
    SyntaxError::new(at, message)
}

fn line(text: &str, number: u32) -> &str {
    let at = usize::try_from(number).unwrap_or(usize::MAX);
    text.lines().nth(at.saturating_sub(1)).unwrap_or_default()
}

/// The first character of a place's line that is no blank.
fn line_start(text: &str, at: Mark) -> Mark {
    let line = line(text, at.line);
    let indent = line.chars().take_while(|c| *c == ' ').count();
    match indent < line.chars().count() {
        true => Mark {
            column: u32::try_from(indent + 1).unwrap_or(at.column),
            ..at
        },
        false => at,
    }
}

/// What stands at a place, up to the next blank or bracket.
fn word(text: &str, at: Mark) -> &str {
    let line = line(text, at.line);
    let column = usize::try_from(at.column).unwrap_or(usize::MAX);
    let from = line.char_indices().nth(column.saturating_sub(1));
    let rest = from.map_or("", |(from, _)| &line[from..]);
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '{' | '}');
    rest.split(ends).next().unwrap_or_default()
}

fn quote_it(text: &str, at: Mark) -> String {
    let word = word(text, at).trim_end_matches(':');
    match word.chars().next() {
        Some(first) => format!(
            "{first:?} means something else at the beginning of a word: put {word:?} in quotes"
        ),
        None => "a character that cannot begin a word: put it in quotes".to_owned(),
    }
}

/// A line, perhaps the last, that should be `key: value` and has no colon.
fn key_without_colon(text: &str, at: Mark) -> SyntaxError {
    let is_blank = |number: u32| line(text, number).trim().is_empty();
    let mut at = at;
    // The parser notices it at the end of the line, or of the text.
    if at.column == 1 || is_blank(at.line) {
        at.line = at.line.saturating_sub(1).max(1);
        while at.line > 1 && is_blank(at.line) {
            at.line -= 1;
        }
    }
    let at = line_start(text, at);
    let word = word(text, at);
    SyntaxError::new(
        at,
        format!("{word:?} has no ':' and a value; is the file cut off?"),
    )
}

/// A colon where there can be none.
fn colon(text: &str, at: Mark) -> SyntaxError {
    let line = line(text, at.line);
    let column = usize::try_from(at.column).unwrap_or(usize::MAX);
    let before: String = line.chars().take(column.saturating_sub(1)).collect();
    match before.contains(": ") {
        true => SyntaxError::new(
            at,
            "a second ': ' in one line: put a value that holds one in quotes",
        ),
        false => SyntaxError::new(
            line_start(text, at),
            "this line goes on with the value before it, where no key can stand: check its \
             indentation, and that the line before ends in ':' or has a blank after its ':'",
        ),
    }
}

/// The first tab, from a place's line on, that indents.
fn tab(text: &str, at: Mark) -> Option<Mark> {
    (at.line..)
        .zip(
            text.lines()
                .skip(usize::try_from(at.line).ok()?.saturating_sub(1)),
        )
        .find_map(|(number, line)| {
            let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
            let column = line[..indent].find('\t')? + 1;
            Some(Mark {
                line: number,
                column: u32::try_from(column).ok()?,
            })
        })
}

#[cfg(test)]
mod tests {
    use crate::config::yaml::parse;

    #[test]
    fn a_slip_is_explained_where_it_is() {
        let cases = [
            ("a:\n\tb: 1\n", "2:1", "a tab"),
            ("a:\n  b: c\n\td: 1\n", "3:1", "a tab"),
            ("a:\n  b: 1\n  typed_", "3:3", "\"typed_\" has no ':'"),
            ("a:\n  b: c: d\n", "2:7", "a second ': '"),
            ("a:\n  b:1\n  c: 2\n", "3:3", "where no key can stand"),
            ("a:\n  b: 1\n    c: 2\n", "3:5", "where no key can stand"),
            ("a:\n- b: 1\n c: 2\n", "3:2", "belongs to nothing above"),
            ("a:\n  @type: x\n", "2:3", "put \"@type\" in quotes"),
            ("domains: [*]\n", "1:11", "put \"*\" in quotes"),
            ("a: %REQ(x)%\n", "1:4", "put \"%REQ(x)%\" in quotes"),
            ("a: *nope\n", "1:4", "nothing above is named &nope"),
            ("a: {b: 1\nc: 2\n", "2:2", "the '{' before is still open"),
            ("a: [1, 2\n", "2:1", "is still open"),
            ("a: ]\n", "1:4", "not open"),
            ("a: \"\\d+\"\n", "1:4", "within single quotes"),
            ("a: 'it's'\n", "1:8", "within single quotes ' is written ''"),
            ("a:\n  b: \"open\n  c: 1\n", "2:6", "not closed"),
            ("  a: 1\nb: 2\n", "2:1", "indented less than the first"),
        ];
        for (text, place, says) in cases {
            let error = parse(text).unwrap_err();
            let found = format!("{}:{}", error.mark.line, error.mark.column);
            assert_eq!(found, place, "{text:?}: {}", error.message);
            assert!(error.message.contains(says), "{text:?}: {}", error.message);
        }
        let deep = "a: ".to_owned() + &"[".repeat(5000);
        assert!(parse(&deep).unwrap_err().message.contains("nested deeper"));
    }
}
