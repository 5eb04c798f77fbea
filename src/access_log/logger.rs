//! `envoy.config.accesslog.v3.AccessLog`, compiled: the logs of a connection
//! manager, a TCP proxy or a listener.

use std::{rc::Rc, sync::Arc};

use prost_types::Any;

use crate::{
    api::envoy::{
        config::{
            accesslog::v3::{AccessLog, access_log::ConfigType},
            core::v3::SubstitutionFormatString,
        },
        extensions::access_loggers::{
            file::v3::{FileAccessLog, file_access_log},
            stream::v3::{StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log},
        },
    },
    config::{At, Reported, type_name, unpack},
    formatter::{FormatContext, Formatter, JsonFormatter, Needs, SubstitutionFormat},
    model::Context,
};

use super::{buffers::Buffers, files::Target, filter::Filter, grpc, sink::Sink};

/// The access logs of one place of the configuration.
#[derive(Debug, Default)]
pub struct AccessLogs {
    logs: Box<[Log]>,
    needs: Needs,
}

#[derive(Debug)]
struct Log {
    filter: Option<Filter>,
    content: Content,
    sink: Arc<Sink>,
}

/// What is written.
#[derive(Debug)]
enum Content {
    /// A line.
    Line(SubstitutionFormat),
    /// An entry for a service.
    Entry(grpc::Content),
}

impl Content {
    fn needs(&self) -> Needs {
        match self {
            Self::Line(format) => format.needs(),
            Self::Entry(content) => content.needs(),
        }
    }

    fn write(&self, buffer: &mut Vec<u8>, cx: &FormatContext<'_>) {
        match self {
            Self::Line(format) => format.write(buffer, cx),
            Self::Entry(content) => content.write(buffer, cx),
        }
    }
}

const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
const STDOUT: &str = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
const HTTP_GRPC: &str = "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig";
const TCP_GRPC: &str = "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig";
const STDERR: &str = "envoy.extensions.access_loggers.stream.v3.StderrAccessLog";

impl AccessLogs {
    /// Compiles a list of logs and opens their files.
    ///
    /// # Errors
    /// A malformed format or filter, a file that cannot be opened, a logger that
    /// is not supported.
    pub fn compile(
        messages: Vec<AccessLog>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut logs = Vec::with_capacity(messages.len());
        let mut outcome = Ok(());
        for (index, message) in messages.into_iter().enumerate() {
            match Log::compile(message, cx, &at.index(index)) {
                Ok(log) => logs.push(log),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome?;
        let mut needs = Needs::default();
        for log in &logs {
            needs.merge(&log.content.needs());
            if let Some(filter) = &log.filter {
                filter.add_needs(&mut needs);
            }
        }
        Ok(Self {
            logs: logs.into(),
            needs,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// The headers to keep until [`AccessLogs::log`].
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Writes to each log whose filter accepts the stream. `random`
    /// decides on shares of streams.
    ///
    /// To be called within a tokio `LocalSet`.
    pub fn log(&self, cx: &FormatContext<'_>, buffers: &Rc<Buffers>, random: u64) {
        for log in &self.logs {
            if log.filter.as_ref().is_none_or(|f| f.accepts(cx, random)) {
                buffers.append(&log.sink, |buffer| log.content.write(buffer, cx));
            }
        }
    }
}

impl Log {
    fn compile(message: AccessLog, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let AccessLog {
            // Loggers are known by the type of their configuration.
            name: _,
            filter,
            config_type,
        } = message;
        let filter = filter
            .map(|filter| Filter::compile(filter, cx, &at.field("filter")))
            .transpose();
        let at = at.field("typed_config");
        let opened = match config_type {
            Some(ConfigType::TypedConfig(any)) => open(&any, cx, &at),
            None => Err(at.error("is required")),
        };
        let (sink, content) = opened?;
        Ok(Self {
            filter: filter?,
            content,
            sink,
        })
    }
}

fn open(any: &Any, cx: &Context<'_>, at: &At<'_>) -> Result<(Arc<Sink>, Content), Reported> {
    match type_name(any) {
        HTTP_GRPC => {
            let (sink, content) = grpc::compile_http(unpack(any, at)?, cx, at)?;
            return Ok((sink, Content::Entry(content)));
        }
        TCP_GRPC => {
            let (sink, content) = grpc::compile_tcp(unpack(any, at)?, cx, at)?;
            return Ok((sink, Content::Entry(content)));
        }
        _ => {}
    }
    let (target, format, target_field) = logger(any, cx, at)?;
    let sink = cx.server.access_logs.open_file(target.clone());
    let sink = sink.map_err(|error| match target {
        Target::File(path) => at.field(target_field).error(format_args!(
            "unable to open file '{}': {error}",
            path.display()
        )),
        Target::Stdout | Target::Stderr => at.error(format_args!("cannot write there: {error}")),
    })?;
    Ok((sink, Content::Line(format)))
}

/// Target, format, and the field that names the target.
type Logger = (Target, SubstitutionFormat, &'static str);

fn logger(any: &Any, cx: &Context<'_>, at: &At<'_>) -> Result<Logger, Reported> {
    let of_stream = |format: Option<SubstitutionFormatString>| match format {
        None => Ok(default_format()),
        Some(format) => log_format(format, cx, at),
    };
    match type_name(any) {
        FILE => {
            let FileAccessLog {
                path,
                access_log_format,
            } = unpack(any, at)?;
            use file_access_log::AccessLogFormat as Format;
            let format =
                match access_log_format {
                    None => default_format(),
                    Some(Format::Format(format)) if format.is_empty() => default_format(),
                    Some(Format::Format(format)) => {
                        SubstitutionFormat::Text(Formatter::parse(&format, &at.field("format"))?)
                    }
                    Some(Format::JsonFormat(format)) => SubstitutionFormat::Json(
                        JsonFormatter::parse(format, false, &at.field("json_format"))?,
                    ),
                    Some(Format::TypedJsonFormat(format)) => SubstitutionFormat::Json(
                        JsonFormatter::parse(format, false, &at.field("typed_json_format"))?,
                    ),
                    Some(Format::LogFormat(format)) => log_format(format, cx, at)?,
                };
            Ok((Target::of_path(&path), format, "path"))
        }
        STDOUT => {
            let StdoutAccessLog { access_log_format } = unpack(any, at)?;
            let format = access_log_format
                .map(|stdout_access_log::AccessLogFormat::LogFormat(format)| format);
            Ok((Target::Stdout, of_stream(format)?, ""))
        }
        STDERR => {
            let StderrAccessLog { access_log_format } = unpack(any, at)?;
            let format = access_log_format
                .map(|stderr_access_log::AccessLogFormat::LogFormat(format)| format);
            Ok((Target::Stderr, of_stream(format)?, ""))
        }
        other => Err(at.error(format_args!(
            "{other} is not supported yet; known are {FILE}, {STDOUT}, {STDERR}, {HTTP_GRPC} and {TCP_GRPC}"
        ))),
    }
}

fn default_format() -> SubstitutionFormat {
    SubstitutionFormat::Text(Formatter::default_access_log())
}

fn log_format(
    message: SubstitutionFormatString,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<SubstitutionFormat, Reported> {
    // A content type says nothing about a line of a log.
    let (format, _content_type) =
        SubstitutionFormat::compile(message, cx, &at.field("log_format"))?;
    Ok(format)
}
