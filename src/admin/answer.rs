//! What is answered, whole or in parts.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::Frame;
use tokio::task;

/// A part of an answer is sent once it has this many bytes.
const PART: usize = 32 * 1024;
/// How long parts are written before others get their turn.
const SLICE: Duration = Duration::from_millis(1);

/// Text that is written part by part, so that a long answer neither waits in
/// memory as a whole nor keeps the control thread from its other work.
pub trait Parts {
    /// Appends the next part, a few kilobytes at most, or prepares it; `false` when
    /// there was none.
    fn write_next(&mut self, out: &mut String) -> bool;
}

/// An answer to a request.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The `content-type`.
    pub content_type: &'static str,
    /// The text.
    pub body: Body,
}

/// Plain text.
pub const TEXT: &str = "text/plain; charset=UTF-8";
/// JSON.
pub const JSON: &str = "application/json";
/// A page.
pub const HTML: &str = "text/html; charset=UTF-8";

impl Answer {
    /// Plain text, status 200.
    pub fn text(text: impl Into<String>) -> Self {
        Self::whole(TEXT, text.into())
    }

    /// JSON, status 200.
    pub fn json(text: String) -> Self {
        Self::whole(JSON, text)
    }

    /// A whole answer of this type, status 200.
    pub fn whole(content_type: &'static str, text: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type,
            body: Body::whole(text),
        }
    }

    /// An answer in parts of this type, status 200.
    pub fn parts(content_type: &'static str, parts: impl Parts + 'static) -> Self {
        Self {
            status: StatusCode::OK,
            content_type,
            body: Body {
                text: String::new(),
                parts: Some(Box::new(parts)),
                turn: None,
            },
        }
    }

    /// Plain text with another status.
    pub fn error(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            ..Self::text(text)
        }
    }

    /// 400 with plain text.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::error(StatusCode::BAD_REQUEST, text)
    }

    /// `OK`, with which Envoy answers every deed.
    pub fn ok() -> Self {
        Self::text("OK\n")
    }
}

/// The body of an [`Answer`].
pub struct Body {
    text: String,
    parts: Option<Box<dyn Parts>>,
    /// The turn of all others on this thread. A task that only wakes itself is
    /// polled many times before the event loop looks at its sockets again.
    turn: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Body {
    fn whole(text: String) -> Self {
        Self {
            text,
            parts: None,
            turn: None,
        }
    }

    /// The whole text at once.
    #[cfg(test)]
    pub fn into_text(mut self) -> String {
        while self
            .parts
            .as_mut()
            .is_some_and(|parts| parts.write_next(&mut self.text))
        {}
        self.text
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(turn) = &mut this.turn {
                ready!(turn.as_mut().poll(cx));
                this.turn = None;
            }
            let begun = Instant::now();
            while this.text.len() < PART && begun.elapsed() < SLICE {
                let Some(parts) = &mut this.parts else { break };
                if !parts.write_next(&mut this.text) {
                    this.parts = None;
                }
            }
            if this.parts.is_some() {
                this.turn = Some(Box::pin(task::yield_now()));
            }
            if !this.text.is_empty() {
                let text = std::mem::take(&mut this.text);
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))));
            }
            if this.parts.is_none() {
                return Poll::Ready(None);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty() && self.parts.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    struct Numbers(u32);

    impl Parts for Numbers {
        fn write_next(&mut self, out: &mut String) -> bool {
            self.0 += 1;
            out.push_str(&"x".repeat(20_000));
            self.0 <= 10
        }
    }

    #[tokio::test]
    async fn parts_arrive_whole_and_let_others_run() {
        let mut others = 0;
        let body = async {
            let answer = Answer::parts(TEXT, Numbers(0));
            answer.body.collect().await.unwrap().to_bytes().len()
        };
        tokio::pin!(body);
        let len = loop {
            tokio::select! {
                biased;
                len = &mut body => break len,
                () = tokio::task::yield_now() => others += 1,
            }
        };
        assert_eq!(len, 11 * 20_000);
        assert!(others >= 2, "{others}");
    }
}
