//! `envoy.config.accesslog.v3.AccessLogFilter`, compiled: what is worth a line.

use crate::{
    api::envoy::config::{
        accesslog::v3::{
            AccessLogFilter, AndFilter, ComparisonFilter, DurationFilter, GrpcStatusFilter,
            HeaderFilter, LogTypeFilter, NotHealthCheckFilter, OrFilter, ResponseFlagFilter,
            RuntimeFilter, StatusCodeFilter, access_log_filter::FilterSpecifier,
            comparison_filter::Op,
        },
        core::v3::RuntimeFractionalPercent,
    },
    config::{At, Reported},
    formatter::{FormatContext, Needs, ResponseFlags, grpc_status_code},
    model::{Context, matcher::HeaderMatcher},
    runtime::{RuntimeFraction, RuntimeNumber},
};

/// A condition on a stream at its end.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Its status, 0 when it had none.
    StatusCode(Comparison),
    /// Its duration in milliseconds.
    Duration(Comparison),
    /// It was not answered by the health check filter.
    NotHealthCheck,
    /// A share of all streams.
    Share(RuntimeFraction),
    /// All of several.
    And(Box<[Filter]>),
    /// One of several.
    Or(Box<[Filter]>),
    /// A request header.
    Header(HeaderMatcher),
    /// One of some response flags; any flag when `None`.
    ResponseFlag(Option<ResponseFlags>),
    /// One of some gRPC statuses, or none of them.
    GrpcStatus { statuses: Box<[u64]>, exclude: bool },
    /// One of some moments of a stream's life, or none of them.
    LogType { types: Box<[i32]>, exclude: bool },
}

/// A comparison with a number.
#[derive(Clone, Debug)]
pub struct Comparison {
    op: Op,
    value: RuntimeNumber,
}

impl Comparison {
    fn compile(
        message: Option<ComparisonFilter>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let at = at.field("comparison");
        let Some(ComparisonFilter { op, value }) = message else {
            return Err(at.error("is required"));
        };
        let op = Op::try_from(op).map_err(|_| at.field("op").error("is not a known operator"))?;
        let value = value.ok_or_else(|| at.field("value").error("is required"))?;
        Ok(Self {
            op,
            value: RuntimeNumber::compile(value, cx.runtime),
        })
    }

    fn holds(&self, number: u64) -> bool {
        let value = u64::from(self.value.get());
        match self.op {
            Op::Eq => number == value,
            Op::Ge => number >= value,
            Op::Le => number <= value,
            Op::Ne => number != value,
        }
    }
}

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// An unknown flag, a malformed matcher, a kind that is not supported.
    pub fn compile(
        message: AccessLogFilter,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let AccessLogFilter { filter_specifier } = message;
        Ok(match filter_specifier {
            None => return Err(at.error("a kind of filter is required")),
            Some(FilterSpecifier::StatusCodeFilter(StatusCodeFilter { comparison })) => {
                Self::StatusCode(Comparison::compile(
                    comparison,
                    cx,
                    &at.field("status_code_filter"),
                )?)
            }
            Some(FilterSpecifier::DurationFilter(DurationFilter { comparison })) => Self::Duration(
                Comparison::compile(comparison, cx, &at.field("duration_filter"))?,
            ),
            Some(FilterSpecifier::NotHealthCheckFilter(NotHealthCheckFilter {})) => {
                Self::NotHealthCheck
            }
            Some(FilterSpecifier::RuntimeFilter(filter)) => {
                Self::share(filter, cx, &at.field("runtime_filter"))?
            }
            Some(FilterSpecifier::AndFilter(AndFilter { filters })) => {
                Self::And(Self::all(filters, cx, &at.field("and_filter"))?)
            }
            Some(FilterSpecifier::OrFilter(OrFilter { filters })) => {
                Self::Or(Self::all(filters, cx, &at.field("or_filter"))?)
            }
            Some(FilterSpecifier::HeaderFilter(HeaderFilter { header })) => {
                let at = at.field("header_filter");
                let at = at.field("header");
                let header = header.ok_or_else(|| at.error("is required"))?;
                Self::Header(HeaderMatcher::compile(header, &at)?)
            }
            Some(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter { flags })) => {
                Self::flags(&flags, &at.field("response_flag_filter"))?
            }
            Some(FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter { statuses, exclude })) => {
                Self::GrpcStatus {
                    statuses: statuses
                        .into_iter()
                        .filter_map(|status| u64::try_from(status).ok())
                        .collect(),
                    exclude,
                }
            }
            Some(FilterSpecifier::LogTypeFilter(LogTypeFilter { types, exclude })) => {
                Self::LogType {
                    types: types.into(),
                    exclude,
                }
            }
            Some(FilterSpecifier::TraceableFilter(_)) => {
                return Err(at.field("traceable_filter").unsupported());
            }
            Some(FilterSpecifier::ExtensionFilter(_)) => {
                return Err(at.field("extension_filter").unsupported());
            }
            Some(FilterSpecifier::MetadataFilter(_)) => {
                return Err(at.field("metadata_filter").unsupported());
            }
        })
    }

    fn all(
        messages: Vec<AccessLogFilter>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Box<[Self]>, Reported> {
        let at = at.field("filters");
        let mut filters = Vec::with_capacity(messages.len());
        let mut outcome = Ok(());
        for (index, message) in messages.into_iter().enumerate() {
            match Self::compile(message, cx, &at.index(index)) {
                Ok(filter) => filters.push(filter),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| filters.into())
    }

    fn share(message: RuntimeFilter, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let RuntimeFilter {
            runtime_key,
            percent_sampled,
            // The randomness here is always independent of the request's identifier.
            use_independent_randomness: _,
        } = message;
        let share = RuntimeFractionalPercent {
            default_value: Some(percent_sampled.unwrap_or_default()),
            runtime_key,
        };
        RuntimeFraction::compile(share, cx.runtime, at).map(Self::Share)
    }

    fn flags(names: &[String], at: &At<'_>) -> Result<Self, Reported> {
        if names.is_empty() {
            return Ok(Self::ResponseFlag(None));
        }
        let at = at.field("flags");
        let mut flags = ResponseFlags::default();
        let mut outcome = Ok(());
        for (index, name) in names.iter().enumerate() {
            match ResponseFlags::by_short_name(name) {
                Some(flag) => flags = flags.union(flag),
                None => {
                    outcome = Err(at
                        .index(index)
                        .error(format_args!("{name:?} is not a response flag")));
                }
            }
        }
        outcome.map(|()| Self::ResponseFlag(Some(flags)))
    }

    /// Whether a stream is worth a line. `random` decides on shares.
    pub fn accepts(&self, cx: &FormatContext<'_>, random: u64) -> bool {
        let info = cx.info;
        match self {
            Self::StatusCode(comparison) => {
                comparison.holds(info.response_code.map_or(0, |code| code.as_u16().into()))
            }
            Self::Duration(comparison) => {
                let millis = info.duration().as_millis();
                comparison.holds(u64::try_from(millis).unwrap_or(u64::MAX))
            }
            Self::NotHealthCheck => !info.health_check,
            Self::Share(share) => share.enabled(random),
            Self::And(filters) => filters.iter().all(|f| f.accepts(cx, random)),
            Self::Or(filters) => filters.iter().any(|f| f.accepts(cx, random)),
            Self::Header(matcher) => matcher.matches_request(&cx.request),
            Self::ResponseFlag(None) => !info.flags.is_empty(),
            Self::ResponseFlag(Some(flags)) => info.flags.intersects(*flags),
            Self::GrpcStatus { statuses, exclude } => {
                // What is not a known status counts as Unknown.
                let status = grpc_status_code(cx).unwrap_or(2);
                statuses.contains(&status) != *exclude
            }
            Self::LogType { types, exclude } => types.contains(&(cx.log_type as i32)) != *exclude,
        }
    }

    /// Adds the headers it reads.
    pub(super) fn add_needs(&self, needs: &mut Needs) {
        match self {
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().for_each(|filter| filter.add_needs(needs));
            }
            Self::Header(matcher) => {
                if let Some(name) = matcher.header_name() {
                    needs.add_request(name);
                }
            }
            Self::GrpcStatus { .. } => needs.add_grpc_status(),
            Self::StatusCode(_)
            | Self::Duration(_)
            | Self::NotHealthCheck
            | Self::Share(_)
            | Self::ResponseFlag(_)
            | Self::LogType { .. } => {}
        }
    }
}
