//! Answers that this proxy gives by itself.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::names;
use crate::{codec::Headers, formatter::ResponseFlag};

/// The `grpc-status` of a call that took too long.
pub const DEADLINE_EXCEEDED: &str = "4";

/// An answer of this proxy, with why it was given.
#[derive(Debug)]
pub struct LocalReply {
    /// Its status.
    pub status: StatusCode,
    /// Its body; no content type when it is empty.
    pub body: Bytes,
    /// More headers. A content type among them holds whatever header rules say;
    /// otherwise it is `text/plain`, unless a rule says another.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: std::borrow::Cow<'static, str>,
    /// `%RESPONSE_FLAGS%`.
    pub flag: Option<ResponseFlag>,
    /// `grpc-status` for a gRPC client, where it does not follow from the status.
    pub grpc_status: Option<&'static str>,
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
            grpc_status: None,
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

    /// Tells a gRPC client another status than follows from its own.
    #[must_use]
    pub fn grpc_status(mut self, status: &'static str) -> Self {
        self.grpc_status = Some(status);
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

    /// Its headers but for those that describe its body, for header rules to change.
    pub fn take_headers(&mut self) -> Headers {
        let mut headers = Headers::with_capacity(8);
        self.headers.retain(|(name, value)| {
            let describes_body = name == header::CONTENT_TYPE;
            if !describes_body {
                headers.insert(name.clone(), value.clone());
            }
            describes_body
        });
        headers
    }

    /// Gives back what describes its body, once the rules have been followed.
    pub fn settle_content_type(&mut self, headers: &mut Headers) {
        for (name, value) in self.headers.drain(..) {
            headers.insert(name, value);
        }
    }

    /// Adds the headers that describe its body.
    pub fn describe_body(&self, headers: &mut Headers) {
        headers.remove(header::CONTENT_LENGTH);
        if self.body.is_empty() {
            headers.remove(header::CONTENT_TYPE);
            return;
        }
        headers.insert(header::CONTENT_LENGTH, self.body.len().into());
        headers.insert_if_absent(header::CONTENT_TYPE, || {
            HeaderValue::from_static("text/plain")
        });
    }

    /// Makes it one that a gRPC client understands: no body, and the status in
    /// what count as trailers. `head`: a message is not wanted.
    pub fn describe_as_grpc(&mut self, headers: &mut Headers, head: bool) {
        let status = self.grpc_status.unwrap_or(match self.status.as_u16() {
            400 => "13",
            401 => "16",
            403 => "7",
            404 => "12",
            429 | 502 | 503 | 504 => "14",
            _ => "2",
        });
        self.status = StatusCode::OK;
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert_if_absent(names::GRPC_STATUS, || HeaderValue::from_static(status));
        let body = std::mem::take(&mut self.body);
        if !body.is_empty() && !head {
            headers.insert(names::GRPC_MESSAGE, percent_encoded(&body));
        }
    }
}

/// A `grpc-message`: what is not plain ASCII is percent-encoded.
fn percent_encoded(text: &[u8]) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(*byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::from_str(&encoded).expect("only printable ASCII is left")
}
