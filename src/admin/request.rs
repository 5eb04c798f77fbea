//! What was asked: path and parameters.

use std::borrow::Cow;

use regex::Regex;

/// A request, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Without the query.
    pub path: String,
    /// Names and values of the query, or of a form sent as the body.
    pub params: Vec<(String, String)>,
}

impl Request {
    /// Reads a request target and, when a form was sent, the form.
    pub fn new(target: &str, form: Option<&str>) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            path: path.to_owned(),
            params: parse(form.unwrap_or(query)),
        }
    }

    /// The value of a parameter; empty when it was given without one.
    pub fn param(&self, name: &str) -> Option<&str> {
        let (_, value) = self.params.iter().find(|(n, _)| n == name)?;
        Some(value)
    }

    /// Whether a parameter was given, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.param(name).is_some()
    }
}

/// Compiles a regular expression that was asked for.
///
/// # Errors
/// What is wrong with it, in one line, and the expression.
pub fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default();
        format!("{}: {text}", reason.trim_start_matches("error: "))
    })
}

fn parse(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name).into_owned(), decode(value).into_owned())
        })
        .collect()
}

/// Undoes percent-encoding, and leaves `+` alone, as Envoy does.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_and_a_form_goes_before_it() {
        let request = Request::new("/stats?filter=a%2Eb%&usedonly&c=x=y", None);
        assert_eq!(request.path, "/stats");
        assert_eq!(request.param("filter"), Some("a.b%"));
        assert!(request.has("usedonly"));
        assert_eq!(request.param("c"), Some("x=y"));
        assert_eq!(request.param("d"), None);
        let request = Request::new("/runtime_modify?a=1", Some("b=2"));
        assert_eq!(request.params, [("b".to_owned(), "2".to_owned())]);
    }
}
