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

/// The name that these bytes are, in whatever case; `None` when they are none.
pub(super) fn name(text: &[u8]) -> Option<HeaderName> {
    let common = COMMON.get(text.len()).copied().unwrap_or_default();
    let known = common
        .iter()
        .find(|name| name.as_str().as_bytes().eq_ignore_ascii_case(text));
    match known {
        Some(known) => Some(known.clone()),
        None => HeaderName::from_bytes(text).ok(),
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
