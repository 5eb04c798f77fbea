//! What this build can do, as management servers are told of it
//! (`node.extensions`): under the names and in the categories that Envoy has.
//!
//! Filters say themselves that they are there. Any other kind of extension has
//! its line here.

use crate::{
    api::envoy::config::core::v3::Extension,
    http::filters,
    net::{filters as network_filters, listener_filters},
};

/// Extensions of one category: their names, and the message that configures each;
/// empty for one that none configures.
type Category = (&'static str, &'static [(&'static str, &'static str)]);

const OTHERS: &[Category] = &[
    (
        "envoy.access_loggers",
        &[
            (
                "envoy.access_loggers.file",
                "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            ),
            (
                "envoy.access_loggers.http_grpc",
                "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            ),
            (
                "envoy.access_loggers.stderr",
                "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
            ),
            (
                "envoy.access_loggers.stdout",
                "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            ),
            (
                "envoy.access_loggers.tcp_grpc",
                "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
            ),
        ],
    ),
    (
        "envoy.clusters",
        &[
            (
                "envoy.cluster.dns",
                "envoy.extensions.clusters.dns.v3.DnsCluster",
            ),
            ("envoy.cluster.eds", ""),
            ("envoy.cluster.logical_dns", ""),
            ("envoy.cluster.original_dst", ""),
            ("envoy.cluster.static", ""),
            ("envoy.cluster.strict_dns", ""),
        ],
    ),
    (
        "envoy.config_subscription",
        &[
            ("envoy.config_subscription.ads", ""),
            ("envoy.config_subscription.delta_grpc", ""),
            ("envoy.config_subscription.filesystem", ""),
            ("envoy.config_subscription.grpc", ""),
            ("envoy.config_subscription.rest", ""),
        ],
    ),
    (
        "envoy.filters.http.upstream",
        &[(
            "envoy.filters.http.upstream_codec",
            "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        )],
    ),
    (
        "envoy.grpc_credentials",
        &[("envoy.grpc_credentials.default", "")],
    ),
    (
        "envoy.load_balancing_policies",
        &[
            (
                "envoy.load_balancing_policies.cluster_provided",
                "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
            ),
            (
                "envoy.load_balancing_policies.least_request",
                "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
            ),
            (
                "envoy.load_balancing_policies.random",
                "envoy.extensions.load_balancing_policies.random.v3.Random",
            ),
            (
                "envoy.load_balancing_policies.round_robin",
                "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
            ),
            (
                "envoy.load_balancing_policies.subset",
                "envoy.extensions.load_balancing_policies.subset.v3.Subset",
            ),
        ],
    ),
    (
        "envoy.matching.common_inputs",
        &[(
            "envoy.matching.common_inputs.environment_variable",
            "envoy.extensions.matching.common_inputs.environment_variable.v3.Config",
        )],
    ),
    (
        "envoy.matching.input_matchers",
        &[
            (
                "envoy.matching.matchers.consistent_hashing",
                "envoy.extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing",
            ),
            (
                "envoy.matching.matchers.ip",
                "envoy.extensions.matching.input_matchers.ip.v3.Ip",
            ),
            (
                "envoy.matching.matchers.runtime_fraction",
                "envoy.extensions.matching.input_matchers.runtime_fraction.v3.RuntimeFraction",
            ),
        ],
    ),
    (
        "envoy.matching.network.custom_matchers",
        &[
            (
                "envoy.matching.custom_matchers.domain_matcher",
                "xds.type.matcher.v3.ServerNameMatcher",
            ),
            (
                "envoy.matching.custom_matchers.ip_range_matcher",
                "xds.type.matcher.v3.IPMatcher",
            ),
        ],
    ),
    (
        "envoy.matching.network.input",
        &[
            (
                "envoy.matching.inputs.application_protocol",
                "envoy.extensions.matching.common_inputs.network.v3.ApplicationProtocolInput",
            ),
            (
                "envoy.matching.inputs.destination_ip",
                "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput",
            ),
            (
                "envoy.matching.inputs.destination_port",
                "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput",
            ),
            (
                "envoy.matching.inputs.direct_source_ip",
                "envoy.extensions.matching.common_inputs.network.v3.DirectSourceIPInput",
            ),
            (
                "envoy.matching.inputs.dns_san",
                "envoy.extensions.matching.common_inputs.ssl.v3.DnsSanInput",
            ),
            (
                "envoy.matching.inputs.network_namespace",
                "envoy.extensions.matching.common_inputs.network.v3.NetworkNamespaceInput",
            ),
            (
                "envoy.matching.inputs.server_name",
                "envoy.extensions.matching.common_inputs.network.v3.ServerNameInput",
            ),
            (
                "envoy.matching.inputs.source_ip",
                "envoy.extensions.matching.common_inputs.network.v3.SourceIPInput",
            ),
            (
                "envoy.matching.inputs.source_port",
                "envoy.extensions.matching.common_inputs.network.v3.SourcePortInput",
            ),
            (
                "envoy.matching.inputs.source_type",
                "envoy.extensions.matching.common_inputs.network.v3.SourceTypeInput",
            ),
            (
                "envoy.matching.inputs.subject",
                "envoy.extensions.matching.common_inputs.ssl.v3.SubjectInput",
            ),
            (
                "envoy.matching.inputs.transport_protocol",
                "envoy.extensions.matching.common_inputs.network.v3.TransportProtocolInput",
            ),
            (
                "envoy.matching.inputs.uri_san",
                "envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput",
            ),
        ],
    ),
    (
        "envoy.network.dns_resolver",
        &[
            (
                "envoy.network.dns_resolver.cares",
                "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            ),
            (
                "envoy.network.dns_resolver.getaddrinfo",
                "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
            ),
        ],
    ),
    (
        "envoy.regex_engines",
        &[(
            "envoy.regex_engines.google_re2",
            "envoy.extensions.regex_engines.v3.GoogleRE2",
        )],
    ),
    (
        "envoy.resource_monitors",
        &[
            (
                "envoy.resource_monitors.cgroup_memory",
                "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig",
            ),
            (
                "envoy.resource_monitors.fixed_heap",
                "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
            ),
            (
                "envoy.resource_monitors.injected_resource",
                "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
            ),
        ],
    ),
    (
        "envoy.retry_host_predicates",
        &[(
            "envoy.retry_host_predicates.previous_hosts",
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        )],
    ),
    (
        "envoy.tls.cert_validator",
        &[("envoy.tls.cert_validator.default", "")],
    ),
    (
        "envoy.transport_sockets.downstream",
        &[
            (
                "envoy.transport_sockets.raw_buffer",
                "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            ),
            (
                "envoy.transport_sockets.tls",
                "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            ),
        ],
    ),
    (
        "envoy.transport_sockets.upstream",
        &[
            (
                "envoy.transport_sockets.raw_buffer",
                "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            ),
            (
                "envoy.transport_sockets.tls",
                "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            ),
            (
                "envoy.transport_sockets.upstream_proxy_protocol",
                "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
            ),
        ],
    ),
    (
        "envoy.upstream_options",
        &[(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        )],
    ),
];

/// Every extension there is, in the order of categories.
pub fn all() -> Vec<Extension> {
    let http =
        filters::extensions().map(|(name, types)| ("envoy.filters.http", name.to_owned(), types));
    let network = network_filters::types();
    let network = network.map(|message| ("envoy.filters.network", name_of(message), vec![message]));
    let listener = listener_filters::types();
    let listener =
        listener.map(|message| ("envoy.filters.listener", name_of(message), vec![message]));
    let others = OTHERS.iter().flat_map(|(category, extensions)| {
        extensions.iter().map(|&(name, message)| {
            let types = Some(message).filter(|message| !message.is_empty());
            (*category, name.to_owned(), types.into_iter().collect())
        })
    });
    let all = http.chain(network).chain(listener).chain(others);
    let mut all: Vec<_> = all.collect();
    all.sort();
    let extension = |(category, name, types): (&str, String, Vec<&str>)| Extension {
        name,
        category: category.to_owned(),
        // Deprecated for `type_urls`, and the version is the proxy's.
        type_descriptor: String::new(),
        version: None,
        disabled: false,
        type_urls: types.into_iter().map(str::to_owned).collect(),
    };
    all.into_iter().map(extension).collect()
}

/// The name of a filter that this message configures: what lies between
/// `envoy.extensions.` and the version.
fn name_of(message: &str) -> String {
    let name = message.strip_prefix("envoy.extensions.").unwrap_or(message);
    let name = name.split(".v3.").next().unwrap_or(name);
    format!("envoy.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_have_the_names_of_envoy() {
        let all = all();
        let has = |category: &str, name: &str, types: &[&str]| {
            all.iter().any(|extension| {
                extension.category == category
                    && extension.name == name
                    && extension.type_urls == types
            })
        };
        assert!(has(
            "envoy.filters.http",
            "envoy.filters.http.cors",
            &[
                "envoy.extensions.filters.http.cors.v3.Cors",
                "envoy.extensions.filters.http.cors.v3.CorsPolicy",
            ],
        ));
        assert!(has(
            "envoy.filters.http",
            "envoy.filters.http.router",
            &["envoy.extensions.filters.http.router.v3.Router"],
        ));
        assert!(has(
            "envoy.filters.network",
            "envoy.filters.network.tcp_proxy",
            &["envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"],
        ));
        assert!(has(
            "envoy.filters.listener",
            "envoy.filters.listener.tls_inspector",
            &["envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"],
        ));
        assert!(has("envoy.clusters", "envoy.cluster.eds", &[]));
        let mut keys: Vec<_> = all.iter().map(|e| (&e.category, &e.name)).collect();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count, "one stands there twice");
    }
}
