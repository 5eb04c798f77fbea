//! What HTTP/1 counts, on either side.

crate::stat_table! {
    /// `http1.`, and `cluster.NAME.http1.`
    pub mod http1_stats {
        counters {
            dropped_headers_with_underscores,
            metadata_not_supported_error,
            requests_rejected_with_underscores_in_headers,
            response_flood,
        }
        gauges {}
        histograms {}
        texts {}
    }
}
