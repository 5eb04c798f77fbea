//! Answers that this proxy gives by itself.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::formatter::ResponseFlag;

/// An answer of this proxy, with why it was given.
#[derive(Debug)]
pub struct LocalReply {
    /// Its status.
    pub status: StatusCode,
    /// Its body, `text/plain`; no content type when it is empty.
    pub body: Bytes,
    /// More headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: std::borrow::Cow<'static, str>,
    /// `%RESPONSE_FLAGS%`.
    pub flag: Option<ResponseFlag>,
    /// The connection closes after it.
    pub close: bool,
}

impl LocalReply {
    /// An answer without a body.
    pub fn empty(status: StatusCode, details: &'static str) -> Self {
        Self::text(status, details, "")
    }

    /// An answer with a text.
    pub fn text(status: StatusCode, details: &'static str, body: &'static str) -> Self {
        Self {
            status,
            body: Bytes::from_static(body.as_bytes()),
            headers: Vec::new(),
            details: details.into(),
            flag: None,
            close: false,
        }
    }

    /// Adds a response flag.
    #[must_use]
    pub fn flag(mut self, flag: ResponseFlag) -> Self {
        self.flag = Some(flag);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Closes the connection after the answer.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// A redirect.
    pub fn redirect(status: StatusCode, location: &str) -> Self {
        let reply = Self::empty(status, "direct_response");
        match HeaderValue::from_str(location) {
            Ok(location) => reply.header(header::LOCATION, location),
            Err(_) => reply,
        }
    }

    /// Its headers, in Envoy's order.
    pub fn take_headers(&mut self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        if !self.body.is_empty() {
            headers.insert(header::CONTENT_LENGTH, self.body.len().into());
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        for (name, value) in self.headers.drain(..) {
            headers.insert(name, value);
        }
        headers
    }
}
