//! The format of a line: `--log-format`, in spdlog's syntax with Envoy's additions.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use jiff::Zoned;

use super::Level;

/// Envoy's default format.
pub const DEFAULT: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// What one line says, before it is formatted.
#[derive(Debug)]
pub struct Record<'a> {
    /// How much it matters.
    pub level: Level,
    /// Who speaks.
    pub component: &'static str,
    /// The source file, as the compiler was given it.
    pub file: &'a str,
    /// The line in it.
    pub line: u32,
    /// The module that speaks (functions have no name to tell).
    pub function: &'a str,
    /// Structured fields as inside a JSON object, `"ConnectionId":"7"`; may be empty.
    pub tags: &'a str,
    /// The text.
    pub message: &'a str,
}

/// A parsed format.
#[derive(Debug)]
pub struct Pattern {
    pieces: Vec<Piece>,
    start: Instant,
    /// When the last line was written, in nanoseconds from `start`.
    last: AtomicU64,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Flag(char, Padding),
}

/// `%-8n`, `%=8n`, `%8n`, `%8!n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Padding {
    align: Align,
    width: usize,
    truncate: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Align {
    #[default]
    Right,
    Left,
    Center,
}

/// The widest padding, as spdlog's.
const MAX_WIDTH: usize = 64;

impl Pattern {
    /// Reads a format. An unknown flag stands for itself, as in spdlog.
    pub fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let mut padding = Padding::default();
            if let Some(align) = chars.peek().and_then(|c| match c {
                '-' => Some(Align::Left),
                '=' => Some(Align::Center),
                _ => None,
            }) {
                padding.align = align;
                chars.next();
            }
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                padding.width = (padding.width * 10 + digit as usize).min(MAX_WIDTH);
                chars.next();
            }
            if padding.width > 0 && chars.peek() == Some(&'!') {
                padding.truncate = true;
                chars.next();
            }
            match chars.next() {
                // The colour range: only for sinks with colours, of which there is none.
                Some('^' | '$') | None => {}
                Some('%') => literal.push('%'),
                Some(flag) => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::Flag(flag, padding));
                }
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Self {
            pieces,
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Whether this flag occurs.
    pub fn uses(&self, wanted: char) -> bool {
        self.pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Flag(flag, _) if *flag == wanted))
    }

    /// Appends the line, without its end, to `out`.
    pub fn write(&self, out: &mut String, record: &Record<'_>, now: &Zoned) {
        let at = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let since_last = Duration::from_nanos(at.saturating_sub(self.last.swap(at, Relaxed)));
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Flag(flag, padding) => {
                    let start = out.len();
                    write_flag(out, *flag, record, now, since_last);
                    padding.apply(out, start);
                }
            }
        }
    }
}

impl Padding {
    /// Pads or cuts what stands in `out` from `start`.
    fn apply(self, out: &mut String, start: usize) {
        let length = out[start..].chars().count();
        if length < self.width {
            let missing = self.width - length;
            let before = match self.align {
                Align::Right => missing,
                Align::Left => 0,
                Align::Center => missing / 2,
            };
            out.insert_str(start, &" ".repeat(before));
            out.push_str(&" ".repeat(missing - before));
        } else if self.truncate
            && let Some((cut, _)) = out[start..].char_indices().nth(self.width)
        {
            out.truncate(start + cut);
        }
    }
}

fn write_flag(out: &mut String, flag: char, record: &Record<'_>, now: &Zoned, since: Duration) {
    let mut date = |format| put(out, now.strftime(format));
    match flag {
        'a' => date("%a"),
        'A' => date("%A"),
        'b' | 'h' => date("%b"),
        'B' => date("%B"),
        'c' => date("%a %b %e %H:%M:%S %Y"),
        'C' => date("%y"),
        'Y' => date("%Y"),
        'D' | 'x' => date("%m/%d/%y"),
        'm' => date("%m"),
        'd' => date("%d"),
        'H' => date("%H"),
        'I' => date("%I"),
        'M' => date("%M"),
        'S' => date("%S"),
        'p' => date("%p"),
        'r' => date("%I:%M:%S %p"),
        'R' => date("%H:%M"),
        'T' | 'X' => date("%H:%M:%S"),
        'z' => date("%:z"),
        'e' => date("%3f"),
        'f' => date("%6f"),
        'F' => date("%9f"),
        'E' => put(out, now.timestamp().as_second()),
        'v' => {
            if !record.tags.is_empty() {
                put(out, format_args!("[Tags: {}] ", record.tags));
            }
            out.push_str(record.message);
        }
        '_' => {
            if !record.tags.is_empty() {
                put(out, format_args!("[Tags: {}] ", record.tags));
            }
            push_one_line(out, record.message);
        }
        '+' => push_one_line(out, record.message),
        'j' => {
            if !record.tags.is_empty() {
                push_json(out, &format!("[Tags: {}] ", record.tags));
            }
            push_json(out, record.message);
        }
        '*' => {
            if !record.tags.is_empty() {
                out.push(',');
                out.push_str(record.tags);
            }
        }
        'l' => out.push_str(record.level.name()),
        'L' => out.push(record.level.letter()),
        'n' => out.push_str(record.component),
        't' => put(out, super::thread::id()),
        'P' => put(out, std::process::id()),
        '@' => put(out, format_args!("{}:{}", record.file, record.line)),
        'g' => out.push_str(record.file),
        's' => out.push_str(record.file.rsplit('/').next().unwrap_or(record.file)),
        '#' => put(out, record.line),
        '!' => out.push_str(record.function),
        'o' => put(out, since.as_millis()),
        'i' => put(out, since.as_micros()),
        'u' => put(out, since.as_nanos()),
        'O' => put(out, since.as_secs()),
        unknown => {
            out.push('%');
            out.push(unknown);
        }
    }
}

/// Writing to a `String` does not fail, and the formats of dates are those below.
fn put(out: &mut String, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("a String takes what is written");
}

fn push_one_line(out: &mut String, text: &str) {
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push_str("\\n");
        }
        out.push_str(line);
    }
}

/// Appends `text` as it stands inside a JSON string.
pub(super) fn push_json(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => put(out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
}

/// Replaces `line` by its C-escaped form, for `--log-format-escaped`: printable
/// ASCII on one line, whatever a message holds.
pub(super) fn escape_c(line: &mut String) {
    let mut escaped = String::with_capacity(line.len());
    for byte in line.bytes() {
        match byte {
            b'\n' => escaped.push_str("\\n"),
            b'\r' => escaped.push_str("\\r"),
            b'\t' => escaped.push_str("\\t"),
            b'"' | b'\'' | b'\\' => {
                escaped.push('\\');
                escaped.push(char::from(byte));
            }
            b' '..=b'~' => escaped.push(char::from(byte)),
            _ => put(&mut escaped, format_args!("\\{byte:03o}")),
        }
    }
    *line = escaped;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(pattern: &str, message: &str, tags: &str) -> String {
        let now: Zoned = "2026-11-02T22:36:01.419674+09:00[Asia/Tokyo]"
            .parse()
            .or_else(|_| "2026-11-02T22:36:01.419674+09:00[+09:00]".parse())
            .unwrap();
        let record = Record {
            level: Level::Warning,
            component: "main",
            file: "src/server/process.rs",
            line: 9,
            function: "nuncio::server",
            tags,
            message,
        };
        let mut out = String::new();
        Pattern::parse(pattern).write(&mut out, &record, &now);
        out
    }

    #[test]
    fn dates_are_envoys() {
        assert_eq!(
            line(
                "%a|%A|%b|%B|%c|%C|%D|%x|%d|%H|%I|%M|%S|%e|%f|%F|%E|%p|%r|%R|%T|%X|%z|%Y-%m",
                "",
                ""
            ),
            "Mon|Monday|Nov|November|Mon Nov  2 22:36:01 2026|26|11/02/26|11/02/26|02|22|10|36|01\
             |419|419674|419674000|1793626561|PM|10:36:01 PM|22:36|22:36:01|22:36:01|+09:00|2026-11"
        );
    }

    #[test]
    fn places_levels_and_padding() {
        assert_eq!(
            line(
                "%n|%l|%L|%@|%s|%g|%#|%!|%%|%^x%$|%q|%10n|%-10n|%=10n|%3!n|end%",
                "",
                ""
            ),
            "main|warning|W|src/server/process.rs:9|process.rs|src/server/process.rs|9|nuncio::server\
             |%|x|%q|      main|main      |   main   |mai|end"
        );
    }

    #[test]
    fn messages_and_their_tags() {
        let said = line(
            "%v|%_|%j|%+|{\"a\":1%*}",
            "a\n\"b\"",
            "\"ConnectionId\":\"7\"",
        );
        assert_eq!(
            said,
            "[Tags: \"ConnectionId\":\"7\"] a\n\"b\"|[Tags: \"ConnectionId\":\"7\"] a\\n\"b\"\
             |[Tags: \\\"ConnectionId\\\":\\\"7\\\"] a\\n\\\"b\\\"|a\\n\"b\"|{\"a\":1,\"ConnectionId\":\"7\"}"
        );
        assert_eq!(line("%v%*", "plain", ""), "plain");
    }

    #[test]
    fn escaped_lines_are_ascii() {
        let mut text = "a\tb\n'é'".to_owned();
        escape_c(&mut text);
        assert_eq!(text, "a\\tb\\n\\'\\303\\251\\'");
    }

    proptest! {
        #[test]
        fn any_format_is_taken(pattern in "\\PC*") {
            line(&pattern, "message", "");
        }

        #[test]
        fn json_text_is_read_back(message in any::<String>()) {
            let quoted = format!("\"{}\"", line("%j", &message, ""));
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), message);
        }
    }
}
