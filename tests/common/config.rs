//! Builders for the pieces of configuration that tests are made of.
//!
//! All return plain JSON; [`with`] changes what a test is about.

use serde_json::{Map, Value, json};

const TYPES: &str = "type.googleapis.com/";
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// `base` with the members of `patch` laid over it: objects are merged, `null`
/// removes, everything else replaces (RFC 7396).
pub fn with(mut base: Value, patch: Value) -> Value {
    merge(&mut base, patch);
    base
}

fn merge(base: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *base = patch;
        return;
    };
    if !base.is_object() {
        *base = Value::Object(Map::new());
    }
    let members = base.as_object_mut().expect("made an object above");
    for (key, value) in patch {
        if value.is_null() {
            members.remove(&key);
        } else {
            merge(members.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// An extension's configuration: the body with its `@type`.
pub fn typed(type_name: &str, body: Value) -> Value {
    with(json!({ "@type": format!("{TYPES}{type_name}") }), body)
}

/// A bootstrap with static listeners and clusters.
pub fn bootstrap(listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } })
}

/// A bootstrap that reads its listeners and clusters from files.
pub fn file_watched(lds: &str, cds: &str) -> Value {
    json!({
        "node": { "id": "test-node", "cluster": "test-cluster" },
        "dynamic_resources": {
            "lds_config": file_source(lds),
            "cds_config": file_source(cds),
        }
    })
}

/// A configuration source that is a file.
pub fn file_source(path: &str) -> Value {
    json!({ "resource_api_version": "V3", "path_config_source": { "path": path } })
}

/// The content of a discovery file: `resources`, all of one type.
pub fn discovery(type_url: &str, resources: Vec<Value>) -> Value {
    let resources: Vec<Value> = resources
        .into_iter()
        .map(|resource| with(json!({ "@type": type_url }), resource))
        .collect();
    json!({ "resources": resources })
}

/// An address on the loopback interface.
pub fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

/// A listener on a loopback port with one filter chain of one filter.
pub fn listener(name: &str, port: u16, filter: Value) -> Value {
    json!({
        "name": name,
        "address": address(port),
        "filter_chains": [{ "filters": [filter] }],
    })
}

/// The HTTP connection manager with its routes inline.
pub fn http(virtual_hosts: Vec<Value>) -> Value {
    http_with(json!({ "route_config": { "name": "local", "virtual_hosts": virtual_hosts } }))
}

/// The HTTP connection manager with the given fields over the usual ones.
pub fn http_with(fields: Value) -> Value {
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let usual = json!({
        "stat_prefix": "ingress",
        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": router }],
    });
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": typed(
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            with(usual, fields),
        ),
    })
}

/// The TCP proxy to one cluster.
pub fn tcp(stat_prefix: &str, cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": typed(
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            json!({ "stat_prefix": stat_prefix, "cluster": cluster }),
        ),
    })
}

/// An access log in a file, in a text format to which a line end is added.
pub fn access_log(path: &str, format: &str) -> Value {
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": typed(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            json!({
                "path": path,
                "log_format": { "text_format_source": { "inline_string": format!("{format}\n") } },
            }),
        ),
    })
}

/// A virtual host for every domain.
pub fn any_host(routes: Vec<Value>) -> Value {
    json!({ "name": "all", "domains": ["*"], "routes": routes })
}

/// A route of everything below `prefix` to `cluster`.
pub fn route(prefix: &str, cluster: &str) -> Value {
    json!({ "match": { "prefix": prefix }, "route": { "cluster": cluster } })
}

/// A route of everything below `prefix` to a fixed answer.
pub fn answer(prefix: &str, status: u16, body: &str) -> Value {
    json!({
        "match": { "prefix": prefix },
        "direct_response": { "status": status, "body": { "inline_string": body } },
    })
}

/// A STATIC cluster of loopback ports.
pub fn cluster(name: &str, ports: &[u16]) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": assignment(name, ports),
    })
}

/// The endpoints of a cluster.
pub fn assignment(cluster: &str, ports: &[u16]) -> Value {
    let endpoints: Vec<Value> = ports
        .iter()
        .map(|port| json!({ "endpoint": { "address": address(*port) } }))
        .collect();
    json!({ "cluster_name": cluster, "endpoints": [{ "lb_endpoints": endpoints }] })
}

/// The part of a cluster that makes its upstream protocol HTTP/2.
pub fn http2_upstream() -> Value {
    json!({
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                json!({ "explicit_http_config": { "http2_protocol_options": {} } }),
            ),
        },
    })
}
