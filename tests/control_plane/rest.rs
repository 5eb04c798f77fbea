//! Management servers that are polled: `api_type: REST`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::common::client::{get_until, header, once, request};
use crate::common::config::{
    answer as answers, any_host, assignment, cluster, http_with, listener, route,
};
use crate::common::{Home, Origin, Port, Proxy, Value, eventually, json, with};
use crate::scene::is_another;
use crate::server::{CLUSTER, ENDPOINTS, LISTENER, ROUTES, SCOPES};

/// A server that answers polls as one in Go does: with 304 when there is nothing
/// newer than what the proxy has.
struct Polled {
    port: Port,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// By path: the version and the resources.
    there: HashMap<String, (u32, Vec<Value>)>,
    asked: Vec<(String, Value)>,
    /// Answered instead of what is there.
    broken: Option<(StatusCode, &'static str)>,
}

const SERVICES: [(&str, &str); 5] = [
    (CLUSTER, "/v3/discovery:clusters"),
    (ENDPOINTS, "/v3/discovery:endpoints"),
    (LISTENER, "/v3/discovery:listeners"),
    (ROUTES, "/v3/discovery:routes"),
    (SCOPES, "/v3/discovery:scoped-routes"),
];

const REFUSED_ROUTES: &str = "http.ingress.rds.local.update_rejected";

impl Polled {
    async fn start() -> Self {
        let (port, state) = (Port::free(), Arc::<Mutex<State>>::default());
        let address = (Ipv4Addr::LOCALHOST, port.number());
        let listener = TcpListener::bind(address).await.expect("the port");
        let shared = state.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let state = shared.clone();
                let service = service_fn(move |request| {
                    let state = state.clone();
                    async move { Ok::<_, Infallible>(answer(request, &state).await) }
                });
                let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        Self { port, state, task }
    }

    fn set(&self, type_url: &str, resources: Vec<Value>) {
        let path = SERVICES.iter().find(|(kind, _)| *kind == type_url);
        let path = path.expect("a service").1.to_owned();
        let typed = resources
            .into_iter()
            .map(|resource| with(json!({ "@type": type_url }), resource));
        let mut state = self.state.lock().expect("no panic");
        let there = state.there.entry(path).or_default();
        *there = (there.0 + 1, typed.collect());
    }

    fn break_with(&self, broken: Option<(StatusCode, &'static str)>) {
        self.state.lock().expect("no panic").broken = broken;
    }

    fn asked(&self, path: &str) -> Vec<Value> {
        let state = self.state.lock().expect("no panic");
        let of_path = state.asked.iter().filter(|(asked, _)| asked == path);
        of_path.map(|(_, body)| body.clone()).collect()
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(request: Request<Incoming>, state: &Mutex<State>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    assert_eq!(request.headers()["content-type"], "application/json");
    assert_eq!(request.headers()["host"], "xds");
    let body = request.into_body().collect().await.expect("a body");
    let body: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    let mut state = state.lock().expect("no panic");
    state.asked.push((path.clone(), body.clone()));
    let (status, text) = match (&state.broken, state.there.get(&path)) {
        (Some((status, text)), _) => (*status, (*text).to_owned()),
        (None, None) => (StatusCode::NOT_FOUND, String::new()),
        (None, Some((version, resources))) => {
            let version = version.to_string();
            match body["version_info"] == *version {
                true => (StatusCode::NOT_MODIFIED, String::new()),
                false => {
                    let answer = json!({ "version_info": version, "resources": resources });
                    (StatusCode::OK, answer.to_string())
                }
            }
        }
    };
    let answer = Response::builder().status(status);
    answer.body(Full::from(text)).expect("a response")
}

fn source() -> Value {
    json!({
        "resource_api_version": "V3",
        "initial_fetch_timeout": "1s",
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "refresh_delay": "0.05s",
            "cluster_names": ["xds"],
        },
    })
}

fn bootstrap(plane: &Polled) -> Value {
    json!({
        "node": { "id": "test-node", "cluster": "test-cluster", "metadata": { "role": "edge" } },
        "static_resources": { "clusters": [cluster("xds", &[plane.port.number()])] },
        "dynamic_resources": { "lds_config": source(), "cds_config": source() },
    })
}

fn eds(name: &str) -> Value {
    json!({
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": { "eds_config": source() },
    })
}

fn web(port: u16) -> Value {
    let rds = json!({ "rds": { "route_config_name": "local", "config_source": source() } });
    let mut http = http_with(rds);
    if let Some(fields) = http["typed_config"].as_object_mut() {
        fields.remove("route_config");
    }
    listener("web", port, http)
}

fn routes(cluster: &str) -> Value {
    json!({ "name": "local", "virtual_hosts": [any_host(vec![route("/", cluster)])] })
}

/// Every type comes by polls, each poll says what is there, and what is wrong
/// leaves what is in force alone.
#[tokio::test]
async fn everything_comes_by_polls() {
    let (plane, home, port) = (Polled::start().await, Home::new(), Port::free());
    let (one, two) = (Origin::http("one").await, Origin::http("two").await);
    plane.set(CLUSTER, vec![eds("backend")]);
    plane.set(ENDPOINTS, vec![assignment("backend", &[one.port()])]);
    plane.set(LISTENER, vec![web(port.number())]);
    plane.set(ROUTES, vec![routes("backend")]);
    let proxy = Proxy::start(&home, &bootstrap(&plane), &[]).await;
    let (admin, port) = (proxy.admin(), port.number());
    let from = |origin: &'static str| {
        get_until(port, "/", move |reply| {
            reply.status == 200 && reply.seen().origin == origin
        })
    };
    from("one").await;

    plane.set(ENDPOINTS, vec![assignment("backend", &[two.port()])]);
    from("two").await;
    plane.set(
        CLUSTER,
        vec![eds("backend"), cluster("other", &[one.port()])],
    );
    plane.set(ROUTES, vec![routes("other")]);
    from("one").await;

    let first = &plane.asked("/v3/discovery:routes")[0];
    assert_eq!(first["resource_names"], json!(["local"]));
    assert_eq!(first["type_url"], ROUTES);
    assert_eq!(first["node"]["id"], "test-node");
    assert_eq!(first["node"]["metadata"]["role"], "edge");
    assert_eq!(first.get("version_info"), None);
    let clusters = plane.asked("/v3/discovery:clusters");
    assert_eq!(clusters[0].get("resource_names"), None);
    admin
        .stat_reaches("cluster_manager.cds.update_success", 2)
        .await;

    // Nothing new is neither a success nor a failure.
    let before = clusters.len();
    eventually("more polls", || async {
        (plane.asked("/v3/discovery:clusters").len() > before + 4).then_some(())
    })
    .await;
    let stat = |name: &'static str| async move {
        admin
            .stat(&format!("cluster_manager.cds.{name}"))
            .await
            .unwrap_or_default()
    };
    assert_eq!(stat("update_success").await, 2);
    assert_eq!(stat("update_failure").await, 0);
    let last = plane.asked("/v3/discovery:clusters").pop().expect("polls");
    assert_eq!(last["version_info"], "2");

    // A bad one is refused, and the next good one is taken.
    plane.set(CLUSTER, vec![json!({ "name": "bad", "type": "EDS" })]);
    admin
        .stat_reaches("cluster_manager.cds.update_rejected", 1)
        .await;
    from("one").await;
    plane.break_with(Some((StatusCode::OK, "{\"resources\": [")));
    let refused = stat("update_rejected").await;
    admin
        .stat_until("cluster_manager.cds.update_rejected", |n| n > refused)
        .await;
    plane.break_with(Some((StatusCode::INTERNAL_SERVER_ERROR, "")));
    admin
        .stat_reaches("cluster_manager.cds.update_failure", 1)
        .await;
    from("one").await;
    plane.set(
        CLUSTER,
        vec![eds("backend"), cluster("third", &[two.port()])],
    );
    plane.set(ROUTES, vec![routes("third")]);
    plane.break_with(None);
    from("two").await;

    // So is one that is not what was asked for.
    let other =
        json!({ "name": "other", "virtual_hosts": [any_host(vec![route("/", "backend")])] });
    let refused = admin.stat(REFUSED_ROUTES).await.unwrap_or_default();
    plane.set(ROUTES, vec![other]);
    admin.stat_until(REFUSED_ROUTES, |n| n > refused).await;
    from("two").await;
    if !is_another() {
        assert!(
            proxy
                .log()
                .contains("REST update for /v3/discovery:clusters failed")
        );
    }
}

/// A server that has nothing for this proxy does not hold up its start.
#[tokio::test]
async fn a_server_without_an_answer_does_not_hold_up_the_start() {
    let (plane, home, port) = (Polled::start().await, Home::new(), Port::free());
    let proxy = Proxy::start(&home, &bootstrap(&plane), &[]).await;
    let admin = proxy.admin();
    admin
        .stat_reaches("cluster_manager.cds.init_fetch_timeout", 1)
        .await;
    admin
        .stat_reaches("listener_manager.lds.init_fetch_timeout", 1)
        .await;
    let origin = Origin::http("one").await;
    plane.set(CLUSTER, vec![cluster("backend", &[origin.port()])]);
    plane.set(ROUTES, vec![routes("backend")]);
    plane.set(LISTENER, vec![web(port.number())]);
    get_until(port.number(), "/", |reply| reply.status == 200).await;
}

/// Scopes come by polls too, and a poll that brings nothing new counts as one.
#[tokio::test]
async fn scopes_come_by_polls() {
    let (plane, home, port) = (Polled::start().await, Home::new(), Port::free());
    let mut http = http_with(json!({
        "scoped_routes": {
            "name": "scopes",
            "scope_key_builder": { "fragments": [{
                "header_value_extractor": { "name": "x-scope", "index": 0 },
            }] },
            "rds_config_source": source(),
            "scoped_rds": { "scoped_rds_config_source": source() },
        },
    }));
    if let Some(fields) = http["typed_config"].as_object_mut() {
        fields.remove("route_config");
    }
    plane.set(CLUSTER, vec![]);
    plane.set(LISTENER, vec![listener("web", port.number(), http)]);
    plane.set(
        SCOPES,
        vec![json!({
            "name": "one",
            "key": { "fragments": [{ "string_key": "a" }] },
            "route_configuration": {
                "name": "one",
                "virtual_hosts": [any_host(vec![answers("/", 200, "scoped")])],
            },
        })],
    );
    let proxy = Proxy::start(&home, &bootstrap(&plane), &[]).await;
    let port = port.number();
    eventually("the scope's answer", || async {
        let asked = header(request("GET", "a.com", "/"), "x-scope", "a");
        let reply = once(port, asked).await.ok()?;
        (reply.status == 200 && reply.text() == "scoped").then_some(())
    })
    .await;
    let admin = proxy.admin();
    let stat = |name| format!("http.ingress.scoped_rds.scopes.{name}");
    let attempts = stat("update_attempt");
    admin.stat_until(&attempts, |attempts| attempts > 4).await;
    assert_eq!(admin.stat(&stat("update_success")).await, Some(1));
}
