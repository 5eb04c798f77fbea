//! The names of the stats of HTTP/2, as Envoy's.

crate::stat_table! {
    /// `http2.` for clients, `cluster.NAME.http2.` for hosts. Those of Envoy's codec
    /// libraries, and those of queues that are not there, are left out.
    pub mod http2_stats {
        counters {
            dropped_headers_with_underscores,
            goaway_sent,
            header_overflow,
            headers_cb_no_stream,
            inbound_empty_frames_flood,
            inbound_priority_frames_flood,
            inbound_window_update_frames_flood,
            keepalive_timeout,
            metadata_empty_frames,
            outbound_control_flood,
            outbound_flood,
            requests_rejected_with_underscores_in_headers,
            rx_messaging_error,
            rx_reset,
            stream_refused_errors,
            trailers,
            tx_flush_timeout,
            tx_reset,
        }
        gauges {
            deferred_stream_close,
            outbound_control_frames_active,
            outbound_frames_active,
            pending_send_bytes,
            streams_active,
        }
        histograms {}
        texts {}
    }
}
