//! What tests of formats, logs and header rules share.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use super::{FormatContext, StreamInfo};
use crate::{api::envoy::data::accesslog::v3::AccessLogType, net::ConnectionInfo};

/// A stream of the client 10.1.2.3:4000, from 1970-01-01T00:00:01.002Z on.
pub(crate) fn stream_info() -> StreamInfo {
    let client = SocketAddr::from(([10, 1, 2, 3], 4000));
    let local = SocketAddr::from(([10, 9, 9, 9], 80));
    let accepted = Instant::now();
    let connection = ConnectionInfo {
        id: 7,
        local: local.into(),
        remote: client.into(),
        direct_remote: client.into(),
        server_name: None,
        application_protocols: Box::default(),
        offers_tls: false,
        tls: None,
        accepted,
    };
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1002);
    StreamInfo::new(Rc::new(connection), start, accepted)
}

pub(crate) fn context(info: &StreamInfo) -> FormatContext<'_> {
    FormatContext::of_connection(info, AccessLogType::DownstreamEnd)
}
