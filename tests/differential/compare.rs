//! What may differ between two proxies, and what must not.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::Reply;

/// Headers whose values are another at each request; that they are there must
/// be equal.
const VARYING: &[&str] = &["date", "x-request-id", "x-envoy-upstream-service-time"];

type Headers = BTreeMap<String, Vec<String>>;

/// The differences in words, or `None`.
pub fn difference(
    expected: &Result<Reply, String>,
    found: &Result<Reply, String>,
) -> Option<String> {
    let (expected, found) = match (expected, found) {
        // How a connection fails is worded by the client.
        (Err(_), Err(_)) => return None,
        (Ok(expected), Ok(found)) => (expected, found),
        (Ok(reply), Err(error)) => {
            return Some(format!("  Envoy: {}, nuncio: {error}", reply.status));
        }
        (Err(error), Ok(reply)) => {
            return Some(format!("  Envoy: {error}, nuncio: {}", reply.status));
        }
    };
    let mut lines = Vec::new();
    let mut note = |what: &str, expected: String, found: String| {
        if expected != found {
            lines.push(format!("  {what}: Envoy {expected}, nuncio {found}"));
        }
    };
    note(
        "status",
        expected.status.to_string(),
        found.status.to_string(),
    );
    let (theirs, ours) = (headers(expected), headers(found));
    // Of a description of the request, the length follows from the rest.
    let described = seen(expected).is_some();
    for name in theirs.keys().chain(ours.keys()) {
        if described && name == "content-length" {
            continue;
        }
        let show = |headers: &Headers| format!("{:?}", headers.get(name));
        note(
            &format!("response header {name}"),
            show(&theirs),
            show(&ours),
        );
    }
    match (seen(expected), seen(found)) {
        (Some(theirs), Some(ours)) => {
            for (key, value) in &theirs {
                let other = ours.get(key).cloned().unwrap_or_default();
                note(&format!("origin's {key}"), value.clone(), other);
            }
            for (key, value) in ours.iter().filter(|(key, _)| !theirs.contains_key(*key)) {
                note(&format!("origin's {key}"), String::new(), value.clone());
            }
        }
        _ => note("body", expected.text(), found.text()),
    }
    lines.dedup();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn headers(reply: &Reply) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in &reply.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers
            .entry(name.to_string())
            .or_default()
            .push(mask(name.as_str(), &value));
    }
    headers
}

/// What the origin saw, flattened; `None` when the answer is not an origin's.
fn seen(reply: &Reply) -> Option<BTreeMap<String, String>> {
    let value: Value = serde_json::from_slice(&reply.body).ok()?;
    let object = value.as_object()?;
    let mut flat = BTreeMap::new();
    for (key, value) in object {
        match key.as_str() {
            // Connections are pooled as each proxy sees fit.
            "connection" => {}
            "headers" => {
                for pair in value.as_array()? {
                    let name = pair.get(0)?.as_str()?;
                    let value = mask(name, pair.get(1)?.as_str()?);
                    let all: &mut String = flat.entry(format!("header {name}")).or_default();
                    all.push_str(&format!("[{value}]"));
                }
            }
            _ => {
                flat.insert(key.clone(), value.to_string());
            }
        }
    }
    Some(flat)
}

fn mask(name: &str, value: &str) -> String {
    if VARYING.contains(&name) {
        "*".to_owned()
    } else {
        value.to_owned()
    }
}
