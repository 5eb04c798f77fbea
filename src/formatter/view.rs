//! What a formatter or a matcher may read of a request or response.
//!
//! While a request is being handled its headers are at hand as a
//! [`Headers`]; when its access log is written they have long gone to the
//! upstream. [`Needs`] says which of them the log will ask for, and
//! [`Captured`] keeps those.

use http::{
    Method,
    header::{HOST, HeaderName, HeaderValue},
};
use smallvec::SmallVec;

use crate::codec::{Headers, RequestHead};

/// Header fields, whole or the few that were kept.
#[derive(Clone, Copy, Debug, Default)]
pub enum HeaderView<'a> {
    /// There is no such message (yet).
    #[default]
    Absent,
    /// All fields.
    Map(&'a Headers),
    /// The fields that were asked for beforehand.
    Captured(&'a [HeaderName], &'a Captured),
}

impl<'a> HeaderView<'a> {
    /// The first field of this name.
    pub fn get(&self, name: &HeaderName) -> Option<&'a HeaderValue> {
        match self {
            Self::Absent => None,
            Self::Map(map) => map.get(name),
            Self::Captured(..) => self.get_all(name).next(),
        }
    }

    /// Every field of this name, in order.
    pub fn get_all<'n>(
        &self,
        name: &'n HeaderName,
    ) -> impl Iterator<Item = &'a HeaderValue> + use<'a, 'n> {
        let (map, captured) = match *self {
            Self::Absent => (None, None),
            Self::Map(map) => (Some(map.get_all(name)), None),
            Self::Captured(names, captured) => {
                let index = names.iter().position(|n| n == name);
                (None, index.map(|index| captured.of(index)))
            }
        };
        map.into_iter()
            .flatten()
            .chain(captured.into_iter().flatten())
    }
}

/// Fields kept for the access log, of the names a [`Needs`] lists.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    values: SmallVec<[(u16, HeaderValue); 6]>,
}

impl Captured {
    /// Keeps what is asked for, of what `all` gives for a name.
    pub fn take<'a, V>(names: &'a [HeaderName], all: impl Fn(&'a HeaderName) -> V) -> Self
    where
        V: Iterator<Item = &'a HeaderValue>,
    {
        let mut values = SmallVec::new();
        for (index, name) in (0u16..).zip(names) {
            values.extend(all(name).map(|v| (index, v.clone())));
        }
        Self { values }
    }

    fn of(&self, index: usize) -> impl Iterator<Item = &HeaderValue> {
        self.values
            .iter()
            .filter(move |(i, _)| usize::from(*i) == index)
            .map(|(_, value)| value)
    }
}

/// Which headers a set of formats and filters reads, so that they can be kept
/// until the log is written. Pseudo headers are not listed: they are always kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Of the request.
    pub request: Vec<HeaderName>,
    /// Of the response.
    pub response: Vec<HeaderName>,
    /// Of the response's trailers.
    pub trailers: Vec<HeaderName>,
    /// Moments for which a clock has to be read: when the request goes to the
    /// upstream.
    pub moments: bool,
}

impl Needs {
    /// Adds a request header.
    pub fn add_request(&mut self, name: &HeaderName) {
        add(&mut self.request, name);
    }

    /// Adds what tells the status of a gRPC response.
    pub fn add_grpc_status(&mut self) {
        add(&mut self.request, &http::header::CONTENT_TYPE);
        for names in [&mut self.response, &mut self.trailers] {
            add(names, &HeaderName::from_static("grpc-status"));
        }
    }

    /// Adds what another one needs.
    pub fn merge(&mut self, other: &Needs) {
        self.moments |= other.moments;
        for (to, from) in [
            (&mut self.request, &other.request),
            (&mut self.response, &other.response),
            (&mut self.trailers, &other.trailers),
        ] {
            for name in from {
                add(to, name);
            }
        }
    }
}

/// Adds a name to a set that is small.
pub(crate) fn add(names: &mut Vec<HeaderName>, name: &HeaderName) {
    if !names.contains(name) {
        names.push(name.clone());
    }
}

/// A request as routing and formatting see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestView<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:scheme`: `http` or `https`, by the downstream transport or
    /// `x-forwarded-proto` as the connection manager decided.
    pub scheme: &'a str,
    /// `:authority`, with its port if it has one.
    pub authority: &'a str,
    /// `:path`, with its query.
    pub path: &'a str,
    /// Everything else. A `host` field here is not read: see `authority`.
    pub headers: HeaderView<'a>,
}

impl<'a> RequestView<'a> {
    /// The request that is being handled. The authority is taken from the URI
    /// when it has one (HTTP/2, absolute form), else from the `host` field.
    ///
    /// A CONNECT has no path, whatever stands in its URI.
    pub fn of(parts: &'a RequestHead, scheme: &'a str) -> Self {
        let authority = match parts.uri.authority() {
            Some(authority) => authority.as_str(),
            None => parts
                .headers
                .get(HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or_default(),
        };
        Self {
            method: parts.method.as_str(),
            scheme,
            authority,
            path: match parts.method {
                Method::CONNECT => "",
                _ => parts
                    .uri
                    .path_and_query()
                    .map_or("", http::uri::PathAndQuery::as_str),
            },
            headers: HeaderView::Map(&parts.headers),
        }
    }

    /// The first parameter of a name in the path's query, as it was sent.
    pub fn query_parameter(&self, name: &str) -> Option<&'a str> {
        let (_, query) = self.path.split_once('?')?;
        let query = query.split('#').next().unwrap_or_default();
        query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// Whether it asks for a tunnel and nothing else (RFC 9110, 9.3.6).
    pub fn is_connect(&self) -> bool {
        self.method == "CONNECT"
    }
}

/// The name of a request or response header in a configuration, where `:path`
/// and its like may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldName {
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`, also written `host`.
    Authority,
    /// `:path`, with its query.
    Path,
    /// `:status`, of a response.
    Status,
    /// `:protocol`, of an extended CONNECT; never there.
    Protocol,
    /// An ordinary field.
    Header(HeaderName),
}

impl FieldName {
    /// Reads a name; case does not matter.
    ///
    /// # Errors
    /// When it is neither a pseudo header nor a valid field name.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            ":method" => Ok(Self::Method),
            ":scheme" => Ok(Self::Scheme),
            ":authority" | "host" => Ok(Self::Authority),
            ":path" => Ok(Self::Path),
            ":status" => Ok(Self::Status),
            ":protocol" => Ok(Self::Protocol),
            lower => HeaderName::from_bytes(lower.as_bytes())
                .map(Self::Header)
                .map_err(|_| format!("{name:?} is not a valid header name")),
        }
    }

    /// The pseudo header's value in a request, when this is one.
    pub fn pseudo<'a>(&self, request: &RequestView<'a>) -> Option<&'a str> {
        let value = match self {
            Self::Method => request.method,
            Self::Scheme => request.scheme,
            Self::Authority => request.authority,
            Self::Path => request.path,
            Self::Status | Self::Protocol | Self::Header(_) => return None,
        };
        (!value.is_empty()).then_some(value)
    }

    /// The first value in a request.
    pub fn in_request<'a>(&self, request: &RequestView<'a>) -> Option<&'a [u8]> {
        match self {
            Self::Header(name) => request.headers.get(name).map(HeaderValue::as_bytes),
            pseudo => pseudo.pseudo(request).map(str::as_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_fields_read_like_the_map_they_came_from() {
        let mut map = Headers::new();
        map.append(
            HeaderName::from_static("x-a"),
            HeaderValue::from_static("1"),
        );
        map.append(
            HeaderName::from_static("x-b"),
            HeaderValue::from_static("2"),
        );
        map.append(
            HeaderName::from_static("x-a"),
            HeaderValue::from_static("3"),
        );
        let names = ["x-b", "x-a", "x-none"].map(HeaderName::from_static);
        let captured = Captured::take(&names, |name| map.get_all(name));
        let view = HeaderView::Captured(&names, &captured);
        for name in &names {
            let of = |v: HeaderView<'_>| v.get_all(name).cloned().collect::<Vec<_>>();
            assert_eq!(of(view), of(HeaderView::Map(&map)));
        }
        assert_eq!(view.get(&HeaderName::from_static("x-c")), None);
    }

    #[test]
    fn the_host_field_is_the_authority() {
        assert_eq!(FieldName::parse("Host"), Ok(FieldName::Authority));
        assert!(FieldName::parse("a b").is_err());
    }
}
