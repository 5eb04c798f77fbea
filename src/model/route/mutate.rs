//! What a route does to the headers of a request and of its response.
//!
//! Requests keep `:authority` in their `host` field and `:path` in a URI in
//! origin form, whatever protocol they came by.

use http::{
    Method, StatusCode, Uri,
    header::{HOST, HeaderName, HeaderValue},
    uri::PathAndQuery,
};

use crate::{
    codec::{Headers, RequestHead},
    formatter::{FormatContext, HeaderView, RequestView},
};

use super::{
    RouteHandle, cluster::WeightedEntry, entry::Action, headers::HeaderRules, rewrite::HostRewrite,
};

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

impl RouteHandle {
    /// Rules in the order in which they are followed: the last one wins.
    fn ordered<'a>(
        &'a self,
        entry: Option<&'a HeaderRules>,
        of: fn(&'a Self) -> [&'a HeaderRules; 3],
    ) -> impl Iterator<Item = &'a HeaderRules> {
        let [route, host, table] = of(self);
        let order = match self.table().most_specific_wins {
            true => [entry, Some(table), Some(host), Some(route)],
            false => [entry, Some(route), Some(host), Some(table)],
        };
        order
            .into_iter()
            .flatten()
            .filter(|rules| !rules.is_empty())
    }

    fn request_rules(&self) -> [&HeaderRules; 3] {
        [
            &self.route().request_headers,
            &self.virtual_host().request_headers,
            &self.table().request_headers,
        ]
    }

    fn response_rules(&self) -> [&HeaderRules; 3] {
        [
            &self.route().response_headers,
            &self.virtual_host().response_headers,
            &self.table().response_headers,
        ]
    }

    /// Prepares a request for the upstream: header rules, then the host, then
    /// the path, as Envoy does.
    ///
    /// `cx` is what formats read; its request is `parts` as they are then, with
    /// `cx.request.scheme`. `entry` is the weighted cluster that was chosen.
    /// With `keep_original`, what is rewritten is kept in
    /// `x-envoy-original-path` and `x-envoy-original-host`.
    pub fn rewrite_request(
        &self,
        parts: &mut RequestHead,
        entry: Option<&WeightedEntry>,
        cx: &FormatContext<'_>,
        keep_original: bool,
    ) {
        let scheme = cx.request.scheme;
        let entry_rules = entry.map(|e| &e.request_headers);
        for rules in self.ordered(entry_rules, Self::request_rules) {
            rules.remove(&mut parts.headers);
            let changes = rules.changes(&FormatContext {
                request: RequestView::of(parts, scheme),
                ..*cx
            });
            HeaderRules::apply(changes, &mut parts.headers);
        }
        let Action::Forward(forward) = &self.route().action else {
            return;
        };
        let append = forward.append_x_forwarded_host;
        // A weighted cluster's host comes first, and the route's replaces it.
        if let Some(host) = entry.and_then(|e| e.host_rewrite.as_deref()) {
            set_host(parts, host, append, keep_original);
        }
        let host = match &forward.host {
            HostRewrite::None | HostRewrite::Auto => None,
            HostRewrite::Literal(host) => Some(host.to_string()),
            HostRewrite::Header(name) => name
                .in_request(&RequestView::of(parts, scheme))
                .and_then(|v| std::str::from_utf8(v).ok())
                .filter(|v| !v.is_empty())
                .map(str::to_owned),
            HostRewrite::PathRegex(regex) => Some(regex.apply(parts.uri.path())),
        };
        if let Some(host) = host {
            set_host(parts, &host, append, keep_original);
        }
        let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        // A CONNECT has no path.
        if !matches!(forward.path, super::PathRewrite::None) && parts.method != Method::CONNECT {
            let new = forward.path.apply(path, self.route().matched_length(path));
            set_path(parts, new, keep_original);
        }
    }

    /// Follows the header rules for a response, whether it came from an
    /// upstream or was made here.
    pub fn rewrite_response(
        &self,
        status: StatusCode,
        headers: &mut Headers,
        entry: Option<&WeightedEntry>,
        cx: &FormatContext<'_>,
    ) {
        debug_assert!(cx.info.response_code.is_none_or(|code| code == status));
        let entry_rules = entry.map(|e| &e.response_headers);
        for rules in self.ordered(entry_rules, Self::response_rules) {
            rules.remove(headers);
            let changes = rules.changes(&FormatContext {
                response: HeaderView::Map(headers),
                ..*cx
            });
            HeaderRules::apply(changes, headers);
        }
    }

    /// Whether any rule changes requests, so that a caller can do without a
    /// [`FormatContext`] when none does.
    pub fn rewrites_responses(&self, entry: Option<&WeightedEntry>) -> bool {
        let entry_rules = entry.map(|e| &e.response_headers);
        self.ordered(entry_rules, Self::response_rules)
            .next()
            .is_some()
    }
}

/// Gives a request another host, as `auto_host_rewrite` does once the upstream
/// host is chosen.
///
/// With `append_forwarded`, the old one is added to `x-forwarded-host`, unless
/// it stands last there already; with `keep_original`, it goes to
/// `x-envoy-original-host`. A host that cannot stand in a header changes nothing.
pub fn set_host(parts: &mut RequestHead, host: &str, append_forwarded: bool, keep_original: bool) {
    let Ok(value) = HeaderValue::from_str(host) else {
        return;
    };
    let old = parts.headers.get(HOST).cloned();
    if let Some(old) = old.filter(|old| !old.is_empty()) {
        if append_forwarded {
            append_forwarded_host(&mut parts.headers, &old);
        }
        if keep_original {
            parts.headers.insert(ORIGINAL_HOST, old);
        }
    }
    parts.headers.insert(HOST, value);
}

fn append_forwarded_host(headers: &mut Headers, host: &HeaderValue) {
    let Some(before) = headers.get(FORWARDED_HOST).filter(|v| !v.is_empty()) else {
        headers.insert(FORWARDED_HOST, host.clone());
        return;
    };
    let last = before
        .as_bytes()
        .rsplit(|b| *b == b',')
        .find(|p| !p.is_empty());
    if last == Some(host.as_bytes()) {
        return;
    }
    let joined = [before.as_bytes(), b",", host.as_bytes()].concat();
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(FORWARDED_HOST, joined);
    }
}

/// Gives a request another path. One that cannot stand in a URI changes nothing.
fn set_path(parts: &mut RequestHead, path: String, keep_original: bool) {
    let old = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if keep_original && let Ok(old) = HeaderValue::from_str(old) {
        parts.headers.insert(ORIGINAL_PATH, old);
    }
    let Ok(path) = PathAndQuery::from_maybe_shared(bytes::Bytes::from(path)) else {
        return;
    };
    parts.uri = Uri::from(path);
}
