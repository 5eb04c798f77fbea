//! `envoy.config.route.v3.HeaderMatcher`, compiled.

use http::{StatusCode, header::HeaderName};

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
            FieldName::Header(name) => self.decide(values(request.headers, name)),
            pseudo => self.decide(pseudo.pseudo(request).map(str::as_bytes).into_iter()),
        }
    }

    /// Whether a response meets the condition.
    pub fn matches_response(&self, status: Option<StatusCode>, headers: HeaderView<'_>) -> bool {
        match &self.name {
            FieldName::Header(name) => self.decide(values(headers, name)),
            FieldName::Status => {
                self.decide(status.as_ref().map(|s| s.as_str().as_bytes()).into_iter())
            }
            _ => self.decide(std::iter::empty()),
        }
    }

    /// The ordinary header it reads, if it is not a pseudo header.
    pub fn header_name(&self) -> Option<&HeaderName> {
        match &self.name {
            FieldName::Header(name) => Some(name),
            _ => None,
        }
    }

    /// One value of several is enough. A missing header never meets a condition
    /// on its value, not even an inverted one.
    fn decide<'a>(&self, values: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return match (&self.condition, self.missing_is_empty) {
                (Condition::Present(wanted), empty) => (*wanted == empty) != self.invert,
                (_, true) => self.condition.is_met(b"") != self.invert,
                (_, false) => false,
            };
        }
        values.any(|value| self.condition.is_met(value)) != self.invert
    }
}

impl Condition {
    /// Whether a header that is there meets it.
    fn is_met(&self, value: &[u8]) -> bool {
        match self {
            Self::Text(matcher) => matcher.is_match(value),
            Self::Range(from, to) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim().parse::<i64>().ok())
                .is_some_and(|n| (*from..*to).contains(&n)),
            Self::Present(wanted) => *wanted,
        }
    }
}

fn values<'a>(headers: HeaderView<'a>, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).map(http::HeaderValue::as_bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::{
        api::envoy::r#type::matcher::v3::{StringMatcher as Text, string_matcher::MatchPattern},
        codec::Headers,
        config::Report,
    };

    /// Which of: no header, `v`, an empty one, `5`, `1` and `2`.
    fn outcomes(specifier: Option<Specifier>, invert: bool, missing_is_empty: bool) -> String {
        let report = Report::new();
        let message = Message {
            name: "X-A".to_owned(),
            invert_match: invert,
            treat_missing_header_as_empty: missing_is_empty,
            header_match_specifier: specifier,
        };
        let matcher = HeaderMatcher::compile(message, &report.root()).unwrap();
        [&[][..], &["v"], &[""], &["5"], &["1", "2"]]
            .iter()
            .map(|values| {
                let mut headers = Headers::new();
                for value in *values {
                    headers.append(
                        HeaderName::from_static("x-a"),
                        HeaderValue::from_static(value),
                    );
                }
                let request = RequestView {
                    headers: HeaderView::Map(&headers),
                    ..RequestView::default()
                };
                if matcher.matches_request(&request) {
                    '1'
                } else {
                    '0'
                }
            })
            .collect()
    }

    #[test]
    fn decides_as_envoy_does() {
        let exact = |text: &str| {
            Some(Specifier::StringMatch(Text {
                ignore_case: false,
                match_pattern: Some(MatchPattern::Exact(text.to_owned())),
            }))
        };
        let range = || Some(Specifier::RangeMatch(Int64Range { start: 2, end: 6 }));
        let present = |wanted| Some(Specifier::PresentMatch(wanted));
        assert_eq!(outcomes(exact("v"), true, false), "00111");
        assert_eq!(outcomes(exact("v"), true, true), "10111");
        assert_eq!(outcomes(exact("2"), false, false), "00001");
        assert_eq!(outcomes(exact("2"), true, false), "01110");
        assert_eq!(outcomes(exact("1,2"), false, false), "00000");
        assert_eq!(outcomes(exact(""), false, true), "10100");
        assert_eq!(outcomes(range(), false, false), "00011");
        assert_eq!(outcomes(range(), true, false), "01100");
        assert_eq!(outcomes(None, false, false), "01111");
        assert_eq!(outcomes(None, true, false), "10000");
        assert_eq!(outcomes(present(true), false, true), "11111");
        assert_eq!(outcomes(present(false), false, false), "10000");
        assert_eq!(outcomes(present(false), false, true), "00000");
        assert_eq!(outcomes(present(true), true, false), "10000");
        let deprecated = Some(Specifier::ExactMatch(String::new()));
        assert_eq!(outcomes(deprecated, false, false), "01111");
    }
}
