//! `custom_tags`: what the configuration adds to an entry.

use std::collections::BTreeMap;

use crate::{
    api::envoy::r#type::tracing::v3::{
        CustomTag,
        custom_tag::{Environment, Header, Literal, Type, ValueType},
    },
    config::{At, Reported},
    formatter::{FieldName, FormatContext, Formatter, Needs},
};

/// Tags by name.
#[derive(Debug, Default)]
pub struct CustomTags(Box<[(Box<str>, Tag)]>);

#[derive(Debug)]
enum Tag {
    /// The same in each entry; left out when it is empty.
    Fixed(Box<str>),
    /// The first field of a name in the request, or a default.
    Header(FieldName, Box<str>),
    /// A format.
    Formatted(Formatter),
}

impl CustomTags {
    /// Compiles a list of tags.
    ///
    /// # Errors
    /// What is wrong, or not supported, has been reported.
    pub fn compile(messages: Vec<CustomTag>, at: &At<'_>) -> Result<Self, Reported> {
        let mut tags = Vec::with_capacity(messages.len());
        let mut outcome = Ok(());
        for (index, message) in messages.into_iter().enumerate() {
            match Tag::compile(message, &at.index(index)) {
                Ok(tag) => tags.push(tag),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self(tags.into()))
    }

    /// The headers to keep for them.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for (_, tag) in &self.0 {
            match tag {
                Tag::Fixed(_) => {}
                Tag::Header(FieldName::Header(name), _) => needs.add_request(name),
                Tag::Header(..) => {}
                Tag::Formatted(format) => needs.merge(&format.needs()),
            }
        }
        needs
    }

    /// Those that a stream has.
    pub fn of(&self, cx: &FormatContext<'_>) -> BTreeMap<String, String> {
        let values = self.0.iter().filter_map(|(name, tag)| {
            let value = tag.value(cx);
            (!value.is_empty()).then(|| (name.to_string(), value))
        });
        values.collect()
    }
}

impl Tag {
    fn compile(message: CustomTag, at: &At<'_>) -> Result<(Box<str>, Self), Reported> {
        let CustomTag {
            tag,
            value_type,
            r#type,
        } = message;
        match ValueType::try_from(value_type) {
            Ok(ValueType::Unspecified | ValueType::String) => {}
            _ => return Err(at.field("value_type").error("must be STRING in a log")),
        }
        let value = match r#type {
            Some(Type::Literal(Literal { value })) => Self::Fixed(value.into()),
            Some(Type::Environment(Environment {
                name,
                default_value,
            })) => Self::Fixed(std::env::var(name).unwrap_or(default_value).into()),
            Some(Type::RequestHeader(Header {
                name,
                default_value,
            })) => {
                let at = at.field("request_header");
                let name = FieldName::parse(&name).map_err(|e| at.field("name").error(e))?;
                Self::Header(name, default_value.into())
            }
            Some(Type::Metadata(_)) => return Err(at.field("metadata").unsupported()),
            Some(Type::Value(format)) => {
                Self::Formatted(Formatter::parse(&format, &at.field("value"))?)
            }
            None => return Err(at.error("has no value")),
        };
        Ok((tag.into(), value))
    }

    fn value(&self, cx: &FormatContext<'_>) -> String {
        match self {
            Self::Fixed(value) => value.to_string(),
            Self::Header(name, default) => match name.in_request(&cx.request) {
                Some(value) => String::from_utf8_lossy(value).into_owned(),
                None => default.to_string(),
            },
            Self::Formatted(format) => {
                let mut text = Vec::new();
                format.write(&mut text, cx);
                String::from_utf8_lossy(&text).into_owned()
            }
        }
    }
}
