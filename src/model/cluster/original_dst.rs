//! `original_dst_lb_config`, compiled.

use std::time::Duration;

use http::HeaderName;
use prost_types::Duration as DurationMessage;

use crate::{
    api::envoy::{
        config::cluster::v3::cluster::OriginalDstLbConfig,
        r#type::metadata::v3::{MetadataKey, metadata_key::path_segment::Segment},
    },
    config::{self, At, Reported},
    upstream::original_dst::OriginalDst,
};

/// `http_header_name` when it is not set.
const HEADER: HeaderName = HeaderName::from_static("x-envoy-original-dst-host");
/// `cleanup_interval` when it is not set.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn compile(
    message: Option<OriginalDstLbConfig>,
    cleanup_interval: Option<DurationMessage>,
    at: &At<'_>,
) -> Result<OriginalDst, Reported> {
    let at_interval = at.field("cleanup_interval");
    let interval = config::optional_duration(cleanup_interval.as_ref(), &at_interval);
    let at = at.field("original_dst_lb_config");
    let OriginalDstLbConfig {
        use_http_header,
        http_header_name,
        upstream_port_override,
        metadata_key,
    } = message.unwrap_or_default();
    let at_header = at.field("http_header_name");
    let header =
        match (use_http_header, &*http_header_name) {
            (false, "") => None,
            (false, _) => return Err(at_header.error("needs use_http_header")),
            (true, "") => Some(HEADER),
            (true, name) => Some(HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                at_header.error(format_args!("{name:?} is not the name of a header"))
            })?),
        };
    let metadata = metadata_key.map(|key| compile_key(key, &at.field("metadata_key")));
    let port = upstream_port_override.map(|port| {
        // The API says so too.
        u16::try_from(port).map_err(|_| {
            let at = at.field("upstream_port_override");
            at.error(format_args!("{port} exceeds 65535"))
        })
    });
    let interval = interval?.unwrap_or(CLEANUP_INTERVAL);
    Ok(OriginalDst::new(
        header,
        metadata.transpose()?,
        port.transpose()?,
        interval,
    ))
}

fn compile_key(message: MetadataKey, at: &At<'_>) -> Result<(Box<str>, Box<str>), Reported> {
    let MetadataKey { key, path } = message;
    let at = at.field("path");
    let mut path = path.into_iter().map(|segment| segment.segment);
    match (path.next(), path.next()) {
        (Some(Some(Segment::Key(name))), None) => Ok((key.into(), name.into())),
        _ => Err(at.error("only one key is supported yet: what connections have is flat")),
    }
}
