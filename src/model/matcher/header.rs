//! `envoy.config.route.v3.HeaderMatcher`, compiled.

use std::borrow::Cow;

use http::header::HeaderName;

use crate::{
    api::envoy::{
        config::route::v3::{
            HeaderMatcher as Message, header_matcher::HeaderMatchSpecifier as Specifier,
        },
        r#type::{
            matcher::v3::{
                StringMatcher as StringMessage, string_matcher::MatchPattern as Pattern,
            },
            v3::Int64Range,
        },
    },
    config::{At, Reported},
    formatter::{FieldName, HeaderView, RequestView},
};

use super::StringMatcher;

/// A condition on one header of a request or response.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    name: FieldName,
    condition: Condition,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Clone, Debug)]
enum Condition {
    Text(StringMatcher),
    /// From, to before.
    Range(i64, i64),
    Present(bool),
}

impl HeaderMatcher {
    /// Compiles a matcher.
    ///
    /// # Errors
    /// A name that is not one, a malformed pattern.
    pub fn compile(message: Message, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            name,
            invert_match,
            treat_missing_header_as_empty,
            header_match_specifier,
        } = message;
        let string = |field: &str, pattern| {
            let message = StringMessage {
                ignore_case: false,
                match_pattern: Some(pattern),
            };
            StringMatcher::compile(message, &at.field(field)).map(Condition::Text)
        };
        let condition = match header_match_specifier {
            None => Ok(Condition::Present(true)),
            Some(Specifier::PresentMatch(present)) => Ok(Condition::Present(present)),
            Some(Specifier::RangeMatch(Int64Range { start, end })) => {
                Ok(Condition::Range(start, end))
            }
            Some(Specifier::StringMatch(matcher)) => {
                StringMatcher::compile(matcher, &at.field("string_match")).map(Condition::Text)
            }
            // Envoy takes an empty deprecated exact_match for a presence match.
            Some(Specifier::ExactMatch(text)) if text.is_empty() => Ok(Condition::Present(true)),
            Some(Specifier::ExactMatch(text)) => string("exact_match", Pattern::Exact(text)),
            Some(Specifier::PrefixMatch(text)) => string("prefix_match", Pattern::Prefix(text)),
            Some(Specifier::SuffixMatch(text)) => string("suffix_match", Pattern::Suffix(text)),
            Some(Specifier::ContainsMatch(text)) => {
                string("contains_match", Pattern::Contains(text))
            }
            Some(Specifier::SafeRegexMatch(regex)) => {
                string("safe_regex_match", Pattern::SafeRegex(regex))
            }
        };
        let name = FieldName::parse(&name).map_err(|e| at.field("name").error(e));
        Ok(Self {
            name: name?,
            condition: condition?,
            invert: invert_match,
            missing_is_empty: treat_missing_header_as_empty,
        })
    }

    /// Compiles a list of matchers, all of which have to match.
    ///
    /// # Errors
    /// As for one.
    pub fn compile_all(messages: Vec<Message>, at: &At<'_>) -> Result<Box<[Self]>, Reported> {
        let mut matchers = Vec::with_capacity(messages.len());
        let mut outcome = Ok(());
        for (index, message) in messages.into_iter().enumerate() {
            match Self::compile(message, &at.index(index)) {
                Ok(matcher) => matchers.push(matcher),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| matchers.into())
    }

    /// Whether a request meets the condition.
    pub fn matches_request(&self, request: &RequestView<'_>) -> bool {
        match &self.name {
            FieldName::Header(name) => self.decide(joined(request.headers, name).as_deref()),
            pseudo => self.decide(pseudo.pseudo(request).map(str::as_bytes)),
        }
    }

    /// Whether a response meets the condition.
    pub fn matches_response(
        &self,
        status: Option<http::StatusCode>,
        headers: HeaderView<'_>,
    ) -> bool {
        match &self.name {
            FieldName::Header(name) => self.decide(joined(headers, name).as_deref()),
            FieldName::Status => self.decide(status.as_ref().map(|s| s.as_str().as_bytes())),
            _ => self.decide(None),
        }
    }

    /// The ordinary header it reads, if it is not a pseudo header.
    pub fn header_name(&self) -> Option<&HeaderName> {
        match &self.name {
            FieldName::Header(name) => Some(name),
            _ => None,
        }
    }

    fn decide(&self, value: Option<&[u8]>) -> bool {
        if let Condition::Present(wanted) = self.condition {
            let there = value.is_some() || self.missing_is_empty;
            return (there == wanted) != self.invert;
        }
        let value = match value {
            Some(value) => value,
            None if self.missing_is_empty => b"",
            // A missing header never matches, and an inverted match of it always does.
            None => return self.invert,
        };
        let matched = match &self.condition {
            Condition::Text(matcher) => matcher.is_match(value),
            Condition::Range(from, to) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim().parse::<i64>().ok())
                .is_some_and(|n| (*from..*to).contains(&n)),
            Condition::Present(_) => unreachable!("decided above"),
        };
        matched != self.invert
    }
}

/// All values of a header, joined by commas as Envoy does.
fn joined<'a>(headers: HeaderView<'a>, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).map(http::HeaderValue::as_bytes);
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut all = [first, b",", second].concat();
    for value in values {
        all.push(b',');
        all.extend_from_slice(value);
    }
    Some(Cow::Owned(all))
}
