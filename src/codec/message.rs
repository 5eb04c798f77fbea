//! The heads of messages, the same for every codec.

use http::{Method, StatusCode, Uri, Version};

use super::{Headers, Spelling};

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// What is asked.
    pub method: Method,
    /// The target. Behind the connection manager it is in origin form, and the
    /// authority stands in `host`.
    pub uri: Uri,
    /// The version in which it came.
    pub version: Version,
    /// What HTTP/2 says of its scheme; HTTP/1's is only known from who speaks it.
    pub scheme: Option<&'static str>,
    /// Its fields.
    pub headers: Headers,
    /// How their names came, where that is remembered.
    pub spelling: Option<Box<Spelling>>,
}

impl From<http::request::Parts> for RequestHead {
    fn from(parts: http::request::Parts) -> Self {
        Self {
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            scheme: None,
            headers: parts.headers.into(),
            spelling: None,
        }
    }
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// How it went.
    pub status: StatusCode,
    /// The version in which it came.
    pub version: Version,
    /// Its fields.
    pub headers: Headers,
    /// How their names came, where that is remembered.
    pub spelling: Option<Box<Spelling>>,
}

impl From<http::response::Parts> for ResponseHead {
    fn from(parts: http::response::Parts) -> Self {
        Self {
            status: parts.status,
            version: parts.version,
            headers: parts.headers.into(),
            spelling: None,
        }
    }
}
