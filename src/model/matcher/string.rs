//! `envoy.type.matcher.v3.StringMatcher`, compiled.

use crate::{
    api::envoy::r#type::matcher::v3::{
        StringMatcher as Message, string_matcher::MatchPattern as Pattern,
    },
    config::{At, Reported},
};

use super::Regex;

/// A condition on a text.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    kind: Kind,
    /// The pattern is in lower case then.
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<[u8]>),
    Regex(Regex),
}

impl StringMatcher {
    /// Compiles a matcher.
    ///
    /// # Errors
    /// A malformed regular expression, `ignore_case` with one, an extension.
    pub fn compile(message: Message, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            ignore_case,
            match_pattern,
        } = message;
        let text = |text: String| match ignore_case {
            true => text.to_ascii_lowercase().into_bytes().into(),
            false => text.into_bytes().into(),
        };
        let kind = match match_pattern {
            None => {
                return Err(
                    at.error("one of exact, prefix, suffix, safe_regex and contains is required")
                );
            }
            Some(Pattern::Exact(exact)) => Kind::Exact(text(exact)),
            Some(Pattern::Prefix(prefix)) => Kind::Prefix(text(prefix)),
            Some(Pattern::Suffix(suffix)) => Kind::Suffix(text(suffix)),
            Some(Pattern::Contains(part)) => Kind::Contains(text(part)),
            Some(Pattern::SafeRegex(_)) if ignore_case => {
                return Err(at
                    .field("ignore_case")
                    .error("has no effect on safe_regex: write (?i) in the expression"));
            }
            Some(Pattern::SafeRegex(regex)) => {
                Kind::Regex(Regex::compile(regex, &at.field("safe_regex"))?)
            }
            Some(Pattern::Custom(_)) => return Err(at.field("custom").unsupported()),
        };
        Ok(Self { kind, ignore_case })
    }

    /// A matcher of one text.
    pub fn exact(text: &str) -> Self {
        Self {
            kind: Kind::Exact(text.as_bytes().into()),
            ignore_case: false,
        }
    }

    /// Whether the text meets the condition.
    pub fn is_match(&self, text: &[u8]) -> bool {
        if self.ignore_case {
            return self.kind.is_match(&text.to_ascii_lowercase());
        }
        self.kind.is_match(text)
    }
}

impl Kind {
    fn is_match(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => text == &**exact,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
            Self::Contains(part) => memchr::memmem::find(text, part).is_some(),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn is_match(pattern: Pattern, ignore_case: bool, text: &str) -> bool {
        let report = Report::new();
        let message = Message {
            ignore_case,
            match_pattern: Some(pattern),
        };
        let matcher = StringMatcher::compile(message, &report.root());
        matcher
            .unwrap_or_else(|_| panic!("{report}"))
            .is_match(text.as_bytes())
    }

    #[test]
    fn patterns_match_with_and_without_case() {
        let s = str::to_owned;
        assert!(is_match(Pattern::Exact(s("Ab")), true, "aB"));
        assert!(!is_match(Pattern::Exact(s("Ab")), false, "aB"));
        assert!(is_match(Pattern::Prefix(s("a")), false, "ab"));
        assert!(is_match(Pattern::Suffix(s("B")), true, "ab"));
        assert!(is_match(Pattern::Contains(s("b")), false, "abc"));
        assert!(!is_match(Pattern::Contains(s("B")), false, "abc"));
    }
}
