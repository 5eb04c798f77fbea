//! Header names off the wire.

use http::{HeaderName, header};

/// Names that most messages have, by their length. To be compared with one or two
/// costs less than to be parsed, and takes no memory.
static COMMON: [&[HeaderName]; 26] = [
    &[],
    &[],
    &[header::TE],
    &[header::VIA, header::AGE],
    &[header::HOST, header::DATE, header::ETAG, header::VARY],
    &[],
    &[
        header::ACCEPT,
        header::COOKIE,
        header::SERVER,
        header::ORIGIN,
    ],
    &[header::REFERER, header::UPGRADE],
    &[header::LOCATION],
    &[],
    &[header::CONNECTION, header::USER_AGENT, header::SET_COOKIE],
    &[],
    &OF_12,
    &[
        header::CACHE_CONTROL,
        header::AUTHORIZATION,
        header::LAST_MODIFIED,
        header::ACCEPT_RANGES,
    ],
    &[header::CONTENT_LENGTH],
    &OF_15,
    &[header::CONTENT_ENCODING],
    &OF_17,
    &[],
    &[],
    &[],
    &[],
    &[],
    &[],
    &[],
    &[header::UPGRADE_INSECURE_REQUESTS],
];

static OF_12: [HeaderName; 2] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("x-request-id"),
];
static OF_15: [HeaderName; 3] = [
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    HeaderName::from_static("x-forwarded-for"),
];
static OF_17: [HeaderName; 2] = [
    header::TRANSFER_ENCODING,
    HeaderName::from_static("x-forwarded-proto"),
];

/// Upper case letters become lower case ones; digits and hyphens stay.
const LOWER: u8 = 0x20;

/// Whether a token is this name, which has as many bytes, in whatever case. Of what
/// may stand in a token, nothing else turns into a letter, a digit or a hyphen.
fn is(token: &[u8], name: &[u8]) -> bool {
    let (words, rest) = token.as_chunks::<8>();
    let (name_words, name_rest) = name.as_chunks::<8>();
    let lower = u64::from_ne_bytes([LOWER; 8]);
    words
        .iter()
        .zip(name_words)
        .all(|(a, b)| u64::from_ne_bytes(*a) | lower == u64::from_ne_bytes(*b))
        && rest.iter().zip(name_rest).all(|(a, b)| a | LOWER == *b)
}

/// The name that this token is, in whatever case; `None` when it is none.
pub(super) fn name(token: &[u8]) -> Option<HeaderName> {
    let common = COMMON.get(token.len()).copied().unwrap_or_default();
    let known = common
        .iter()
        .find(|name| is(token, name.as_str().as_bytes()));
    match known {
        Some(known) => Some(known.clone()),
        None => HeaderName::from_bytes(token).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stands_where_its_length_says() {
        for (length, names) in COMMON.iter().enumerate() {
            for known in *names {
                assert_eq!(known.as_str().len(), length, "{known}");
                let text = known.as_str().to_ascii_uppercase();
                assert_eq!(name(text.as_bytes()).as_ref(), Some(known));
            }
        }
    }

    #[test]
    fn others_are_parsed() {
        assert_eq!(name(b"X-Any").unwrap(), "x-any");
        assert_eq!(name(b"hos:"), None);
        assert_eq!(name(b""), None);
    }
}
