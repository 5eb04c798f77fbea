//! `envoy.config.bootstrap.v3.Bootstrap`, checked and taken apart for those who use it.

use std::time::Duration;

use prost_types::{Struct, value::Kind};

use crate::{
    api::envoy::config::{
        bootstrap::v3::{
            Admin, Bootstrap as Message, ClusterManager,
            bootstrap::{
                ApplicationLogConfig, DynamicResources, StaticResources, StatsFlush,
                application_log_config::{LogFormat, log_format},
            },
        },
        core::v3::{
            BuildVersion, Locality, Node, TypedExtensionConfig, node::UserAgentVersionType,
        },
        metrics::v3::StatsConfig,
    },
    api::envoy::r#type::v3::SemanticVersion,
    cli::{Mode, Options, Version},
    config::{self, At, Reported},
    log,
    model::cluster::{Bind, dns::ResolverFields},
    overload, refuse, runtime, stats,
    upstream::dns::ResolverSettings,
};

use super::{extensions, watchdog};

/// The parts of a bootstrap, each on its way to the room that compiles it.
#[derive(Debug)]
pub struct Bootstrap {
    /// Who this proxy is, see `name_node`.
    pub node: Node,
    /// The admin's address and access log; no admin when absent.
    pub admin: Option<Admin>,
    /// Listeners, clusters and secrets that do not change.
    pub static_resources: StaticResources,
    /// Where the others come from.
    pub dynamic_resources: DynamicResources,
    /// Layers of runtime values.
    pub runtime: Vec<runtime::Layer>,
    /// How stats are shown.
    pub stats: stats::Settings,
    /// `x-envoy` unless set.
    pub header_prefix: String,
    /// Value of the stat `server.version`, when set.
    pub stats_server_version: Option<u64>,
    /// How often the intervals of histograms end, unless the admin ends them.
    pub stats_flush_interval: Duration,
    /// What is done when something runs short.
    pub overload: overload::Settings,
    /// How long threads may stand still.
    pub watchdog: watchdog::Settings,
    /// From where clusters connect that do not say.
    pub upstream_bind: Bind,
    /// How names are resolved, for clusters that do not say.
    pub dns: ResolverSettings,
    /// Format of the log, over the default and instead of `--log-format`.
    pub log_format: Option<log_format::LogFormat>,
}

impl Bootstrap {
    /// Checks a bootstrap, whose node has been named by `name_node`.
    ///
    /// # Errors
    /// Reports each field that is valid in Envoy and not supported here, and what
    /// contradicts the command line.
    pub fn compile(message: Message, options: &Options, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            node,
            static_resources,
            dynamic_resources,
            cluster_manager,
            flags_path,
            stats_sinks,
            stats_flush_interval,
            watchdog,
            tracing,
            admin,
            stats_config,
            hds_config,
            overload_manager,
            enable_dispatcher_stats,
            layered_runtime,
            header_prefix,
            stats_server_version_override,
            use_tcp_for_dns_lookups,
            bootstrap_extensions,
            config_sources,
            default_config_source,
            default_socket_interface,
            certificate_provider_instances,
            node_context_params,
            watchdogs,
            fatal_actions,
            stats_flush,
            dns_resolution_config,
            typed_dns_resolver_config,
            // Headers are found equally fast whether or not they are named here.
            inline_headers: _,
            perf_tracing_file_path,
            default_regex_engine,
            xds_delegate_extension,
            xds_config_tracker_extension,
            listener_manager,
            application_log_config,
            // Every stat of a component is made together, when it is first written.
            deferred_stat_options: _,
            grpc_async_client_manager_config,
            // Tunes an allocator that is not the one of this process.
            memory_allocator_manager: _,
            stats_eviction,
            enable_worker_cpu_affinity,
        } = message;
        let stats_eviction_interval = stats_eviction;
        let refused = refuse!(at;
            flags_path, stats_sinks, tracing, hds_config,
            enable_dispatcher_stats, bootstrap_extensions, config_sources, default_config_source,
            default_socket_interface, certificate_provider_instances, node_context_params,
            fatal_actions, perf_tracing_file_path, xds_delegate_extension,
            xds_config_tracker_extension, grpc_async_client_manager_config,
            stats_eviction_interval, enable_worker_cpu_affinity,
        );
        let flush_interval = config::optional_duration(
            stats_flush_interval.as_ref(),
            &at.field("stats_flush_interval"),
        );
        let overload = overload_manager
            .map(|message| overload::Settings::compile(message, &at.field("overload_manager")))
            .transpose();
        let watchdog = watchdog::Settings::compile(watchdog, watchdogs, at);
        let regex = only(
            default_regex_engine,
            "envoy.extensions.regex_engines.v3.GoogleRE2",
            &at.field("default_regex_engine"),
        );
        let listeners = only(
            listener_manager,
            "envoy.config.bootstrap.v3.ListenerManager",
            &at.field("listener_manager"),
        );
        let log_format = log_format(
            application_log_config,
            options,
            &at.field("application_log_config"),
        );
        let node = node.unwrap_or_default();
        let dns = ResolverFields {
            typed_dns_resolver_config,
            dns_resolution_config,
            dns_resolvers: Vec::new(),
            use_tcp_for_dns_lookups,
        };
        let dns = dns.compile(at);
        let upstream_bind = cluster_manager_bind(cluster_manager, &at.field("cluster_manager"));
        let stats = stats_settings(
            stats_config,
            stats_flush,
            options,
            &at.field("stats_config"),
        );
        let runtime = runtime::compile(
            layered_runtime.unwrap_or_default(),
            &node.cluster,
            &at.field("layered_runtime"),
        );
        let dynamic_resources = dynamic_resources.unwrap_or_default();
        let identity = check_identity(&node, &dynamic_resources, options, at);
        refused?;
        let upstream_bind = upstream_bind?;
        regex?;
        listeners?;
        identity?;
        Ok(Self {
            node,
            admin,
            static_resources: static_resources.unwrap_or_default(),
            dynamic_resources,
            runtime: runtime?,
            stats: stats?,
            header_prefix: match header_prefix.is_empty() {
                true => "x-envoy".to_owned(),
                false => header_prefix,
            },
            stats_server_version: stats_server_version_override,
            stats_flush_interval: flush_interval?.unwrap_or(STATS_FLUSH_INTERVAL),
            overload: overload?.unwrap_or_default(),
            watchdog: watchdog?,
            upstream_bind,
            dns: dns?.unwrap_or_default(),
            log_format: log_format?,
        })
    }
}

fn stats_settings(
    config: Option<StatsConfig>,
    flush: Option<StatsFlush>,
    options: &Options,
    at: &At<'_>,
) -> Result<stats::Settings, Reported> {
    let given: Vec<_> = options
        .stats_tag
        .iter()
        .map(|tag| (tag.name.clone(), tag.value.clone()))
        .collect();
    let mut settings = stats::Settings::compile(config.unwrap_or_default(), &given, at)?;
    settings.flush_on_admin = matches!(flush, Some(StatsFlush::StatsFlushOnAdmin(true)));
    Ok(settings)
}

/// What concerns all clusters: from where they connect.
fn cluster_manager_bind(message: Option<ClusterManager>, at: &At<'_>) -> Result<Bind, Reported> {
    let ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        // A worker makes its part of a cluster when it first needs it in any case.
        enable_deferred_cluster_creation: _,
    } = message.unwrap_or_default();
    refuse!(at; local_cluster_name, outlier_detection, load_stats_config)?;
    match upstream_bind_config {
        Some(bind) => Bind::compile(bind, &at.field("upstream_bind_config")),
        None => Ok(Bind::default()),
    }
}

/// Envoy's default of `stats_flush_interval`.
const STATS_FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Accepts an extension that names what this build has anyway.
fn only(
    extension: Option<TypedExtensionConfig>,
    built_in: &str,
    at: &At<'_>,
) -> Result<(), Reported> {
    let Some(TypedExtensionConfig { name, typed_config }) = extension else {
        return Ok(());
    };
    let kind = typed_config.map(|any| any.type_url).unwrap_or_default();
    match kind.rsplit('/').next() == Some(built_in) {
        true => Ok(()),
        false => Err(at.error(format_args!(
            "'{name}' of type '{kind}' is not supported, only {built_in} is"
        ))),
    }
}

fn log_format(
    config: Option<ApplicationLogConfig>,
    options: &Options,
    at: &At<'_>,
) -> Result<Option<log_format::LogFormat>, Reported> {
    let Some(ApplicationLogConfig {
        log_format: Some(LogFormat { log_format }),
    }) = config
    else {
        return Ok(None);
    };
    let place = at.field("log_format");
    if options.has_log_format() {
        return Err(place.error("only one of this and --log-format can be specified"));
    }
    if let Some(log_format::LogFormat::JsonFormat(format)) = &log_format
        && let Err(error) = log::check_json_format(format)
    {
        return Err(place.field("json_format").error(error));
    }
    Ok(log_format)
}

/// The bootstrap's node, under the command line's names and with this build's facts,
/// unless it says by itself what it is.
pub fn name_node(mut node: Node, options: &Options) -> Node {
    let set = |field: &mut String, given: &str| {
        if !given.is_empty() {
            given.clone_into(field);
        }
    };
    set(&mut node.id, &options.service_node);
    set(&mut node.cluster, &options.service_cluster);
    if !options.service_zone.is_empty() {
        let locality = node.locality.get_or_insert_with(Locality::default);
        set(&mut locality.zone, &options.service_zone);
    }
    if node.user_agent_name.is_empty() {
        node.user_agent_name = "nuncio".to_owned();
    }
    node.extensions = extensions::all();
    // A version as text is not kept by Envoy either.
    let own = node.user_agent_version_type.take();
    node.user_agent_version_type = own
        .filter(|own| matches!(own, UserAgentVersionType::UserAgentBuildVersion(_)))
        .or_else(|| Some(UserAgentVersionType::UserAgentBuildVersion(build_version())));
    node
}

/// This build, as management servers are told.
fn build_version() -> BuildVersion {
    let version = Version::of_build();
    let mut numbers = version
        .number
        .split(['.', '-'])
        .map(|n| n.parse().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    BuildVersion {
        version: Some(SemanticVersion {
            major_number: number(),
            minor_number: number(),
            patch: number(),
        }),
        metadata: Some(Struct {
            fields: [
                ("revision.sha", version.revision),
                ("revision.status", version.status),
                ("build.type", version.build),
                ("ssl.version", version.tls),
            ]
            .map(|(key, value)| {
                let kind = Some(Kind::StringValue(value.to_owned()));
                (key.to_owned(), prost_types::Value { kind })
            })
            .into(),
        }),
    }
}

/// Subscriptions introduce this proxy by its node.
fn check_identity(
    node: &Node,
    dynamic: &DynamicResources,
    options: &Options,
    at: &At<'_>,
) -> Result<(), Reported> {
    let DynamicResources {
        lds_config,
        cds_config,
        ads_config,
        lds_resources_locator: _,
        cds_resources_locator: _,
    } = dynamic;
    let subscribes = lds_config.is_some() || cds_config.is_some() || ads_config.is_some();
    // In validation the command line that names the node need not be at hand.
    if !subscribes || options.mode == Mode::Validate {
        return Ok(());
    }
    if node.id.is_empty() || node.cluster.is_empty() {
        return Err(at.field("node").error(
            "'id' and 'cluster' are required with dynamic_resources, \
             here or by --service-node and --service-cluster",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::envoy::config::core::v3::ConfigSource;
    use crate::{cli, config::Report};

    fn options(line: &str) -> Options {
        match cli::parse(line.split_whitespace()) {
            Ok(cli::Asked::Run(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    fn compile(message: Message, line: &str) -> Result<Bootstrap, String> {
        let report = Report::new();
        let options = options(line);
        let node = message.node.clone().unwrap_or_default();
        let message = Message {
            node: Some(name_node(node, &options)),
            ..message
        };
        Bootstrap::compile(message, &options, &report.root()).map_err(|_| report.to_string())
    }

    #[test]
    fn a_node_may_say_what_it_is() {
        let name = |yaml: &str| {
            let named = name_node(crate::model::testing::read(yaml), &options("nuncio -c x"));
            let Some(UserAgentVersionType::UserAgentBuildVersion(build)) =
                named.user_agent_version_type
            else {
                panic!("there is always a version");
            };
            (named.user_agent_name, build.version.unwrap_or_default())
        };
        let ours = build_version().version.unwrap_or_default();
        assert_eq!(name("{id: a}"), ("nuncio".to_owned(), ours));
        assert_eq!(name("{user_agent_version: '1'}").1, ours);
        let (agent, version) = name(
            "{user_agent_name: envoy, user_agent_build_version: {version: {major_number: 1, \
              minor_number: 40}}}",
        );
        assert_eq!(agent, "envoy");
        assert_eq!((version.major_number, version.minor_number), (1, 40));
    }

    #[test]
    fn what_is_built_in_may_be_named() {
        let message = crate::model::testing::read(
            "
listener_manager:
  name: any
  typed_config: {'@type': type.googleapis.com/envoy.config.bootstrap.v3.ListenerManager}
default_regex_engine:
  name: any
  typed_config: {'@type': type.googleapis.com/envoy.extensions.regex_engines.v3.GoogleRE2}
",
        );
        compile(message, "nuncio").unwrap();
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let message = Message {
            flags_path: "/flags".to_owned(),
            enable_dispatcher_stats: true,
            cluster_manager: Some(ClusterManager {
                local_cluster_name: "here".to_owned(),
                ..ClusterManager::default()
            }),
            ..Message::default()
        };
        assert_eq!(
            compile(message, "nuncio").unwrap_err(),
            "flags_path: is not supported yet\nenable_dispatcher_stats: is not supported yet\n\
             cluster_manager.local_cluster_name: is not supported yet"
        );
    }

    #[test]
    fn clusters_that_do_not_say_ask_whom_the_bootstrap_says() {
        let message = Message {
            use_tcp_for_dns_lookups: true,
            ..Message::default()
        };
        assert!(compile(message, "nuncio").unwrap().dns.tcp);
    }

    #[test]
    fn the_command_line_names_the_node() {
        let message = Message {
            node: Some(Node {
                id: "file".to_owned(),
                cluster: "file".to_owned(),
                ..Node::default()
            }),
            ..Message::default()
        };
        let line = "nuncio --service-node here --service-zone z";
        let bootstrap = compile(message, line).unwrap();
        assert_eq!(bootstrap.node.id, "here");
        assert_eq!(bootstrap.node.cluster, "file");
        assert_eq!(bootstrap.node.locality.unwrap().zone, "z");
        assert_eq!(bootstrap.header_prefix, "x-envoy");
    }

    #[test]
    fn subscriptions_need_a_name() {
        let message = Message {
            dynamic_resources: Some(DynamicResources {
                lds_config: Some(ConfigSource::default()),
                ..DynamicResources::default()
            }),
            ..Message::default()
        };
        let said = compile(message.clone(), "nuncio").unwrap_err();
        assert!(
            said.starts_with("node: 'id' and 'cluster' are required"),
            "{said}"
        );
        compile(message.clone(), "nuncio --mode validate").unwrap();
        compile(message, "nuncio --service-node n --service-cluster c").unwrap();
    }

    #[test]
    fn one_log_format_is_enough() {
        let with = |format| Message {
            application_log_config: Some(ApplicationLogConfig {
                log_format: Some(LogFormat {
                    log_format: Some(format),
                }),
            }),
            ..Message::default()
        };
        let text = with(log_format::LogFormat::TextFormat("%v".to_owned()));
        assert!(
            compile(text.clone(), "nuncio")
                .unwrap()
                .log_format
                .is_some()
        );
        let said = compile(text, "nuncio --log-format %n").unwrap_err();
        assert!(said.contains("--log-format can be specified"), "{said}");
        let bad = Struct {
            fields: [(
                "m".to_owned(),
                prost_types::Value {
                    kind: Some(Kind::StringValue("%v".to_owned())),
                },
            )]
            .into(),
        };
        let said = compile(with(log_format::LogFormat::JsonFormat(bad)), "nuncio").unwrap_err();
        assert!(
            said.starts_with("application_log_config.log_format.json_format: "),
            "{said}"
        );
    }
}
