//! What the process does less of when something runs short.

use crate::common::client::{dial, header, once, request, websocket, websocket_echo};
use crate::common::config::{
    answer, any_host, bootstrap, cluster, http, http_with, listener, route, typed,
};
use crate::common::{H1, H2, Home, Origin, Port, Proxy, Value, get, json, with};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const INJECTED: &str = "envoy.resource_monitors.injected_resource";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

fn monitor(name: &str, kind: &str, fields: Value) -> Value {
    let kind = format!("envoy.extensions.resource_monitors.{kind}");
    json!({
        "name": format!("envoy.resource_monitors.{name}"),
        "typed_config": typed(&kind, fields),
    })
}

fn action(name: &str, pressure: f64) -> Value {
    let name = format!("envoy.overload_actions.{name}");
    rule(&name, pressure)
}

fn rule(name: &str, pressure: f64) -> Value {
    json!({ "name": name, "triggers": [{ "name": INJECTED, "threshold": { "value": pressure } }] })
}

/// A proxy under the pressure that a file says.
struct Pressed {
    home: Home,
    port: Port,
    proxy: Proxy,
}

impl Pressed {
    async fn start(manager: Value, main: Value, clusters: Vec<Value>) -> Self {
        let (home, port) = (Home::new(), Port::free());
        home.mv("pressure", "0");
        let file = json!({ "filename": home.path("pressure") });
        let injected = monitor(
            "injected_resource",
            "injected_resource.v3.InjectedResourceConfig",
            file,
        );
        let manager = with(
            manager,
            json!({ "refresh_interval": "0.05s", "resource_monitors": [injected] }),
        );
        let main = with(listener("main", port.number(), json!({})), main);
        let configuration = with(
            bootstrap(vec![main], clusters),
            json!({ "overload_manager": manager }),
        );
        let proxy = Proxy::start(&home, &configuration, &[]).await;
        Self { home, port, proxy }
    }

    /// Presses, and waits until that is known.
    async fn press(&self, percent: u64) {
        self.home
            .mv("pressure", (percent as f64 / 100.0).to_string());
        let pressure = format!("overload.{INJECTED}.pressure");
        self.proxy
            .admin()
            .stat_until(&pressure, |n| n == percent)
            .await;
    }

    async fn stat(&self, name: &str, value: u64) {
        self.proxy.admin().stat_until(name, |n| n == value).await;
    }
}

fn chains(filter: Value) -> Value {
    json!({ "filter_chains": [{ "filters": [filter] }] })
}

fn answers() -> Value {
    chains(http(vec![any_host(vec![answer("/", 200, "here")])]))
}

async fn exchange(port: &Port) -> String {
    let mut stream = dial(port.number()).await.expect("a connection");
    // It may be closed already, in order or by a reset.
    stream.write_all(REQUEST).await.ok();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.ok();
    String::from_utf8(all).expect("text")
}

#[tokio::test]
async fn less_and_less_is_done_under_pressure() {
    let actions = json!({ "actions": [
        action("disable_http_keepalive", 0.5),
        action("stop_accepting_requests", 0.6),
        action("reject_incoming_connections", 0.7),
        action("stop_accepting_connections", 0.8),
        action("shrink_heap", 0.9),
    ] });
    let pressed = Pressed::start(actions, answers(), vec![]).await;
    let port = &pressed.port;
    let listening = format!("listener.127.0.0.1_{}", port.number());
    let mut kept = H1::connect(port.number()).await.expect("a connection");
    let ask = || request("GET", "a", "/");
    let calm = kept.send(ask()).await.expect("an answer");
    assert_eq!((calm.status.as_u16(), calm.header("connection")), (200, ""));

    pressed.press(55).await;
    let last = kept.send(ask()).await.expect("an answer");
    assert_eq!(
        (last.status.as_u16(), last.header("connection")),
        (200, "close")
    );
    pressed
        .stat("http.ingress.downstream_cx_overload_disable_keepalive", 1)
        .await;

    pressed.press(65).await;
    let refused = get(port.number(), "/").await;
    assert_eq!(
        (refused.status.as_u16(), refused.text().as_str()),
        (503, "envoy overloaded")
    );
    pressed
        .stat("http.ingress.downstream_rq_overload_close", 1)
        .await;

    pressed.press(75).await;
    assert_eq!(exchange(port).await, "");
    let rejected = format!("{listening}.downstream_cx_overload_reject");
    pressed.stat(&rejected, 1).await;

    pressed.press(85).await;
    let active = "overload.envoy.overload_actions.stop_accepting_connections.active";
    pressed.stat(active, 1).await;
    // The kernel takes it; nobody else does until the pressure is gone.
    let mut waiting = dial(port.number()).await.expect("a connection");
    waiting.write_all(REQUEST).await.expect("written");
    let total = format!("{listening}.downstream_cx_total");
    let before = pressed.proxy.admin().stat(&total).await;
    pressed.press(95).await;
    assert_eq!(pressed.proxy.admin().stat(&total).await, before);
    pressed.press(10).await;
    let mut all = String::new();
    waiting.read_to_string(&mut all).await.expect("text");
    assert!(all.ends_with("here"), "{all}");
    pressed.stat(active, 0).await;
    pressed.stat(&rejected, 1).await;
}

#[tokio::test]
async fn load_is_shed_at_points() {
    let point = |name: &str, pressure| rule(&format!("envoy.load_shed_points.{name}"), pressure);
    let triggers = |name: &str, from: f64, to: f64| {
        let mut point = point(name, from);
        point["triggers"][0] = json!({ "name": INJECTED, "scaled": {
            "scaling_threshold": from - 0.01, "saturation_threshold": to,
        } });
        point
    };
    let points = json!({ "loadshed_points": [
        point("http_downstream_filter_check", 0.2),
        triggers("http_connection_manager_decode_headers", 0.4, 0.41),
        point("http1_server_abort_dispatch", 0.5),
        point("hcm_ondata_creating_codec", 0.6),
        point("tcp_listener_accept", 0.7),
    ] });
    let origin = Origin::http("one").await;
    let routes = vec![answer("/own", 200, "own"), route("/", "one")];
    let clusters = vec![cluster("one", &[origin.port()])];
    let main = chains(http(vec![any_host(routes)]));
    let pressed = Pressed::start(points, main, clusters).await;
    let port = pressed.port.number();
    let said = |path: &'static str| async move {
        let reply = get(port, path).await;
        (reply.status.as_u16(), reply.text())
    };
    let overloaded = (503, "envoy overloaded".to_owned());
    let shed = |name: &str| format!("overload.envoy.load_shed_points.{name}.shed_load_count");

    pressed.press(30).await;
    assert_eq!(said("/").await, overloaded);
    assert_eq!(said("/own").await.0, 200);
    pressed.stat(&shed("http_downstream_filter_check"), 1).await;
    pressed
        .stat("http.ingress.rq_overload_local_reply", 1)
        .await;

    pressed.press(45).await;
    assert_eq!(said("/own").await, overloaded);
    let http2 = H2::connect(port).await.expect("a connection");
    let reply = http2.send(request("GET", "a", "/own")).await;
    assert_eq!(reply.expect("an answer").status, 503);
    pressed
        .stat(&shed("http_connection_manager_decode_headers"), 2)
        .await;

    pressed.press(55).await;
    assert_eq!(
        said("/own").await,
        (500, "Internal Server Error".to_owned())
    );

    pressed.press(65).await;
    assert_eq!(exchange(&pressed.port).await, "");
    pressed.stat(&shed("hcm_ondata_creating_codec"), 1).await;

    pressed.press(75).await;
    assert_eq!(exchange(&pressed.port).await, "");
    pressed.stat(&shed("tcp_listener_accept"), 1).await;

    pressed.press(0).await;
    assert_eq!(said("/own").await.0, 200);
}

#[tokio::test]
async fn idle_connections_are_closed_sooner_under_pressure() {
    let reduce = with(
        action("reduce_timeouts", 0.5),
        json!({ "typed_config": typed(
            "envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
            json!({ "timer_scale_factors": [
                { "timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "0.1s" },
            ] }),
        ) }),
    );
    let manager = json!({ "actions": [reduce] });
    let routes = json!({ "virtual_hosts": [any_host(vec![answer("/", 200, "here")])] });
    let main = chains(http_with(json!({
        "route_config": routes,
        "common_http_protocol_options": { "idle_timeout": "3600s" },
    })));
    let pressed = Pressed::start(manager, main, vec![]).await;
    let mut idle = H1::connect(pressed.port.number()).await.expect("open");
    let reply = idle.send(request("GET", "a", "/")).await;
    assert_eq!(reply.expect("an answer").status, 200);
    pressed.press(60).await;
    pressed
        .stat("http.ingress.downstream_cx_idle_timeout", 1)
        .await;
    pressed.stat("http.ingress.downstream_cx_active", 0).await;
}

/// What has waited for long is given up at once, not when it would have been.
#[tokio::test]
async fn streams_are_given_up_sooner_under_pressure() {
    // Its connections are made by the kernel, and nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent_port = silent.local_addr().expect("bound").port();
    let echo = Origin::websocket_echo().await;
    let reduce = with(
        action("reduce_timeouts", 0.5),
        json!({ "typed_config": typed(
            "envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
            json!({ "timer_scale_factors": [
                { "timer": "HTTP_DOWNSTREAM_STREAM_IDLE", "min_timeout": "0.1s" },
            ] }),
        ) }),
    );
    let patient = with(
        route("/", "silent"),
        json!({ "route": { "timeout": "0s" } }),
    );
    let main = chains(http_with(json!({
        "route_config": { "virtual_hosts": [any_host(vec![route("/ws", "echo"), patient])] },
        "stream_idle_timeout": "3600s",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
    })));
    let clusters = vec![
        cluster("silent", &[silent_port]),
        cluster("echo", &[echo.port()]),
    ];
    let pressed = Pressed::start(json!({ "actions": [reduce] }), main, clusters).await;
    let port = pressed.port.number();
    let mut first = H1::connect(port).await.expect("open");
    let second = H2::connect(port).await.expect("open");
    let mut tunnel = websocket(port, "/ws").await.expect("a tunnel");
    websocket_echo(&mut tunnel, "hello").await.expect("an echo");
    let pressing = async {
        pressed.stat("http.ingress.downstream_rq_active", 3).await;
        pressed.press(60).await;
    };
    let (first, second, ()) = tokio::join!(
        first.send(request("GET", "a", "/")),
        second.send(request("GET", "a", "/")),
        pressing,
    );
    for reply in [first, second] {
        let reply = reply.expect("an answer");
        assert_eq!(
            (reply.status.as_u16(), &*reply.text()),
            (504, "stream timeout")
        );
    }
    let idle = "http.ingress.downstream_rq_idle_timeout";
    pressed.stat(idle, 3).await;
    let tunnels = "http.ingress.downstream_cx_upgrades_active";
    pressed.stat(tunnels, 0).await;
}

#[tokio::test]
async fn so_many_connections_of_all_listeners_may_be_open() {
    let (home, ports) = (Home::new(), [Port::free(), Port::free()]);
    let one = monitor(
        "global_downstream_max_connections",
        "downstream_connections.v3.DownstreamConnectionsConfig",
        json!({ "max_active_downstream_connections": 1 }),
    );
    let exempt = json!({ "ignore_global_conn_limit": true });
    let listeners = vec![
        with(listener("main", ports[0].number(), json!({})), answers()),
        with(
            with(listener("free", ports[1].number(), json!({})), answers()),
            exempt,
        ),
    ];
    let manager = json!({ "overload_manager": { "resource_monitors": [one] } });
    let configuration = with(bootstrap(listeners, vec![]), manager);
    let proxy = Proxy::start(&home, &configuration, &[]).await;
    let mut free = H1::connect(ports[1].number()).await.expect("open");
    let ask = || header(request("GET", "a", "/"), "x", "y");
    assert_eq!(free.send(ask()).await.expect("an answer").status, 200);
    // Those of a listener that does not mind the limit are not counted.
    let mut first = H1::connect(ports[0].number()).await.expect("open");
    assert_eq!(first.send(ask()).await.expect("an answer").status, 200);
    assert_eq!(exchange(&ports[0]).await, "");
    assert!(exchange(&ports[1]).await.ends_with("here"));
    let admin = proxy.admin();
    let overflow = format!(
        "listener.127.0.0.1_{}.downstream_global_cx_overflow",
        ports[0].number()
    );
    admin.stat_until(&overflow, |n| n == 1).await;
    let failed =
        "overload.envoy.resource_monitors.global_downstream_max_connections.failed_updates";
    admin.stat_until(failed, |n| n == 1).await;
    drop(first);
    let active = format!(
        "listener.127.0.0.1_{}.downstream_cx_active",
        ports[0].number()
    );
    admin.stat_until(&active, |n| n == 0).await;
    let reply = once(ports[0].number(), ask()).await;
    assert_eq!(reply.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_listener_can_be_exempt_from_the_overload_manager() {
    let actions = json!({ "actions": [
        action("stop_accepting_requests", 0.5),
        action("reject_incoming_connections", 0.5),
        action("stop_accepting_connections", 0.5),
    ] });
    let main = with(answers(), json!({ "bypass_overload_manager": true }));
    let pressed = Pressed::start(actions, main, vec![]).await;
    pressed.press(90).await;
    assert_eq!(get(pressed.port.number(), "/").await.status, 200);
}
