//! `envoy.config.core.v3.ApiConfigSource`, compiled: the management servers
//! that push resources, and how they are spoken to.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use prost::Message;

use crate::{
    api::envoy::config::{
        bootstrap::v3::bootstrap::StaticResources,
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        core::v3::{self as pb, ApiVersion, RateLimitSettings, api_config_source::ApiType},
    },
    config::{At, Reported, duration},
    refuse,
    upstream::grpc::{Channels, Server, Target},
};

/// `rate_limit_settings.max_tokens` when it is not set.
const DEFAULT_MAX_TOKENS: u32 = 100;
/// `rate_limit_settings.fill_rate` when it is not set, in requests a second.
const DEFAULT_FILL_RATE: f64 = 10.0;

/// `request_timeout` when it is not set.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// A server is not polled faster.
const MIN_REFRESH_DELAY: Duration = Duration::from_millis(1);

/// How a management server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Each answer is the state of the world: `GRPC`.
    Sotw,
    /// Each answer is what has changed: `DELTA_GRPC`.
    Delta,
    /// It is asked for the state of the world again and again: `REST`.
    Rest,
}

/// How often a server is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polling {
    /// `refresh_delay`: from an answer to the next request at least.
    pub delay: Duration,
    /// `request_timeout`: how long an answer is awaited.
    pub timeout: Duration,
}

impl Polling {
    /// How long to wait until the next request: up to twice the delay, so that
    /// not everybody asks at once. `random` says how much.
    pub fn pause(&self, random: u64) -> Duration {
        // From 0 to 1, to a millionth.
        let share = (random % 1_000_000) as f64 / 1e6;
        self.delay + self.delay.mul_f64(share)
    }
}

/// By which clusters a management server may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// Those of the bootstrap whose endpoints do not come by EDS: they are there
    /// before anything is discovered.
    Primary,
    /// Any, also one that is discovered, and one that is not there yet. Envoy
    /// allows it for secrets.
    Any,
}

/// How many requests a stream may send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Requests that may be sent at once.
    pub max_tokens: u32,
    /// Requests a second in the long run.
    pub fill_rate: f64,
}

/// Management servers and how they are spoken to. Two are equal when they are
/// written alike.
pub struct ApiSource {
    /// In what they speak.
    pub variant: Variant,
    /// Tried in turn; at least one.
    pub servers: Vec<Target>,
    /// When they are polled.
    pub polling: Option<Polling>,
    /// Unlimited when absent.
    pub rate_limit: Option<RateLimit>,
    /// `set_node_on_first_message_only`.
    pub node_on_first_message_only: bool,
    /// The servers' names, for people.
    pub place: Arc<str>,
    encoded: Box<[u8]>,
}

impl ApiSource {
    /// Compiles `dynamic_resources.ads_config`, or the `api_config_source` of a
    /// subscription.
    ///
    /// # Errors
    /// What is wrong, or not supported, has been reported.
    pub fn compile(
        message: &pb::ApiConfigSource,
        through: Through,
        management: &Management,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::ApiConfigSource {
            api_type,
            cluster_names,
            refresh_delay,
            request_timeout,
            grpc_services,
            rate_limit_settings,
            set_node_on_first_message_only,
            transport_api_version,
            config_validators,
        } = message.clone();
        let refused = refuse!(at; config_validators);
        check_version(transport_api_version, &at.field("transport_api_version"))?;
        let variant = match ApiType::try_from(api_type) {
            Ok(ApiType::Grpc) => Ok(Variant::Sotw),
            Ok(ApiType::DeltaGrpc) => Ok(Variant::Delta),
            Ok(kind @ (ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc)) => {
                Err(at.field("api_type").error(format_args!(
                    "{} is only for collections, which are not supported; for one stream of \
                     everything use ads",
                    kind.as_str_name()
                )))
            }
            Ok(ApiType::Rest) => Ok(Variant::Rest),
            Ok(ApiType::DeprecatedAndUnavailableDoNotUse) | Err(_) => Err(at
                .field("api_type")
                .error("is required; use GRPC, DELTA_GRPC or REST")),
        };
        if variant
            .as_ref()
            .is_ok_and(|variant| *variant == Variant::Rest)
        {
            let asked = Asked {
                cluster_names,
                refresh_delay,
                request_timeout,
                is_grpc: !grpc_services.is_empty(),
            };
            let (target, polling) = asked.compile(through, management, at)?;
            refused?;
            return Ok(Self {
                variant: Variant::Rest,
                place: target.server.name().clone(),
                servers: vec![target],
                polling: Some(polling),
                // For streams, in Envoy too, as is the other.
                rate_limit: None,
                node_on_first_message_only: false,
                encoded: message.encode_to_vec().into(),
            });
        }
        let clusters = match cluster_names.is_empty() {
            true => Ok(()),
            false => Err(at
                .field("cluster_names")
                .error("is for REST only; name the cluster in grpc_services")),
        };
        let services = match grpc_services.is_empty() {
            true => Err(at
                .field("grpc_services")
                .error("API configs must have either a gRPC service or a cluster name defined")),
            false => Ok(()),
        };
        let mut servers = Vec::with_capacity(grpc_services.len());
        let mut outcome = Ok(());
        let at_services = at.field("grpc_services");
        for (index, service) in grpc_services.iter().enumerate() {
            let at = at_services.index(index);
            let target = Target::compile(service, &management.channels, &at);
            let known = target.and_then(|target| {
                if let Server::Cluster { name, .. } = &target.server {
                    let at = at.field("envoy_grpc");
                    management.check_cluster(name, through, &at.field("cluster_name"))?;
                }
                Ok(target)
            });
            match known {
                Ok(target) => servers.push(target),
                Err(reported) => outcome = Err(reported),
            }
        }
        let rate_limit = rate_limit_settings.map(|settings| {
            let RateLimitSettings {
                max_tokens,
                fill_rate,
            } = settings;
            RateLimit {
                max_tokens: max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
                fill_rate: fill_rate.unwrap_or(DEFAULT_FILL_RATE),
            }
        });
        refused?;
        clusters?;
        services?;
        outcome?;
        let names: Vec<_> = servers
            .iter()
            .map(|target| &**target.server.name())
            .collect();
        Ok(Self {
            variant: variant?,
            place: names.join(", ").into(),
            servers,
            polling: None,
            rate_limit,
            node_on_first_message_only: set_node_on_first_message_only,
            encoded: message.encode_to_vec().into(),
        })
    }
}

/// What the source says of a server that is polled.
struct Asked {
    cluster_names: Vec<String>,
    refresh_delay: Option<prost_types::Duration>,
    request_timeout: Option<prost_types::Duration>,
    is_grpc: bool,
}

impl Asked {
    fn compile(
        self,
        through: Through,
        management: &Management,
        at: &At<'_>,
    ) -> Result<(Target, Polling), Reported> {
        let services = match self.is_grpc {
            true => Err(at.field("grpc_services").error(
                "envoy.config.core.v3.ApiConfigSource, if not a gRPC type, must not have a gRPC \
                     service specified; name the cluster in cluster_names",
            )),
            false => Ok(()),
        };
        let delay = match self.refresh_delay {
            Some(given) => duration(&given, &at.field("refresh_delay")),
            None => Err(at
                .field("refresh_delay")
                .error("refresh_delay is required for REST API configuration sources")),
        };
        let timeout = match self.request_timeout {
            Some(given) => duration(&given, &at.field("request_timeout")),
            None => Ok(DEFAULT_REQUEST_TIMEOUT),
        };
        let at_names = at.field("cluster_names");
        let [name] = &*self.cluster_names else {
            return Err(at_names.error(format_args!(
                "envoy.config.core.v3.ApiConfigSource must have a singleton cluster name specified \
                 for REST, not {}",
                self.cluster_names.len()
            )));
        };
        management.check_cluster(name, through, &at_names.index(0))?;
        services?;
        let (delay, timeout) = (delay?, timeout?);
        if delay < MIN_REFRESH_DELAY {
            let at = at.field("refresh_delay");
            return Err(at.error("must be a millisecond at least"));
        }
        Ok((Target::cluster(name), Polling { delay, timeout }))
    }
}

/// Refuses the version before this one.
///
/// # Errors
/// Reported at `at`, the place of the version.
pub fn check_version(version: i32, at: &At<'_>) -> Result<(), Reported> {
    match version == ApiVersion::V2 as i32 {
        true => Err(at.error("V2 is not supported; use V3")),
        false => Ok(()),
    }
}

impl PartialEq for ApiSource {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for ApiSource {}

impl Hash for ApiSource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.encoded.hash(state);
    }
}

impl fmt::Debug for ApiSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiSource")
            .field("variant", &self.variant)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

/// What the bootstrap says of management servers, to which sources refer.
#[derive(Debug, Default)]
pub struct Management {
    ads: Option<Arc<ApiSource>>,
    /// Clusters of the bootstrap by name, and whether their endpoints come by EDS.
    clusters: BTreeMap<Box<str>, bool>,
    /// Servers that are no cluster of the bootstrap.
    channels: Channels,
}

impl Management {
    /// What the bootstrap says.
    ///
    /// # Errors
    /// What is wrong with `ads_config` has been reported at `at`, its place.
    pub fn compile(
        resources: &StaticResources,
        ads: Option<&pb::ApiConfigSource>,
        channels: Channels,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let is_eds = |cluster: &Cluster| match cluster.cluster_discovery_type {
            Some(ClusterDiscoveryType::Type(kind)) => kind == DiscoveryType::Eds as i32,
            _ => false,
        };
        let clusters = resources.clusters.iter();
        let mut management = Self {
            ads: None,
            clusters: clusters
                .map(|c| (c.name.as_str().into(), is_eds(c)))
                .collect(),
            channels,
        };
        if let Some(ads) = ads {
            let source = ApiSource::compile(ads, Through::Primary, &management, at)?;
            if source.variant == Variant::Rest {
                let at = at.field("api_type");
                return Err(at.error(
                    "envoy.config.core.v3.ApiConfigSource type must be of non-aggregated gRPC \
                     for ads_config, not REST",
                ));
            }
            management.ads = Some(source.into());
        }
        Ok(management)
    }

    /// The servers that push resources of every type over one stream.
    pub fn ads(&self) -> Option<&Arc<ApiSource>> {
        self.ads.as_ref()
    }

    /// A service that is called besides management servers.
    ///
    /// # Errors
    /// What is wrong with it has been reported.
    pub fn target(&self, service: &pb::GrpcService, at: &At<'_>) -> Result<Target, Reported> {
        Target::compile(service, &self.channels, at)
    }

    /// Refuses a cluster by which a management server cannot be reached before
    /// any other resource is there.
    fn check_cluster(&self, name: &str, through: Through, at: &At<'_>) -> Result<(), Reported> {
        if through == Through::Any || self.clusters.get(name) == Some(&false) {
            return Ok(());
        }
        let near = crate::config::suggest::near(name, self.clusters.keys().map(|c| c.to_string()));
        Err(at.error(format_args!(
            "envoy.config.core.v3.ApiConfigSource must have a statically defined non-EDS cluster: \
             '{name}' does not exist, was added via api, or is an EDS cluster{near}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Report, model::testing::read};

    const CLUSTERS: &str = "clusters: [{name: xds}, {name: found, type: EDS}]";

    fn compile(yaml: &str) -> Result<ApiSource, String> {
        let report = Report::new();
        let management =
            Management::compile(&read(CLUSTERS), None, Channels::default(), &report.root())
                .unwrap();
        ApiSource::compile(&read(yaml), Through::Primary, &management, &report.root())
            .map_err(|_| report.to_string())
    }

    #[test]
    fn secrets_may_come_through_a_cluster_that_is_discovered() {
        let (report, management) = (Report::new(), Management::default());
        let source = read("{api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: agent}}]}");
        let compiled =
            ApiSource::compile(&source, Through::Any, &management, &report.root()).unwrap();
        assert_eq!(&*compiled.place, "agent");
    }

    #[test]
    fn servers_are_clusters_of_the_bootstrap() {
        let source = compile(
            "{api_type: DELTA_GRPC, transport_api_version: V3, rate_limit_settings: {}, \
              grpc_services: [{envoy_grpc: {cluster_name: xds}}, {envoy_grpc: {cluster_name: xds}}]}",
        )
        .unwrap();
        assert_eq!(source.variant, Variant::Delta);
        assert_eq!(&*source.place, "xds, xds");
        let limit = source.rate_limit.unwrap();
        assert_eq!((limit.max_tokens, limit.fill_rate), (100, 10.0));
        for name in ["xdss", "found"] {
            let said = compile(&format!(
                "{{api_type: GRPC, grpc_services: [{{envoy_grpc: {{cluster_name: {name}}}}}]}}"
            ));
            let said = said.unwrap_err();
            assert!(
                said.starts_with(
                    "grpc_services[0].envoy_grpc.cluster_name: \
                     envoy.config.core.v3.ApiConfigSource must have a statically defined"
                ),
                "{said}"
            );
        }
    }

    #[test]
    fn a_server_may_be_polled() {
        let source = compile("{api_type: REST, refresh_delay: 0.5s, cluster_names: [xds]}");
        let source = source.unwrap();
        assert_eq!(source.variant, Variant::Rest);
        let polling = source.polling.unwrap();
        assert_eq!(polling.timeout, Duration::from_secs(1));
        assert_eq!(polling.pause(0), Duration::from_millis(500));
        assert_eq!(polling.pause(500_000), Duration::from_millis(750));
        for (yaml, expected) in [
            (
                "cluster_names: [xds]",
                "refresh_delay: refresh_delay is required",
            ),
            (
                "refresh_delay: 1s",
                "cluster_names: envoy.config.core.v3.ApiConfigSource must have a singleton",
            ),
            (
                "refresh_delay: 1s, cluster_names: [other]",
                "cluster_names[0]: envoy.config.core.v3.ApiConfigSource must have a statically",
            ),
            (
                "refresh_delay: 1s, cluster_names: [xds], \
                 grpc_services: [{envoy_grpc: {cluster_name: xds}}]",
                "grpc_services: envoy.config.core.v3.ApiConfigSource, if not a gRPC type",
            ),
        ] {
            let said = compile(&format!("{{api_type: REST, {yaml}}}")).unwrap_err();
            assert!(said.starts_with(expected), "{yaml}: {said}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_its_place() {
        let service = "grpc_services: [{envoy_grpc: {cluster_name: xds}}]";
        for (yaml, expected) in [
            ("api_type: GRPC", "grpc_services: API configs must have"),
            (
                "api_type: AGGREGATED_GRPC",
                "api_type: AGGREGATED_GRPC is only for",
            ),
            (
                "api_type: GRPC, cluster_names: [xds]",
                "cluster_names: is for REST only",
            ),
            (
                "api_type: GRPC, transport_api_version: V2",
                "transport_api_version: V2 is not supported",
            ),
        ] {
            let services = match expected.starts_with("grpc_services") {
                true => "",
                false => service,
            };
            let said = compile(&format!("{{{yaml}, {services}}}")).unwrap_err();
            assert!(said.contains(expected), "{yaml}: {said}");
        }
    }
}
