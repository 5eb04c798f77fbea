//! The fields that both ends know (RFC 7541, 2.3).

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};

use super::{Field, Pseudo};

/// What a field in the dynamic table costs beyond its bytes.
pub(super) const OVERHEAD: usize = 32;

const fn pseudo(name: Pseudo, value: &'static str) -> Field {
    Field::Pseudo(name, Bytes::from_static(value.as_bytes()))
}

const fn plain(name: HeaderName) -> Field {
    Field::Header(name, HeaderValue::from_static(""))
}

/// The static table (RFC 7541, appendix A), from index 1.
pub(super) static STATIC: [Field; 61] = [
    pseudo(Pseudo::Authority, ""),
    pseudo(Pseudo::Method, "GET"),
    pseudo(Pseudo::Method, "POST"),
    pseudo(Pseudo::Path, "/"),
    pseudo(Pseudo::Path, "/index.html"),
    pseudo(Pseudo::Scheme, "http"),
    pseudo(Pseudo::Scheme, "https"),
    pseudo(Pseudo::Status, "200"),
    pseudo(Pseudo::Status, "204"),
    pseudo(Pseudo::Status, "206"),
    pseudo(Pseudo::Status, "304"),
    pseudo(Pseudo::Status, "400"),
    pseudo(Pseudo::Status, "404"),
    pseudo(Pseudo::Status, "500"),
    plain(header::ACCEPT_CHARSET),
    Field::Header(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("gzip, deflate"),
    ),
    plain(header::ACCEPT_LANGUAGE),
    plain(header::ACCEPT_RANGES),
    plain(header::ACCEPT),
    plain(header::ACCESS_CONTROL_ALLOW_ORIGIN),
    plain(header::AGE),
    plain(header::ALLOW),
    plain(header::AUTHORIZATION),
    plain(header::CACHE_CONTROL),
    plain(header::CONTENT_DISPOSITION),
    plain(header::CONTENT_ENCODING),
    plain(header::CONTENT_LANGUAGE),
    plain(header::CONTENT_LENGTH),
    plain(header::CONTENT_LOCATION),
    plain(header::CONTENT_RANGE),
    plain(header::CONTENT_TYPE),
    plain(header::COOKIE),
    plain(header::DATE),
    plain(header::ETAG),
    plain(header::EXPECT),
    plain(header::EXPIRES),
    plain(header::FROM),
    plain(header::HOST),
    plain(header::IF_MATCH),
    plain(header::IF_MODIFIED_SINCE),
    plain(header::IF_NONE_MATCH),
    plain(header::IF_RANGE),
    plain(header::IF_UNMODIFIED_SINCE),
    plain(header::LAST_MODIFIED),
    plain(header::LINK),
    plain(header::LOCATION),
    plain(header::MAX_FORWARDS),
    plain(header::PROXY_AUTHENTICATE),
    plain(header::PROXY_AUTHORIZATION),
    plain(header::RANGE),
    plain(header::REFERER),
    plain(header::REFRESH),
    plain(header::RETRY_AFTER),
    plain(header::SERVER),
    plain(header::SET_COOKIE),
    plain(header::STRICT_TRANSPORT_SECURITY),
    plain(header::TRANSFER_ENCODING),
    plain(header::USER_AGENT),
    plain(header::VARY),
    plain(header::VIA),
    plain(header::WWW_AUTHENTICATE),
];

/// Where a name stands in the static table.
pub(super) fn static_index(name: &HeaderName) -> Option<usize> {
    let found = STATIC
        .iter()
        .position(|field| matches!(field, Field::Header(known, _) if known == name));
    found.map(|at| at + 1)
}

/// A dynamic table, ready to be taken from.
#[derive(Debug)]
pub(super) struct Table {
    /// The youngest first.
    fields: VecDeque<Field>,
    size: usize,
    limit: usize,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            fields: VecDeque::new(),
            size: 0,
            limit,
        }
    }

    /// What an index stands for.
    pub(super) fn get(&self, index: usize) -> Option<&Field> {
        let index = index.checked_sub(1)?;
        STATIC
            .get(index)
            .or_else(|| self.fields.get(index - STATIC.len()))
    }

    pub(super) fn insert(&mut self, field: Field) {
        let size = field.size() + OVERHEAD;
        self.evict(self.limit.saturating_sub(size));
        if size <= self.limit {
            self.size += size;
            self.fields.push_front(field);
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.evict(limit);
    }

    /// As [`set_limit`](Self::set_limit), but never up.
    pub(super) fn lower_limit(&mut self, limit: usize) {
        self.set_limit(limit.min(self.limit));
    }

    fn evict(&mut self, limit: usize) {
        while self.size > limit
            && let Some(field) = self.fields.pop_back()
        {
            self.size -= field.size() + OVERHEAD;
        }
    }
}
