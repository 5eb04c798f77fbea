//! Messages as Envoy prints them: field names as in the API, one space of
//! indentation a level, whole numbers without a fraction.

use std::io;

use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage, SerializeOptions};
use serde::Serialize;
use serde_json::ser::Formatter;

use crate::api;

/// What to print of fields that have their default value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    /// Leave them out.
    Skip,
    /// Print those that are no messages.
    Print,
}

/// A generated message, as one that knows its fields.
pub fn reflect<M: Message + prost::Name>(message: &M) -> DynamicMessage {
    decode(&M::full_name(), &message.encode_to_vec())
        .expect("what was just encoded by its own type can be decoded")
}

/// A message from its bytes; `None` when the type is unknown or the bytes are not of it.
pub fn decode(full_name: &str, bytes: &[u8]) -> Option<DynamicMessage> {
    let descriptor = api::descriptors().get_message_by_name(full_name)?;
    DynamicMessage::decode(descriptor, bytes).ok()
}

/// Whether a message can be printed: one with an `Any` of an unknown type in it cannot.
pub fn prints(full_name: &str, bytes: &[u8]) -> bool {
    let message = decode(full_name, bytes);
    message.is_some_and(|message| serde_json::to_writer(std::io::sink(), &message).is_ok())
}

/// A generated message as a whole JSON document.
pub fn document<M: Message + prost::Name>(message: &M, defaults: Defaults) -> String {
    let mut text = String::new();
    write(&mut text, &reflect(message), 0, defaults);
    text.push('\n');
    text
}

/// Appends a message, whose first line stands at this depth. What cannot be
/// printed, such as an `Any` of an unknown type, is named in its place.
pub fn write(out: &mut String, message: &DynamicMessage, depth: usize, defaults: Defaults) {
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(defaults == Defaults::Skip);
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Pretty::at(depth));
    match message.serialize_with_options(&mut serializer, &options) {
        Ok(()) => out.push_str(&String::from_utf8_lossy(&text)),
        Err(error) => {
            let object = serde_json::json!({
                "@type": format!("{}{}", api::TYPE_URL_PREFIX, message.descriptor().full_name()),
                "error": error.to_string(),
            });
            write_value(out, &object, depth);
        }
    }
}

/// Appends any value in the same style.
pub fn write_value(out: &mut String, value: &impl Serialize, depth: usize) {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Pretty::at(depth));
    value
        .serialize(&mut serializer)
        .expect("plain values with string keys can be serialized");
    out.push_str(&String::from_utf8_lossy(&text));
}

/// Appends a line break and the indentation of a depth.
pub fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', depth));
}

/// The shortest of the ways to write a number, as Envoy writes it in JSON.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "null".to_owned();
    }
    let plain = value.to_string();
    let (digits, exponent) = {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').expect("this format has an exponent");
        (
            digits.to_owned(),
            exponent.parse::<i32>().expect("it is a number"),
        )
    };
    let sign = if exponent < 0 { '-' } else { '+' };
    let scientific = format!("{digits}e{sign}{:02}", exponent.abs());
    if scientific.len() < plain.len() {
        scientific
    } else {
        plain
    }
}

struct Pretty {
    depth: usize,
    has_value: bool,
}

impl Pretty {
    fn at(depth: usize) -> Self {
        Self {
            depth,
            has_value: false,
        }
    }

    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value {
            self.indent(writer)?;
        }
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.indent(writer)
    }

    fn indent<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(b" "))
    }
}

impl Formatter for Pretty {
    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        writer.write_all(value.to_string().as_bytes())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(number(value).as_bytes())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::envoy::admin::v3 as pb;

    #[test]
    fn documents_have_the_shape_of_envoys() {
        let memory = pb::Memory {
            allocated: 5,
            ..Default::default()
        };
        let text = document(&memory, Defaults::Skip);
        assert_eq!(text, "{\n \"allocated\": \"5\"\n}\n");
        assert_eq!(document(&pb::Memory::default(), Defaults::Skip), "{}\n");
        let certificates = pb::Certificates {
            certificates: vec![pb::Certificate::default()],
        };
        assert_eq!(
            document(&certificates, Defaults::Print),
            "{\n \"certificates\": [\n  {\n   \"ca_cert\": [],\n   \"cert_chain\": []\n  }\n ]\n}\n"
        );
    }

    #[test]
    fn numbers_are_written_as_short_as_can_be() {
        for (value, text) in [
            (0.5, "0.5"),
            (1.0, "1"),
            (10000.0, "10000"),
            (300000.0, "3e+05"),
            (1800000.0, "1800000"),
            (99.9, "99.9"),
            (f64::NAN, "null"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
