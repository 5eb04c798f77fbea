//! Options of the codecs towards clients: `HttpProtocolOptions`,
//! `Http2ProtocolOptions`.

use std::time::Duration;

use crate::{
    api::envoy::config::core::v3 as pb,
    config::{At, Reported},
    net::http2::FrameLimits,
    refuse,
};

/// `idle_timeout` of a connection when it is not set.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// `max_headers_count` when it is not set.
pub const DEFAULT_MAX_HEADERS: usize = 100;
/// `initial_stream_window_size` when it is not set.
pub const DEFAULT_STREAM_WINDOW: u32 = 16 * 1024 * 1024;
/// `initial_connection_window_size` when it is not set.
pub const DEFAULT_CONNECTION_WINDOW: u32 = 24 * 1024 * 1024;
/// `max_concurrent_streams` when it is not set.
pub const DEFAULT_CONCURRENT_STREAMS: u32 = 1024;
/// `hpack_table_size` when it is not set.
pub const DEFAULT_HPACK_TABLE: u32 = 4096;

/// A duration that 0 disables, and its default.
///
/// # Errors
/// When it is negative or out of range.
pub fn timeout(
    value: Option<prost_types::Duration>,
    default: Option<Duration>,
    at: &At<'_>,
) -> Result<Option<Duration>, Reported> {
    match value {
        None => Ok(default),
        Some(value) => {
            let duration = crate::config::duration(&value, at)?;
            Ok((!duration.is_zero()).then_some(duration))
        }
    }
}

/// What to do with a header whose name has an underscore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Underscores {
    /// `ALLOW`.
    #[default]
    Allow,
    /// `REJECT_REQUEST`: answered with 400.
    Reject,
    /// `DROP_HEADER`.
    Drop,
}

/// `envoy.config.core.v3.HttpProtocolOptions`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommonOptions {
    /// An idle connection is closed after this, 1 h unless set.
    pub idle_timeout: Option<Duration>,
    /// A connection drains after this.
    pub max_connection_duration: Option<Duration>,
    /// A stream is reset after this.
    pub max_stream_duration: Option<Duration>,
    /// A connection closes after so many requests.
    pub max_requests_per_connection: Option<u32>,
    /// Headers a message may have, 100 unless set.
    pub max_headers: usize,
    /// Names with an underscore.
    pub underscores: Underscores,
}

impl Default for CommonOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(DEFAULT_IDLE_TIMEOUT),
            max_connection_duration: None,
            max_stream_duration: None,
            max_requests_per_connection: None,
            max_headers: DEFAULT_MAX_HEADERS,
            underscores: Underscores::Allow,
        }
    }
}

impl CommonOptions {
    /// Compiles the options; absent ones are the defaults.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: Option<pb::HttpProtocolOptions>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        use pb::http_protocol_options::HeadersWithUnderscoresAction as Action;
        let Some(message) = message else {
            return Ok(Self::default());
        };
        let pb::HttpProtocolOptions {
            idle_timeout,
            max_headers_count,
            max_connection_duration,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
            max_response_headers_kb,
            max_connection_duration_jitter,
        } = message;
        let refused = refuse!(at; max_connection_duration_jitter);
        // There are no responses to a listener. Envoy's words.
        let of_cluster = match max_response_headers_kb {
            None => Ok(()),
            Some(_) => Err(at
                .field("max_response_headers_kb")
                .error("max_response_headers_kb cannot be set on http_connection_manager.")),
        };
        let idle_timeout = timeout(
            idle_timeout,
            Some(DEFAULT_IDLE_TIMEOUT),
            &at.field("idle_timeout"),
        );
        let max_connection_duration = timeout(
            max_connection_duration,
            None,
            &at.field("max_connection_duration"),
        );
        let max_stream_duration =
            timeout(max_stream_duration, None, &at.field("max_stream_duration"));
        refused?;
        of_cluster?;
        Ok(Self {
            idle_timeout: idle_timeout?,
            max_connection_duration: max_connection_duration?,
            max_stream_duration: max_stream_duration?,
            max_requests_per_connection: max_requests_per_connection.filter(|n| *n > 0),
            max_headers: max_headers_count.map_or(DEFAULT_MAX_HEADERS, |n| n as usize),
            underscores: match Action::try_from(headers_with_underscores_action) {
                Ok(Action::RejectRequest) => Underscores::Reject,
                Ok(Action::DropHeader) => Underscores::Drop,
                Ok(Action::Allow) | Err(_) => Underscores::Allow,
            },
        })
    }
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keepalive {
    /// Between two PINGs.
    pub interval: Duration,
    /// Without an answer the connection is closed.
    pub timeout: Duration,
}

/// `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http2Options {
    /// `hpack_table_size`, 4096 unless set.
    pub header_table: u32,
    /// `max_concurrent_streams`, 1024 unless set.
    pub concurrent_streams: u32,
    /// `initial_stream_window_size`, 16 MiB unless set.
    pub stream_window: u32,
    /// `initial_connection_window_size`, 24 MiB unless set.
    pub connection_window: u32,
    /// `allow_connect`.
    pub allow_connect: bool,
    /// `connection_keepalive`.
    pub keepalive: Option<Keepalive>,
    /// What a client may do without asking for anything.
    pub limits: FrameLimits,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            header_table: DEFAULT_HPACK_TABLE,
            concurrent_streams: DEFAULT_CONCURRENT_STREAMS,
            stream_window: DEFAULT_STREAM_WINDOW,
            connection_window: DEFAULT_CONNECTION_WINDOW,
            allow_connect: false,
            keepalive: None,
            limits: FrameLimits::default(),
        }
    }
}

impl Http2Options {
    /// Compiles the options; absent ones are the defaults.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: Option<pb::Http2ProtocolOptions>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let Some(message) = message else {
            return Ok(Self::default());
        };
        let pb::Http2ProtocolOptions {
            hpack_table_size,
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_connect,
            allow_metadata,
            // Limits of queues that are not there: what has to be answered is answered
            // before more is read, and bodies wait for room.
            max_outbound_frames: _,
            max_outbound_control_frames: _,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            stream_reset_burst,
            stream_reset_rate,
            // A stream with a malformed message is reset; the connection goes on.
            stream_error_on_invalid_http_messaging: _,
            override_stream_error_on_invalid_http_message: _,
            custom_settings_parameters,
            connection_keepalive,
            // Chooses between two codecs inside Envoy.
            use_oghttp2_codec: _,
            // Only with allow_metadata.
            max_metadata_size: _,
            enable_huffman_encoding,
            // Header fields are bounded by max_request_headers_kb as a whole.
            max_header_field_size_kb: _,
            disallow_obs_text,
        } = message;
        // The default, `true`, is what is done here.
        let enable_huffman_encoding = enable_huffman_encoding.filter(|on| !on);
        let disallow_obs_text = disallow_obs_text.filter(|on| *on);
        let refused = refuse!(at;
            allow_metadata, custom_settings_parameters, enable_huffman_encoding, disallow_obs_text,
        );
        let at_keepalive = at.field("connection_keepalive");
        let keepalive = connection_keepalive.map(|k| compile_keepalive(k, &at_keepalive));
        let keepalive = keepalive.transpose();
        refused?;
        let default = Self::default();
        Ok(Self {
            header_table: hpack_table_size.unwrap_or(default.header_table),
            concurrent_streams: max_concurrent_streams.unwrap_or(default.concurrent_streams),
            stream_window: initial_stream_window_size.unwrap_or(default.stream_window),
            connection_window: initial_connection_window_size.unwrap_or(default.connection_window),
            allow_connect,
            keepalive: keepalive?.flatten(),
            limits: FrameLimits::default().with(
                max_consecutive_inbound_frames_with_empty_payload,
                max_inbound_priority_frames_per_stream,
                max_inbound_window_update_frames_per_data_frame_sent,
                [stream_reset_burst, stream_reset_rate],
            ),
        })
    }
}

fn compile_keepalive(
    message: pb::KeepaliveSettings,
    at: &At<'_>,
) -> Result<Option<Keepalive>, Reported> {
    let pb::KeepaliveSettings {
        interval,
        timeout,
        // Spreads the PINGs of many connections; they already begin at different times.
        interval_jitter: _,
        connection_idle_interval,
    } = message;
    refuse!(at; connection_idle_interval)?;
    let at_timeout = at.field("timeout");
    let timeout = timeout.ok_or_else(|| at_timeout.error("is required"))?;
    let timeout = crate::config::duration(&timeout, &at_timeout)?;
    match interval {
        None => Ok(None),
        Some(interval) => {
            let interval = crate::config::duration(&interval, &at.field("interval"))?;
            Ok(Some(Keepalive { interval, timeout }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Report, model::testing::read};

    #[test]
    fn a_listener_has_no_limit_for_responses() {
        let report = Report::new();
        let message = read("max_response_headers_kb: 1");
        assert!(CommonOptions::compile(Some(message), &report.root()).is_err());
        assert_eq!(
            report.to_string(),
            "max_response_headers_kb: \
             max_response_headers_kb cannot be set on http_connection_manager."
        );
    }
}
