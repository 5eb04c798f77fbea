//! Why there is no response from the upstream, and what the client is told.

use http::{HeaderValue, StatusCode};

use crate::{
    formatter::ResponseFlag,
    http::{LocalReply, names, reply::DEADLINE_EXCEEDED},
    model::route::RetryOn,
    upstream::pool::{ConnectError, PoolError, http1::Http1Error, http2::Http2Error},
};

/// How a try ended without a response to pass on.
#[derive(Debug)]
pub enum Failure {
    /// No host can be chosen.
    NoHealthyUpstream,
    /// A circuit breaker is open.
    Overflow,
    /// The host cannot be reached.
    Connect(ConnectError),
    /// A pooled connection turned out to be closed before any byte of a
    /// response, and the request can safely be sent again.
    Stale,
    /// The connection ended before a response.
    Terminated,
    /// The host reset the stream.
    Reset,
    /// The host refused the stream without looking at it.
    Refused,
    /// What the host sent is not HTTP.
    Protocol,
    /// The route's timeout.
    Timeout,
    /// The timeout of one try.
    PerTryTimeout,
    /// Nothing moved in one try.
    PerTryIdle,
    /// Nothing moved.
    Idle {
        /// All of the request had come.
        received: bool,
    },
    /// The request did not come in time.
    Request,
    /// The stream took too long altogether.
    Duration {
        /// All of the request had come.
        received: bool,
    },
    /// The upstream's part of it took too long altogether.
    UpstreamDuration {
        /// All of the request had come.
        received: bool,
    },
    /// The client's request ended early.
    RequestBody,
    /// The client's request has no valid body.
    MalformedBody,
    /// HTTP/2 cannot say whom the request is for: its host is empty, or none.
    Authority,
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Overflow => Self::Overflow,
            PoolError::Connect(error) => Self::Connect(error),
        }
    }
}

impl From<Http1Error> for Failure {
    fn from(error: Http1Error) -> Self {
        match error {
            Http1Error::Closed | Http1Error::Incomplete | Http1Error::Io(_) => Self::Terminated,
            Http1Error::Protocol(_) | Http1Error::HeadTooLarge => Self::Protocol,
            Http1Error::RequestBody => Self::RequestBody,
        }
    }
}

impl From<Http2Error> for Failure {
    fn from(error: Http2Error) -> Self {
        let error = match error {
            Http2Error::RequestBody => return Self::RequestBody,
            Http2Error::Stream(error) => error,
        };
        match error.reason() {
            _ if error.is_io() => Self::Terminated,
            Some(h2::Reason::REFUSED_STREAM) => Self::Refused,
            Some(h2::Reason::PROTOCOL_ERROR) => Self::Protocol,
            Some(_) if error.is_reset() => Self::Reset,
            _ => Self::Terminated,
        }
    }
}

impl Failure {
    /// Whether a policy for these reasons tries again.
    pub fn is_retriable(&self, on: RetryOn) -> bool {
        let reset = RetryOn::RESET
            .union(RetryOn::SERVER_ERROR)
            .union(RetryOn::GATEWAY_ERROR);
        match self {
            Self::Connect(_) => on.intersects(
                reset
                    .union(RetryOn::CONNECT_FAILURE)
                    .union(RetryOn::RESET_BEFORE_REQUEST),
            ),
            Self::Refused => on.intersects(reset.union(RetryOn::REFUSED_STREAM)),
            Self::Stale
            | Self::Terminated
            | Self::Reset
            | Self::Protocol
            | Self::PerTryTimeout
            | Self::PerTryIdle
            | Self::UpstreamDuration { .. } => on.intersects(reset),
            Self::Overflow
            | Self::NoHealthyUpstream
            | Self::Timeout
            | Self::Idle { .. }
            | Self::Request
            | Self::Duration { .. }
            | Self::RequestBody
            | Self::MalformedBody
            | Self::Authority => false,
        }
    }

    /// Whether it says something bad about the host.
    pub fn blames_host(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::Stale
                | Self::Terminated
                | Self::Reset
                | Self::Refused
                | Self::Protocol
                | Self::Timeout
                | Self::PerTryTimeout
                | Self::PerTryIdle
        )
    }

    /// Whether the time for an answer is over.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Timeout | Self::PerTryTimeout | Self::PerTryIdle)
    }

    /// The status that stands for it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Timeout | Self::PerTryTimeout | Self::PerTryIdle => StatusCode::GATEWAY_TIMEOUT,
            Self::Idle { received }
            | Self::Duration { received }
            | Self::UpstreamDuration { received } => match received {
                true => StatusCode::GATEWAY_TIMEOUT,
                false => StatusCode::REQUEST_TIMEOUT,
            },
            Self::Request => StatusCode::REQUEST_TIMEOUT,
            Self::RequestBody | Self::MalformedBody | Self::Authority => StatusCode::BAD_REQUEST,
            Self::Protocol => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Envoy's name of the reason for a reset.
    fn reason(&self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Connect(ConnectError::Timeout) => "connection timeout",
            Self::Connect(ConnectError::Local(_)) => "local connection failure",
            Self::Connect(_) => "remote connection failure",
            Self::Reset => "remote reset",
            Self::Refused => "remote refused stream reset",
            Self::Protocol => "protocol error",
            _ => "connection termination",
        }
    }

    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`, with `_` for blanks.
    pub fn transport_failure(&self) -> Option<String> {
        match self {
            Self::Connect(error) => error.transport_failure().map(|why| why.replace(' ', "_")),
            _ => None,
        }
    }

    /// The answer. `retried` says that it was not the first try.
    pub fn reply(&self, retried: bool) -> LocalReply {
        let text = |details, body| LocalReply::text(self.status(), details, body);
        match self {
            Self::NoHealthyUpstream => text("no_healthy_upstream", "no healthy upstream")
                .flag(ResponseFlag::NoHealthyUpstream),
            Self::Timeout => text("response_timeout", "upstream request timeout")
                .flag(ResponseFlag::UpstreamRequestTimeout),
            Self::PerTryTimeout => text("upstream_per_try_timeout", "upstream request timeout")
                .flag(ResponseFlag::UpstreamRequestTimeout),
            Self::PerTryIdle => text("upstream_per_try_idle_timeout", "upstream request timeout")
                .flag(ResponseFlag::StreamIdleTimeout),
            Self::Request => text("request_overall_timeout", "request timeout"),
            Self::Idle { .. } => {
                text("stream_idle_timeout", "stream timeout").flag(ResponseFlag::StreamIdleTimeout)
            }
            Self::Duration { .. } => text("max_duration_timeout", "downstream duration timeout")
                .grpc_status(DEADLINE_EXCEEDED),
            Self::UpstreamDuration { .. } => text(
                "upstream_max_stream_duration_reached",
                "upstream max stream duration reached",
            )
            .flag(ResponseFlag::UpstreamMaxStreamDurationReached),
            Self::RequestBody => text("downstream_remote_disconnect", "Bad Request")
                .flag(ResponseFlag::DownstreamConnectionTermination)
                .closing(),
            Self::MalformedBody => text("http1.codec_error", "Bad Request")
                .flag(ResponseFlag::DownstreamProtocolError)
                .closing(),
            Self::Authority => text("http2.invalid_authority", "Bad Request"),
            _ => self.reset_reply(retried),
        }
    }

    fn reset_reply(&self, retried: bool) -> LocalReply {
        let reason = self.reason();
        let again = if retried {
            "retried and the latest reset reason"
        } else {
            "reset reason"
        };
        // Why the transport failed is for the access log: it is hidden from clients.
        let body =
            format!("upstream connect error or disconnect/reset before headers. {again}: {reason}");
        let mut details = format!("upstream_reset_before_response_started{{{reason}");
        if let Some(transport) = self.transport_failure() {
            details.push('|');
            details.push_str(&transport);
        }
        details.push('}');
        let mut reply = LocalReply::empty(self.status(), "");
        reply.details = details.replace(' ', "_").into();
        reply.body = body.into();
        let reply = reply.flag(match self {
            Self::Overflow => ResponseFlag::UpstreamOverflow,
            Self::Connect(_) => ResponseFlag::UpstreamConnectionFailure,
            Self::Reset | Self::Refused => ResponseFlag::UpstreamRemoteReset,
            Self::Protocol => ResponseFlag::UpstreamProtocolError,
            _ => ResponseFlag::UpstreamConnectionTermination,
        });
        match self {
            Self::Overflow => {
                reply.header(names::X_ENVOY_OVERLOADED, HeaderValue::from_static("true"))
            }
            _ => reply,
        }
    }
}
