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
    /// What it is called where it is polled: `/v3/discovery:clusters`.
    path: &'static str,
}

const SERVICES: [Service; 9] = [
    Service {
        message: "envoy.config.cluster.v3.Cluster",
        name: "envoy.service.cluster.v3.ClusterDiscoveryService",
        noun: "Clusters",
        path: "clusters",
    },
    Service {
        message: "envoy.config.endpoint.v3.ClusterLoadAssignment",
        name: "envoy.service.endpoint.v3.EndpointDiscoveryService",
        noun: "Endpoints",
        path: "endpoints",
    },
    Service {
        message: "envoy.config.listener.v3.Listener",
        name: "envoy.service.listener.v3.ListenerDiscoveryService",
        noun: "Listeners",
        path: "listeners",
    },
    Service {
        message: "envoy.config.route.v3.RouteConfiguration",
        name: "envoy.service.route.v3.RouteDiscoveryService",
        noun: "Routes",
        path: "routes",
    },
    Service {
        message: "envoy.config.route.v3.ScopedRouteConfiguration",
        name: "envoy.service.route.v3.ScopedRoutesDiscoveryService",
        noun: "ScopedRoutes",
        path: "scoped-routes",
    },
    Service {
        message: "envoy.config.route.v3.VirtualHost",
        name: "envoy.service.route.v3.VirtualHostDiscoveryService",
        noun: "VirtualHosts",
        path: "",
    },
    Service {
        message: "envoy.extensions.transport_sockets.tls.v3.Secret",
        name: "envoy.service.secret.v3.SecretDiscoveryService",
        noun: "Secrets",
        path: "secrets",
    },
    Service {
        message: "envoy.service.runtime.v3.Runtime",
        name: "envoy.service.runtime.v3.RuntimeDiscoveryService",
        noun: "Runtime",
        path: "runtime",
    },
    Service {
        message: "envoy.config.core.v3.TypedExtensionConfig",
        name: "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        noun: "ExtensionConfigs",
        path: "extension_configs",
    },
];

fn service(type_url: &str) -> Option<&'static Service> {
    let message = type_url.rsplit('/').next().unwrap_or_default();
    SERVICES.iter().find(|service| service.message == message)
}

/// The path of the method that streams resources, or where they are polled: of
/// every type for ADS, which has no `type_url`, or of one.
///
/// `None` when there is no such service for that type.
pub fn method(type_url: Option<&str>, variant: Variant) -> Option<PathAndQuery> {
    let prefix = match variant {
        Variant::Sotw => "Stream",
        Variant::Delta => "Delta",
        Variant::Rest => {
            let path = service(type_url?)?.path;
            return match path {
                "" => None,
                path => format!("/v3/discovery:{path}").try_into().ok(),
            };
        }
    };
    let path = match type_url {
        None => {
            format!(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/{prefix}AggregatedResources"
            )
        }
        Some(type_url) => {
            let service = service(type_url)?;
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
        let polled = path(clusters, Variant::Rest);
        assert_eq!(polled.unwrap(), "/v3/discovery:clusters");
        assert_eq!(path(hosts, Variant::Rest), None);
        assert_eq!(path(None, Variant::Rest), None);
    }
}
