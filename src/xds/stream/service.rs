//! The discovery services: what each type of resource is asked for by.

use http::uri::PathAndQuery;

use crate::xds::api_source::Variant;

/// The service for one type of resource.
struct Service {
    /// The full name of the resource's message.
    message: &'static str,
    /// The service and what it calls its resources.
    name: &'static str,
    noun: &'static str,
}

const SERVICES: [Service; 9] = [
    Service {
        message: "envoy.config.cluster.v3.Cluster",
        name: "envoy.service.cluster.v3.ClusterDiscoveryService",
        noun: "Clusters",
    },
    Service {
        message: "envoy.config.endpoint.v3.ClusterLoadAssignment",
        name: "envoy.service.endpoint.v3.EndpointDiscoveryService",
        noun: "Endpoints",
    },
    Service {
        message: "envoy.config.listener.v3.Listener",
        name: "envoy.service.listener.v3.ListenerDiscoveryService",
        noun: "Listeners",
    },
    Service {
        message: "envoy.config.route.v3.RouteConfiguration",
        name: "envoy.service.route.v3.RouteDiscoveryService",
        noun: "Routes",
    },
    Service {
        message: "envoy.config.route.v3.ScopedRouteConfiguration",
        name: "envoy.service.route.v3.ScopedRoutesDiscoveryService",
        noun: "ScopedRoutes",
    },
    Service {
        message: "envoy.config.route.v3.VirtualHost",
        name: "envoy.service.route.v3.VirtualHostDiscoveryService",
        noun: "VirtualHosts",
    },
    Service {
        message: "envoy.extensions.transport_sockets.tls.v3.Secret",
        name: "envoy.service.secret.v3.SecretDiscoveryService",
        noun: "Secrets",
    },
    Service {
        message: "envoy.service.runtime.v3.Runtime",
        name: "envoy.service.runtime.v3.RuntimeDiscoveryService",
        noun: "Runtime",
    },
    Service {
        message: "envoy.config.core.v3.TypedExtensionConfig",
        name: "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        noun: "ExtensionConfigs",
    },
];

/// The path of the method that streams resources: of every type for ADS, which
/// has no `type_url`, or of one.
///
/// `None` when there is no service for that type.
pub fn method(type_url: Option<&str>, variant: Variant) -> Option<PathAndQuery> {
    let prefix = match variant {
        Variant::Sotw => "Stream",
        Variant::Delta => "Delta",
    };
    let path = match type_url {
        None => {
            format!(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/{prefix}AggregatedResources"
            )
        }
        Some(type_url) => {
            let message = type_url.rsplit('/').next().unwrap_or_default();
            let service = SERVICES.iter().find(|s| s.message == message)?;
            // Virtual hosts are asked for on demand, one by one.
            if service.noun == "VirtualHosts" && variant == Variant::Sotw {
                return None;
            }
            format!("/{}/{prefix}{}", service.name, service.noun)
        }
    };
    path.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_service() {
        let path = |kind, variant| method(kind, variant).map(|path| path.to_string());
        assert_eq!(
            path(None, Variant::Delta).unwrap(),
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        );
        let clusters = Some("type.googleapis.com/envoy.config.cluster.v3.Cluster");
        assert_eq!(
            path(clusters, Variant::Sotw).unwrap(),
            "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"
        );
        let hosts = Some("type.googleapis.com/envoy.config.route.v3.VirtualHost");
        assert_eq!(path(hosts, Variant::Sotw), None);
        assert_eq!(path(Some("other"), Variant::Delta), None);
    }
}
