//! What tests of formats, logs and header rules share.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, SystemTime},
};

use super::{FormatContext, StreamInfo};
use crate::{api::envoy::data::accesslog::v3::AccessLogType, net::ConnectionInfo};

/// A stream of the client 10.1.2.3:4000, from 1970-01-01T00:00:01.002Z on.
pub(crate) fn stream_info() -> StreamInfo {
    let client = SocketAddr::from(([10, 1, 2, 3], 4000));
    let local = SocketAddr::from(([10, 9, 9, 9], 80));
    let connection = ConnectionInfo::new(7, local.into(), client.into());
    let accepted = connection.accepted;
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1002);
    StreamInfo::new(Rc::new(connection), start, accepted)
}

pub(crate) fn context(info: &StreamInfo) -> FormatContext<'_> {
    FormatContext::of_connection(info, AccessLogType::DownstreamEnd)
}
