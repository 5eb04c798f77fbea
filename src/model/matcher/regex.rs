//! `envoy.type.matcher.v3.RegexMatcher` and `RegexMatchAndSubstitute`: RE2's
//! syntax on the `regex` crate.
//!
//! The two differ in details that [`translate`] bridges: RE2's `\d`, `\w`, `\s`
//! and `\b` are ASCII, it reads a lone `{` and a `[` inside of a class as
//! themselves, and it knows `\Q…\E`.

use crate::{
    api::envoy::r#type::matcher::v3::{
        RegexMatchAndSubstitute, RegexMatcher,
        regex_matcher::{EngineType, GoogleRe2},
    },
    config::{At, Reported},
};

/// A regular expression that has to match the whole of its input.
#[derive(Clone, Debug)]
pub struct Regex {
    whole: regex::bytes::Regex,
    /// As it was written.
    source: Box<str>,
}

impl Regex {
    /// Compiles a matcher.
    ///
    /// # Errors
    /// A malformed expression, or one whose program is too large for the
    /// `regex` crate's limit (10 MiB).
    pub fn compile(message: RegexMatcher, at: &At<'_>) -> Result<Self, Reported> {
        let source = source(message);
        let whole = build(&format!(r"\A(?:{})\z", translate(&source)), &source, at)?;
        Ok(Self {
            whole,
            source: source.into(),
        })
    }

    /// Whether the whole of the text matches.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.whole.is_match(text)
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The expression that is anchored and in the `regex` crate's syntax.
    pub fn pattern(&self) -> &str {
        self.whole.as_str()
    }
}

/// A regular expression and what its matches are replaced by.
#[derive(Clone, Debug)]
pub struct Substitution {
    anywhere: regex::bytes::Regex,
    /// In the `regex` crate's syntax: `${1}` for RE2's `\1`.
    replacement: Box<str>,
}

impl Substitution {
    /// Compiles a rewrite.
    ///
    /// # Errors
    /// A malformed expression, or a substitution that names a group that the
    /// expression does not have.
    pub fn compile(message: RegexMatchAndSubstitute, at: &At<'_>) -> Result<Self, Reported> {
        let RegexMatchAndSubstitute {
            pattern,
            substitution,
        } = message;
        let pattern = pattern.ok_or_else(|| at.field("pattern").error("is required"))?;
        let source = source(pattern);
        let anywhere = build(&translate(&source), &source, &at.field("pattern"))?;
        let replacement = replacement(&substitution, anywhere.captures_len())
            .map_err(|message| at.field("substitution").error(message))?;
        Ok(Self {
            anywhere,
            replacement: replacement.into(),
        })
    }

    /// The text with every match replaced.
    pub fn apply(&self, text: &str) -> String {
        let replaced = self
            .anywhere
            .replace_all(text.as_bytes(), self.replacement.as_bytes());
        String::from_utf8_lossy(&replaced).into_owned()
    }
}

fn source(message: RegexMatcher) -> String {
    let RegexMatcher { regex, engine_type } = message;
    // A bound on RE2's memory. Here every expression has the same one.
    let (None
    | Some(EngineType::GoogleRe2(GoogleRe2 {
        max_program_size: _,
    }))) = engine_type;
    regex
}

fn build(pattern: &str, source: &str, at: &At<'_>) -> Result<regex::bytes::Regex, Reported> {
    regex::bytes::RegexBuilder::new(pattern)
        .octal(true)
        .build()
        .map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default();
            at.field("regex").error(format_args!(
                "{source:?}: {}",
                reason.trim_start_matches("error: ")
            ))
        })
}

/// From RE2's syntax to the `regex` crate's.
fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 8);
    let mut rest = source;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = after;
        match c {
            '\\' => rest = escape(&mut out, after, in_class),
            '[' if in_class => match posix_class(after) {
                Some(length) => {
                    out.push('[');
                    out.push_str(&after[..length]);
                    rest = &after[length..];
                }
                None => out.push_str(r"\["),
            },
            '[' => {
                in_class = true;
                out.push('[');
                for first in ["^", "]"] {
                    if let Some(after) = rest.strip_prefix(first) {
                        out.push_str(if first == "]" { r"\]" } else { first });
                        rest = after;
                    }
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            // The operators of the crate's classes: && -- ~~
            '&' | '~' if in_class => out.extend(['\\', c]),
            '-' if in_class && after.starts_with('-') => out.push_str(r"\-"),
            '{' if !in_class && !is_repetition(after) => out.push_str(r"\{"),
            c => out.push(c),
        }
    }
    out
}

/// Translates what follows a backslash; gives what is left.
fn escape<'a>(out: &mut String, after: &'a str, in_class: bool) -> &'a str {
    let Some(c) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = &after[c.len_utf8()..];
    let inside = match c {
        'd' | 'D' => "0-9",
        'w' | 'W' => "0-9A-Za-z_",
        's' | 'S' => r"\t\n\f\r\x20",
        'b' | 'B' if !in_class => {
            out.push_str(&format!(r"(?-u:\{c})"));
            return rest;
        }
        'Q' => {
            let (quoted, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(quoted));
            return rest;
        }
        '<' | '>' => {
            out.push(c);
            return rest;
        }
        c => {
            out.extend(['\\', c]);
            return rest;
        }
    };
    match (in_class, c.is_ascii_uppercase()) {
        (true, false) => out.push_str(inside),
        (_, true) => out.push_str(&format!("[^{inside}]")),
        (false, false) => out.push_str(&format!("[{inside}]")),
    }
    rest
}

/// The length of `:alpha:]` after a bracket, if it is one.
fn posix_class(after: &str) -> Option<usize> {
    let name = after.strip_prefix(':')?;
    let end = name.find(":]")?;
    name[..end]
        .trim_start_matches('^')
        .bytes()
        .all(|b| b.is_ascii_alphabetic())
        .then_some(end + 3)
}

/// Whether `3}`, `3,}` or `3,5}` follows a brace.
fn is_repetition(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else {
        return false;
    };
    let (from, to) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !from.is_empty() && digits(from) && digits(to)
}

/// From RE2's `\1` and `\\` to the crate's `${1}`.
fn replacement(substitution: &str, groups: usize) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = digit as usize - '0' as usize;
                    if group >= groups {
                        return Err(format!(
                            "\\{group} names a group, but the expression has {}",
                            groups - 1
                        ));
                    }
                    out.push_str(&format!("${{{group}}}"));
                }
                _ => return Err("a backslash stands before a digit or a backslash".to_owned()),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn regex(source: &str) -> Regex {
        let report = Report::new();
        let message = RegexMatcher {
            regex: source.to_owned(),
            engine_type: None,
        };
        Regex::compile(message, &report.root()).unwrap_or_else(|_| panic!("{report}"))
    }

    #[test]
    fn the_whole_text_has_to_match() {
        assert!(regex("a|bc").is_match(b"bc"));
        assert!(!regex("a|bc").is_match(b"bcd"));
        assert!(!regex("b").is_match(b"b\n"));
    }

    #[test]
    fn classes_are_ascii_as_in_re2() {
        assert!(regex(r"\d+\w[\d\s][^\W]").is_match(b"12a b"));
        assert!(!regex(r"\d").is_match("٣".as_bytes()));
        assert!(!regex(r"\w").is_match("é".as_bytes()));
        assert!(regex(".").is_match("é".as_bytes()));
    }

    #[test]
    fn what_re2_reads_literally_is_literal() {
        assert!(regex("[[]{x}").is_match(b"[{x}"));
        assert!(regex("[a&&b]+").is_match(b"&"));
        assert!(regex("[]a]+").is_match(b"]a"));
        assert!(regex(r"\Qa.b\E.").is_match(b"a.bc"));
        assert!(regex(r"\<a\>/\/").is_match(b"<a>//"));
        assert!(regex("[[:alpha:]]{2,3}").is_match(b"abc"));
    }

    #[test]
    fn a_substitution_refers_to_groups() {
        let rewrite = |pattern: &str, substitution: &str| {
            let report = Report::new();
            let message = RegexMatchAndSubstitute {
                pattern: Some(RegexMatcher {
                    regex: pattern.to_owned(),
                    engine_type: None,
                }),
                substitution: substitution.to_owned(),
            };
            Substitution::compile(message, &report.root()).map_err(|_| report.to_string())
        };
        let s = rewrite("^/service/([^/]+)(/.*)$", r"\2/instance/\1$").unwrap();
        assert_eq!(s.apply("/service/foo/v1"), "/v1/instance/foo$");
        let error = rewrite("a", r"\1").unwrap_err();
        assert!(error.starts_with("substitution: "), "{error}");
    }

    #[test]
    fn an_error_names_the_expression() {
        let report = Report::new();
        let message = RegexMatcher {
            regex: "a(".to_owned(),
            engine_type: None,
        };
        Regex::compile(message, &report.root()).unwrap_err();
        assert_eq!(report.to_string(), "regex: \"a(\": unclosed group");
    }
}
