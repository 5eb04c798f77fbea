//! Names of subjects and issuers in the form of RFC 2253, as Envoy prints them.

use std::fmt::Write;

use x509_parser::{
    der_parser::{asn1_rs::Tag, oid::Oid},
    x509::{AttributeTypeAndValue, X509Name},
};

/// Short names that stand for an attribute's type; others are numbers.
const SHORT: [(&str, &str); 17] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
];

/// The name in the form of RFC 2253: the last part first, control and non-ASCII
/// characters as `\XX` of their UTF-8 bytes.
pub(super) fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<_> = name.iter_rdn().collect();
    parts.reverse();
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() {
            text.push(',');
        }
        let mut attributes: Vec<_> = part.iter().collect();
        attributes.reverse();
        for (index, attribute) in attributes.into_iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = oid_text(attribute.attr_type());
    let short = SHORT.iter().find(|(known, _)| *known == oid);
    text.push_str(short.map_or(&oid, |(_, short)| short));
    text.push('=');
    let value = attribute.attr_value();
    match (short, decode(value.tag(), value.data)) {
        (Some(_), Some(value)) => escape(text, &value),
        _ => {
            // What has no name has no known syntax: its encoding, as a whole.
            text.push('#');
            let tag = [value.tag().0 as u8];
            let length = der_length(value.data.len());
            for byte in tag.iter().chain(&length).chain(value.data) {
                write!(text, "{byte:02X}").expect("a string takes any text");
            }
        }
    }
}

/// A length as DER writes it: in one byte, or in as few as it needs behind their number.
fn der_length(length: usize) -> Vec<u8> {
    if length < 0x80 {
        return vec![length as u8];
    }
    let bytes = length.to_be_bytes();
    let digits = &bytes[length.leading_zeros() as usize / 8..];
    [&[0x80 | digits.len() as u8], digits].concat()
}

/// The text of an ASN.1 string; `None` for what is no string.
pub(super) fn decode(tag: Tag, data: &[u8]) -> Option<String> {
    match tag {
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString => String::from_utf8(data.to_vec()).ok(),
        Tag::T61String => Some(data.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let units = data
                .chunks_exact(2)
                .map(|c| u16::from_be_bytes([c[0], c[1]]));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        let outer_space = byte == b' ' && (index == 0 || index == last);
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(byte.into());
            }
            b'#' if index == 0 => text.push_str("\\#"),
            b' ' if outer_space => text.push_str("\\ "),
            b' '..=b'~' => text.push(byte.into()),
            _ => write!(text, "\\{byte:02X}").expect("a string takes any text"),
        }
    }
}

/// Numbers and dots.
pub(super) fn oid_text(oid: &Oid<'_>) -> String {
    oid.to_id_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_escaped() {
        let mut text = String::new();
        escape(&mut text, "#Lyft, Inc. é ");
        assert_eq!(text, "\\#Lyft\\, Inc. \\C3\\A9\\ ");
    }

    #[test]
    fn lengths_are_in_der() {
        for (length, der) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[0x81, 128]),
            (255, &[0x81, 255]),
            (256, &[0x82, 1, 0]),
            (70_000, &[0x83, 1, 0x11, 0x70]),
        ] {
            assert_eq!(der_length(length), der, "{length}");
        }
    }
}
