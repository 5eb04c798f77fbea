//! Making paths plain before they are matched: `normalize_path`,
//! `merge_slashes`, `path_with_escaped_slashes_action`.

use std::borrow::Cow;

use super::config::{EscapedSlashes, PathOptions};

/// What came of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Normalized<'a> {
    /// Go on with this.
    Path(Cow<'a, str>),
    /// Send the client to this.
    Redirect(String),
    /// Refuse the request.
    Reject,
}

/// Applies the options to a path with its query; only what is before `?` changes.
pub fn normalize(path: &str, options: PathOptions) -> Normalized<'_> {
    let (before, query) = match path.find(['?', '#']) {
        Some(at) => path.split_at(at),
        None => (path, ""),
    };
    let mut changed: Cow<'_, str> = Cow::Borrowed(before);
    let mut redirect = false;
    if options.normalize {
        // Envoy canonicalizes first; a path that cannot be is refused.
        if !before.starts_with('/') {
            return Normalized::Reject;
        }
        if let Some(canonical) = canonical(&changed) {
            changed = Cow::Owned(canonical);
        }
    }
    if options.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = unescape_slashes(&changed)
    {
        match options.escaped_slashes {
            EscapedSlashes::Reject => return Normalized::Reject,
            EscapedSlashes::Redirect => redirect = true,
            EscapedSlashes::Forward | EscapedSlashes::Keep => {}
        }
        changed = Cow::Owned(unescaped);
        if options.normalize {
            // What was hidden behind an escape may be a dot segment.
            if let Some(canonical) = canonical(&changed) {
                changed = Cow::Owned(canonical);
            }
        }
    }
    if options.merge_slashes && changed.contains("//") {
        changed = Cow::Owned(merge_slashes(&changed));
    }
    if redirect {
        return Normalized::Redirect(format!("{changed}{query}"));
    }
    match changed {
        Cow::Borrowed(_) => Normalized::Path(Cow::Borrowed(path)),
        Cow::Owned(new) if new == before => Normalized::Path(Cow::Borrowed(path)),
        Cow::Owned(new) => Normalized::Path(Cow::Owned(new + query)),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

/// RFC 3986, 6.2.2: unreserved characters unescaped, other escapes in upper
/// case, backslashes turned, dot segments removed. `None` when it is canonical
/// already.
fn canonical(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let plain = !bytes.iter().any(|b| matches!(b, b'%' | b'\\')) && !path.contains("/.");
    if plain {
        return None;
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1), bytes.get(at + 2)) {
            (b'%', Some(&high), Some(&low)) => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => {
                    let byte = high << 4 | low;
                    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                        decoded.push(byte);
                    } else {
                        let digit = |d: u8| b"0123456789ABCDEF"[usize::from(d)];
                        decoded.extend([b'%', digit(high), digit(low)]);
                    }
                    at += 3;
                    continue;
                }
                _ => decoded.push(b'%'),
            },
            (b'\\', ..) => decoded.push(b'/'),
            (byte, ..) => decoded.push(byte),
        }
        at += 1;
    }
    // Only ASCII was put in place of ASCII.
    let decoded = String::from_utf8(decoded).ok()?;
    Some(remove_dot_segments(&decoded))
}

fn remove_dot_segments(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = false;
        match segment {
            "." => directory = true,
            ".." => {
                out.pop();
                directory = true;
            }
            other => out.push(other),
        }
    }
    let mut result = String::with_capacity(path.len());
    for segment in &out {
        result.push('/');
        result.push_str(segment);
    }
    if directory || result.is_empty() {
        result.push('/');
    }
    result
}

/// `%2F` and `%5C` turned into `/` and `\`; `None` when there are none.
fn unescape_slashes(path: &str) -> Option<String> {
    let mut out: Option<String> = None;
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let slash = match rest.as_bytes().get(at + 1..at + 3) {
            Some(b"2f" | b"2F") => Some('/'),
            Some(b"5c" | b"5C") => Some('\\'),
            _ => None,
        };
        match slash {
            Some(slash) => {
                let out = out.get_or_insert_with(|| path[..path.len() - rest.len()].to_owned());
                out.push_str(&rest[..at]);
                out.push(slash);
                rest = &rest[at + 3..];
            }
            None => {
                if let Some(out) = &mut out {
                    out.push_str(&rest[..=at]);
                }
                rest = &rest[at + 1..];
            }
        }
    }
    out.map(|out| out + rest)
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: PathOptions = PathOptions {
        normalize: true,
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::Forward,
    };

    fn path(input: &str, options: PathOptions) -> String {
        match normalize(input, options) {
            Normalized::Path(path) => path.into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn dots_escapes_and_backslashes() {
        let only = PathOptions {
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Keep,
            ..ALL
        };
        for (input, expected) in [
            ("/a/b?c=/../d", "/a/b?c=/../d"),
            ("/a/../b", "/b"),
            ("/a/./b/", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/../../a", "/a"),
            ("/%61%2e%2E/x", "/a../x"),
            ("/a/%2e%2e/b", "/b"),
            ("/a\\b", "/a/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a//b", "/a//b"),
            ("/", "/"),
        ] {
            assert_eq!(path(input, only), expected, "{input}");
        }
    }

    #[test]
    fn slashes() {
        assert_eq!(path("/a//b///c?d//e", ALL), "/a/b/c?d//e");
        assert_eq!(path("/a%2F..%2fb", ALL), "/b");
        let reject = PathOptions {
            escaped_slashes: EscapedSlashes::Reject,
            ..ALL
        };
        assert_eq!(normalize("/a%5cb", reject), Normalized::Reject);
        let redirect = PathOptions {
            escaped_slashes: EscapedSlashes::Redirect,
            ..ALL
        };
        assert_eq!(
            normalize("/a%2Fb?c", redirect),
            Normalized::Redirect("/a/b?c".to_owned())
        );
        assert_eq!(path("/a/b?%2F", redirect), "/a/b?%2F");
    }

    #[test]
    fn nothing_to_do_borrows() {
        assert!(matches!(
            normalize("/a/b?x", ALL),
            Normalized::Path(Cow::Borrowed(_))
        ));
    }

    proptest::proptest! {
        #[test]
        fn it_is_idempotent(input in "/[a-z./%2eEfF\\\\]{0,20}") {
            let once = path(&input, ALL);
            proptest::prop_assert_eq!(path(&once, ALL), once.clone());
        }
    }
}
