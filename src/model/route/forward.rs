//! `envoy.config.route.v3.RouteAction`, compiled: a request goes to an upstream.

use std::time::Duration;

use http::StatusCode;

use crate::{
    api::envoy::config::{
        core::v3::RoutingPriority,
        route::v3::{
            RouteAction,
            route_action::{
                ClusterNotFoundResponseCode, HostRewriteSpecifier, MaxStreamDuration,
                UpgradeConfig, upgrade_config::ConnectConfig as ConnectMessage,
            },
        },
    },
    config::{At, Reported, duration},
    formatter::FieldName,
    model::{Context, matcher::Substitution},
    net::proxy_protocol::ProxyProtocol,
    refuse,
    upstream::balance::MetadataMatch,
};

use super::{
    cluster::ClusterChoice,
    hash::HashPolicy,
    mirror::{MIRRORS, Mirror},
    retry::RetryPolicy,
    rewrite::{HostRewrite, PathRewrite},
};

/// A route's timeout unless it says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// What is done with a request that goes to an upstream.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Where to.
    pub cluster: ClusterChoice,
    /// `metadata_match`; one of several clusters may have its own.
    pub metadata_match: Option<MetadataMatch>,
    /// The answer when there is no such cluster.
    pub cluster_not_found: StatusCode,
    /// What becomes of the path.
    pub path: PathRewrite,
    /// What becomes of the host.
    pub host: HostRewrite,
    /// Tell the upstream of the host that was rewritten, in `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// From the end of the request to the end of the response; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Time without a byte; `None` leaves it to the connection manager, zero is no limit.
    pub idle_timeout: Option<Duration>,
    /// How long a client of HTTP/2 may take nothing of a response that is all here; `None`
    /// leaves it to the connection manager, zero is no limit.
    pub flush_timeout: Option<Duration>,
    /// `max_stream_duration`: life of the stream. With it, `timeout` and
    /// `max_grpc_timeout` mean nothing.
    pub stream_duration: Option<StreamDuration>,
    /// `max_grpc_timeout`: a gRPC request has the timeout that its `grpc-timeout`
    /// asks for, and at most this, in place of `timeout`; zero has no most.
    pub max_grpc_timeout: Option<Duration>,
    /// `grpc_timeout_offset`: taken off what `grpc-timeout` asks for then.
    pub grpc_timeout_offset: Duration,
    /// When to try again; the virtual host's, when the route has none.
    pub retry: Option<RetryPolicy>,
    /// What ties requests to hosts.
    pub hash: Box<[HashPolicy]>,
    /// Who gets a copy; empty leaves it to the virtual host.
    pub mirrors: Box<[Mirror]>,
    /// Upgrades by name in lower case, and whether they are allowed: these come
    /// before the connection manager's.
    pub upgrades: Upgrades,
    /// A CONNECT ends here: the upstream gets what is in the tunnel.
    pub connect: Option<Box<ConnectConfig>>,
    /// Whether the circuit breakers of high priority count.
    pub high_priority: bool,
}

/// Upgrades by name in lower case, and whether they are allowed.
pub type Upgrades = Box<[(Box<str>, bool)]>;

/// `connect_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectConfig {
    /// `proxy_protocol_config`: what the upstream is told of the client first.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `allow_post`: the body of a POST is treated as a tunnel.
    pub allow_post: bool,
}

/// `max_stream_duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamDuration {
    /// Unless `grpc-timeout` says otherwise; `None` leaves it to the connection
    /// manager, zero is no limit.
    pub max: Option<Duration>,
    /// The most that `grpc-timeout` may ask for; `None` ignores that header,
    /// zero has no most.
    pub header_max: Option<Duration>,
    /// Taken off what that header asks for.
    pub header_offset: Duration,
}

impl Forward {
    pub(super) fn compile(
        message: RouteAction,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let RouteAction {
            metadata_match,
            prefix_rewrite,
            timeout,
            retry_policy,
            priority,
            rate_limits,
            include_vh_rate_limits,
            hash_policy,
            cors,
            cluster_not_found_response_code,
            max_grpc_timeout,
            idle_timeout,
            upgrade_configs,
            internal_redirect_action,
            hedge_policy,
            grpc_timeout_offset,
            request_mirror_policies,
            max_internal_redirects,
            regex_rewrite,
            retry_policy_typed_config,
            internal_redirect_policy,
            max_stream_duration,
            append_x_forwarded_host,
            early_data_policy,
            path_rewrite_policy,
            flush_timeout,
            path_rewrite,
            cluster_specifier,
            host_rewrite_specifier,
        } = message;
        // What Envoy does by default is harmless to write out.
        let include_vh_rate_limits = include_vh_rate_limits.filter(|on| *on);
        let refused = refuse!(at; rate_limits, include_vh_rate_limits, cors,
            internal_redirect_action, hedge_policy,
            max_internal_redirects, retry_policy_typed_config, internal_redirect_policy,
            early_data_policy, path_rewrite_policy, path_rewrite);

        let mut outcome = refused;
        let mut time = |field: &str, message: Option<prost_types::Duration>| {
            let compiled = message.map(|d| duration(&d, &at.field(field))).transpose();
            compiled.unwrap_or_else(|reported| {
                outcome = Err(reported);
                None
            })
        };
        let timeout = time("timeout", timeout).unwrap_or(DEFAULT_TIMEOUT);
        let idle_timeout = time("idle_timeout", idle_timeout);
        let flush_timeout = time("flush_timeout", flush_timeout);
        let max_grpc_timeout = time("max_grpc_timeout", max_grpc_timeout);
        let grpc_timeout_offset = time("grpc_timeout_offset", grpc_timeout_offset);
        let stream_duration = max_stream_duration.map(|message| {
            let MaxStreamDuration {
                max_stream_duration,
                grpc_timeout_header_max,
                grpc_timeout_header_offset,
            } = message;
            let offset = time("grpc_timeout_header_offset", grpc_timeout_header_offset);
            StreamDuration {
                max: time("max_stream_duration", max_stream_duration),
                header_max: time("grpc_timeout_header_max", grpc_timeout_header_max),
                header_offset: offset.unwrap_or_default(),
            }
        });

        let cluster = ClusterChoice::compile(cluster_specifier, metadata_match.as_ref(), cx, at);
        let host = host_rewrite_specifier.map_or(Ok(HostRewrite::None), |h| host_rewrite(h, at));
        let path = match (prefix_rewrite.is_empty(), regex_rewrite) {
            (true, None) => Ok(PathRewrite::None),
            (false, None) => Ok(PathRewrite::Prefix(prefix_rewrite.into())),
            (true, Some(regex)) => {
                Substitution::compile(regex, &at.field("regex_rewrite")).map(PathRewrite::Regex)
            }
            (false, Some(_)) => Err(at
                .field("prefix_rewrite")
                .error("and regex_rewrite can't both be set")),
        };
        let retry = retry_policy
            .map(|policy| RetryPolicy::compile(policy, &at.field("retry_policy")))
            .transpose();
        let hash = HashPolicy::compile_all(hash_policy, &at.field("hash_policy"));
        let at_mirrors = at.field(MIRRORS);
        let mirrors = Mirror::compile_all(request_mirror_policies, cx, &at_mirrors);
        let upgrades = upgrades(upgrade_configs, &at.field("upgrade_configs"));
        let cluster_not_found =
            match ClusterNotFoundResponseCode::try_from(cluster_not_found_response_code) {
                Ok(ClusterNotFoundResponseCode::NotFound) => StatusCode::NOT_FOUND,
                Ok(ClusterNotFoundResponseCode::InternalServerError) => {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
                Ok(ClusterNotFoundResponseCode::ServiceUnavailable) | Err(_) => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
            };
        outcome?;
        let (upgrades, connect) = upgrades?;
        Ok(Self {
            cluster: cluster?,
            metadata_match: MetadataMatch::new(metadata_match.as_ref(), None),
            cluster_not_found,
            path: path?,
            host: host?,
            append_x_forwarded_host,
            timeout: (!timeout.is_zero()).then_some(timeout),
            idle_timeout,
            flush_timeout,
            stream_duration,
            max_grpc_timeout,
            grpc_timeout_offset: grpc_timeout_offset.unwrap_or_default(),
            retry: retry?,
            hash: hash?,
            mirrors: mirrors?,
            upgrades,
            connect,
            high_priority: priority == RoutingPriority::High as i32,
        })
    }
}

fn host_rewrite(message: HostRewriteSpecifier, at: &At<'_>) -> Result<HostRewrite, Reported> {
    Ok(match message {
        HostRewriteSpecifier::HostRewriteLiteral(host) if host.is_empty() => HostRewrite::None,
        HostRewriteSpecifier::HostRewriteLiteral(host) => HostRewrite::Literal(host.into()),
        HostRewriteSpecifier::AutoHostRewrite(true) => HostRewrite::Auto,
        HostRewriteSpecifier::AutoHostRewrite(false) => HostRewrite::None,
        HostRewriteSpecifier::HostRewriteHeader(name) => {
            let at = at.field("host_rewrite_header");
            HostRewrite::Header(FieldName::parse(&name).map_err(|error| at.error(error))?)
        }
        HostRewriteSpecifier::HostRewritePathRegex(regex) => HostRewrite::PathRegex(
            Substitution::compile(regex, &at.field("host_rewrite_path_regex"))?,
        ),
        HostRewriteSpecifier::HostRewrite(_) => return Err(at.field("host_rewrite").unsupported()),
    })
}

/// Upgrades, and what becomes of a CONNECT.
fn upgrades(
    messages: Vec<UpgradeConfig>,
    at: &At<'_>,
) -> Result<(Upgrades, Option<Box<ConnectConfig>>), Reported> {
    let mut upgrades: Vec<(Box<str>, bool)> = Vec::with_capacity(messages.len());
    let mut connect = None;
    let mut outcome = Ok(());
    for (index, message) in messages.into_iter().enumerate() {
        let at = at.index(index);
        let UpgradeConfig {
            upgrade_type,
            enabled,
            connect_config,
        } = message;
        let name = upgrade_type.to_ascii_lowercase();
        if let Some(message) = connect_config {
            match ConnectConfig::compile(message, &name, &at.field("connect_config")) {
                Ok(config) => connect = Some(Box::new(config)),
                Err(reported) => outcome = Err(reported),
            }
        }
        if upgrades.iter().any(|(known, _)| **known == *name) {
            outcome = Err(at
                .field("upgrade_type")
                .error(format_args!("{upgrade_type} stands here twice")));
        }
        upgrades.push((name.into(), enabled.unwrap_or(true)));
    }
    outcome.map(|()| (upgrades.into(), connect))
}

impl ConnectConfig {
    fn compile(message: ConnectMessage, upgrade: &str, at: &At<'_>) -> Result<Self, Reported> {
        let ConnectMessage {
            proxy_protocol_config,
            allow_post,
        } = message;
        match upgrade {
            "connect" => {}
            "connect-udp" => return Err(at.error("CONNECT-UDP that ends here is not supported")),
            other => {
                return Err(at.error(format_args!("has no meaning for an upgrade to {other:?}")));
            }
        }
        let place = at.field("proxy_protocol_config");
        let proxy_protocol = proxy_protocol_config
            .map(|message| ProxyProtocol::compile(message, &place))
            .transpose()?;
        Ok(Self {
            proxy_protocol,
            allow_post,
        })
    }
}
