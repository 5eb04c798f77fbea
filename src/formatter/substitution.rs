//! `envoy.config.core.v3.SubstitutionFormatString`, compiled.

use crate::{
    api::envoy::config::core::v3::{
        JsonFormatOptions, SubstitutionFormatString, substitution_format_string::Format,
    },
    config::{At, Reported},
    model::{Context, data_source},
    refuse,
};

use super::{FormatContext, Formatter, JsonFormatter, Needs};

/// A text or JSON format.
#[derive(Clone, Debug)]
pub enum SubstitutionFormat {
    /// `text_format`, `text_format_source`.
    Text(Formatter),
    /// `json_format`.
    Json(JsonFormatter),
}

impl SubstitutionFormat {
    /// Compiles a format; gives its `content_type` beside it, which follows from
    /// the kind of format when it is unset.
    ///
    /// # Errors
    /// An unknown command, a missing file, an extension.
    pub fn compile(
        message: SubstitutionFormatString,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<(Self, String), Reported> {
        let SubstitutionFormatString {
            omit_empty_values,
            content_type,
            formatters,
            json_format_options,
            format,
        } = message;
        refuse!(at; formatters)?;
        // Keys are always sorted, as they are in Envoy since 1.32.
        let (None | Some(JsonFormatOptions { sort_properties: _ })) = json_format_options;
        let text = |format: &str, at: &At<'_>| {
            let format = Formatter::parse(format, at)?;
            Ok(Self::Text(match omit_empty_values {
                true => format.omitting_empty(),
                false => format,
            }))
        };
        let format = match format {
            None => Err(at.error("a format is required")),
            Some(Format::TextFormat(format)) => text(&format, &at.field("text_format")),
            Some(Format::TextFormatSource(source)) => {
                let at = at.field("text_format_source");
                let bytes = data_source::load(source, cx, &at)?;
                match std::str::from_utf8(&bytes) {
                    Ok(format) => text(format, &at),
                    Err(error) => Err(at.error(format_args!("is not UTF-8: {error}"))),
                }
            }
            Some(Format::JsonFormat(format)) => {
                let at = at.field("json_format");
                JsonFormatter::parse(format, omit_empty_values, &at).map(Self::Json)
            }
        }?;
        let content_type = match (&format, content_type.is_empty()) {
            (_, false) => content_type,
            (Self::Json(_), true) => "application/json".to_owned(),
            (Self::Text(_), true) => "text/plain".to_owned(),
        };
        Ok((format, content_type))
    }

    /// Appends the text for a stream.
    pub fn write(&self, out: &mut Vec<u8>, cx: &FormatContext<'_>) {
        match self {
            Self::Text(format) => format.write(out, cx),
            Self::Json(format) => format.write(out, cx),
        }
    }

    /// The headers it reads.
    pub fn needs(&self) -> Needs {
        match self {
            Self::Text(format) => format.needs(),
            Self::Json(format) => format.needs(),
        }
    }
}
