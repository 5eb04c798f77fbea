//! How header names are written: `header_key_format`.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderName;

/// How a side of a connection writes names, and whether it remembers how they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NameFormat {
    /// In lower case.
    #[default]
    Lower,
    /// `proper_case_words`.
    ProperCase,
    /// `preserve_case`: as they came. What is written here without having come in is in
    /// lower case.
    Preserve(Preserve),
}

/// `PreserveCaseFormatterConfig`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Preserve {
    /// `forward_reason_phrase`.
    pub reason_phrase: bool,
    /// `formatter_type_on_envoy_headers: PROPER_CASE`: so are names written that are
    /// added to what came in.
    pub proper_case_for_added: bool,
}

/// The names of a head as they came. The head of a message keeps it until it is
/// written on the other side, whatever that side's format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelling {
    names: Vec<Bytes>,
    proper_case_for_added: bool,
    /// The reason phrase of a response, where it is passed on.
    pub reason_phrase: Option<Bytes>,
}

impl Spelling {
    /// These names, of which the first of those that differ in case alone counts.
    pub fn new(names: Vec<Bytes>, preserve: Preserve) -> Self {
        Self {
            names,
            proper_case_for_added: preserve.proper_case_for_added,
            reason_phrase: None,
        }
    }
}

/// How the names of one head are written.
#[derive(Clone, Copy, Debug)]
pub enum Case<'a> {
    /// In lower case.
    Lower,
    /// `Like-This`.
    Proper,
    /// As they came.
    As(&'a Spelling),
}

impl<'a> Case<'a> {
    /// The case of a head that came with this spelling, if with any.
    pub fn of(spelling: Option<&'a Spelling>, format: NameFormat) -> Self {
        match (spelling, format) {
            (Some(spelling), _) => Self::As(spelling),
            (None, NameFormat::ProperCase) => Self::Proper,
            (None, NameFormat::Lower | NameFormat::Preserve(_)) => Self::Lower,
        }
    }

    /// Writes a name.
    pub fn put(self, name: &HeaderName, out: &mut BytesMut) {
        let name = name.as_str();
        match self {
            Self::Lower => out.put_slice(name.as_bytes()),
            Self::Proper => proper_case(name, out),
            Self::As(spelling) => {
                let came = |as_it: &&Bytes| as_it.eq_ignore_ascii_case(name.as_bytes());
                match spelling.names.iter().find(came) {
                    Some(came) => out.put_slice(came),
                    None if spelling.proper_case_for_added => proper_case(name, out),
                    None => out.put_slice(name.as_bytes()),
                }
            }
        }
    }
}

/// A letter at the beginning, and one after a character that is neither a letter
/// nor a digit, is upper case: `ProperCaseWords`.
fn proper_case(name: &str, out: &mut BytesMut) {
    let mut first = true;
    for byte in name.bytes() {
        out.put_u8(match first {
            true => byte.to_ascii_uppercase(),
            false => byte,
        });
        first = !byte.is_ascii_alphanumeric();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(case: Case<'_>, name: &'static str) -> String {
        let mut out = BytesMut::new();
        case.put(&HeaderName::from_static(name), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn words_begin_where_letters_and_digits_do() {
        assert_eq!(put(Case::Proper, "x-a_b1c"), "X-A_B1c");
    }

    #[test]
    fn names_stay_as_they_first_came() {
        let names = [&b"hOST"[..], b"X-a", b"x-A"]
            .map(Bytes::from_static)
            .to_vec();
        for (proper, added) in [(false, "x-b"), (true, "X-B")] {
            let preserve = Preserve {
                reason_phrase: false,
                proper_case_for_added: proper,
            };
            let spelling = Spelling::new(names.clone(), preserve);
            let case = Case::of(Some(&spelling), NameFormat::ProperCase);
            assert_eq!(put(case, "host"), "hOST");
            assert_eq!(put(case, "x-a"), "X-a");
            assert_eq!(put(case, "x-b"), added);
        }
    }
}
