//! Logs that go to a gRPC service, `envoy.service.accesslog.v3.AccessLogService`.
//!
//! Workers gather encoded entries; the control thread sends them over one stream
//! for each service that is configured, whoever configures it. A message is what
//! a worker's buffer holds with its frame before it: nothing is decoded again.

mod entry;
mod stream;
mod tags;

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use prost::Message;

use crate::{
    api::envoy::{
        config::core::v3::RetryPolicy,
        extensions::access_loggers::grpc::v3::{
            CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
        },
    },
    config::{At, Reported, duration},
    formatter::{FieldName, FormatContext, Needs},
    model::Context,
    refuse,
    upstream::grpc::{Backoff, Server, Target},
};

use super::{files::Settings, sink::Sink};

pub use stream::ServiceSink;
use tags::CustomTags;

/// `buffer_size_bytes` when it is not set.
const DEFAULT_SIZE: u32 = 16 << 10;
/// `buffer_flush_interval` when it is not set.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request: `HttpGrpcAccessLogConfig`.
    Http,
    /// A connection: `TcpGrpcAccessLogConfig`.
    Tcp,
}

/// What goes into an entry.
#[derive(Debug)]
pub(super) struct Content {
    kind: Kind,
    tags: CustomTags,
    /// `additional_…_to_log`.
    request: Box<[FieldName]>,
    response: Box<[FieldName]>,
    trailers: Box<[HeaderName]>,
}

/// Whom a stream is opened to, and what it says first.
#[derive(Debug)]
struct Service {
    kind: Kind,
    log_name: String,
    target: Target,
    backoff: Option<Backoff>,
}

/// Compiles a log of requests.
///
/// # Errors
/// What is wrong, or not supported, has been reported.
pub(super) fn compile_http(
    message: HttpGrpcAccessLogConfig,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(Arc<Sink>, Content), Reported> {
    let HttpGrpcAccessLogConfig {
        common_config,
        additional_request_headers_to_log,
        additional_response_headers_to_log,
        additional_response_trailers_to_log,
    } = message;
    let common = compile_common(common_config, Kind::Http, cx, at);
    let request = names(
        additional_request_headers_to_log,
        &at.field("additional_request_headers_to_log"),
    );
    let response = names(
        additional_response_headers_to_log,
        &at.field("additional_response_headers_to_log"),
    );
    let trailers = names(
        additional_response_trailers_to_log,
        &at.field("additional_response_trailers_to_log"),
    );
    let (sink, tags) = common?;
    // A trailer that would be a pseudo header is never there.
    let trailers = trailers?.into_iter().filter_map(|name| match name {
        FieldName::Header(name) => Some(name),
        _ => None,
    });
    let content = Content {
        kind: Kind::Http,
        tags,
        request: request?,
        response: response?,
        trailers: trailers.collect(),
    };
    Ok((sink, content))
}

/// Compiles a log of connections.
///
/// # Errors
/// What is wrong, or not supported, has been reported.
pub(super) fn compile_tcp(
    message: TcpGrpcAccessLogConfig,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(Arc<Sink>, Content), Reported> {
    let TcpGrpcAccessLogConfig { common_config } = message;
    let (sink, tags) = compile_common(common_config, Kind::Tcp, cx, at)?;
    let content = Content {
        kind: Kind::Tcp,
        tags,
        request: Box::default(),
        response: Box::default(),
        trailers: Box::default(),
    };
    Ok((sink, content))
}

fn compile_common(
    message: Option<CommonGrpcAccessLogConfig>,
    kind: Kind,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(Arc<Sink>, CustomTags), Reported> {
    let at = at.field("common_config");
    let message = message.ok_or_else(|| at.error("is required"))?;
    let CommonGrpcAccessLogConfig {
        log_name,
        grpc_service,
        buffer_flush_interval,
        buffer_size_bytes,
        filter_state_objects_to_log,
        transport_api_version,
        grpc_stream_retry_policy,
        custom_tags,
    } = message.clone();
    let refused = refuse!(at; filter_state_objects_to_log);
    let version = crate::xds::api_source::check_version(
        transport_api_version,
        &at.field("transport_api_version"),
    );
    let interval = match buffer_flush_interval {
        Some(given) => duration(&given, &at.field("buffer_flush_interval")),
        None => Ok(DEFAULT_INTERVAL),
    };
    let backoff = match grpc_stream_retry_policy {
        Some(policy) => compile_retry(policy, &at.field("grpc_stream_retry_policy")),
        None => Ok(None),
    };
    let tags = CustomTags::compile(custom_tags, &at.field("custom_tags"));
    let at_service = at.field("grpc_service");
    let target = match grpc_service {
        Some(service) => cx.sources.target(&service, &at_service),
        None => Err(at_service.error("is required")),
    }?;
    if let Server::Cluster { name, .. } = &target.server {
        let at = at_service.field("envoy_grpc");
        cx.sources.cluster(name, false, &at.field("cluster_name"))?;
    }
    refused?;
    version?;
    let settings = Settings {
        interval: interval?,
        size: buffer_size_bytes.unwrap_or(DEFAULT_SIZE) as usize,
    };
    let service = Service {
        kind,
        log_name,
        target,
        backoff: backoff?,
    };
    let mut config = vec![kind as u8];
    config.extend(message.encode_to_vec());
    let sinks = &cx.server.access_logs;
    let sink = sinks.open_service(&config, || {
        ServiceSink::open(&config, settings, service, cx.sources.caller(), cx.stats)
    });
    Ok((sink, tags?))
}

/// The stream is opened again for as long as there are entries to send.
fn compile_retry(message: RetryPolicy, at: &At<'_>) -> Result<Option<Backoff>, Reported> {
    let RetryPolicy {
        retry_back_off,
        // As often as it takes.
        num_retries: _,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = message;
    refuse!(at;
        retry_on, retry_priority, retry_host_predicate, host_selection_retry_max_attempts,
    )?;
    Backoff::compile(retry_back_off, &at.field("retry_back_off"))
}

fn names(names: Vec<String>, at: &At<'_>) -> Result<Box<[FieldName]>, Reported> {
    let mut outcome = Ok(());
    let names = names
        .iter()
        .enumerate()
        .filter_map(|(index, name)| match FieldName::parse(name) {
            Ok(name) => Some(name),
            Err(error) => {
                outcome = Err(at.index(index).error(error));
                None
            }
        });
    let names = names.collect();
    outcome.map(|()| names)
}

impl Content {
    /// Appends the entry of a stream as it stands in a message.
    pub(super) fn write(&self, buffer: &mut Vec<u8>, cx: &FormatContext<'_>) {
        match self.kind {
            Kind::Http => prost::encoding::message::encode(1, &entry::http(self, cx), buffer),
            Kind::Tcp => prost::encoding::message::encode(1, &entry::tcp(self, cx), buffer),
        }
    }

    /// The headers to keep for it.
    pub(super) fn needs(&self) -> Needs {
        let mut needs = self.tags.needs();
        if self.kind == Kind::Http {
            for name in entry::REQUEST_HEADERS {
                needs.add_request(&name);
            }
        }
        let fields = |names: &[FieldName]| -> Vec<HeaderName> {
            let headers = names.iter().filter_map(|name| match name {
                FieldName::Header(name) => Some(name.clone()),
                _ => None,
            });
            headers.collect()
        };
        needs.merge(&Needs {
            request: fields(&self.request),
            response: fields(&self.response),
            trailers: self.trailers.to_vec(),
            moments: self.kind == Kind::Http,
        });
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::envoy::data::accesslog::v3::{AccessLogType, HttpAccessLogEntry},
        config::Report,
        formatter::testing::{context, stream_info},
        model::testing::{World, read},
    };

    fn compile(yaml: &str) -> Result<Content, String> {
        let (world, report) = (World::new(), Report::new());
        compile_http(read(yaml), &world.cx(), &report.root())
            .map(|(_, content)| content)
            .map_err(|_| report.to_string())
    }

    const COMMON: &str = "log_name: l, grpc_service: {envoy_grpc: {cluster_name: logs}}";

    #[test]
    fn an_entry_says_what_is_known() {
        let yaml = format!(
            "{{common_config: {{{COMMON}, custom_tags: [\
               {{tag: a, literal: {{value: b}}}}, \
               {{tag: port, value: '%DOWNSTREAM_REMOTE_PORT%'}}, \
               {{tag: none, request_header: {{name: x-none}}}}, \
               {{tag: or, request_header: {{name: x-none, default_value: other}}}}]}}}}"
        );
        let content = compile(&yaml).unwrap();
        let mut info = stream_info();
        info.bytes_received = 7;
        let mut buffer = Vec::new();
        content.write(&mut buffer, &context(&info));
        let tail = &buffer[1..];
        assert_eq!(buffer[0], 0x0a, "the field of entries");
        let entry = HttpAccessLogEntry::decode_length_delimited(tail).unwrap();
        let common = entry.common_properties.unwrap();
        assert_eq!(common.access_log_type(), AccessLogType::DownstreamEnd);
        assert_eq!(common.start_time.unwrap().nanos, 2_000_000);
        let tags = ["a", "port", "or"].map(|tag| common.custom_tags[tag].as_str());
        assert_eq!(tags, ["b", "4000", "other"]);
        assert_eq!(common.custom_tags.len(), 3);
        assert_eq!(entry.request.unwrap().request_body_bytes, 7);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (more, expected) in [
            (
                "filter_state_objects_to_log: [a]",
                "common_config.filter_state_objects_to_log: is not supported yet",
            ),
            (
                "custom_tags: [{tag: a, metadata: {kind: {request: {}}}}]",
                "common_config.custom_tags[0].metadata: is not supported yet",
            ),
            (
                "grpc_stream_retry_policy: {retry_on: x}",
                "common_config.grpc_stream_retry_policy.retry_on: is not supported yet",
            ),
        ] {
            let yaml = format!("{{common_config: {{{COMMON}, {more}}}}}");
            assert_eq!(compile(&yaml).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_service_has_one_stream() {
        let (world, report) = (World::new(), Report::new());
        let open = |name: &str| {
            let yaml = format!("{{common_config: {{{}}}}}", COMMON.replace("l,", name));
            let (sink, _) = compile_http(read(&yaml), &world.cx(), &report.root()).unwrap();
            sink
        };
        let one = open("l,");
        assert!(Arc::ptr_eq(&one, &open("l,")));
        assert!(!Arc::ptr_eq(&one, &open("other,")));
    }
}
