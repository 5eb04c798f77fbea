//! Header rules: `request_headers_to_add`, `request_headers_to_remove` and
//! their like for responses.

use http::header::{HeaderName, HeaderValue};

use crate::{
    api::envoy::config::core::v3::{
        HeaderValue as Pair, HeaderValueOption, header_value_option::HeaderAppendAction as Action,
    },
    codec::Headers,
    config::{At, Reported},
    formatter::{FormatContext, Formatter, Needs},
};

/// What to do to the headers of a request or response.
#[derive(Clone, Debug, Default)]
pub struct HeaderRules {
    remove: Box<[HeaderName]>,
    add: Box<[Add]>,
}

#[derive(Clone, Debug)]
struct Add {
    name: HeaderName,
    value: Value,
    action: Action,
    keep_empty: bool,
}

#[derive(Clone, Debug)]
enum Value {
    Constant(HeaderValue),
    Format(Formatter),
}

/// A change that has been worked out.
pub type Change = (HeaderName, HeaderValue, Action);

impl HeaderRules {
    /// Compiles two lists, whose fields are named `add_field` and `remove_field`.
    ///
    /// # Errors
    /// A name that is not one or may not be changed (`:path` and its like,
    /// `host`), a value with an unknown command.
    pub fn compile(
        add: Vec<HeaderValueOption>,
        add_field: &str,
        remove: Vec<String>,
        remove_field: &str,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut outcome = Ok(());
        let mut names = Vec::with_capacity(remove.len());
        let remove_at = at.field(remove_field);
        for (index, name) in remove.iter().enumerate() {
            match header_name(name, "removed", &remove_at.index(index)) {
                Ok(name) => names.push(name),
                Err(reported) => outcome = Err(reported),
            }
        }
        let mut rules = Vec::with_capacity(add.len());
        let add_at = at.field(add_field);
        for (index, option) in add.into_iter().enumerate() {
            match Add::compile(option, &add_at.index(index)) {
                Ok(rule) => rules.push(rule),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self {
            remove: names.into(),
            add: rules.into(),
        })
    }

    /// One header that is added.
    ///
    /// # Errors
    /// As [`HeaderRules::compile`].
    pub fn of(option: HeaderValueOption, at: &At<'_>) -> Result<Self, Reported> {
        Add::compile(option, at).map(|add| Self {
            remove: Box::default(),
            add: [add].into(),
        })
    }

    /// Compiles what each message of a route table has: headers to add and to remove,
    /// of requests and of responses.
    pub(super) fn compile_both(
        requests: (Vec<HeaderValueOption>, Vec<String>),
        responses: (Vec<HeaderValueOption>, Vec<String>),
        at: &At<'_>,
    ) -> (Result<Self, Reported>, Result<Self, Reported>) {
        let compile = |(add, remove), add_field, remove_field| {
            Self::compile(add, add_field, remove, remove_field, at)
        };
        (
            compile(
                requests,
                "request_headers_to_add",
                "request_headers_to_remove",
            ),
            compile(
                responses,
                "response_headers_to_add",
                "response_headers_to_remove",
            ),
        )
    }

    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Removes what is to be removed. First of two steps, see [`HeaderRules::changes`].
    pub fn remove(&self, headers: &mut Headers) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// Works out the values to add or overwrite, in view of the headers as they
    /// are after [`HeaderRules::remove`], for [`HeaderRules::apply`].
    pub fn changes(&self, cx: &FormatContext<'_>) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.add.len());
        for rule in &self.add {
            let value = match &rule.value {
                Value::Constant(value) => value.clone(),
                Value::Format(format) => {
                    let mut text = Vec::new();
                    format.write(&mut text, cx);
                    // A value that cannot stand in a header is left out: it could
                    // only come from a header that could not either.
                    match HeaderValue::from_maybe_shared(bytes::Bytes::from(text)) {
                        Ok(value) => value,
                        Err(_) => continue,
                    }
                }
            };
            if rule.keep_empty || !value.is_empty() {
                changes.push((rule.name.clone(), value, rule.action));
            }
        }
        changes
    }

    /// Overwrites, then adds, as Envoy does: whether a header is there is asked
    /// before any is added.
    pub fn apply(changes: Vec<Change>, headers: &mut Headers) {
        let mut additions = Vec::with_capacity(changes.len());
        let mut overwrites = Vec::new();
        for (name, value, action) in changes {
            match action {
                Action::AppendIfExistsOrAdd => additions.push((name, value)),
                Action::AddIfAbsent => {
                    if !headers.contains_key(&name) {
                        additions.push((name, value));
                    }
                }
                Action::OverwriteIfExists => {
                    if headers.contains_key(&name) {
                        overwrites.push((name, value));
                    }
                }
                Action::OverwriteIfExistsOrAdd => overwrites.push((name, value)),
            }
        }
        for (name, value) in overwrites {
            headers.insert(name, value);
        }
        for (name, value) in additions {
            headers.append(name, value);
        }
    }

    /// The headers its formats read.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for rule in &self.add {
            if let Value::Format(format) = &rule.value {
                needs.merge(&format.needs());
            }
        }
        needs
    }
}

impl Add {
    fn compile(message: HeaderValueOption, at: &At<'_>) -> Result<Self, Reported> {
        let HeaderValueOption {
            header,
            append,
            append_action,
            keep_empty_value,
        } = message;
        let Some(Pair {
            key,
            value,
            raw_value,
        }) = header
        else {
            return Err(at.field("header").error("is required"));
        };
        let set = Action::try_from(append_action).unwrap_or_default();
        let action = match append {
            None => set,
            Some(_) if set != Action::default() => {
                return Err(at
                    .field("append")
                    .error("and append_action can't both be set"));
            }
            Some(true) => Action::AppendIfExistsOrAdd,
            Some(false) => Action::OverwriteIfExistsOrAdd,
        };
        let header_at = at.field("header");
        let name = header_name(&key, "modified", &header_at.field("key"));
        let (text, field) = match raw_value.is_empty() {
            true => (value, "value"),
            false if !value.is_empty() => {
                return Err(header_at
                    .field("raw_value")
                    .error("and value can't both be set"));
            }
            false => match String::from_utf8(raw_value) {
                Ok(text) => (text, "raw_value"),
                Err(_) => return Err(header_at.field("raw_value").error("is not UTF-8")),
            },
        };
        let value_at = header_at.field(field);
        let format = Formatter::parse(&text, &value_at).map(Formatter::omitting_empty);
        let (name, format) = (name?, format?);
        let value = match format.as_literal() {
            Some(text) => Value::Constant(
                HeaderValue::from_str(text)
                    .map_err(|_| value_at.error("has a character that no header may have"))?,
            ),
            None => Value::Format(format),
        };
        Ok(Self {
            name,
            value,
            action,
            keep_empty: keep_empty_value,
        })
    }
}

/// The name of a header that may be changed; `verb` says how.
///
/// # Errors
/// A name that is not one, or `host` or one that begins with a colon; reported.
pub fn header_name(name: &str, verb: &str, at: &At<'_>) -> Result<HeaderName, Reported> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(at.error(format_args!(
            "{name}: headers that begin with a colon and host may not be {verb}"
        )));
    }
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| at.error(format_args!("{name:?} is not a valid header name")))
}
